"""Processes of the real command, forked from one that has loaded the program: they start in a fraction of the time.

A nursery is a process of its own. It reads lines of JSON, `[log, argument, …]`, and forks for each a child that runs
`outkeep argument …` with its output in the log; it tells `born PID`, and when a child has ended `died PID STATUS`.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Self

TREE = Path(__file__).parents[2]


class Child:
    """Like `asyncio.subprocess.Process`, of which it has what the tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def ended(self, status: int) -> None:
        self.returncode = status
        self._ended.set()


class Nursery:
    """Use as a context; `start` gives a child that runs."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ, self._folder = environ, folder
        self._children: dict[int, Child] = {}
        self._awaited: deque[asyncio.Future[Child]] = deque()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__)),
            env={**self._environ, "PYTHONPATH": str(TREE)}, cwd=self._folder, start_new_session=True,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._task

    async def start(self, log: Path, *arguments: str) -> Child:
        assert self._process.stdin is not None
        born = asyncio.get_running_loop().create_future()
        self._awaited.append(born)
        self._process.stdin.write(json.dumps([str(log), *arguments]).encode() + b"\n")
        return await asyncio.wait_for(born, 30)

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            word, pid, *status = line.split()
            if word == b"born":
                child = self._children[int(pid)] = Child(int(pid))
                born = self._awaited.popleft()
                if born.done():  # whoever wanted it was broken off meanwhile
                    child.kill()
                else:
                    born.set_result(child)
            else:
                self._children.pop(int(pid)).ended(int(status[0]))


def main() -> None:
    """Fork as told, tell of the dead, end with the input and take every child along."""
    import select

    import uvloop  # noqa: F401 - loaded once for all children

    from receiver.cli import house  # noqa: F401
    from receiver.cli.commands import serve, work  # noqa: F401

    children: set[int] = set()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting = b""
    while True:
        ready, _, _ = select.select([0, reading], [], [])
        if reading in ready:
            os.read(reading, 4096)
            _bury(children)
        if 0 in ready:
            if not (piece := os.read(0, 65536)):
                break
            *lines, waiting = (waiting + piece).split(b"\n")
            for line in lines:
                pid = _fork(*json.loads(line))
                children.add(pid)
                os.write(1, b"born %d\n" % pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.write(1, b"died %d %d\n" % (pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _bury(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        children.discard(pid)
        os.write(1, b"died %d %d\n" % (pid, os.waitstatus_to_exitcode(status)))


def _fork(log: str, *arguments: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(told, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from receiver.cli import main as outkeep

    sys.argv = ["outkeep", *arguments]
    try:
        outkeep()
        left = 0
    except SystemExit as end:
        left = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - whatever it is, this process is not the nursery's to go on with
        traceback.print_exc()
        left = 1
    sys.stdout.flush()
    os._exit(left)


if __name__ == "__main__":
    sys.path[:1] = []  # our own folder, whose modules nobody means
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone, and the children with us
        main()

"""The real command as a process that goes on until it is told to end."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

OURS = ("OUTKEEP_", "REPLICATE_", "AWS_")
OUTKEEP = (sys.executable, "-c", "from receiver.cli import main; main()")
STARTS_S_MAX = 60.0
ENDS_S_MAX = 20.0


def clean_environment() -> dict[str, str]:
    """The environment of whoever runs the tests without their settings, and without colours."""
    others = ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE")
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name not in others}


@dataclass
class Process:
    process: "subprocess.Popen[bytes]"
    errors: Path
    said: str = ""

    def wait_for(self, pattern: str, *, seconds: float = STARTS_S_MAX) -> "re.Match[str]":
        """Read standard output until the pattern is there; TimeoutError when it is not in time."""
        assert self.process.stdout is not None
        ends = time.monotonic() + seconds
        while not (match := re.search(pattern, self.said)):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, ends - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{self.said!r} {self.told()!r}")
            piece = os.read(self.process.stdout.fileno(), 65536)
            assert piece, f"it ended: {self.said!r} {self.told()!r}"
            self.said += piece.decode()
        return match

    def told(self) -> str:
        """What stands on standard error so far."""
        return self.errors.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and give the exit status."""
        self.process.send_signal(number)
        return self.process.wait(ENDS_S_MAX)


@contextlib.contextmanager
def started(folder: Path, *arguments: str, **environ: str) -> Iterator[Process]:
    """Start a command in that folder; it is killed at the end if it still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    errors = folder / "stderr"
    with errors.open("wb") as told:
        process = subprocess.Popen(
            [*OUTKEEP, *arguments],
            cwd=folder,
            env={**clean_environment(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=told,
        )
    try:
        yield Process(process, errors)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@dataclass(frozen=True)
class World:
    """A sandbox and the settings with which a service uses it."""

    sandbox_url: str
    environ: Mapping[str, str]


@contextlib.contextmanager
def sandboxed(folder: Path, *arguments: str) -> Iterator[World]:
    with started(folder, "sandbox", "--port", "0", "--speed", "0.05", *arguments) as sandbox:
        url = sandbox.wait_for(r"listens on (http://\S+) ")[1]
        sandbox.wait_for("outkeep serve")
        pairs = re.findall(r"(\w+)=(\S+)", sandbox.said)
        yield World(url, dict(pairs))

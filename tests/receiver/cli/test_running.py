"""Works side by side, signals, and an end in time."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from receiver.cli.frame import Failure
from receiver.cli.running import together


async def until(stop: asyncio.Event, ended: list[str], name: str) -> None:
    await stop.wait()
    ended.append(name)


async def test_when_one_work_fails_the_others_end_in_order():
    stop = asyncio.Event()
    ended: list[str] = []

    async def fails() -> None:
        raise Failure("The port is taken.")

    with pytest.raises(Failure, match="taken"):
        await together(stop, [fails(), until(stop, ended, "a"), until(stop, ended, "b")])
    assert ended == ["a", "b"]


async def test_works_end_together_when_told_to():
    stop = asyncio.Event()
    ended: list[str] = []
    asyncio.get_running_loop().call_later(0.01, stop.set)
    await together(stop, [until(stop, ended, "a"), until(stop, ended, "b")])
    assert sorted(ended) == ["a", "b"]


async def test_a_work_that_ends_by_itself_is_an_error():
    stop = asyncio.Event()
    ended: list[str] = []
    with pytest.raises(Failure, match="ended by itself"):
        await together(stop, [asyncio.sleep(0), until(stop, ended, "a")])
    assert ended == ["a"]


async def test_cancelled_works_are_all_cancelled():
    stop = asyncio.Event()
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    task = asyncio.ensure_future(together(stop, [forever(), forever()]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled", "cancelled"]


SCRIPT = """
import asyncio, sys, time
from receiver.cli import frame, running
{more}
def command(_ctx):
    async def main(stop):
        print("up", flush=True)
        {body}
    return running.run(main)
frame.outkeep.invoke = command
sys.exit(frame.run(["list"]))
"""


def script(body: str, more: str = "") -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body, more=more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_end(number):
    with script("await stop.wait(); return 0") as process:
        os.kill(process.pid, number)
        assert process.wait(20) == 0


def test_the_second_signal_cuts_short():
    with script("await stop.wait(); print('asked', flush=True); await asyncio.Event().wait()") as process:
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert process.stderr.read() == "outkeep: Cut short; what was in hand is taken up again at the next start.\n"


def test_the_first_signal_does_not_cut_short_what_is_ending_by_itself():
    ending = "stop.set(); print('ending', flush=True); await asyncio.sleep(1); raise frame.Failure('The disk failed')"
    with script(ending) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ending\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert process.stderr.read() == "outkeep: The disk failed.\n"


def test_work_that_does_not_end_is_cancelled():
    with script("await asyncio.Event().wait()", "running.CANCEL_AFTER_S = 0.1") as process:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 1


def test_a_thread_that_is_stuck_does_not_keep_the_process():
    stuck = "await asyncio.to_thread(time.sleep, 60)"
    with script(stuck, "running.CANCEL_AFTER_S = 0.1; running.EXIT_AFTER_S = 0.3") as process:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert "did not end in time" in process.stderr.read()


def test_what_ends_by_itself_gives_its_result():
    with script("return 7") as process:
        assert process.wait(20) == 7

"""Running until somebody says stop: signals, an end within ten seconds, works that go on side by side."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from receiver.cli.frame import FAILED, Failure

# SIGTERM and Ctrl-C end a command within 10 s. Worker and web take 8 s at most; then we cancel; then the process ends
# whatever a stuck thread says: everything is written so that dying at any moment loses nothing.
CANCEL_AFTER_S = 8.8
EXIT_AFTER_S = 9.6
CUT_OFF = "Something did not end in time and was cut off; the next start takes it up again."

T = TypeVar("T")


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run `main` to its end. The first SIGTERM or Ctrl-C sets its event, the second one cancels it."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_stopped(main))


async def _until_stopped(main: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    loop, stop, told = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    task = asyncio.ensure_future(main(stop))

    def asked() -> None:
        if told.is_set():  # not `stop`: what ends by itself sets that, too, and is not cut short by the first signal
            task.cancel()
        told.set()
        stop.set()
        loop.call_later(CANCEL_AFTER_S, task.cancel)
        leave_within(EXIT_AFTER_S, FAILED, CUT_OFF)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    try:
        return await task
    except asyncio.CancelledError:
        if not told.is_set():
            raise
        raise Failure("Cut short; what was in hand is taken up again at the next start.") from None


def leave_within(seconds: float, status: int, says: str) -> None:
    """End this process with that status and sentence unless it has ended by then, stuck threads or not."""

    def leave() -> None:
        sys.stderr.write(f"outkeep: {says}\n")
        sys.stderr.flush()
        os._exit(status)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


async def together(stop: asyncio.Event, works: Sequence[Awaitable[None]]) -> None:
    """Let all of them go on until `stop` is set or one ends, have all stop, wait for them; raises the first error.

    Raises Failure when one has ended without being told to.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        asked = stop.is_set()
        stop.set()
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        await task
    if not asked:
        raise Failure("A part of the service ended by itself.")


@contextmanager
def loading() -> Iterator[None]:
    """Around imports: what is loaded is never garbage, and to search it for some is a tenth of the time to start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def free_port(host: str) -> int:
    """A port that nobody listens on now. Raises Failure when the address is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            port: int = probe.getsockname()[1]
    except OSError as error:
        raise Failure(f"OUTKEEP_HOST {host!r} can't be listened on: {error.strerror or error}.") from None
    return port

"""A service in this process: web, worker, or both."""

import asyncio
from collections.abc import Awaitable, Callable

from receiver.cli.frame import Failure, sentence, status_of
from receiver.cli.running import EXIT_AFTER_S, leave_within, together
from receiver.runtime.house import House
from receiver.runtime.settings import Settings
from receiver.runtime.wiring import open_house
from receiver.runtime.worker import Worker, mirror
from receiver.web.app import create_app
from receiver.web.server import serve as serve_web

ONE_PROCESS = (
    "A SQLite ledger has one process, which serves and works: run `outkeep serve` alone, or set OUTKEEP_DATABASE_URL"
    " to postgresql://user:password@host/name."
)


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    with_worker: bool,
    on_listening: Callable[[House], None],
    sweep_since: str | None = None,
) -> None:
    """The web and, from the moment it listens, the worker, until `stop`. `sweep_since` as `Sweep.look_back` takes it.

    Raises Misconfigured, LedgerUnavailable; LedgerBroken also later, when the disk fails, and then within ten seconds.
    """
    async with open_house(settings) as house:
        if sweep_since is not None:
            await house.sweep.look_back(sweep_since)
        listening = asyncio.Event()

        def heard(_host: str, _port: int) -> None:
            listening.set()
            on_listening(house)

        async def work() -> None:
            await _either(listening.wait(), stop.wait())
            await Worker(house).run(stop)

        web = serve_web(create_app(house), host=settings.host, port=settings.port, stop=stop, on_listening=heard)
        works = [_end_with(house, stop), web, *([work()] if with_worker else [])]
        if house.ledger.dialect == "postgresql":
            works.append(mirror(house, stop))
        await together(stop, works)


async def work(
    settings: Settings, stop: asyncio.Event, *, on_working: Callable[[House], None], sweep_since: str | None = None
) -> None:
    """A worker alone, until `stop`; `sweep_since` as for `serve`. Raises Misconfigured, LedgerUnavailable."""
    refuse_sqlite(settings)
    async with open_house(settings) as house:
        if sweep_since is not None:
            await house.sweep.look_back(sweep_since)
        on_working(house)
        await together(stop, [Worker(house).run(stop), mirror(house, stop)])


async def _end_with(house: House, stop: asyncio.Event) -> None:
    """Watch over the ledger until `stop`: once its disk has failed only a new process can go on, so end this one."""
    broken = asyncio.ensure_future(house.ledger.broken())
    await _either(broken, stop.wait())
    if not broken.cancelled():
        error = broken.result()
        leave_within(EXIT_AFTER_S, status_of(error), sentence(error))
        raise error


def refuse_sqlite(settings: Settings) -> None:
    if settings.database_url.startswith("sqlite:"):
        raise Failure(ONE_PROCESS)


async def _either(*works: Awaitable[object]) -> None:
    """Until one of them has ended; the others are given up."""
    waits = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

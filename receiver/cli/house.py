"""A service in this process: web, worker, or both."""

import asyncio
from collections.abc import Callable

from receiver.cli.frame import Failure
from receiver.cli.running import together
from receiver.runtime.settings import Settings
from receiver.runtime.wiring import House, open_house
from receiver.runtime.worker import Worker, mirror
from receiver.web.app import create_app
from receiver.web.server import serve as serve_web

ONE_PROCESS = (
    "A SQLite ledger has one process, which serves and works: run `outkeep serve` alone, or set OUTKEEP_DATABASE_URL"
    " to postgresql://user:password@host/name."
)


async def serve(
    settings: Settings, stop: asyncio.Event, *, with_worker: bool, on_listening: Callable[[House], None]
) -> None:
    """The web and, from the moment it listens, the worker, until `stop`. Raises Misconfigured, LedgerUnavailable."""
    async with open_house(settings) as house:
        listening = asyncio.Event()

        def heard(_host: str, _port: int) -> None:
            listening.set()
            on_listening(house)

        async def work() -> None:
            await _either(listening, stop)
            await Worker(house).run(stop)

        web = serve_web(create_app(house), host=settings.host, port=settings.port, stop=stop, on_listening=heard)
        works = [web, work()] if with_worker else [web]
        if house.ledger.dialect == "postgresql":
            works.append(mirror(house, stop))
        await together(stop, works)


async def work(settings: Settings, stop: asyncio.Event, *, on_working: Callable[[House], None]) -> None:
    """A worker alone, until `stop`. Raises Misconfigured, LedgerUnavailable."""
    refuse_sqlite(settings)
    async with open_house(settings) as house:
        on_working(house)
        await together(stop, [Worker(house).run(stop), mirror(house, stop)])


def refuse_sqlite(settings: Settings) -> None:
    if settings.database_url.startswith("sqlite:"):
        raise Failure(ONE_PROCESS)


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

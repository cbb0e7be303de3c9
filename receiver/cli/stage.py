"""The stage of the demo: a sandbox and a service in this process, on free loopback ports, all data in one folder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from receiver.cli import house
from receiver.cli.running import free_port
from receiver.runtime.settings import Settings, read
from receiver.sandbox.options import Options
from receiver.sandbox.server import Running, running

HOST = "127.0.0.1"
SPEED = 0.25  # models take a quarter of the time that they tell: long enough to be seen at work
RECONCILE_AFTER_S = "5"  # within the demo's patience, should a webhook get lost


@dataclass(frozen=True, slots=True)
class Stage:
    """What is up. `service` ends only when it is told to, or with the error that ended it."""

    url: str
    folder: Path
    sandbox: Running
    service: asyncio.Task[None]


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Everything up and listening; all of it down at the end, the service first. Raises Misconfigured."""
    stop, up = asyncio.Event(), asyncio.Event()
    async with running(Options(speed=SPEED), HOST) as sandbox:
        settings = settings_of(folder, sandbox, free_port(HOST))
        serving = house.serve(settings, stop, with_worker=True, on_listening=lambda _house: up.set())
        service = asyncio.ensure_future(serving)
        listening = asyncio.ensure_future(up.wait())
        try:
            await asyncio.wait((service, listening), return_when=asyncio.FIRST_COMPLETED)
            if service.done():
                await service
            yield Stage(settings.public_url, folder, sandbox, service)
        finally:
            listening.cancel()
            stop.set()
            await asyncio.wait((service,))
            service.result()  # why it ended by itself says more than what came of that


def settings_of(folder: Path, sandbox: Running, port: int) -> Settings:
    """Settings made up for the demo alone: not one of them comes from the environment or from `.env`."""
    return read(
        {
            "REPLICATE_API_TOKEN": sandbox.token,
            "OUTKEEP_REPLICATE_URL": sandbox.api_url,
            "OUTKEEP_HOST": HOST,
            "OUTKEEP_PORT": str(port),
            "OUTKEEP_OUTPUT_HOSTS": sandbox.url,
            "OUTKEEP_DATABASE_URL": f"sqlite:///{folder / 'ledger.db'}",
            "OUTKEEP_BUCKET_URL": f"file:{objects(folder)}",
            "OUTKEEP_SPOOL_DIR": str(folder / "spool"),
            "OUTKEEP_RECONCILE_AFTER_S": RECONCILE_AFTER_S,
        }
    )


def objects(folder: Path) -> Path:
    """Where the demo's bucket is."""
    return folder / "objects"

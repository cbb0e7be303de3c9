"""`outkeep work`: a worker alone, as many as wanted."""

import asyncio
from typing import TYPE_CHECKING

import click

from receiver.cli.environment import environment
from receiver.cli.frame import command

if TYPE_CHECKING:
    from receiver.runtime.wiring import House


@command("work", ["OUTKEEP_DATABASE_URL=postgresql://user:password@host/outkeep outkeep work"])
def run() -> None:
    """Run one more worker beside a service, on the same Postgres ledger and with the same settings."""
    from receiver.cli import running
    from receiver.runtime import logs, settings

    with running.loading():
        from receiver.cli import house

    checked = settings.read(environment())
    house.refuse_sqlite(checked)
    logs.configure(checked.log_format)

    async def main(stop: asyncio.Event) -> None:
        await house.work(checked, stop, on_working=_tell)

    running.run(main)


def _tell(house: "House") -> None:
    click.echo(f"Outkeep works, {house.settings.workers} outputs at once; they go to {house.bucket.name}")

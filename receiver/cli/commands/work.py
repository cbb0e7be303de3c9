"""`outkeep work`: a worker alone, as many as wanted."""

import asyncio
from typing import TYPE_CHECKING

import click

from receiver.cli.environment import environment
from receiver.cli.frame import command
from receiver.cli.since import METAVAR, moment_told

if TYPE_CHECKING:
    from receiver.runtime.house import House


@command("work", ["OUTKEEP_DATABASE_URL=postgresql://user:password@host/outkeep outkeep work"])
@click.option(
    "--sweep-since", metavar=METAVAR, callback=moment_told, help="Sweep back so far at first: 90m, 6h, 2d, a moment."
)
def run(sweep_since: str | None) -> None:
    """Run one more worker beside a service, on the same Postgres ledger and with the same settings."""
    from receiver.cli import running
    from receiver.runtime import logs, settings

    with running.loading():
        from receiver.cli import house

    checked = settings.read(environment())
    house.refuse_sqlite(checked)
    logs.configure(checked.log_format)

    async def main(stop: asyncio.Event) -> None:
        await house.work(checked, stop, sweep_since=sweep_since, on_working=_tell)

    running.run(main)


def _tell(house: "House") -> None:
    click.echo(f"Outkeep works, {house.settings.workers} outputs at once; they go to {house.bucket.name}")

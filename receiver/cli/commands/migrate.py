"""`outkeep migrate`: bring the ledger's schema up to date."""

import asyncio

import click

from receiver.cli.environment import environment
from receiver.cli.frame import command


@command("migrate", ["outkeep migrate", "OUTKEEP_DATABASE_URL=postgresql://user:password@host/outkeep outkeep migrate"])
def run() -> None:
    """Bring the schema of the ledger (OUTKEEP_DATABASE_URL) up to date. Does no harm when it is."""
    from receiver.runtime import settings, wiring

    asyncio.run(wiring.migrate_ledger(settings.read(environment())))
    click.echo("The ledger's schema is up to date.")

"""`outkeep serve`: the service, web and worker in one process."""

import asyncio
import logging
from typing import TYPE_CHECKING

import click

from receiver.cli.environment import environment
from receiver.cli.frame import command
from receiver.cli.since import METAVAR, moment_told

if TYPE_CHECKING:
    from receiver.runtime.house import House

log = logging.getLogger("outkeep")


@command(
    "serve",
    [
        "outkeep serve",
        "outkeep serve --port 9000",
        "outkeep serve --sweep-since 6h",
        "OUTKEEP_LOG_FORMAT=json outkeep serve --no-worker",
    ],
)
@click.option("--host", metavar="ADDRESS", help="Listen here instead of on OUTKEEP_HOST.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Listen here instead of on OUTKEEP_PORT; 0 is any free one."
)
@click.option("--no-worker", is_flag=True, help="Serve only; `outkeep work` does the rest (needs a Postgres ledger).")
@click.option(
    "--sweep-since", metavar=METAVAR, callback=moment_told, help="Sweep back so far at first: 90m, 6h, 2d, a moment."
)
def run(host: str | None, port: int | None, sweep_since: str | None, *, no_worker: bool) -> None:
    """Run the service: web and worker in one process, set up by environment and .env (see the README)."""
    from receiver.cli import running
    from receiver.runtime import logs, settings

    with running.loading():
        from receiver.cli import house

    environ = environment()
    given = {} if host is None else {"host": host}
    if port is not None:
        given["port"] = str(port)
    if given.get("port", environ.get("OUTKEEP_PORT", "").strip()) == "0":
        given["port"] = str(running.free_port(host or environ.get("OUTKEEP_HOST", "").strip() or "127.0.0.1"))
    checked = settings.read(environ, **given)
    if no_worker:
        house.refuse_sqlite(checked)
    logs.configure(checked.log_format)
    for sentence in settings.strangers(environ):
        log.warning("%s", sentence)

    async def main(stop: asyncio.Event) -> None:
        worker = not no_worker
        await house.serve(checked, stop, with_worker=worker, sweep_since=sweep_since, on_listening=_tell)

    running.run(main)


def _tell(house: "House") -> None:
    url, listens = house.settings.public_url, f"http://{_shown(house.settings.host)}:{house.settings.port}"
    elsewhere = "" if url == listens else f", reached at {url}"
    click.echo(f"Outkeep listens on {listens}{elsewhere}; outputs go to {house.bucket.name}")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""`outkeep check`: is everything set up right?"""

import asyncio

import click

from receiver.cli.environment import environment
from receiver.cli.frame import FAILED, command
from receiver.cli.showing import plain

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@command("check", ["outkeep check", "outkeep check && outkeep serve"])
def run() -> int:
    """Look at settings, ledger, bucket, spool, Replicate and public URL: a line each, ok, warning or failure.

    Writes, reads back and removes a small object in the bucket. Exit status 1 when something failed.
    """
    return asyncio.run(_check(environment()))


async def _check(environ: dict[str, str]) -> int:
    from receiver.runtime.check import check

    failed = False
    async for finding in check(environ):
        failed = failed or finding.level == "failure"
        level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
        click.echo(f"{level}{finding.about + ':':<12}{' '.join(plain(finding.says).split())}")
    return FAILED if failed else 0

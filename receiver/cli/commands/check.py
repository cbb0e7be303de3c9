"""`outkeep check`: is everything set up right?"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import click

from receiver.cli.environment import environment
from receiver.cli.frame import FAILED, Failure, command
from receiver.cli.showing import FOLDED, SHORT, plain, say, table

if TYPE_CHECKING:
    from receiver.runtime.findings import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@command("check", ["outkeep check", "outkeep check && outkeep serve", "outkeep check --prove"])
@click.option(
    "--prove",
    is_flag=True,
    help="Prove instead that nothing gets lost: measure the disk, kill a service of its own under load, compare.",
)
def run(*, prove: bool) -> int:
    """Look at settings, ledger, bucket, spool, Replicate and public URL: a line each, ok, warning or failure.

    Writes, reads back and removes a small object in the bucket. Exit status 1 when something failed.

    With --prove it makes the proof in short, within a minute: how fast the disks under ledger, spool and bucket keep
    what they are given, and what is left after a service was killed five times while webhooks came in. It touches no
    account, ledger or bucket of yours, and removes all that it made.
    """
    return _prove() if prove else asyncio.run(_check(environment()))


def _prove() -> int:
    from receiver.cli import running
    from receiver.runtime import settings

    environ = environment()
    checked = settings.read(environ)
    with running.loading():
        from receiver.cli.prove.proof import proof

    async def main(stop: asyncio.Event) -> int:
        findings: list[Finding] = []

        async def prove() -> None:
            findings.extend([finding async for finding in proof(checked, environ, say)])

        await _unless(stop, prove())
        rows = [(finding.about, str(finding.level), finding.says) for finding in findings]
        table("", [("what", SHORT), ("", SHORT), ("found", FOLDED)], rows)
        return FAILED if any(finding.level == "failure" for finding in findings) else 0

    return running.run(main)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work to its end, or leave it tidily when somebody says stop."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Failure("The proof was broken off; it has left nothing behind.")
        await task
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


async def _check(environ: dict[str, str]) -> int:
    from receiver.runtime.check import check

    failed = False
    async for finding in check(environ):
        failed = failed or finding.level == "failure"
        level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
        click.echo(f"{level}{finding.about + ':':<12}{' '.join(plain(finding.says).split())}")
    return FAILED if failed else 0

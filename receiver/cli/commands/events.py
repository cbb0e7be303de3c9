"""`outkeep events`: the feed, one CloudEvent a line."""

import asyncio
import sys
from typing import Any

import click

from receiver.cli.environment import environment
from receiver.cli.frame import command
from receiver.cli.showing import as_json, say

PAGE_MAX = 1000  # events in one answer; the service gives no more
WAIT_S = 30  # how long the service holds an answer back while nothing happens; it allows 60
RETRY_S, RETRY_S_MAX = 0.5, 10.0  # the gap after a lost connection, doubling


@command(
    "events",
    [
        "outkeep events | jq .type",
        "outkeep events --after latest --follow",
        "outkeep events --after 0000000000000042 --type outkeep.output.archived --limit 10",
    ],
)
@click.option("--after", metavar="CURSOR", help="Start after this event (its `sequence`); `latest` starts now.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens next, also after a lost connection.")
@click.option("--limit", "-n", type=click.IntRange(min=1), help="Print so many events at most.")
@click.option("--type", "kind", metavar="TYPE", help="Only events of this type, like outkeep.output.archived.")
def run(after: str | None, limit: int | None, kind: str | None, *, follow: bool) -> None:
    """Print the event feed of a running service (OUTKEEP_URL, OUTKEEP_KEY), one CloudEvent a line."""
    asyncio.run(_events(after, limit, kind, follow=follow))


async def _events(after: str | None, limit: int | None, kind: str | None, *, follow: bool) -> None:
    from receiver.cli.service import Service

    left = sys.maxsize if limit is None else limit
    async with Service(environment()) as service:
        feed = _Feed(service, after, kind)
        while left > 0:
            asked = min(left, PAGE_MAX)
            page = await feed.page(asked, follow=follow)
            for event in page:
                click.echo(as_json(event), nl=True)
            left -= len(page)
            if len(page) < asked and not follow:
                return


class _Feed:
    """The place we have reached in the feed."""

    def __init__(self, service: Any, after: str | None, kind: str | None) -> None:
        self._service = service
        self._after = after
        self._kind = kind
        self._heard = False

    async def page(self, limit: int, *, follow: bool) -> list[Any]:
        """What comes next, up to `limit`. `follow` waits a while for it and outlives lost connections."""
        from receiver.cli.service import Unreachable

        pause_s = RETRY_S
        while True:
            try:
                return await self._ask(limit, wait=WAIT_S if follow else None)
            except Unreachable as error:
                if not (follow and self._heard):  # the first answer is what tells that we are set up right
                    raise
                if pause_s == RETRY_S:
                    say(f"outkeep: {error} Trying again.")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def _ask(self, limit: int, *, wait: int | None) -> list[Any]:
        told = await self._service.get("/events", after=self._after, limit=limit, wait=wait, type=self._kind)
        self._after = str(told["next"])
        self._heard = True
        found: list[Any] = told["events"]
        return found

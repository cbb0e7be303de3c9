"""`outkeep replay`: have deliveries verified again, or read again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import click

from receiver.cli.environment import environment
from receiver.cli.frame import Failure, command
from receiver.cli.showing import as_json, plain, say
from receiver.cli.since import METAVAR, moment_told
from receiver.core.delivery import TOLD_STATES, DeliveryState

STATES = [state.value for state in TOLD_STATES if state is not DeliveryState.ACCEPTED]  # which are to be read anyway
IDS_MAX = 1_000  # in one request; the service takes no more
_TOLD = {
    "let_in": "verified, and let in as deliveries",
    "read_again": "signed, and read again",
    "still_refused": "not verified: they stay in quarantine",
    "already_here": "verified, but here already under their webhook's id",
}


@command(
    "replay",
    [
        "outkeep replay --state quarantined --dry-run",
        "outkeep replay --state quarantined --since 6h",
        "outkeep replay unverified.Jx3rCm0yQ2iYw8sLq4nB1g msg_2a8rQ",
    ],
)
@click.argument("deliveries", metavar="[DELIVERY]...", nargs=-1)
@click.option("--state", metavar="STATE", type=click.Choice(STATES), help=f"Those: {', '.join(STATES)}.")
@click.option(
    "--since", metavar=METAVAR, callback=moment_told, help="Those received since then: 90m, 6h, 2d ago, or a moment."
)
@click.option("--until", metavar=METAVAR, callback=moment_told, help="Those received before it.")
@click.option("--dry-run", is_flag=True, help="Change nothing, and say what would become of how many.")
@click.option("--json", "whole", is_flag=True, help="Print the counts as JSON.")
def run(
    deliveries: Sequence[str], state: str | None, since: str | None, until: str | None, *, dry_run: bool, whole: bool
) -> None:
    """Replay deliveries of a running service (OUTKEEP_URL, OUTKEEP_KEY with the scope admin).

    What was not verified is verified again with the signing secrets of today, as of the moment when it was received,
    and let in if they explain it. What was signed is read again. Neither can happen twice in effect.
    """
    chosen = {"state": state, "received_after": since, "received_before": until}
    given = {name: value for name, value in chosen.items() if value is not None}
    if bool(deliveries) == bool(given):
        raise click.UsageError("Say which: either ids of deliveries, or --state, --since, --until")
    bodies = _named(deliveries) if deliveries else [given]
    asyncio.run(_replay(bodies, dry_run=dry_run, whole=whole))


def _named(ids: Sequence[str]) -> list[Mapping[str, Any]]:
    wanted = list(dict.fromkeys(ids))
    return [{"ids": wanted[start : start + IDS_MAX]} for start in range(0, len(wanted), IDS_MAX)]


async def _replay(bodies: Sequence[Mapping[str, Any]], *, dry_run: bool, whole: bool) -> None:
    counts, unknown = Counter[str](), list[str]()
    trouble: Failure | None = None
    try:
        async for told in _answers(bodies, dry_run=dry_run):
            counts.update({name: int(told[name]) for name in _TOLD})
            unknown += map(str, told["unknown"])
    except Failure as error:
        if not counts:
            raise
        trouble = error
    if whole:
        click.echo(as_json({"dry_run": dry_run, **{name: counts[name] for name in _TOLD}, "unknown": unknown}))
    else:
        for name, means in _TOLD.items():
            click.echo(f"{counts[name]:>7}  {means}")
        if dry_run and trouble is None:
            say("Nothing was changed: this is what the same without --dry-run would do.")
    if trouble is not None:
        raise Failure(f"{trouble} That is how far it came; the same once more goes on with the rest.")
    if unknown:
        raise Failure(f"There is no delivery {', '.join(plain(each) for each in unknown[:10])}.")


async def _answers(bodies: Sequence[Mapping[str, Any]], *, dry_run: bool) -> AsyncIterator[Mapping[str, Any]]:
    """What the service says, request after request until it is through."""
    from receiver.cli.service import Service

    async with Service(environment()) as service:
        for body in bodies:
            asked: dict[str, Any] = {**body, "dry_run": dry_run}
            while True:
                told = await service.post("/api/deliveries/replay", asked)
                yield told
                if told["next"] is None:
                    break
                asked["after"] = told["next"]

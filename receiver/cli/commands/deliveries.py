"""`outkeep deliveries`: the calls that came, newest first, or one of them whole."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import click

from receiver.cli.environment import environment
from receiver.cli.frame import Failure, command
from receiver.cli.showing import FOLDED, ID, SHORT, as_json, console, moment, plain, say, size, table
from receiver.core.delivery import TOLD_STATES

STATES = [state.value for state in TOLD_STATES]
TEXT_LENGTH_MAX = 2_000  # characters of a body; --json has a megabyte of it
OTHERS_WIDTH = 62  # columns that id, received and state take, as long as they mostly are


@command(
    "deliveries",
    [
        "outkeep deliveries --state quarantined",
        "outkeep deliveries --prediction gm3qorzdhgbfurvjtvhg6dckhu",
        "outkeep deliveries unverified.Jx3rCm0yQ2iYw8sLq4nB1g",
    ],
)
@click.argument("delivery_id", metavar="[ID]", required=False)
@click.option("--state", metavar="STATE", type=click.Choice(STATES), help=f"Only those: {', '.join(STATES)}.")
@click.option("--prediction", metavar="ID", help="Only those about this prediction.")
@click.option("--after", metavar="CURSOR", help="Go on where another page ended.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="So many at most.")
@click.option("--json", "whole", is_flag=True, help="Print the page, or the delivery, as JSON.")
@click.pass_context
def run(ctx: click.Context, /, delivery_id: str | None, *, whole: bool, **filters: Any) -> None:
    """List the calls that a running service (OUTKEEP_URL, OUTKEEP_KEY) has kept, newest first, or show one.

    Quarantined are those that can't be understood, and those that no signing secret explains; `outkeep replay` has
    them judged again.
    """
    if delivery_id is None:
        asyncio.run(_list(filters, whole=whole))
        return
    if any(ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT for name in filters):
        raise click.UsageError("An ID stands for itself: leave --state, --prediction, --after and --limit out")
    asyncio.run(_show(delivery_id, whole=whole))


async def _list(filters: Mapping[str, Any], *, whole: bool) -> None:
    from receiver.cli.service import Service

    async with Service(environment()) as service:
        page = await service.get("/api/deliveries", **filters)
    if whole:
        click.echo(as_json(page))
        return
    columns = (("id", ID), ("received", SHORT), ("state", SHORT), ("reason or prediction", FOLDED))
    room = console().width - OTHERS_WIDTH
    table("", columns, [_row(delivery, room) for delivery in page["items"]], states=(2,))
    if page["next"]:
        say(f"There are more: --after {plain(str(page['next']))}")


def _row(delivery: Mapping[str, Any], room: int) -> tuple[str, ...]:
    """The id of a prediction is never broken: where there is no room for it, it stands below the delivery's own."""
    name, reason, about = str(delivery["id"]), delivery.get("reason"), str(delivery.get("prediction") or "")
    if about and (reason or len(about) > room):
        name, about = f"{name}\n  {about}", ""
    received = moment(delivery.get("received_at"))[5:16]
    return name, received, str(delivery.get("state")), str(reason or about)


async def _show(delivery_id: str, *, whole: bool) -> None:
    delivery = await _delivery(delivery_id)
    if whole:
        click.echo(as_json(delivery))
        return
    for name, text in _fields(delivery):
        click.echo(f"{name:<10} {plain(text)}")
    click.echo()
    for name, value in delivery.get("headers") or ():
        click.echo(f"{plain(str(name))}: {plain(str(value))}")
    click.echo()
    text = as_json(delivery["body"]) if "body" in delivery else str(delivery.get("text"))
    click.echo(plain(text[:TEXT_LENGTH_MAX]))
    if len(text) > TEXT_LENGTH_MAX:
        say(f"… ({len(text)} characters, --json has more)")


async def _delivery(delivery_id: str) -> Any:
    from receiver.cli.service import Refused, Service

    async with Service(environment()) as service:
        try:
            return await service.get(f"/api/deliveries/{quote(delivery_id, safe='')}")
        except Refused as error:
            if error.status != 404:
                raise
        raise Failure(f"There is no delivery {delivery_id!r} at {service.url}; old ones are removed after a while.")


def _fields(delivery: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "id", str(delivery["id"])
    yield "received", moment(delivery.get("received_at"))
    yield "state", str(delivery.get("state"))
    for name in ("reason", "prediction", "repeats"):
        if delivery.get(name):
            yield name, str(delivery[name])
    yield "size", size(delivery.get("size"))

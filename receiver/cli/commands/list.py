"""`outkeep list`: the predictions that the ledger knows, newest first."""

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from receiver.cli.environment import environment
from receiver.cli.frame import command
from receiver.cli.showing import FOLDED, ID, SHORT, as_json, console, moment, plain, say, table

OTHERS_WIDTH = 61  # columns that id, status, kept and created take, as long as they mostly are


@command(
    "list",
    [
        "outkeep list",
        "outkeep list --status failed --model black-forest-labs/flux-schnell",
        "outkeep list --limit 1000 --json | jq -r '.items[].id'",
    ],
)
@click.option(
    "--status", metavar="STATUS", help="Only those: starting, processing, succeeded, failed, canceled, aborted."
)
@click.option("--model", metavar="OWNER/NAME", help="Only those of this model.")
@click.option("--key", metavar="NAME", help="Only those made with the API key of this name.")
@click.option("--archived/--open", default=None, help="Only those that are archived, or that are not yet.")
@click.option("--created-after", metavar="TIME", help="Only those created after it, like 2026-11-22T08:00:00Z.")
@click.option("--created-before", metavar="TIME", help="Only those created before it.")
@click.option("--after", metavar="CURSOR", help="Go on where another page ended.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="So many at most.")
@click.option("--json", "whole", is_flag=True, help="Print the page as JSON.")
def run(*, whole: bool, archived: bool | None, **filters: Any) -> None:
    """List the predictions that a running service (OUTKEEP_URL, OUTKEEP_KEY) knows, newest first."""
    if archived is not None:
        filters["archived"] = "true" if archived else "false"
    asyncio.run(_list(filters, whole=whole))


async def _list(filters: Mapping[str, Any], *, whole: bool) -> None:
    from receiver.cli.service import Service

    async with Service(environment()) as service:
        page = await service.get("/api/predictions", **filters)
    if whole:
        click.echo(as_json(page))
        return
    columns = (("id", ID), ("status", SHORT), ("kept", SHORT), ("created UTC", SHORT), ("model", FOLDED))
    room = console().width - OTHERS_WIDTH
    table("", columns, [_row(prediction, room) for prediction in page["items"]], states=(1,))
    if page["next"]:
        say(f"There are more: --after {plain(str(page['next']))}")


def _row(prediction: Mapping[str, Any], room: int) -> tuple[str, ...]:
    """`kept` says how many of its files are archived, or for one without files whether it is itself."""
    outputs = prediction.get("outputs") or ()
    settled = sum(output["state"] == "archived" for output in outputs)
    whole = "yes" if prediction.get("archived_at") else "no"
    model = str(prediction.get("model") or prediction.get("version") or "")
    return (
        str(prediction["id"]),
        str(prediction.get("status")),
        f"{settled}/{len(outputs)}" if outputs else whole,
        moment(prediction.get("created_at"))[5:16],
        model if len(model) <= room else model.replace("/", "/\n", 1),
    )

"""`outkeep show`: one prediction with its deliveries, attempts, outputs and events."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import click

from receiver.cli.environment import environment
from receiver.cli.frame import Failure, command
from receiver.cli.showing import FOLDED, ID, SHORT, as_json, extent, moment, plain, size, table

TEXT_LENGTH_MAX = 500  # characters of an input, an output or logs; --json has them whole
_MOMENTS = ("created_at", "started_at", "completed_at", "archived_at")


@command(
    "show", ["outkeep show gm3qorzdhgbfurvjtvhg6dckhu", "outkeep show gm3qorzdhgbfurvjtvhg6dckhu --json | jq .outputs"]
)
@click.argument("prediction_id", metavar="ID")
@click.option("--json", "whole", is_flag=True, help="Print everything as JSON.")
def run(prediction_id: str, *, whole: bool) -> None:
    """Show what a running service (OUTKEEP_URL, OUTKEEP_KEY) knows of one prediction."""
    asyncio.run(_show(prediction_id, whole=whole))


async def _show(prediction_id: str, *, whole: bool) -> None:
    prediction = await _prediction(prediction_id)
    if whole:
        click.echo(as_json(prediction))
        return
    for name, text in _fields(prediction):
        click.echo(f"{name:<10} {plain(text)}")
    _outputs(prediction)
    _history(prediction)


async def _prediction(prediction_id: str) -> Any:
    from receiver.cli.service import Refused, Service

    async with Service(environment()) as service:
        try:
            return await service.get(f"/api/predictions/{quote(prediction_id, safe='')}")
        except Refused as error:
            if error.status != 404:
                raise
        raise Failure(f"Nothing is known of a prediction {prediction_id!r} at {service.url}.")


def _fields(prediction: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "id", str(prediction["id"])
    yield "status", str(prediction.get("status"))
    for name in ("model", "version", "key_name", "manifest_key"):
        if prediction.get(name):
            yield name.removesuffix("_name").removesuffix("_key"), str(prediction[name])
    for name in _MOMENTS:
        if prediction.get(name):
            yield name.removesuffix("_at"), moment(prediction[name])
    for name, value in (prediction.get("input") or {}).items():
        yield "input", f"{name}: {_cut(value)}"
    for name in ("error", "metrics", "logs"):
        if prediction.get(name):
            yield name, _cut(prediction[name])
    if prediction.get("output") is not None and not prediction.get("outputs"):
        yield "output", _cut(prediction["output"])


def _cut(value: Any) -> str:
    text = (value if isinstance(value, str) else as_json(value)).strip()
    text = text.replace("\n", "\n" + 11 * " ")
    return (
        text if len(text) <= TEXT_LENGTH_MAX else f"{text[:TEXT_LENGTH_MAX]}… ({len(text)} characters, --json has all)"
    )


def _outputs(prediction: Mapping[str, Any]) -> None:
    outputs = prediction.get("outputs") or ()
    if not outputs:
        return
    columns = (
        ("path", FOLDED),
        ("state", SHORT),
        ("size", {"justify": "right", **SHORT}),
        ("type", FOLDED),
        ("", SHORT),
        ("tries", SHORT),
    )
    rows = [
        (
            str(output["path"]),
            str(output["state"]),
            size(output.get("size")),
            str(output.get("content_type") or ""),
            extent(output),
            str(output.get("attempts", "")),
        )
        for output in outputs
    ]
    click.echo()
    table("Outputs", columns, rows, states=(1,))
    for output in outputs:
        if output.get("url"):
            click.echo(f"  {plain(str(output['url']))}")
        elif output.get("reason"):
            click.echo(f"  {plain(str(output['path']))}: {plain(str(output['reason']))}")
        for problem in output.get("problems") or ():
            click.echo(
                f"  {moment(problem.get('at'))} {plain(str(output['path']))}: {plain(str(problem.get('problem')))}"
            )


def _history(prediction: Mapping[str, Any]) -> None:
    parts: tuple[tuple[str, str, tuple[tuple[str, Mapping[str, Any]], ...]], ...] = (
        ("updates", "Updates", (("received_at", SHORT), ("source", SHORT), ("status", SHORT), ("delivery", FOLDED))),
        ("deliveries", "Deliveries", (("id", ID), ("received_at", SHORT), ("state", SHORT), ("reason", FOLDED))),
        ("events", "Events", (("id", ID), ("type", FOLDED))),
    )
    for name, title, columns in parts:
        found = prediction.get(name) or ()
        rows = [tuple(_cell(column, item.get(column)) for column, _ in columns) for item in found]
        if rows:
            click.echo()
            table(title, columns, rows, states=(2,))


def _cell(column: str, value: Any) -> str:
    if column.endswith("_at"):
        return moment(value)
    return "" if value is None else str(value)

"""`outkeep predict`: have a running service create a prediction, and wait for its permanent links if asked to."""

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from receiver.cli.environment import environment
from receiver.cli.frame import FAILED, Failure, command
from receiver.cli.inputs import read_inputs, target
from receiver.cli.showing import as_json, as_text, plain, say

POLL_S = 0.25  # the first gap between two looks at a prediction …
POLL_S_MAX = 2.0  # … growing to this: the service hears of news by itself, we only look
OUTAGE_S_MAX = 60.0  # a service that restarts while we wait is borne with for so long


@command(
    "predict",
    [
        "outkeep predict black-forest-labs/flux-schnell -i prompt='a cat' --wait",
        "outkeep predict owner/name:version -i image=@photo.png -i steps=20",
        "outkeep predict deployments/owner/name -i 'sizes=[512, 768]'",
    ],
)
@click.argument("model")
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An input: JSON where VALUE is JSON, text otherwise, the content of a file for KEY=@FILE. May be repeated.",
)
@click.option("--wait", is_flag=True, help="Wait until it is archived, then print its permanent links.")
@click.option("--json", "whole", is_flag=True, help="Print the prediction as JSON.")
def run(model: str, inputs: tuple[str, ...], *, wait: bool, whole: bool) -> int:
    """Create a prediction of MODEL through a running service (OUTKEEP_URL, OUTKEEP_KEY).

    MODEL is owner/name, owner/name:version, a version's id, or deployments/owner/name. Prints the prediction's id, or
    with --wait its permanent links (its text, if it made no files); exit status 1 when it failed or a file was lost.
    """
    path, body = target(model)
    body["input"] = read_inputs(inputs)
    return asyncio.run(_predict(model, path, body, wait=wait, whole=whole))


async def _predict(model: str, path: str, body: Mapping[str, Any], *, wait: bool, whole: bool) -> int:
    from receiver.cli.service import Service

    async with Service(environment()) as service:
        created = await _created(service, model, path, body)
        number = str(created.get("id"))
        if not wait:
            click.echo(as_json(created) if whole else plain(number))
            return 0
        try:
            prediction = await _archived(service, number, model)
        except asyncio.CancelledError:
            say(f"outkeep: The prediction goes on without us: outkeep show {plain(number)}")
            raise
    return _tell(prediction, whole=whole)


async def _created(service: Any, model: str, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    from receiver.cli.service import Refused

    try:
        created: Mapping[str, Any] = await service.post(path, body)
    except Refused as error:
        if error.status != 404:
            raise
        mend = (
            ""
            if ":" in model or "version" in body
            else ", or name a version (owner/name:version): only some run without"
        )
        raise Failure(f"Replicate knows no {model!r}: look at its spelling{mend}.") from None
    return created


async def _archived(service: Any, number: str, model: str) -> Mapping[str, Any]:
    """The prediction, once it is archived."""
    from receiver.cli.progress import Progress, row
    from receiver.cli.service import Unreachable

    pause_s, outage_s = POLL_S, 0.0
    with Progress() as progress:
        while True:
            try:
                prediction: Mapping[str, Any] = await service.get(f"/api/predictions/{number}")
            except Unreachable:
                if outage_s >= OUTAGE_S_MAX:
                    raise
                outage_s += pause_s
            else:
                outage_s = 0.0
                progress.show([row(f"{plain(number)} {model}", prediction)])
                if prediction.get("archived_at"):
                    return prediction
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.3, POLL_S_MAX)


def _tell(prediction: Mapping[str, Any], *, whole: bool) -> int:
    from receiver.cli.progress import outputs_of

    outputs = outputs_of(prediction)
    lost = [output for output in outputs if output.get("state") != "archived"]
    if whole:
        click.echo(as_json(prediction))
    elif outputs:
        for output in outputs:
            if output.get("url"):
                click.echo(plain(str(output["url"])))
    elif prediction.get("output") is not None:
        click.echo(plain(as_text(prediction["output"])))
    for output in lost:
        say(f"outkeep: {plain(str(output.get('path')))} was lost: {plain(str(output.get('reason')))}")
    status = str(prediction.get("status"))
    if status != "succeeded":
        error = str(prediction.get("error") or "").strip().rstrip(".")
        say(f"outkeep: The prediction {status}{': ' + plain(error) if error else ''}.")
    return FAILED if lost or status != "succeeded" else 0

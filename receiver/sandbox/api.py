"""Replicate's API for predictions and trainings: create in every way, get, list, cancel."""

import asyncio
import re
import time
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from receiver.sandbox import bodies, errors, mischief, pages
from receiver.sandbox.antics import played, pranked
from receiver.sandbox.catalogue import trained
from receiver.sandbox.mischief import Mischief
from receiver.sandbox.models import Model, filled, wrong_input
from receiver.sandbox.play import begin, deadline, end
from receiver.sandbox.predictions import Prediction, as_asked, as_canceled, as_created, as_starting
from receiver.sandbox.sandbox import Sandbox, of
from receiver.sandbox.wire import HANG_S, Reset, answer

WEB_ONLY_S = 14 * 24 * 3600  # `source=web` looks back 14 days
TRAIN_S = 5.0
LARGE = ("input", "output", "logs")  # what the items of the list may lack

_HEX_64 = re.compile(r"[0-9a-f]{64}\Z")


async def create(request: Request) -> Response:
    """POST /predictions: `version` is 64 hex digits, owner/name:64 hex digits, or an official owner/name."""
    body = await bodies.read_body(request, bodies.CREATE_FIELDS | {"version"})
    bodies.required(body, "version")
    return await _create(request, _by_version(of(request), body["version"]), body)


async def create_on_model(request: Request) -> Response:
    """POST /models/{owner}/{name}/predictions: official models only."""
    body = await bodies.read_body(request, bodies.CREATE_FIELDS)
    model = model_of(request)
    if not model.official:
        raise errors.not_found()
    return await _create(request, model, body)


async def create_on_deployment(request: Request) -> Response:
    """POST /deployments/{owner}/{name}/predictions."""
    body = await bodies.read_body(request, bodies.CREATE_FIELDS)
    sandbox, name = of(request), f"{request.path_params['owner']}/{request.path_params['name']}"
    deployment = sandbox.deployments.get(name)
    if deployment is None:
        raise errors.not_found()
    return await _create(request, sandbox.models[deployment["current_release"]["model"]], body, deployment=name)


async def train(request: Request) -> Response:
    """POST /models/{owner}/{name}/versions/{id}/trainings."""
    fields = frozenset({"destination", "input", "webhook", "webhook_events_filter"})
    body = await bodies.read_body(request, fields)
    bodies.required(body, "destination")
    bodies.checked(body)
    sandbox, model = of(request), model_of(request)
    if sandbox.versions.get(request.path_params["id"]) is not model:
        raise errors.no_such_version()
    if body["destination"] not in sandbox.models:
        raise errors.not_found("The specified training destination does not exist")
    told = filled(model, body["input"])
    trainer = replace(model, make=trained, grows=False, streams=False, official=False, predict_s=TRAIN_S)
    training = begin(sandbox, trainer, told, body, read_mischief(told), kind="trainings")
    headers = {"location": f"{sandbox.api_url}/trainings/{training.id}"}
    return answer(as_created(training, sandbox.origin, variation=sandbox.options.variation), 201, headers)


async def get(request: Request) -> Response:
    sandbox, prediction = of(request), found(request)
    other = await pranked(request, f"api:{prediction.id}", prediction.mischief.api)
    if other is not None:
        return other
    told = as_asked(prediction, sandbox.origin, variation=sandbox.options.variation)
    stale_s = prediction.mischief.number("stale_get") or sandbox.general.number("stale_get") or 0.0
    if prediction.completed_ns is not None and sandbox.now_ns() < prediction.completed_ns + stale_s * 1e9:
        told |= {"status": "processing", "completed_at": None, "output": None, "metrics": {}, "error": None}
    return answer(told)


async def cancel(request: Request) -> Response:
    """Ends what runs. What a finished one answers is not published: as it is, here."""
    sandbox, prediction = of(request), found(request)
    other = await pranked(request, f"api:{prediction.id}", prediction.mischief.api)
    if other is not None:
        return other
    end(sandbox, prediction, "canceled")
    return answer(as_canceled(prediction, sandbox.origin))


async def listing(request: Request) -> Response:
    """GET /predictions: pages of 100, the newest first."""
    sandbox = of(request)
    prank = sandbox.strike("list", sandbox.general.list)
    if prank is not None and prank.kind == "hide":
        return answer({"next": None, "previous": None, "results": []})
    other = await played(request, prank)
    if other is not None:
        return other
    page = pages.page(request, sandbox.origin, _chosen(request), key=lambda prediction: prediction.id)
    items = [as_asked(p, sandbox.origin, variation=sandbox.options.variation) for p in page["results"]]
    if prank is not None and prank.kind == "lean":
        items = [{key: value for key, value in item.items() if key not in LARGE} for item in items]
    return answer(page | {"results": items})


def found(request: Request) -> Prediction:
    """The prediction that the path names; 404 when there is none."""
    sandbox = of(request)
    prediction = sandbox.predictions.get(request.path_params["id"])
    if prediction is None or prediction.kind != kind_of(request):
        raise errors.not_found(f"{kind_of(request)[:-1].capitalize()} not found")
    return sandbox.current(prediction)


def kind_of(request: Request) -> str:
    return "trainings" if request.url.path.startswith("/v1/trainings") else "predictions"


def model_of(request: Request) -> Model:
    """The model that the path names; 404 when there is none."""
    model = of(request).models.get(f"{request.path_params['owner']}/{request.path_params['name']}")
    if model is None:
        raise errors.not_found("Model not found")
    return model


def read_mischief(told: dict[str, Any]) -> Mischief:
    try:
        return mischief.read(told.get("sandbox") or {})
    except ValueError as error:
        raise wrong_input(str(error)) from error


def _chosen(request: Request) -> list[Prediction]:
    sandbox, source = of(request), request.query_params.get("source")
    if source not in (None, "web"):
        raise errors.invalid(("source", "enum", 'must be one of the following: "web"'))
    after, before = bodies.moment(request, "created_after"), bodies.moment(request, "created_before")
    oldest_ns = sandbox.now_ns() - int(WEB_ONLY_S * 1e9) if source else 0
    return [
        sandbox.current(prediction)
        for prediction in reversed(sandbox.predictions.values())
        if prediction.kind == kind_of(request)
        and (after is None or prediction.created_ns >= after)
        and (before is None or prediction.created_ns < before)
        and (source is None or (prediction.source == source and prediction.created_ns >= oldest_ns))
    ]


async def _create(request: Request, model: Model, body: dict[str, Any], *, deployment: str | None = None) -> Response:
    bodies.checked(body)
    sandbox, told = of(request), filled(model, body["input"])
    own, cancel_after_s = read_mischief(told), bodies.cancel_after_s(request)
    prank = sandbox.strike(f"create:{request.state.digest}", own.create)
    prank = prank or sandbox.strike("create", sandbox.general.create)
    kind = None if prank is None else prank.kind
    if kind not in ("lost", "late", "no_location"):
        other = await played(request, prank)
        if other is not None:
            return other
    prediction = begin(sandbox, model, told, body, own, deployment=deployment)
    if cancel_after_s is not None:
        after_ns = int(cancel_after_s * sandbox.options.speed * 1e9)
        prediction.deadline_ns = prediction.created_ns + after_ns
        prediction.timer = sandbox.spawn(deadline(sandbox, prediction))
    wait_s = bodies.wait_s(request)
    if wait_s is not None:
        early = (own.wait or sandbox.general.wait) == "early"
        await _settled(sandbox, prediction, wait_s or bodies.WAIT_S_MAX, early=early)
    if prank is not None and kind == "late":
        await sandbox.nap(prank.value_or(HANG_S))
    if kind == "lost":
        return Reset(request)
    return _created(sandbox, prediction, wait_s, located=kind != "no_location")


def _created(sandbox: Sandbox, prediction: Prediction, wait_s: int | None, *, located: bool) -> Response:
    """201, as recorded for all creates; 202 stands in the schema and was never seen."""
    headers = {"location": f"{sandbox.api_url}/predictions/{prediction.id}"} if located else {}
    variation = sandbox.options.variation
    if wait_s is None:
        return answer(as_created(prediction, sandbox.origin, variation=variation), 201, headers)
    headers["preference-applied"] = f"wait={wait_s}" if wait_s else "wait"
    shape = as_created if prediction.final or prediction.ready else as_starting
    return answer(shape(prediction, sandbox.origin, variation=variation), 201, headers)


async def _settled(sandbox: Sandbox, prediction: Prediction, seconds: float, *, early: bool) -> None:
    """Waits until it is final, or its outputs are there if that is enough, for so many real seconds at most."""
    until_s = time.monotonic() + seconds
    while not prediction.final and not (early and prediction.ready) and not sandbox.stopped.is_set():
        try:
            await asyncio.wait_for(prediction.news.wait(), max(0.0, until_s - time.monotonic()))
        except TimeoutError:
            return


def _by_version(sandbox: Sandbox, version: str) -> Model:
    name, _, pinned = version.rpartition(":")
    if _HEX_64.match(version):
        model = sandbox.versions.get(version)
    elif name:
        model = sandbox.models.get(name)
        model = model if model is not None and sandbox.versions.get(pinned) is model else None
    else:
        model = sandbox.models.get(version)
        model = model if model is not None and model.official else None
    if model is None:
        raise errors.no_such_version()
    return model

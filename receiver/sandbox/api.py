"""Replicate's API for predictions: create in every way, get, list, cancel."""

import asyncio
import hashlib
import json
import re
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from receiver.sandbox import errors, mischief, pages
from receiver.sandbox.mischief import Mischief, Prank
from receiver.sandbox.models import Model, filled, wrong_input
from receiver.sandbox.play import deadline, end, play
from receiver.sandbox.predictions import (
    Prediction,
    as_asked,
    as_canceled,
    as_created,
    as_starting,
)
from receiver.sandbox.sandbox import Sandbox, seed_of
from receiver.sandbox.webhooks import EVENTS
from receiver.sandbox.wire import HANG_S, Reset, answer, moment_ns

BODY_BYTES_MAX = 32 * 1024 * 1024
WAIT_S_MAX = 60  # "n between 1 and 60"; the published pattern lets 61 to 99 through
CANCEL_AFTER_S = (5, 24 * 3600)
FIELDS = frozenset({"input", "webhook", "webhook_events_filter", "stream", "webhook_completed"})
WEB_ONLY_S = 14 * 24 * 3600  # `source=web` looks back 14 days

_PREFER = re.compile(r"wait(?:=([1-9][0-9]?))?\Z")
_CANCEL_AFTER = re.compile(r"(?=[0-9])(?:([0-9]{1,5})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})s?)?\Z")
_HEX_64 = re.compile(r"[0-9a-f]{64}\Z")


def of(request: Request) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


async def create(request: Request) -> Response:
    """POST /predictions: `version` is 64 hex digits, owner/name:64 hex digits, or an official owner/name."""
    body = await read_body(request, FIELDS | {"version"})
    version = body.get("version")
    if not isinstance(version, str):
        kind = "required" if version is None else "invalid_type"
        raise errors.invalid(("version", kind, "version is required" if version is None else "must be a string"))
    return await _create(request, _by_version(of(request), version), body)


async def create_on_model(request: Request) -> Response:
    """POST /models/{owner}/{name}/predictions: official models only."""
    body = await read_body(request, FIELDS)
    model = model_of(request)
    if not model.official:
        raise errors.not_found()
    return await _create(request, model, body)


async def create_on_deployment(request: Request) -> Response:
    body = await read_body(request, FIELDS)
    sandbox, name = of(request), f"{request.path_params['owner']}/{request.path_params['name']}"
    deployment = sandbox.deployments.get(name)
    if deployment is None:
        raise errors.not_found()
    return await _create(request, sandbox.models[deployment["current_release"]["model"]], body, deployment=name)


async def get(request: Request) -> Response:
    sandbox, prediction = of(request), found(request)
    other = await pranked(request, f"api:{prediction.id}", prediction.mischief.api)
    if other is not None:
        return other
    stale = prediction.mischief.number("stale_get") or sandbox.general.number("stale_get")
    told = as_asked(prediction, sandbox.origin, variation=sandbox.options.variation)
    if stale and prediction.completed_ns is not None and sandbox.now_ns() < prediction.completed_ns + stale * 1e9:
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
    other = await play_prank(request, prank)
    if other is not None:
        return other
    query = request.query_params
    after, before = (_moment(query.get(name), name) for name in ("created_after", "created_before"))
    source = query.get("source")
    if source not in (None, "web"):
        raise errors.invalid(("source", "enum", 'must be one of the following: "web"'))
    oldest_ns = sandbox.now_ns() - int(WEB_ONLY_S * 1e9) if source else None
    chosen = [
        sandbox.current(p)
        for p in reversed(sandbox.predictions.values())
        if p.kind == kind_of(request)
        and (after is None or p.created_ns >= after)
        and (before is None or p.created_ns < before)
        and (oldest_ns is None or (p.source == source and p.created_ns >= oldest_ns))
    ]
    page = pages.page(request, sandbox.origin, chosen, key=lambda p: p.id)
    variation = sandbox.options.variation
    return answer(page | {"results": [as_asked(p, sandbox.origin, variation=variation) for p in page["results"]]})


async def read_body(request: Request, fields: frozenset[str]) -> dict[str, Any]:
    """The JSON object of a request; 400 when it is none, 422 on fields that nobody documented."""
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > BODY_BYTES_MAX:
            raise errors.Problem(413, {"detail": "Request body is too large", "status": 413})
    request.state.digest = hashlib.sha256(raw).hexdigest()
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise errors.malformed("The request body is not valid JSON") from error
    if not isinstance(body, dict):
        raise errors.malformed("The request body must be a JSON object")
    unknown = [key for key in body if key not in fields]
    if unknown:
        kind = "additional_property_not_allowed"
        raise errors.invalid(*((key, kind, f"Additional property {key} is not allowed") for key in unknown))
    return body


def checked(body: dict[str, Any]) -> None:
    """422 when the fields that all creates share are not what they must be."""
    wrong = []
    if not isinstance(body.get("input"), dict):
        kind = "invalid_type" if "input" in body else "required"
        wrong.append(("input", kind, "Invalid type. Expected: object" if "input" in body else "input is required"))
    webhook = body.get("webhook")
    if webhook is not None and not _is_web(webhook):
        wrong.append(("webhook", "format", "Does not match format 'uri'"))
    events = body.get("webhook_events_filter")
    if events is not None and (not isinstance(events, list) or any(event not in EVENTS for event in events)):
        allowed = ", ".join(f'"{event}"' for event in EVENTS)
        wrong.append(("webhook_events_filter", "enum", f"must be one of the following: {allowed}"))
    if not isinstance(body.get("stream", False), bool | None):
        wrong.append(("stream", "invalid_type", "Invalid type. Expected: boolean"))
    if wrong:
        raise errors.invalid(*wrong)


def found(request: Request) -> Prediction:
    """The prediction that the path names; 404 when there is none."""
    sandbox = of(request)
    prediction = sandbox.predictions.get(request.path_params["id"])
    if prediction is None or prediction.kind != kind_of(request):
        raise errors.not_found(f"{kind_of(request)[:-1].capitalize()} not found")
    return sandbox.current(prediction)


def kind_of(request: Request) -> str:
    return "trainings" if "/trainings" in request.url.path else "predictions"


def model_of(request: Request) -> Model:
    model = of(request).models.get(f"{request.path_params['owner']}/{request.path_params['name']}")
    if model is None:
        raise errors.not_found("Model not found")
    return model


async def pranked(request: Request, scope: str, pranks: tuple[Prank, ...]) -> Response | None:
    return await play_prank(request, of(request).strike(scope, pranks))


async def play_prank(request: Request, prank: Prank | None) -> Response | None:
    """The answer that a misbehaviour of the API gives instead of the right one."""
    if prank is None:
        return None
    match prank.kind:
        case "hang":
            await of(request).nap(prank.value_or(HANG_S))
            return Reset(request)
        case "reset":
            return Reset(request)
        case "html":
            return Response(b"<!doctype html><title>502</title><h1>Bad gateway</h1>", media_type="text/html")
        case "truncated":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2000\r\n\r\n"
            return Reset(request, head + b'{"id":"', abort=False)
        case "redirect":
            return Response(status_code=302, headers={"location": f"{of(request).origin}/elsewhere"})
    return None if prank.status is None else errors.of_status(prank.status, prank.value).response()


async def _create(request: Request, model: Model, body: dict[str, Any], *, deployment: str | None = None) -> Response:
    checked(body)
    sandbox, told = of(request), filled(model, body["input"])
    own = read_mischief(told)
    prank = sandbox.strike(f"create:{request.state.digest}", own.create) if own.create else None
    prank = prank or sandbox.strike("create", sandbox.general.create)
    if prank is not None and prank.kind not in ("lost", "no_location"):
        other = await play_prank(request, prank)
        if other is not None:
            return other
    cancel_after_s = _cancel_after(request.headers.get("cancel-after"))
    prediction = born(sandbox, model, told, body, own)
    prediction.deployment = deployment
    if cancel_after_s is not None:
        after_ns = int(cancel_after_s * sandbox.options.speed * 1e9)
        prediction.deadline_ns = prediction.created_ns + after_ns
        sandbox.spawn(deadline(sandbox, prediction))
    wait_s = _wait(request.headers.get("prefer"))
    if wait_s is not None:
        early = (own.wait or sandbox.general.wait) == "early"
        await _settled(sandbox, prediction, WAIT_S_MAX if wait_s == 0 else wait_s, early=early)
    if prank is not None and prank.kind == "lost":
        return Reset(request)
    return _created(request, prediction, wait_s, located=prank is None)


def _created(request: Request, prediction: Prediction, wait_s: float | None, *, located: bool) -> Response:
    sandbox = of(request)
    headers = {"location": f"{sandbox.api_url}/predictions/{prediction.id}"} if located else {}
    variation = sandbox.options.variation
    if wait_s is not None:
        headers["preference-applied"] = "wait" if wait_s == 0 else f"wait={wait_s:g}"
        if not prediction.final and not prediction.ready:
            return answer(as_starting(prediction, sandbox.origin, variation=variation), 201, headers)
    return answer(as_created(prediction, sandbox.origin, variation=variation), 201, headers)


def born(
    sandbox: Sandbox, model: Model, told: dict[str, Any], body: dict[str, Any], own: Mischief, kind: str = "predictions"
) -> Prediction:
    """A new prediction, already on its way."""
    number = sandbox.number("prediction")
    prediction = Prediction(
        id=sandbox.name("prediction", number),
        number=number,
        model=model,
        version=model.shown_version,
        input=told,
        created_ns=sandbox.now_ns(),
        mischief=own,
        seed=seed_of(sandbox, model, told, number),
        kind=kind,
        webhook=body.get("webhook") or body.get("webhook_completed"),
        events=None if body.get("webhook_events_filter") is None else tuple(body["webhook_events_filter"]),
        stream_key=sandbox.name("stream", number, 48) if model.streams else None,
    )
    sandbox.add(prediction)
    prediction.task = sandbox.spawn(play(sandbox, prediction))
    return prediction


def read_mischief(told: dict[str, Any]) -> Mischief:
    try:
        return mischief.read(told.get("sandbox") or {})
    except ValueError as error:
        raise wrong_input(str(error)) from error


async def _settled(sandbox: Sandbox, prediction: Prediction, seconds: float, *, early: bool) -> None:
    until = time.monotonic() + seconds
    while not prediction.final and not (early and prediction.ready) and not sandbox.stopped.is_set():
        left = until - time.monotonic()
        if left <= 0:
            return
        try:
            await asyncio.wait_for(prediction.news.wait(), left)
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


def _is_web(told: Any) -> bool:
    try:
        parts = urlsplit(told) if isinstance(told, str) else None
    except ValueError:
        return False
    return parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)


def _wait(told: str | None) -> float | None:
    """Seconds of `Prefer: wait=n`, 0 for a bare `wait`, None for anything else (RFC 7240: unknown ones are ignored)."""
    match = _PREFER.match((told or "").strip())
    return None if match is None else min(float(match[1] or 0), WAIT_S_MAX)


def _cancel_after(told: str | None) -> int | None:
    if told is None:
        return None
    match = _CANCEL_AFTER.match(told.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if not CANCEL_AFTER_S[0] <= total <= CANCEL_AFTER_S[1]:
        raise errors.invalid(("Cancel-After", "format", "must be a duration from 5 seconds to 24 hours"))
    return total


def _moment(told: str | None, name: str) -> int | None:
    try:
        return None if told is None else moment_ns(told)
    except (ValueError, OverflowError) as error:
        raise errors.invalid((name, "format", "Does not match format 'date-time'")) from error

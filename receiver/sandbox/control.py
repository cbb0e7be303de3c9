"""What can be asked of the sandbox itself, under `/_sandbox`: what it believes, and what it shall do next. No token.

GET  /_sandbox                             what it is: URLs, seed, speed, mischief, secrets
GET  /_sandbox/predictions[?id=…]          all of them, each with `truth` (its files: path, url, content_type, size,
                                           sha256, md5, served) and `webhooks` (every attempt, with the answer)
POST /_sandbox/mischief {…}                general misbehaviour from now on, in the words of `mischief.py`
POST /_sandbox/rotate-secret               a new signing secret from now on, answered as `{"key": …}`
POST /_sandbox/predictions/{id}/resend     the final webhook once more; {"new_id": true} under a new id
POST /_sandbox/expire {…}                  {"prediction": id}: its data is removed now; {"advance_s": n}: all that is
                                           finished becomes n seconds older; {}: the data of all finished is removed
"""

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from receiver.sandbox import errors, mischief, webhooks
from receiver.sandbox.antics import played
from receiver.sandbox.bodies import read_object
from receiver.sandbox.predictions import Prediction, Truth, whole
from receiver.sandbox.sandbox import Sandbox, of
from receiver.sandbox.wire import answer, stamp


def routes() -> list[BaseRoute]:
    return [
        Route("/_sandbox", about, methods=["GET"]),
        Route("/_sandbox/predictions", believed, methods=["GET"]),
        Route("/_sandbox/predictions/{id}/resend", resend, methods=["POST"]),
        Route("/_sandbox/mischief", misbehave, methods=["POST"]),
        Route("/_sandbox/rotate-secret", rotate, methods=["POST"]),
        Route("/_sandbox/expire", expire, methods=["POST"]),
    ]


async def signing_secret(request: Request) -> Response:
    """GET /v1/webhooks/default/secret."""
    sandbox = of(request)
    other = await played(request, sandbox.strike("secret", sandbox.general.secret))
    return other or answer({"key": sandbox.secret})


async def about(request: Request) -> Response:
    sandbox = of(request)
    return answer(
        {
            "url": sandbox.origin,
            "api_url": sandbox.api_url,
            "seed": sandbox.seed,
            "speed": sandbox.options.speed,
            "retention_s": sandbox.options.retention_s,
            "secret": sandbox.secret,
            "old_secrets": sandbox.old_secrets,
            "predictions": len(sandbox.predictions),
            "models": sorted(sandbox.models),
        }
    )


async def believed(request: Request) -> Response:
    sandbox, wanted = of(request), request.query_params.get("id")
    chosen = [p for p in sandbox.predictions.values() if wanted in (None, p.id)]
    return answer({"predictions": [_belief(sandbox, sandbox.current(p)) for p in chosen]})


async def misbehave(request: Request) -> Response:
    sandbox, told = of(request), await read_object(request)
    try:
        sandbox.general = mischief.read(told)
    except ValueError as error:
        raise errors.invalid(("mischief", "sandbox", str(error))) from error
    sandbox.forget_counts()
    return answer(told)


async def page(request: Request) -> Response:
    """`urls.web`: Replicate shows a page for people there, we what we believe."""
    sandbox = of(request)
    prediction = sandbox.predictions.get(request.path_params["id"])
    if prediction is None:
        raise errors.not_found()
    return answer(_belief(sandbox, sandbox.current(prediction)))


async def rotate(request: Request) -> Response:
    return answer({"key": of(request).rotate()})


async def resend(request: Request) -> Response:
    sandbox, told = of(request), await read_object(request)
    prediction = sandbox.predictions.get(request.path_params["id"])
    if prediction is None:
        raise errors.not_found()
    attempt = await webhooks.resend(sandbox, prediction, new_id=bool(told.get("new_id")))
    if attempt is None:
        raise errors.not_found("This prediction has sent no final webhook")
    return answer(asdict(attempt))


async def expire(request: Request) -> Response:
    sandbox, told = of(request), await read_object(request)
    if "advance_s" in told:
        seconds = told["advance_s"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise errors.malformed("advance_s must be a number of seconds")
        sandbox.aged_s += seconds
        return answer({"aged_s": sandbox.aged_s})
    wanted = told.get("prediction")
    gone = [p for p in sandbox.predictions.values() if p.final and not p.removed and wanted in (None, p.id)]
    for prediction in gone:
        sandbox.remove(prediction)
    return answer({"removed": [prediction.id for prediction in gone]})


def _belief(sandbox: Sandbox, prediction: Prediction) -> dict[str, Any]:
    told = whole(prediction, sandbox.origin)
    told["truth"] = [_file(sandbox, truth) for truth in prediction.truth]
    told["webhooks"] = [asdict(attempt) | {"at": stamp(attempt.at_ns, 3)} for attempt in prediction.attempts]
    return told


def _file(sandbox: Sandbox, truth: Truth) -> dict[str, Any]:
    artifact = sandbox.files.get(truth.url.removeprefix(sandbox.origin))
    told: dict[str, Any] = {"path": truth.path, "url": truth.url, "content_type": truth.content_type}
    if truth.facts is not None:
        facts = truth.facts
        told |= {"size": facts.size, "sha256": facts.sha256, "md5": facts.md5.hex()}
    return told | {"served": 0 if artifact is None else artifact.served}

"""Server-Sent Events of a prediction that grows (docs, topics/predictions/streaming). The path is the capability."""

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from receiver.sandbox import errors
from receiver.sandbox.predictions import Prediction
from receiver.sandbox.sandbox import Sandbox, of

IDLE_S = 30.0  # after such a silence the stream ends with a comment that says 408


async def stream(request: Request) -> Response:
    """GET of `urls.stream`, from the beginning or after `Last-Event-ID`."""
    sandbox = of(request)
    prediction = sandbox.streams.get(request.path_params["key"])
    if prediction is None:
        raise errors.not_found()
    _, _, last = request.headers.get("last-event-id", "").rpartition(":")
    first = int(last) + 1 if last.isdecimal() else 0
    events = _events(sandbox, prediction, first)
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _events(sandbox: Sandbox, prediction: Prediction, first: int) -> AsyncIterator[str]:
    seconds, told = prediction.created_ns // 1_000_000_000, first
    while not sandbox.stopped.is_set():
        news, final = prediction.news, prediction.final
        output = prediction.output if isinstance(prediction.output, list) else []
        for item in output[told:]:
            yield _event("output", f"{seconds}:{told}", item if isinstance(item, str) else json.dumps(item))
            told += 1
        if final:
            if prediction.status == "failed":
                yield _event("error", f"{seconds}:{told}", json.dumps({"detail": prediction.error}))
            reason = {"succeeded": {}, "failed": {"reason": "error"}}.get(prediction.status, {"reason": "canceled"})
            yield _event("done", f"{seconds}:{told + 1}", json.dumps(reason))
            return
        try:
            await asyncio.wait_for(news.wait(), IDLE_S)
        except TimeoutError:
            yield ":408: 408 Request Timeout\n\n"
            return


def _event(name: str, number: str, data: str) -> str:
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\nid: {number}\n{lines}\n"

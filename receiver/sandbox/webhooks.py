"""Webhooks: told as Standard Webhooks, the final one again and again for about a minute, the others once.

docs, topics/webhooks: `start` and `completed` at once; failures and 4xx/5xx of the final one are tried again with
back-off, the last time about a minute after completion; redirects are not followed. How often is not published.
"""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from receiver.sandbox import mischief
from receiver.sandbox.mischief import Prank
from receiver.sandbox.options import new_secret
from receiver.sandbox.predictions import Attempt, Message, Prediction, as_webhook
from receiver.sandbox.sandbox import Sandbox
from receiver.sandbox.whole import WHOLE, Transport
from receiver.sandbox.wire import dumped

EVENTS = ("start", "output", "logs", "completed")
DEFAULT_EVENTS = ("output", "completed")  # "new outputs and finish" when no filter is told
RETRY_AFTER_S = (1.0, 2.0, 4.0, 8.0, 16.0, 29.0)  # doubling to a total of one minute, scaled by the speed
CONNECTIONS_MAX = 200
WHOLE_SHARE = 0.5  # of the calls: head and body in one piece, as nobody knows how Replicate writes
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def client(timeout_s: float) -> httpx.AsyncClient:
    """The client for all webhooks: no proxy of the environment, no redirects, a bounded number of connections."""
    timeout = httpx.Timeout(timeout_s, pool=None)
    agent = {"user-agent": "Replicate/1.0 (sandbox)"}
    transport = Transport(connections_max=CONNECTIONS_MAX, keepalive_max=20)
    return httpx.AsyncClient(timeout=timeout, transport=transport, follow_redirects=False, headers=agent)


def tell(sandbox: Sandbox, prediction: Prediction, event: str) -> None:
    """Sends the event on its way if somebody asked for it; returns at once."""
    if prediction.webhook is None or event not in (prediction.events or DEFAULT_EVENTS):
        return
    kinds = {prank.kind for prank in mischief.over(prediction.mischief, sandbox.general, "webhook")}
    final = event == "completed"
    if "never" in kinds or (final and "drop" in kinds):
        return
    if final and "data_removed" in kinds:
        sandbox.remove(prediction)
    body = as_webhook(prediction, sandbox.origin, event, variation=sandbox.options.variation)
    if final and "no_output" in kinds:
        body["output"] = None
    message = Message(message_id(sandbox), event, dumped(body))
    if final:
        prediction.last = message
        sandbox.spawn(_final(sandbox, prediction, message))
    elif "reorder" in kinds:
        prediction.held.append(message)
    else:
        sandbox.spawn(_once(sandbox, prediction, message))


async def resend(sandbox: Sandbox, prediction: Prediction, *, new_id: bool) -> Attempt | None:
    """The final webhook once more, as it was, signed anew; None when there was none."""
    if prediction.last is None:
        return None
    message = replace(prediction.last, id=message_id(sandbox)) if new_id else prediction.last
    return await _attempt(sandbox, prediction, message, {})


def message_id(sandbox: Sandbox) -> str:
    return "msg_" + "".join(sandbox.rng("message", sandbox.number("message")).choices(BASE62, k=27))


def signature(secret: str, message_id: str, at_s: int, body: bytes) -> str:
    from svix.webhooks import Webhook  # noqa: PLC0415 - takes a while to import, and only a sender needs it

    return Webhook(secret).sign(message_id, datetime.fromtimestamp(at_s, tz=UTC), body.decode())


async def _final(sandbox: Sandbox, prediction: Prediction, message: Message) -> None:
    """Until a 2xx or the last try; a redirect is a silent failure."""
    pranks = mischief.over(prediction.mischief, sandbox.general, "webhook")
    held, prediction.held = prediction.held, []
    for wait_s in (0.0, *RETRY_AFTER_S):
        await sandbox.doze(wait_s)
        if sandbox.stopped.is_set():
            return
        async with prediction.chat:
            attempt = await _pranked(sandbox, prediction, message)
        for late in held:
            await _once(sandbox, prediction, late)
        held = []
        tried_once = any(prank.kind == "no_retry" for prank in pranks)
        if tried_once or (attempt.status is not None and attempt.status < 400):
            return


async def _once(sandbox: Sandbox, prediction: Prediction, message: Message) -> None:
    async with prediction.chat:
        await _pranked(sandbox, prediction, message)


async def _pranked(sandbox: Sandbox, prediction: Prediction, message: Message) -> Attempt:
    """One try, with the misbehaviour that was asked for around it."""
    asked = mischief.over(prediction.mischief, sandbox.general, "webhook")
    pranks = sandbox.strikes(f"webhook:{prediction.id}", asked)
    if "delay" in pranks:
        await sandbox.nap(pranks["delay"].value_or(5))
    if "forge" in pranks:
        await _attempt(sandbox, prediction, _forged(sandbox, message), pranks)
    again = next((pranks[kind] for kind in ("repeat", "repeat_new", "twin") if kind in pranks), None)
    if again is None or message.event != "completed":
        return await _attempt(sandbox, prediction, message, pranks)
    if again.kind == "twin":
        first, _second = await asyncio.gather(*(_attempt(sandbox, prediction, message, pranks) for _ in range(2)))
        return first
    attempt = await _attempt(sandbox, prediction, message, pranks)
    for _ in range(int(again.value_or(3)) - 1):
        same = message if again.kind == "repeat" else replace(message, id=message_id(sandbox))
        attempt = await _attempt(sandbox, prediction, same, pranks)
    return attempt


def _forged(sandbox: Sandbox, message: Message) -> Message:
    told = json.loads(message.body) | {"status": "succeeded", "output": f"{sandbox.origin}/pbxt/forged/out-0.png"}
    return Message(message_id(sandbox), "forged", dumped(told))


@dataclass(frozen=True, slots=True)
class _Call:
    headers: list[tuple[str, str]]
    body: bytes


async def _attempt(sandbox: Sandbox, prediction: Prediction, message: Message, pranks: dict[str, Prank]) -> Attempt:
    assert prediction.webhook is not None
    call = _call(sandbox, message, pranks)
    at_ns, began = sandbox.now_ns(), time.monotonic()
    status, error = None, None
    slow_s = pranks["slow"].value_or(5) if "slow" in pranks else 0.0
    content: Any = _dripping(sandbox, call.body, slow_s) if slow_s else call.body
    whole = not slow_s and sandbox.rng("whole", sandbox.number("attempt")).random() < WHOLE_SHARE
    manner = {WHOLE: True} if whole else {}
    try:
        answer = await sandbox.client.post(prediction.webhook, content=content, headers=call.headers, extensions=manner)
        status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    took_ms = int((time.monotonic() - began) * 1000)
    digest = hashlib.sha256(call.body).hexdigest()
    words = tuple(sorted(pranks))
    attempt = Attempt(message.id, message.event, at_ns, took_ms, status, error, digest, len(call.body), words)
    prediction.note(attempt)
    return attempt


def _call(sandbox: Sandbox, message: Message, pranks: dict[str, Prank]) -> _Call:
    """Body and headers of one try; the timestamp is that of the try, so each has its own signature."""
    body = message.body
    if "garbage" in pranks:
        body = b"\x7bthis is no JSON"
    if "odd" in pranks:
        body = body[:-1] + b',"odd":1,"odd":[NaN,-Infinity,"\\u0000","\\ud800",1e999,' + b"9" * 30 + b"]}"
    if "deep" in pranks:
        levels = int(pranks["deep"].value_or(5000))
        body = body[:-1] + b',"deep":' + b"[" * levels + b"]" * levels + b"}"
    if "huge" in pranks:
        body = dumped(json.loads(body) | {"logs": "#" * int(pranks["huge"].value_or(1_000_000))})
    at_s = sandbox.now_ns() // 1_000_000_000
    if "stale" in pranks:
        at_s -= int(pranks["stale"].value_or(600))
    secret = sandbox.secret
    if "wrong_secret" in pranks:
        secret = new_secret(sandbox.rng("nobody's"))
    elif "old_secret" in pranks and sandbox.old_secrets:
        secret = sandbox.old_secrets[-1]
    signed = signature(secret, message.id, at_s, body)
    if message.event == "forged":
        signed = "v1," + base64.b64encode(hashlib.sha256(body).digest()).decode("ascii")
    prefix = "svix" if "svix" in pranks else "webhook"
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    if "unsigned" not in pranks:
        headers += [(f"{prefix}-id", message.id), (f"{prefix}-timestamp", str(at_s)), (f"{prefix}-signature", signed)]
    if "two_ids" in pranks:
        headers.append((f"{prefix}-id", message.id + "x"))
    return _Call(headers, body)


async def _dripping(sandbox: Sandbox, body: bytes, seconds: float) -> AsyncIterator[bytes]:
    piece = max(1, len(body) // 10)
    for at in range(0, len(body), piece):
        yield body[at : at + piece]
        await sandbox.nap(seconds * piece / len(body))

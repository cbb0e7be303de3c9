"""What comes in: request bodies and headers, as strictly read as Replicate's own API reads them."""

import hashlib
import json
import re
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from receiver.sandbox import errors
from receiver.sandbox.webhooks import EVENTS
from receiver.sandbox.wire import moment_ns

BODY_BYTES_MAX = 32 * 1024 * 1024  # inputs belong at 256 kB or below by the documents, and nobody enforces it
WAIT_S_MAX = 60  # "n between 1 and 60"; the published pattern lets 61 to 99 through
CANCEL_AFTER_S = (5, 24 * 3600)
CREATE_FIELDS = frozenset({"input", "webhook", "webhook_events_filter", "stream", "webhook_completed"})

_PREFER = re.compile(r"wait(?:=([1-9][0-9]?))?\Z")
_CANCEL_AFTER = re.compile(r"(?=[0-9])(?:([0-9]{1,5})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})s?)?\Z")


async def read_raw(request: Request, bytes_max: int) -> bytes:
    """The body, or `Problem` 413."""
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > bytes_max:
            raise errors.too_large()
    return bytes(raw)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request, an empty one when there is no body; `Problem` 400 when it is none."""
    raw = await read_raw(request, BODY_BYTES_MAX)
    request.state.digest = hashlib.sha256(raw).hexdigest()
    try:
        body = json.loads(raw or b"{}", parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise errors.malformed("The request body is not valid JSON") from error
    if not isinstance(body, dict):
        raise errors.malformed("The request body must be a JSON object")
    return body


async def read_body(request: Request, fields: frozenset[str]) -> dict[str, Any]:
    """Likewise; `Problem` 422 on fields that nobody documented."""
    body = await read_object(request)
    kind = "additional_property_not_allowed"
    unknown = [(key, kind, f"Additional property {key} is not allowed") for key in body if key not in fields]
    if unknown:
        raise errors.invalid(*unknown)
    return body


def checked(body: dict[str, Any]) -> None:
    """`Problem` 422 when the fields that all creates share are not what they must be."""
    wrong = []
    if "input" not in body:
        wrong.append(("input", "required", "input is required"))
    elif not isinstance(body["input"], dict):
        wrong.append(("input", "invalid_type", "Invalid type. Expected: object"))
    wrong += [
        (name, "format", "Does not match format 'uri'")
        for name in ("webhook", "webhook_completed")
        if body.get(name) is not None and not _is_web(body[name])
    ]
    events = body.get("webhook_events_filter")
    if events is not None and (not isinstance(events, list) or any(event not in EVENTS for event in events)):
        allowed = ", ".join(f'"{event}"' for event in EVENTS)
        wrong.append(("webhook_events_filter", "enum", f"must be one of the following: {allowed}"))
    if not isinstance(body.get("stream"), bool | None):
        wrong.append(("stream", "invalid_type", "Invalid type. Expected: boolean"))
    if wrong:
        raise errors.invalid(*wrong)


def required(body: dict[str, Any], *names: str) -> None:
    """`Problem` 422 unless each of them is a text."""
    missing = [(name, "required", f"{name} is required") for name in names if not isinstance(body.get(name), str)]
    if missing:
        raise errors.invalid(*missing)


def wait_s(request: Request) -> int | None:
    """Seconds of `Prefer: wait=n`, 0 for a bare `wait`, None for anything else (RFC 7240: unknown ones are ignored)."""
    match = _PREFER.match(request.headers.get("prefer", "").strip())
    return None if match is None else min(int(match[1] or 0), WAIT_S_MAX)


def cancel_after_s(request: Request) -> int | None:
    """Seconds of `Cancel-After`; `Problem` 422 outside of its range."""
    told = request.headers.get("cancel-after")
    if told is None:
        return None
    match = _CANCEL_AFTER.match(told.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if not CANCEL_AFTER_S[0] <= total <= CANCEL_AFTER_S[1]:
        raise errors.invalid(("Cancel-After", "format", "must be a duration from 5 seconds to 24 hours"))
    return total


def moment(request: Request, name: str) -> int | None:
    """A time in the query, as nanoseconds since 1970; `Problem` 422 when it is none."""
    told = request.query_params.get(name)
    try:
        return None if told is None else moment_ns(told)
    except (ValueError, OverflowError) as error:
        raise errors.invalid((name, "format", "Does not match format 'date-time'")) from error


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_web(told: Any) -> bool:
    try:
        parts = urlsplit(told) if isinstance(told, str) else None
    except ValueError:
        return False
    return parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)

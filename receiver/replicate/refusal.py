"""An answer that is no success, as the error that says what to do. Pure."""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from receiver.core.redact import redact
from receiver.replicate.errors import NotFound, Rejected, ReplicateError, Throttled, Unauthenticated, Unavailable
from receiver.replicate.payload import Unreadable, read_json

RETRY_AFTER_S_MAX = 3600.0  # beyond the hour in which outputs disappear no wait makes sense
_TEXT_LENGTH_MAX = 10_000  # of an error's own title and detail: an edge may answer with a whole page
_RESETS_IN = re.compile(r"resets in ~?(\d{1,5})s\b", re.ASCII)  # the documented 429 says it in its detail only


def refusal(*, status: int, headers: Mapping[str, str], body: bytes) -> ReplicateError:
    """The error of an answer outside 2xx; `headers` have lower-case names. Whatever the body is, this never raises."""
    told = _object(body)
    detail = _text(told, "detail") or _text(told, "error")
    return _kind(status)(
        status=status,
        title=_text(told, "title"),
        detail=detail,
        retry_after_s=_retry_after_s(headers, told, detail),
        body=told,
        maybe_done=status == 408 or status >= 500,
    )


def _kind(status: int) -> type[ReplicateError]:
    if status in (401, 403):
        return Unauthenticated
    if status in (404, 410):
        return NotFound
    if status == 429:
        return Throttled
    if status == 408 or status >= 500:
        return Unavailable
    return Rejected


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        told = redact(read_json(body))
    except Unreadable:
        return None
    return told if isinstance(told, dict) else None


def _text(told: Mapping[str, Any] | None, name: str) -> str:
    value = told.get(name) if told else None
    return value[:_TEXT_LENGTH_MAX] if isinstance(value, str) else ""


def _retry_after_s(headers: Mapping[str, str], told: Mapping[str, Any] | None, detail: str) -> float | None:
    """The longest wait asked for, by the header, by the body's `retry_after` or by its words; None without any."""
    stated = _RESETS_IN.search(detail)
    asked = (
        _number((told or {}).get("retry_after")),
        _number(headers.get("retry-after", "")),
        _until_s(headers.get("retry-after", ""), headers.get("date", "")),
        float(stated[1]) if stated else None,
    )
    waits = [wait_s for wait_s in asked if wait_s is not None]
    return min(max(waits), RETRY_AFTER_S_MAX) if waits else None


def _number(told: Any) -> float | None:
    if isinstance(told, bool) or not isinstance(told, int | float | str):
        return None
    try:
        seconds = float(told)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _until_s(moment: str, now: str) -> float | None:
    """`Retry-After` as a date counts from the answer's own `Date`: both come from the same clock, which is not ours."""
    then, since = _date(moment), _date(now)
    return None if then is None or since is None else max(0.0, (then - since).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None

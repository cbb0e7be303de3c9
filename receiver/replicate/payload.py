"""Bodies from Replicate into values that everything behind can hold. Pure.

Real traffic differs from the documents (absent keys, six statuses instead of five, timestamps of any precision), so a
body is refused only when there is nothing to hold on to: no JSON, no object, no usable id, or too deep. Anything else
is taken, and what the ledger could not keep as it stands (PostgreSQL's text refuses U+0000, UTF-8 lone surrogates,
JSON NaN) is escaped into plain text. The raw bytes are kept beside it by whoever called.
"""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from receiver.core.prediction import Source, Update

DEPTH_MAX = 100
"""Levels of nesting, the outermost counted: models answer with a handful, PostgreSQL and Python give up far above."""

DIGITS_MAX = sys.int_info.str_digits_check_threshold
"""Digits that Python turns into an integer and back whatever its settings say (640); longer numbers stay text."""

STATUS_LENGTH_MAX = 64
NAME_LENGTH_MAX = 512
"""Characters of a status, and of a model, version or timestamp: they are indexed, and an index entry has a limit."""

NO_STATUS = "unknown"
"""Stands for a status that is missing or no text: like any undocumented one it counts as open, so that we ask again."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NAMES = ("model", "version", "deployment", "source", "created_at", "started_at", "completed_at", "deadline")
_TEXTS = ("logs", "error")
_OBJECTS = ("input", "metrics", "urls")


class Unreadable(Exception):
    """The body can't be understood: keep the bytes, quarantine it, go on. `reason` is a sentence without content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_delivery(body: bytes) -> dict[str, Any]:
    """The prediction object of a webhook's body, escaped as `read_json` says; `Unreadable` without a usable id."""
    told = read_json(body)
    if not isinstance(told, dict):
        raise Unreadable("The body is JSON, but no object.")
    prediction_id(told)
    return told


def read_json(body: bytes) -> Any:
    """Parse JSON leniently, or raise `Unreadable`; never anything else.

    Bytes that are not UTF-8, U+0000 and lone surrogates become text like `\\udcff`; NaN and infinities None; numbers
    too large for a double or for `DIGITS_MAX` their own text; of a key that stands twice the last value counts.
    What comes out has no more than `DEPTH_MAX` levels and can be written as valid UTF-8 and as valid JSON.
    """
    try:
        parsed = _DECODER.decode(body.decode(json.detect_encoding(body), "surrogateescape").removeprefix("\ufeff"))
        return _safe(parsed, DEPTH_MAX)
    except RecursionError:
        raise Unreadable(_TOO_DEEP) from None
    except ValueError:
        raise Unreadable("The body is no JSON.") from None


def read_update(told: Mapping[str, Any], *, source: Source, received_ms: int, delivery_id: str | None = None) -> Update:
    """One word from Replicate out of a parsed object (from `read_json`); `Unreadable` only without a usable id.

    A field of the wrong type says nothing and is left out, except that `logs` and `error` become text. Fields and
    statuses that nobody documented are kept.
    """
    fields = {name: value for name, value in told.items() if value is None or _fits(name, value)}
    fields |= {name: _text(told[name]) for name in _TEXTS if told.get(name) is not None}
    fields |= {"id": prediction_id(told), "status": _status(told.get("status"))}
    return Update(
        prediction_id=fields["id"], source=source, received_ms=received_ms, told=fields, delivery_id=delivery_id
    )


def prediction_id(told: Mapping[str, Any]) -> str:
    """The id of a prediction object, usable as a part of a key and of a path, or `Unreadable`."""
    usable = told.get("id")
    if not isinstance(usable, str) or not _ID.fullmatch(usable):
        raise Unreadable("The object has no usable id.")
    return usable


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= DIGITS_MAX else digits


def _decimal(digits: str) -> float | str:
    number = float(digits)
    return digits if number in (float("inf"), float("-inf")) else number


def _no_number(_constant: str) -> None:
    """NaN, Infinity and -Infinity: no JSON, though Python's own encoder writes them."""


# Raw control characters inside strings are no JSON either; logs are where they come from, and nothing is lost by them.
_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_decimal, parse_constant=_no_number, strict=False)
_TOO_DEEP = f"The body is nested deeper than {DEPTH_MAX} levels."


def _safe(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return _escaped(value)
    if not isinstance(value, dict | list):
        return value
    if not levels:
        raise Unreadable(_TOO_DEEP)
    if isinstance(value, list):
        return [_safe(item, levels - 1) for item in value]
    return {_escaped(name): _safe(item, levels - 1) for name, item in value.items()}


def _escaped(text: str) -> str:
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\u0000")


def _fits(name: str, value: Any) -> bool:
    if name in _NAMES:
        return isinstance(value, str) and len(value) <= NAME_LENGTH_MAX
    if name in _OBJECTS:
        return isinstance(value, dict)
    return name != "data_removed" or isinstance(value, bool)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _status(told: Any) -> str:
    return told[:STATUS_LENGTH_MAX] if isinstance(told, str) and told else NO_STATUS

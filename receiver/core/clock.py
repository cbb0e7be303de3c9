"""Moments: whole milliseconds since 1970 (UTC) inside, ISO 8601 text outside."""

import re
from datetime import UTC, datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT_MS_MAX = 253_402_300_799_999  # the end of 9999, beyond which no date can be written
_TOLD = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,18}))?\s*([Zz]|[+-]\d\d:?\d\d)?", re.ASCII
)
_AGO = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def iso(moment_ms: int) -> str:
    """`2026-11-22T08:00:03.456Z` for milliseconds since 1970."""
    moment = _EPOCH + timedelta(milliseconds=moment_ms)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ms % 1000:03d}Z"


def iso_or_none(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else iso(moment_ms)


def day(moment_ms: int) -> str:
    """The UTC day as the first part of an object's key: `2026/11/22`."""
    return f"{_EPOCH + timedelta(milliseconds=moment_ms):%Y/%m/%d}"


def timestamp_ms(told: object) -> int | None:
    """Milliseconds since 1970 of a timestamp as Replicate tells it (0 to 9 fractional digits seen), or None."""
    match = _TOLD.fullmatch(told.strip()) if isinstance(told, str) else None
    if match is None:
        return None
    *parts, fraction, zone = match.groups()
    try:
        moment = datetime(*map(int, parts), tzinfo=_zone(zone))  # type: ignore[arg-type, misc]
    except ValueError:
        return None
    milliseconds = int((fraction or "0")[:3].ljust(3, "0"))
    passed = (moment - _EPOCH) // timedelta(milliseconds=1) + milliseconds
    return passed if 0 <= passed <= _MOMENT_MS_MAX else None


def since_ms(told: str, *, now_ms: int) -> int | None:
    """Milliseconds since 1970 of a timestamp, or of how long ago it was (`90s`, `90m`, `6h`, `2d`); else None."""
    match = _AGO.fullmatch(told.strip())
    if match is None:
        return timestamp_ms(told)
    return max(0, now_ms - int(match[1]) * _UNITS_MS[match[2]])


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)

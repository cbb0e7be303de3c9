"""Which part of a file a request wants (RFC 9110, sections 13 and 14). Pure: header texts in, a decision out."""

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.ASCII | re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range asked for lies outside the file: 416."""


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes from `start`."""

    start: int
    length: int


def unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has this file already: 304. Weak marks are overlooked, as the comparison has to."""
    if if_none_match is None:
        return False
    told = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in told or etag in told


def part(wanted: str | None, if_range: str | None, *, etag: str, size: int) -> Part | None:
    """The part that `Range` and `If-Range` ask for, None for the whole; Unsatisfiable when there is no such part.

    Several ranges, other units and what is no range at all mean the whole, as does an `If-Range` that is not our ETag.
    """
    match = _RANGE.fullmatch(wanted) if wanted else None
    if match is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable
        return Part(size - length, length)
    start, end = int(first), int(last) if last else size - 1
    if last and end < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return Part(start, min(end, size - 1) - start + 1)

"""Lists in pages: newest first, each page starts where the last one ended, whatever came in meanwhile."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from receiver.ledger.nouns import Page
from receiver.ledger.rows import Row

Item = TypeVar("Item")
LIMIT_MAX = 1_000  # rows of one page
BYTES_MAX = 16 * 1024 * 1024
"""Of one page where its rows are weighed: a prediction holds its whole input and log, up to 32 MiB of them."""

_NUMBER_MAX = 2**63 - 1  # what the databases can compare with


async def page(
    connection: AsyncConnection,
    wanted: sa.Select[Any],
    keys: Sequence[sa.Column[Any]],
    item: Callable[[Row], Item],
    *,
    after: str | None,
    limit: int,
    weight: sa.ColumnElement[int] | None = None,
) -> Page[Item]:
    """One page, falling by `keys`, which name each row uniquely. ValueError when `after` is no cursor of this list.

    With a `weight` (a row's bytes) the page ends early, though not before its first row, when it becomes too heavy.
    """
    limit = max(1, min(limit, LIMIT_MAX))
    if after is not None:
        wanted = wanted.where(sa.tuple_(*keys) < sa.tuple_(*_place(after, keys)))
    wanted = wanted.order_by(*(key.desc() for key in keys))
    if weight is not None:
        weights = (await connection.execute(wanted.with_only_columns(weight).limit(limit))).scalars().all()
        limit = max(1, sum(total <= BYTES_MAX for total in accumulate(weights)))
    found = (await connection.execute(wanted.limit(limit + 1))).all()
    shown = found[:limit]
    following = _cursor([getattr(shown[-1], key.name) for key in keys]) if len(found) > limit else None
    return Page([item(row) for row in shown], following)


def _cursor(place: Sequence[int | str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def _place(after: str, keys: Sequence[sa.Column[Any]]) -> list[sa.ColumnElement[Any]]:
    try:
        place = json.loads(base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        place = None
    if not isinstance(place, list) or len(place) != len(keys) or not all(map(_fits, place, keys)):
        raise ValueError("This is not a cursor of this list.")
    return [sa.literal(value, key.type) for value, key in zip(place, keys, strict=True)]


def _fits(value: Any, key: sa.Column[Any]) -> bool:
    if key.type.python_type is int:
        return type(value) is int and abs(value) <= _NUMBER_MAX
    return isinstance(value, str)

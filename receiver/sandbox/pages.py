"""Pages of a list: `next` and `previous` are absolute URLs with an opaque cursor, as clients follow them."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request

from receiver.sandbox import errors

PAGE_ITEMS = 100

T = TypeVar("T")


def page(request: Request, origin: str, items: Sequence[T], *, key: Callable[[T], str]) -> dict[str, Any]:
    """A page of `items`; the cursor names the item after which it begins, so that new ones do not shift it."""
    start = _start(request.query_params.get("cursor"), items, key)
    chosen = items[start : start + PAGE_ITEMS]
    further = start + PAGE_ITEMS < len(items)
    before = max(0, start - PAGE_ITEMS)
    return {
        "next": _url(request, origin, key(chosen[-1])) if further else None,
        "previous": _url(request, origin, key(items[before - 1]) if before else "") if start else None,
        "results": list(chosen),
    }


def _start(cursor: str | None, items: Sequence[T], key: Callable[[T], str]) -> int:
    if cursor is None:
        return 0
    try:
        last = base64.b64decode(cursor, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise errors.malformed("Invalid cursor") from error
    if not last:
        return 0
    return next((index + 1 for index, item in enumerate(items) if key(item) == last), len(items))


def _url(request: Request, origin: str, last: str) -> str:
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    cursor = base64.b64encode(last.encode()).decode("ascii")
    return f"{origin}{request.url.path}?{urlencode([*query, ('cursor', cursor)])}"

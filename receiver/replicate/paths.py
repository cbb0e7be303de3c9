"""Paths below the base URL of Replicate's API, built from names that were checked; a payload's URL is never called."""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from receiver.replicate.errors import NotFound, Rejected

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~:@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f/\\]")
_PATH_LENGTH_MAX = 1024  # the longest that Replicate has are three names and a 64-digit version


def under(*names: str) -> str:
    """`/predictions/abc/cancel` from its parts; `NotFound` for a name that Replicate can't have given to anything."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise NotFound(status=404, title="Not found", detail="There is nothing of this name", sent=False)
    return "/" + "/".join(names)


def owned(kind: str, name: str, *rest: str) -> str:
    """`/models/owner/name/…` from `owner/name`."""
    owner, slash, bare = name.partition("/")
    if not slash:
        raise NotFound(status=404, title="Not found", detail="A model or deployment is named owner/name", sent=False)
    return under(kind, owner, bare, *rest)


def checked(path: str) -> str:
    """A path that somebody else gave, if it stays below the base URL whoever decodes it; else `Rejected`."""
    parts = [unquote(part, errors="replace") for part in path.split("/")[1:]]
    plain = len(path) <= _PATH_LENGTH_MAX and _PATH.fullmatch(path)
    if not plain or any(part in (".", "..") or _CONTROL.search(part) for part in parts):
        raise Rejected(status=400, title="Bad request", detail="The path is malformed", sent=False)
    return path


def cursor(page_url: object) -> str | None:
    """The query of a page's `next` or `previous`, all that we take from it; None when there is no such page."""
    if not isinstance(page_url, str):
        return None
    try:
        query = urlsplit(page_url).query
    except ValueError:
        return None
    return query or None


def query_of(page_cursor: str) -> tuple[tuple[str, str], ...]:
    """The parameters in a cursor that `cursor` gave."""
    try:
        return tuple(parse_qsl(page_cursor, max_num_fields=20))
    except ValueError:
        raise Rejected(status=400, title="Bad request", detail="The cursor is malformed", sent=False) from None

"""Bytes on the way: JSON as Replicate writes it, the connection itself, timestamps."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FLUSH_S = 0.05  # for the bytes before a torn connection to be read
HANG_S = 3600.0  # longest silence of a request that is never answered


def dumped(value: Any) -> bytes:
    """Compact JSON, raw UTF-8 where UTF-8 can say it."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape and UTF-8 cannot hold
        return json.dumps(value, separators=(",", ":")).encode()


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dumped(value), status_code=status, headers=headers, media_type="application/json")


def stamp(at_ns: int, digits: int = 6) -> str:
    """RFC 3339 in UTC with that many fractional digits; real answers have 3, 6, 8 and 9."""
    whole = datetime.fromtimestamp(at_ns // 1_000_000_000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{at_ns % 1_000_000_000:09d}"[: 20 + digits] + "Z"


def moment_ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 text; ValueError when it is none. UTC when it names no zone."""
    told = datetime.fromisoformat(text.strip().replace(" ", "+"))
    aware = told if told.tzinfo else told.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1) * 1000


def transport(request: Request) -> asyncio.Transport | None:
    """The connection below the request, where our own server lends it (`server.Protocol`)."""
    found: asyncio.Transport | None = request.scope.get("state", {}).get("transport")
    return found


class Reset(Response):
    """No answer but a connection torn down, after `head` (raw bytes, status line and all) was sent."""

    def __init__(self, request: Request, head: bytes = b"", *, abort: bool = True) -> None:
        super().__init__(status_code=502)
        self._transport = transport(request)
        self._head = head
        self._abort = abort

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._transport is None:  # another server: the nearest thing to a torn connection
            await super().__call__(scope, receive, send)
            return
        if self._head:
            self._transport.write(self._head)
            await asyncio.sleep(FLUSH_S)
        if self._abort:
            self._transport.abort()
        else:
            self._transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass

"""`GET /events`: the feed, a page at a time, long-polled, or as Server-Sent Events."""

import asyncio
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.core.event import cursor
from receiver.runtime.house import House
from receiver.web.bodies import left
from receiver.web.parameters import WAIT_S_MAX, Parameters, sequence
from receiver.web.problems import NO_STORE, unavailable
from receiver.web.tail import Tail

READERS_MAX = 4096
"""Readers at once, streaming or long-polling: each holds a connection."""

HEARTBEAT_S = 15.0
"""Silence after which a stream sends a comment: proxies cut what says nothing for a minute or so."""

HEARTBEAT_EARLY_S = 2.5  # readers look at every tick of 5 s: the tick nearest to 15 s is the one

PIECE_S = 60.0
"""For a reader to take one piece: whoever is stuck longer comes back with its `Last-Event-ID`."""

LATEST = "latest"
_KNOWN = ("after", "limit", "wait", "type")
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]
_COMMENT = b":\n\n"


class Feed:
    """An ASGI application; `tail` is what all readers share."""

    def __init__(self, house: House) -> None:
        self.tail = Tail(house)
        self._ledger = house.ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        asked = Parameters(scope, _KNOWN)
        limit = asked.limit()
        wait_s = asked.whole("wait", 0, least=0, most=WAIT_S_MAX)
        types = asked.event_types()
        streams = "text/event-stream" in headers.get("accept", "")
        after_text = asked.text("after")
        resumed = headers.get("last-event-id") if streams else None
        after = await self._place("Last-Event-ID", resumed) if resumed else await self._place("after", after_text)
        if self.tail.readers >= READERS_MAX or self.tail.closing:
            raise unavailable("Too many readers of the feed; try again in a moment.")
        await self.tail.join()
        try:
            if streams and scope["method"] == "GET":
                await self._stream(after, types, receive, send)
            else:
                echoed = after_text if after_text not in (None, LATEST) else None
                answer = await self._page(after, limit, wait_s, types, Request(scope, receive), echoed=echoed)
                await answer(scope, receive, send)
        finally:
            self.tail.leave()

    async def _place(self, name: str, text: str | None) -> int:
        if text == LATEST:
            return await self._ledger.last_sequence()
        return 0 if text is None else sequence(name, text)

    async def _page(
        self,
        after: int,
        limit: int,
        wait_s: float,
        types: Collection[str] | None,
        request: Request,
        *,
        echoed: str | None,
    ) -> Response:
        """One page; when there is nothing yet, as soon as there is something."""
        clock = asyncio.get_running_loop().time
        until_s, seen = clock() + wait_s, after
        while True:
            end = self.tail.end
            lines = await self.tail.lines(seen, limit, types)
            left_s = until_s - clock()
            if lines or left_s <= 0 or self.tail.closing or await request.is_disconnected():
                break
            seen = max(seen, end)
            await self.tail.wait(seen, left_s)
        following = cursor(lines[-1].sequence) if lines else echoed or (cursor(after) if after else "0")
        body = b'{"events":[%s],"next":"%s"}' % (b",".join(item.json for item in lines), following.encode("ascii"))
        return Response(body, headers=NO_STORE, media_type="application/json")

    async def _stream(self, place: int, types: Collection[str] | None, receive: Receive, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        gone = asyncio.ensure_future(left(receive))
        data, sent_s = _COMMENT, clock()
        try:
            while not gone.done():
                if data:
                    async with asyncio.timeout(PIECE_S):
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                    sent_s = clock()
                if self.tail.closing:
                    break
                await self.tail.wait(place, HEARTBEAT_S)
                place, data = await self.tail.messages(place, types)
                if not data and clock() - sent_s > HEARTBEAT_S - HEARTBEAT_EARLY_S:
                    data = _COMMENT
        except TimeoutError:
            return
        finally:
            gone.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

"""One connection, and all of them together: what a hostile client can't do to the others.

uvicorn's protocol has no deadline for a request's head, no limit for its length, no end to what it queues, and waits
for ever for a client that does not read. What belongs to the body of a request is read under the limits of `bodies`.
"""

import asyncio
from collections.abc import MutableSet
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from receiver.web.bodies import WHOLE
from receiver.web.express import Express

HEAD_S = 15.0  # for the request line and all headers
HEAD_BYTES_MAX = 64 * 1024  # of a request line and its headers: what we promise to read
DRIBBLE_BYTES_MAX = 64 * 1024  # within a body without any of it: extensions of chunks, trailers
PIPELINED_MAX = 32  # requests that wait behind the one that is being answered; what waits is held in memory

HEADS_BYTES_MAX = 32 * 1024 * 1024
"""Of all heads that are not whole yet, together. Beyond it only those below `HEAD_SMALL_BYTES` go on."""

HEAD_SMALL_BYTES = 8 * 1024  # heads of webhooks come in one piece and have well under one KiB

CONNECTIONS_MAX = 8192
"""Idle ones included: 4,096 readers of the feed, 1,024 of files, 1,024 requests, and room for webhooks."""

THINNED_SHARE = 32  # where there are too many, this part of them goes at once: looking for the oldest takes a while

FAREWELL_S = 0.5  # closing at once on a client that still sends resets the connection, and it never sees the answer
STALLED_S = 30.0  # without reading any of what we have to say: then it is nobody
LOOK_EVERY_S = 5.0  # for those who stalled


def _goodbye(status: bytes, *more: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, b"content-length: 0", *more, b"connection: close", b"", b""])


_NOT_HTTP = _goodbye(b"400 Bad Request")
_TOO_LATE = _goodbye(b"408 Request Timeout")
_TOO_LONG = _goodbye(b"431 Request Header Fields Too Large")
_TOO_MANY = _goodbye(b"503 Service Unavailable", b"retry-after: 1")


@dataclass(slots=True)
class Crowd:
    """All connections together. `head_bytes` are those of heads that are not whole yet."""

    connections: "MutableSet[Connection]"
    connections_max: int = CONNECTIONS_MAX
    head_bytes: int = 0

    async def watch(self) -> None:
        """Cut off those who do not read what they asked for, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now_s = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                if connection.stalled(now_s):
                    connection.transport.abort()

    def thin_out(self) -> None:
        """Make room: those go first who ask for nothing, the oldest before all; who brings a webhook stays."""
        ranked = sorted((rank, number, each) for number, each in enumerate(self.connections) if (rank := each.rank()))
        for _, _, connection in ranked[: 1 + self.connections_max // THINNED_SHARE]:
            connection.transport.abort()


class Connection(Express):
    """One connection, with a deadline and a limit for each header block, and an end to dribbling."""

    def __init__(self, *args: Any, crowd: Crowd, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = crowd
        self._in_head = True  # before the first byte, too
        self._piece_bytes = 0  # of what is being read at the moment
        self._head_bytes = 0  # of the pieces that ended within the head, the first of them included
        self._head_began_bytes = 0  # of that first one, to which the request before may have a share
        self._head_timer: asyncio.TimerHandle | None = None
        self._dribble_bytes = 0
        self._deaf = False
        self._stalled_since_s: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_S, self._hang_up, _TOO_LATE)
        if len(self.connections) > self._crowd.connections_max:
            self._crowd.thin_out()

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._piece_bytes = len(data)
        self._dribble_bytes += self._piece_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._hang_up(_NOT_HTTP)
        except httptools.HttpParserUpgrade:
            self._stay_with_http()
        self._release()
        if self._in_head:
            self._count_head()
        elif self._dribble_bytes > DRIBBLE_BYTES_MAX and self.cycle.more_body:
            self._hang_up(_TOO_LONG)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        if self._head_bytes + self._piece_bytes > HEAD_BYTES_MAX and self._head_length() > HEAD_BYTES_MAX:
            self._hang_up(_TOO_LONG)
            return
        self._in_head = False
        self._forget_head()
        if not self.url.startswith(b"/"):
            self._believe_target()
        super().on_headers_complete()
        self.headers = []  # for the trailers of a body, which are not headers
        if len(self.pipeline) > PIPELINED_MAX:
            self._hang_up(_TOO_MANY)

    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            self._dribble_bytes = 0
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._deaf:
            cast("dict[str, Any]", self.scope)[WHOLE] = True
            super().on_message_complete()
            self._dribble_bytes = 0

    def on_response_complete(self) -> None:
        unread = self.cycle.more_body and self.cycle.response_complete and not self.pipeline
        super().on_response_complete()
        if unread:
            # Answered before the request was whole: what still comes has no deadline and no reader any more.
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who says that nothing more comes still hears what became of a webhook. Others who do have mostly left."""
        if not self._answering() or self.cycle.more_body or not self._is_webhook():
            return False
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_since_s = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled_since_s = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def stalled(self, now_s: float) -> bool:
        """Whether nothing was read for too long of what we say, or have said before closing."""
        if self._stalled_since_s is None and self.transport.is_closing():
            self._stalled_since_s = now_s
        return self._stalled_since_s is not None and now_s - self._stalled_since_s >= STALLED_S

    def rank(self) -> tuple[int, float] | None:
        """How soon it goes when there are too many: None never, and of two ranks the smaller one goes first."""
        if self.transport.is_closing():
            return None
        if self._deaf or not self._answering():
            timer = self._head_timer or self.timeout_keep_alive_task
            return 0, timer.when() if timer is not None else 0.0
        return None if self._is_webhook() else (1, 0.0)

    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _is_webhook(self) -> bool:
        return bool(self.config.app.is_webhook(self.cycle.scope))  # type: ignore[union-attr]

    def _count_head(self) -> None:
        """Rare: a head in several pieces. One that came whole has cost nothing but a look."""
        if self._deaf:
            return
        self._head_began_bytes = self._head_began_bytes or self._piece_bytes
        self._head_bytes += self._piece_bytes
        self._crowd.head_bytes += self._piece_bytes
        if self._head_bytes - self._head_began_bytes > HEAD_BYTES_MAX:
            self._hang_up(_TOO_LONG)
        elif self._crowd.head_bytes > HEADS_BYTES_MAX and self._head_bytes > HEAD_SMALL_BYTES:
            self._hang_up(_TOO_MANY)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._hang_up, _TOO_LATE)

    def _head_length(self) -> int:
        """Of the head as it is usually written: `METHOD url HTTP/1.1`, and `name: value` for each header."""
        headers = sum([len(name) + len(value) + 4 for name, value in self.headers])
        return len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1\r\n\r\n") + headers

    def _forget_head(self) -> None:
        self._crowd.head_bytes -= self._head_bytes
        self._head_bytes = self._head_began_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _believe_target(self) -> None:
        """`GET http://host/path`: the host of the target counts, whatever the header says (RFC 9112, 3.2.2)."""
        try:
            host = httptools.parse_url(self.url).host
        except httptools.HttpParserInvalidURLError:
            return
        if host:
            authority = self.url.split(b"//", 1)[-1].split(b"/", 1)[0]
            self.headers[:] = [header for header in self.headers if header[0] != b"host"] + [(b"host", authority)]

    def _stay_with_http(self) -> None:
        """An upgrade is no use to us: answer as if nothing was said of it, and read no further."""
        self._deaf = True
        self.cycle.keep_alive = False

    def _hang_up(self, answer: bytes) -> None:
        """Say why, where anything was said to us, and close once the other side had the time to hear it."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        if self._answering() and not self._give_up_body():
            if self._is_webhook():
                self.cycle.keep_alive = False  # it was whole, and hears what became of it
            else:
                self.transport.close()  # never into the middle of the answer to the request before
        elif self._head_bytes or answer is not _TOO_LATE:
            self.transport.write(answer)
            self.loop.call_later(FAREWELL_S, self.transport.close)
        else:
            self.transport.close()

    def _give_up_body(self) -> bool:
        """Have the application hear that the rest of the body will not come, unless it has begun to answer."""
        if self.pipeline or not self.cycle.more_body or self.cycle.response_started:
            return False
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return True

"""Request bodies, read within limits: how many bytes, in how long, and how much for everybody together."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Message, Receive, Send

BODY_BYTES_MAX = 32 * 1024 * 1024
"""Of one body. Replicate's webhooks carry the whole input and all logs; `data:` outputs make megabytes of them."""

BODY_S = 30.0
"""For a whole body: 32 MiB in this time is 9 Mbit/s, and Replicate itself gives up after a few seconds."""

HELD_BYTES_MAX = 128 * 1024 * 1024
"""Of all bodies that arrive in several pieces, together, until they were taken: what strangers can make us hold before
we know them, and four of the largest."""

_HEADER_BYTES = 128  # what a header weighs besides its name and value

LINGER_BYTES_MAX = 64 * 1024 * 1024
LINGER_S = 2.0
"""How much of a refused body is thrown away before the connection closes: closing on a client that still sends
resets the connection, and it may never see why."""

WHOLE = "outkeep.whole"  # in a request's scope once its whole body is there

Headers = Sequence[tuple[bytes, bytes]]


class BodyRefused(Exception):
    """The body was not read to its end; `status` is the answer, and the connection is of no more use."""

    outcome = "cut"  # as it is counted
    status = 400
    title = "Bad request"
    detail = "The body was not whole."


class Gone(BodyRefused):
    """The client left before the body was whole: nobody hears the answer."""

    outcome = "gone"


class TooSlow(BodyRefused):
    """The body was not there in time."""

    outcome = "too_slow"
    status = 408
    title = "Request timeout"
    detail = f"The body was not there within {BODY_S:.0f} seconds."


class TooLarge(BodyRefused):
    """The body is longer than we take, as announced or as it turned out."""

    outcome = "too_large"
    status = 413
    title = "Payload too large"
    detail = f"The body is longer than {BODY_BYTES_MAX} bytes."


class Encoded(BodyRefused):
    """The body is compressed: what would be verified or parsed is not what was sent."""

    outcome = "encoded"
    status = 415
    title = "Unsupported media type"
    detail = "Bodies are taken as they are, without a Content-Encoding."


class TooMuch(BodyRefused):
    """The bodies in memory are at their limit: come back in a moment."""

    outcome = "shed"
    status = 503
    title = "Service unavailable"
    detail = "Too many long bodies are on their way; try again in a moment."


@dataclass(eq=False, slots=True)
class _Reading:
    """One body on its way, and what it holds so far."""

    deadline: asyncio.Timeout
    size: int = 0
    given_up: bool = False


class Bodies:
    """Reads bodies, or turns them away, and knows how much is held of all that are being read."""

    def __init__(
        self, *, body_s: float = BODY_S, held_bytes_max: int = HELD_BYTES_MAX, linger_s: float = LINGER_S
    ) -> None:
        self.held_bytes = 0
        self._readings: set[_Reading] = set()
        self._body_s = body_s
        self._held_bytes_max = held_bytes_max
        self._linger_s = linger_s

    async def read(self, headers: Headers, receive: Receive, *, whole: bool = False) -> bytes:
        """The whole body as it came; BodyRefused otherwise, before anything is read where the headers say enough.

        One that is there already (`whole`) needs no deadline, which costs as much as verifying it.
        """
        for name, value in headers:
            if name == b"content-length":
                _check_length(value)
            elif name == b"content-encoding" and value.strip().lower() not in (b"identity", b""):
                raise Encoded
        if not whole:
            return await self._pieces(headers, receive)
        message = await receive()
        if message["type"] != "http.request":
            raise Gone
        return _within(message.get("body", b""))

    async def _pieces(self, headers: Headers, receive: Receive) -> bytes:
        body = bytearray()
        reading = _Reading(asyncio.timeout(self._body_s))
        self._readings.add(reading)
        try:
            async with reading.deadline:
                self._grow(reading, sum([len(name) + len(value) + _HEADER_BYTES for name, value in headers]))
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Gone
                    piece = message.get("body", b"")
                    if not body and not message.get("more_body", False):
                        return _within(piece)
                    body += piece
                    if not message.get("more_body", False):
                        return _within(bytes(body))
                    if len(body) > BODY_BYTES_MAX:
                        raise TooLarge
                    self._grow(reading, len(piece))
        except TimeoutError:
            raise (TooMuch if reading.given_up else TooSlow) from None
        finally:
            self._readings.discard(reading)
            self.held_bytes -= reading.size

    def _grow(self, reading: _Reading, more_bytes: int) -> None:
        """Where all hold too much the longest is given up, so that a few huge ones don't keep out the many."""
        reading.size += more_bytes
        self.held_bytes += more_bytes
        while self.held_bytes > self._held_bytes_max:
            longest = max(self._readings, key=_size)
            if longest is reading or not longest.size:
                raise TooMuch
            self.held_bytes -= longest.size
            longest.size = 0
            if not longest.deadline.expired():
                longest.given_up = True
                longest.deadline.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """While a body that was read is still needed, it counts."""
        self.held_bytes += size
        try:
            yield
        finally:
            self.held_bytes -= size

    async def dismiss(self, receive: Receive, send: Send, start: Message, body: bytes) -> None:
        """Answer before the request's body is whole, and close the connection without cutting the answer short."""
        headers = [*start["headers"], (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        try:
            async with asyncio.timeout(self._linger_s):
                left = LINGER_BYTES_MAX
                while left > 0:
                    message = await receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        break
                    left -= len(message.get("body", b""))
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def left(receive: Receive) -> None:
    """Returns when the client has left; whatever it still sends is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_length(told: bytes) -> None:
    if not told.isdigit() or len(told) > 12 or int(told) > BODY_BYTES_MAX:
        raise TooLarge


def _size(reading: _Reading) -> int:
    return reading.size


def _within(body: bytes) -> bytes:
    if len(body) > BODY_BYTES_MAX:
        raise TooLarge
    return body

"""Permanent links: the bytes of archived outputs, streamed by us, to anybody who has the link.

The official Python client sends its token here and follows no redirect, others send nothing: both get the bytes.
"""

import asyncio
import logging
import re
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from receiver.core.output import Stored
from receiver.flows.give import Give, ObjectGone, ObjectUnavailable, Reading
from receiver.web.bodies import left
from receiver.web.problems import Problem, not_found, unavailable
from receiver.web.ranges import Part, Unsatisfiable, part, unchanged

LINK = re.compile(r"[A-Za-z0-9_-]{22}")

READERS_MAX = 1024
"""Files on their way out at once: each holds an open file or a connection to the bucket."""

PIECE_S = 60.0
"""For a client to take one piece (256 KiB at most): below 35 kbit/s nobody is watching, and it would hold its place."""

CACHING = "public, max-age=31536000, immutable"

_RASTER = frozenset(
    ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "image/tiff", "image/heic",
     "image/heif", "image/jxl", "image/x-icon", "image/vnd.microsoft.icon")
)  # fmt: skip
_HEARD_OR_SEEN = re.compile(r"(?:audio|video)/[a-z0-9.-]+")
_PLAYLIST = re.compile(r".*mpegurl.*")  # text with addresses in it, not media
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(?:; ?charset=[A-Za-z0-9._-]{1,40})?")
_SHARED = (
    (b"access-control-allow-origin", b"*"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-robots-tag", b"noindex"),
)
_PREFLIGHT = (
    *_SHARED,
    (b"access-control-allow-methods", b"GET, HEAD"),
    (b"access-control-allow-headers", b"*, Authorization"),
    (b"access-control-max-age", b"86400"),
)

_log = logging.getLogger(__name__)


class Files:
    """`/files/{link}/{name}`, an ASGI application."""

    def __init__(self, give: Give) -> None:
        self._give = give
        self._readers = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            await _start(send, 204, list(_PREFLIGHT))
            await send({"type": "http.response.body", "body": b""})
            return
        stored = await self._found(scope["path_params"]["link"], scope["path_params"]["name"])
        asked, etag = Headers(scope=scope), f'"{stored.sha256}"'
        headers = _headers(stored, etag)
        if unchanged(asked.get("if-none-match"), etag):
            await _start(send, 304, headers)
            await send({"type": "http.response.body", "body": b""})
        elif scope["method"] == "HEAD":
            await _start(send, 200, [*headers, _number(b"content-length", stored.size)])
            await send({"type": "http.response.body", "body": b""})
        else:
            wanted = _part(asked, etag, stored.size)
            await self._stream(stored, wanted, headers, receive, send)

    async def _found(self, link: str, name: str) -> Stored:
        stored = await self._give.find(link) if LINK.fullmatch(link) else None
        if stored is None or stored.name != name:
            raise not_found("There is no file at this link, or it is not archived yet.")
        return stored

    async def _stream(
        self, stored: Stored, wanted: Part | None, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send
    ) -> None:
        if self._readers >= READERS_MAX:
            raise unavailable("Too many files are being read; try again in a moment.")
        start, length = (wanted.start, wanted.length) if wanted else (0, stored.size)
        headers = [*headers, _number(b"content-length", length)]
        if wanted:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, start + length - 1, stored.size)))
        reading = self._give.open(stored, start=start, length=length)
        self._readers += 1
        try:
            first = await _first(reading)
            await _start(send, 206 if wanted else 200, headers)
            await _pour(first, reading, receive, send)
        finally:
            self._readers -= 1
            await reading.close()


async def _first(reading: Reading) -> bytes:
    """The first piece, while the answer can still be another one."""
    try:
        return await reading.piece()
    except ObjectGone as error:
        raise not_found("The file is no longer in the bucket.") from error
    except ObjectUnavailable as error:
        raise unavailable("The bucket does not give this file just now; try again in a moment.") from error


async def _pour(piece: bytes, reading: Reading, receive: Receive, send: Send) -> None:
    """All pieces, as fast as the client takes them; the answer stays short, visibly, when the bucket fails midway."""
    gone = asyncio.ensure_future(left(receive))
    try:
        while not gone.done():
            async with asyncio.timeout(PIECE_S):
                await send({"type": "http.response.body", "body": piece, "more_body": reading.left > 0})
            if reading.left == 0:
                return
            piece = await reading.piece()
    except TimeoutError:
        _log.info("A reader of a file took nothing for %d s and was let go.", PIECE_S)
    except (ObjectGone, ObjectUnavailable) as error:
        _log.warning("A file could not be given to its end: %s", error)
    finally:
        gone.cancel()


def _part(asked: Headers, etag: str, size: int) -> Part | None:
    ranges = asked.getlist("range")
    try:
        return part(ranges[0] if len(ranges) == 1 else None, asked.get("if-range"), etag=etag, size=size)
    except Unsatisfiable:
        headers = {"Content-Range": f"bytes */{size}", "Access-Control-Allow-Origin": "*"}
        detail = f"The file has {size} bytes: the range lies outside."
        raise Problem(416, "Range not satisfiable", detail, headers=headers) from None


def _headers(stored: Stored, etag: str) -> list[tuple[bytes, bytes]]:
    kind = stored.content_type if _TYPE.fullmatch(stored.content_type) else "application/octet-stream"
    inline = is_shown(kind)
    disposition = f'{"inline" if inline else "attachment"}; filename="{quote(stored.name, safe="~")}"'
    headers = [
        *_SHARED,
        (b"content-type", kind.encode("ascii")),
        (b"content-disposition", disposition.encode("ascii")),
        (b"etag", etag.encode("ascii")),
        (b"accept-ranges", b"bytes"),
        (b"cache-control", CACHING.encode("ascii")),
        (b"access-control-expose-headers", b"Content-Length, Content-Range, ETag, Accept-Ranges"),
    ]
    if not inline:
        headers.append((b"content-security-policy", b"sandbox"))
    return headers


def is_shown(content_type: str) -> bool:
    """Whether browsers may show it in place: pictures made of pixels, sound and film. SVG and HTML can act."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _RASTER or (_HEARD_OR_SEEN.fullmatch(kind) is not None and _PLAYLIST.fullmatch(kind) is None)


def _number(name: bytes, value: int) -> tuple[bytes, bytes]:
    return name, b"%d" % value


async def _start(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})

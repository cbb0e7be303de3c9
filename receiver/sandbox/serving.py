"""A file on its way out: whole, or cut, late, altered and mislabelled as asked for."""

import asyncio
import base64
import gzip
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.sandbox.mischief import Prank
from receiver.sandbox.predictions import Artifact
from receiver.sandbox.sandbox import Sandbox
from receiver.sandbox.wire import FLUSH_S, Reset, transport

SLOW_PIECES = 20  # a slow file comes in so many pieces
SHORT_BYTES = 7  # by so much a wrong length is wrong


@dataclass(slots=True)
class Serving:
    """An answer in the making: bytes `start` to `stop` of the file go out, or `body` instead.

    `cut` ends the connection after half of them, `torn` does so with a reset; `flip` is the offset of a wrong byte.
    """

    status: int
    headers: dict[str, str]
    start: int
    stop: int
    cut: bool = False
    torn: bool = False
    slow_s: float = 0.0
    stall_s: float = 0.0
    body: bytes | None = None
    flip: int | None = None

    @property
    def length(self) -> int:
        return self.stop - self.start


def spoil(sandbox: Sandbox, serving: Serving, artifact: Artifact, prank: Prank) -> None:
    """Puts one misbehaviour into an answer that was all right."""
    kind, headers = prank.kind, serving.headers
    match kind:
        case "slow":
            serving.slow_s = prank.value_or(10)
        case "stall":
            serving.stall_s = prank.value_or(60)
        case "truncated" | "reset":
            serving.cut, serving.torn = True, kind == "reset"
        case "no_length" | "closed" | "closed_early":
            headers.pop("content-length", None)
        case "wrong_length":
            serving.stop = max(serving.start, serving.stop - SHORT_BYTES)
            headers["content-length"] = str(serving.length)
        case "corrupt":
            serving.flip = artifact.facts.size // 2
        case "wrong_type":
            headers["content-type"] = "application/octet-stream"
        case "no_range" | "bad_range":
            _ranges(serving, artifact, kind)
        case "gzip":
            serving.body = gzip.compress(b"".join(sandbox.pantry.pieces(artifact.recipe)), mtime=0)
            serving.status = 200
            headers.pop("content-range", None)
            headers |= {"content-encoding": "gzip", "content-length": str(len(serving.body))}
        case _:
            _hashes(sandbox, headers, artifact, kind)


def _ranges(serving: Serving, artifact: Artifact, kind: str) -> None:
    size = artifact.facts.size
    if kind == "no_range":
        serving.headers.pop("content-range", None)
        serving.headers.pop("accept-ranges", None)
        serving.status, serving.start, serving.stop = 200, 0, size
        serving.headers["content-length"] = str(size)
    elif serving.status == 206:
        serving.start, serving.stop = 0, serving.length


def _hashes(sandbox: Sandbox, headers: dict[str, str], artifact: Artifact, kind: str) -> None:
    other = hashlib.md5(artifact.facts.md5, usedforsecurity=False).digest()
    match kind:
        case "no_hash":
            del headers["etag"], headers["x-goog-hash"]
        case "odd_etag":
            headers["etag"] = f'"{other.hex()}"'
            del headers["x-goog-hash"]
        case "wrong_md5":
            headers["etag"] = f'"{other.hex()}"'
            headers["x-goog-hash"] = f"md5={base64.b64encode(other).decode('ascii')}"
        case "stored_gzip":
            packed = gzip.compress(b"".join(sandbox.pantry.pieces(artifact.recipe)), mtime=0)
            stored = hashlib.md5(packed, usedforsecurity=False).digest()
            headers["etag"] = f'"{stored.hex()}"'
            headers["x-goog-hash"] = f"md5={base64.b64encode(stored).decode('ascii')}"
            headers["x-goog-stored-content-encoding"] = "gzip"
            headers["x-goog-stored-content-length"] = str(len(packed))


def closed(sandbox: Sandbox, request: Request, artifact: Artifact, serving: Serving, *, early: bool) -> Response:
    """An answer without any length: it ends when the connection does, whole or not."""
    body = b"".join(sandbox.pantry.pieces(artifact.recipe, serving.start, serving.stop))
    lines = [f"HTTP/1.1 {serving.status} OK", *(f"{name}: {value}" for name, value in serving.headers.items())]
    head = "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1")
    return Reset(request, head + (body[: len(body) // 2] if early else body), abort=False)


class Stream(Response):
    """The bytes of a file, never all in memory."""

    def __init__(self, sandbox: Sandbox, request: Request, artifact: Artifact, serving: Serving) -> None:
        super().__init__(status_code=serving.status, headers=serving.headers)
        if "content-length" not in serving.headers:
            del self.headers["content-length"]  # Starlette's own, of an empty body
        self._sandbox = sandbox
        self._artifact = artifact
        self._serving = serving
        self._transport = transport(request)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
            if self._transport is not None and self._transport.is_closing():
                return
        if self._serving.torn and self._transport is not None:
            await asyncio.sleep(FLUSH_S)
            self._transport.abort()
        if not self._serving.cut and not self._sandbox.stopped.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self) -> AsyncIterator[bytes]:
        serving = self._serving
        if serving.body is not None:
            yield serving.body
            return
        stop = serving.start + serving.length // 2 if serving.cut else serving.stop
        step = max(1, -(-serving.length // SLOW_PIECES)) if serving.slow_s else max(1, serving.length)
        if serving.stall_s:
            step = max(1, -(-serving.length // 2))
        for at in range(serving.start, stop, step):
            if at > serving.start:
                await self._sandbox.nap(serving.stall_s or serving.slow_s / (SLOW_PIECES - 1))
            if self._sandbox.stopped.is_set():
                return
            offset = at
            for piece in self._sandbox.pantry.pieces(self._artifact.recipe, at, min(at + step, stop)):
                yield self._flipped(piece, offset)
                offset += len(piece)

    def _flipped(self, piece: bytes, offset: int) -> bytes:
        wrong = self._serving.flip
        if wrong is None or not offset <= wrong < offset + len(piece):
            return piece
        at = wrong - offset
        return piece[:at] + bytes((piece[at] ^ 0x55,)) + piece[at + 1 :]

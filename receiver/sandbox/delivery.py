"""The delivery host: files as Google's storage serves them behind a CDN, or as badly as was asked for.

Headers as recorded from a real download in 2024. What an expired file gives is not published; 404 here.
"""

import asyncio
import base64
from datetime import UTC, datetime
from email.utils import format_datetime

from starlette.requests import Request
from starlette.responses import Response

from receiver.sandbox.errors import of_status
from receiver.sandbox.mischief import Prank
from receiver.sandbox.predictions import Artifact
from receiver.sandbox.recipes import Facts
from receiver.sandbox.sandbox import Sandbox, of
from receiver.sandbox.serving import Serving, Stream, closed, spoil
from receiver.sandbox.wire import HANG_S, Reset

NO_SUCH_KEY = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey</Code>"
    b"<Message>The specified key does not exist.</Message></Error>"
)
PLAIN = "/plain"  # leads a path that is served without misbehaviour, where redirects go
METADATA_URL = "http://169.254.169.254/latest/meta-data/"


async def deliver(request: Request) -> Response:
    """GET and HEAD of an output file."""
    sandbox = of(request)
    path = request.url.path
    plain = path.startswith(PLAIN)
    artifact = sandbox.files.get(path.removeprefix(PLAIN))
    if artifact is not None:
        sandbox.current(sandbox.owner(artifact))
    if artifact is None or artifact.removed:
        return Response(NO_SUCH_KEY, status_code=404, media_type="application/xml; charset=UTF-8")
    own = sandbox.owner(artifact).mischief
    pranks = own.file(artifact.index) if own.files else sandbox.general.file(artifact.index)
    prank = None if plain else sandbox.strike(f"file:{artifact.path}", pranks)
    artifact.served += 1
    serving = _plain(request, artifact)
    if prank is not None:
        other = await _other(sandbox, request, artifact, prank)
        if other is not None:
            return other
        spoil(sandbox, serving, artifact, prank)
    if request.method == "HEAD" or serving.status in (304, 416):
        return _bare(serving)
    await asyncio.to_thread(sandbox.pantry.warm, artifact.recipe)
    if prank is not None and prank.kind in ("closed", "closed_early"):
        return closed(sandbox, request, artifact, serving, early=prank.kind == "closed_early")
    return Stream(sandbox, request, artifact, serving)


def facts_headers(facts: Facts, content_type: str, made_ns: int, now_ns: int) -> dict[str, str]:
    """The headers of the real host for a file that is what it says."""
    hashes = [f"md5={base64.b64encode(facts.md5).decode('ascii')}"]
    if facts.crc32c is not None:
        hashes.insert(0, f"crc32c={base64.b64encode(facts.crc32c.to_bytes(4, 'big')).decode('ascii')}")
    return {
        "content-type": content_type,
        "etag": f'"{facts.md5.hex()}"',
        "x-goog-hash": ", ".join(hashes),
        "x-goog-stored-content-encoding": "identity",
        "x-goog-stored-content-length": str(facts.size),
        "accept-ranges": "bytes",
        "cache-control": "public,max-age=3600",
        "last-modified": format_datetime(datetime.fromtimestamp(made_ns // 1_000_000_000, tz=UTC), usegmt=True),
        "access-control-allow-origin": "*",
        "cache-status": "hit",
        "age": str(max(0, (now_ns - made_ns) // 1_000_000_000)),
        "server": "UploadServer",
    }


def _plain(request: Request, artifact: Artifact) -> Serving:
    sandbox = of(request)
    size = artifact.facts.size
    headers = facts_headers(artifact.facts, artifact.recipe.content_type, artifact.made_ns, sandbox.now_ns())
    if request.headers.get("if-none-match") == headers["etag"]:
        return Serving(304, headers, 0, 0)
    if_range = request.headers.get("if-range")
    wanted = None
    if if_range in (None, headers["etag"], headers["last-modified"]):
        wanted = ranged(request.headers.get("range", ""), size)
    if wanted is None:
        return Serving(200, headers | {"content-length": str(size)}, 0, size)
    start, stop = wanted
    if start >= stop:
        return Serving(416, headers | {"content-range": f"bytes */{size}", "content-length": "0"}, 0, 0)
    place = {"content-range": f"bytes {start}-{stop - 1}/{size}", "content-length": str(stop - start)}
    return Serving(206, headers | place, start, stop)


def ranged(told: str, size: int) -> tuple[int, int] | None:
    """Start and stop of a single byte range, equal when it can't be satisfied; None to ignore the header."""
    unit, _, spec = told.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or "," in spec or not (first + last).isdecimal():
        return None
    if not first:
        return (size, size) if int(last) == 0 or size == 0 else (max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    start = int(first)
    return (start, min(size, int(last) + 1) if last else size) if start < size else (size, size)


async def _other(sandbox: Sandbox, request: Request, artifact: Artifact, prank: Prank) -> Response | None:
    """The misbehaviour that is another answer altogether."""
    match prank.kind:
        case "hang":
            await sandbox.nap(prank.value_or(HANG_S))
            return Reset(request)
        case "expires":
            ended_ns = sandbox.owner(artifact).completed_ns or sandbox.now_ns()
            if sandbox.now_ns() - ended_ns >= prank.value_or(5) * 1e9:
                return Response(NO_SUCH_KEY, status_code=404, media_type="application/xml; charset=UTF-8")
        case "html":
            return Response(b"<!doctype html><title>Error</title><h1>Something went wrong</h1>", media_type="text/html")
        case "empty":
            return Response(b"", media_type=artifact.recipe.content_type)
        case "redirect":
            return _redirect(sandbox.origin + PLAIN + artifact.path)
        case "redirect_loop":
            return _redirect(sandbox.origin + artifact.path)
        case "redirect_private":
            return _redirect(METADATA_URL)
    if prank.status is not None:
        value = prank.value
        headers = {"retry-after": f"{value:g}"} if value is not None else {}
        return Response(of_status(prank.status).response().body, status_code=prank.status, headers=headers)
    return None


def _redirect(place: str) -> Response:
    return Response(status_code=302, headers={"location": place})


def _bare(serving: Serving) -> Response:
    """The headers alone, without the length that Starlette would make up."""
    response = Response(status_code=serving.status, headers=serving.headers)
    if "content-length" not in serving.headers and "content-length" in response.headers:
        del response.headers["content-length"]
    return response

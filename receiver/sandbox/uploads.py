"""The files API: inputs that were too large to be told in JSON."""

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from email.message import Message
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from receiver.sandbox import bodies, errors, pages
from receiver.sandbox.sandbox import ACCOUNT, Sandbox, of
from receiver.sandbox.wire import answer, stamp

FILE_BYTES_MAX = 100 * 1024 * 1024  # documented
FORM_BYTES_MAX = FILE_BYTES_MAX + 1024 * 1024
ALL_BYTES_MAX = 512 * 1024 * 1024  # held in memory, the oldest go first
KEPT_NS = 24 * 3600 * 1_000_000_000  # as recorded in 2024, though the schema's example shows an hour


@dataclass(frozen=True, slots=True)
class Upload:
    id: str
    name: str
    content_type: str
    metadata: dict[str, Any]
    body: bytes
    created_ns: int


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    filename: str | None
    content_type: str | None
    body: bytes


async def upload(request: Request) -> Response:
    """POST /files: multipart with `content`, and perhaps `filename`, `type`, `metadata`."""
    sandbox = of(request)
    raw = await bodies.read_raw(request, FORM_BYTES_MAX)
    parts = {part.name: part for part in _parts(request.headers.get("content-type", ""), raw)}
    if "content" not in parts:
        raise errors.invalid(("content", "required", "content is required"))
    content = parts["content"]
    if len(content.body) > FILE_BYTES_MAX:
        raise errors.too_large()
    number = sandbox.number("upload")
    made = Upload(
        base64.b64encode(sandbox.name("upload", number, 36).encode()).decode("ascii"),
        _text(parts, "filename") or content.filename or "file",
        _text(parts, "type") or content.content_type or "application/octet-stream",
        _metadata(parts),
        content.body,
        sandbox.now_ns(),
    )
    sandbox.uploads[made.id] = made
    _trim(sandbox)
    return answer(_json(sandbox, made), 201)


async def uploads(request: Request) -> Response:
    sandbox = of(request)
    _trim(sandbox)
    page = pages.page(request, sandbox.origin, list(reversed(sandbox.uploads.values())), key=lambda item: item.id)
    return answer(page | {"results": [_json(sandbox, item) for item in page["results"]]})


async def uploaded(request: Request) -> Response:
    return answer(_json(of(request), _found(request)))


async def delete_upload(request: Request) -> Response:
    del of(request).uploads[_found(request).id]
    return Response(status_code=204)


async def download(request: Request) -> Response:
    """GET /files/{id}/download?owner&expiry&signature, without a token: what counts is the signature of these three."""
    found, query = _found(request), request.query_params
    owner, expiry = query.get("owner", ""), query.get("expiry", "")
    signed = download_signature(of(request).secret, owner, found.id, expiry)
    if not hmac.compare_digest(signed.encode(), query.get("signature", "").encode()) or owner != ACCOUNT:
        raise errors.forbidden()
    if not expiry.isdecimal() or int(expiry) < time.time():
        raise errors.forbidden()
    return Response(found.body, media_type=found.content_type)


def download_signature(secret: str, owner: str, file: str, expiry: str) -> str:
    told = f"{owner} {file} {expiry}".encode()
    return base64.b64encode(hmac.new(secret.encode(), told, hashlib.sha256).digest()).decode("ascii")


def _found(request: Request) -> Upload:
    sandbox = of(request)
    _trim(sandbox)
    found: Upload | None = sandbox.uploads.get(request.path_params["id"])
    if found is None:
        raise errors.not_found("File not found")
    return found


def _trim(sandbox: Sandbox) -> None:
    """Lets go what is too old or too much."""
    held = sum(len(item.body) for item in sandbox.uploads.values())
    for item in list(sandbox.uploads.values()):
        if held > ALL_BYTES_MAX or sandbox.now_ns() - item.created_ns + sandbox.aged_s * 1e9 > KEPT_NS:
            held -= len(item.body)
            del sandbox.uploads[item.id]


def _json(sandbox: Sandbox, told: Upload) -> dict[str, Any]:
    md5 = hashlib.md5(told.body, usedforsecurity=False).hexdigest()
    return {
        "id": told.id,
        "name": told.name,
        "content_type": told.content_type,
        "size": len(told.body),
        "etag": md5,
        "checksums": {"sha256": hashlib.sha256(told.body).hexdigest(), "md5": md5},
        "metadata": told.metadata,
        "created_at": stamp(told.created_ns, 3),
        "expires_at": stamp(told.created_ns + KEPT_NS, 3),
        "urls": {"get": f"{sandbox.api_url}/files/{told.id}"},
    }


def _metadata(parts: dict[str, _Part]) -> dict[str, Any]:
    try:
        told = json.loads(_text(parts, "metadata") or "{}")
    except ValueError as error:
        raise errors.invalid(("metadata", "format", "must be JSON")) from error
    if not isinstance(told, dict):
        raise errors.invalid(("metadata", "invalid_type", "Invalid type. Expected: object"))
    return told


def _text(parts: dict[str, _Part], name: str) -> str | None:
    return parts[name].body.decode("utf-8", "replace") if name in parts else None


def _parts(content_type: str, raw: bytes) -> list[_Part]:
    """The parts of a multipart form (RFC 7578)."""
    header = _header("content-type", content_type)
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise errors.malformed("The request body must be multipart/form-data")
    pieces = (b"\r\n" + raw).split(b"\r\n--" + boundary.encode())
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise errors.malformed("The request body is not a whole multipart form")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> _Part:
    head, _, body = piece.partition(b"\r\n\r\n")
    told = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        told[name.strip().lower()] = value.strip()
    place = _header("content-disposition", told.get("content-disposition", ""))
    field, filename = (place.get_param(key, header="content-disposition") for key in ("name", "filename"))
    return _Part(str(field), filename if isinstance(filename, str) else None, told.get("content-type"), body)


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message

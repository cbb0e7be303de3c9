"""Webhooks made by hand, and raw connections to the service: for tests of what a stranger may send."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

KEY = b"a key of twenty-four and more bytes"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
PATH = "/webhooks/replicate"


def signature(body: bytes, webhook_id: str, *, key: bytes = KEY, ago_s: int = 0) -> dict[str, str]:
    """The three headers, as Replicate makes them."""
    now = str(int(time.time()) - ago_s)
    code = hmac.new(key, f"{webhook_id}.{now}.".encode() + body, hashlib.sha256).digest()
    signed = f"v1,{base64.b64encode(code).decode()}"
    return {"webhook-id": webhook_id, "webhook-timestamp": now, "webhook-signature": signed}


def call(
    body: bytes, webhook_id: str, *more: tuple[str, str], named: dict[str, str] | None = None, path: str = PATH
) -> bytes:
    """A whole signed request."""
    headers = [*(signature(body, webhook_id) if named is None else named).items(), *more]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def prediction(prediction_id: str, **fields: Any) -> dict[str, Any]:
    """A prediction as a webhook tells it."""
    return {
        "id": prediction_id,
        "model": "sandbox/text",
        "version": "hidden",
        "input": {"prompt": "a cat"},
        "status": "processing",
        "output": None,
        "error": None,
        "logs": "",
        "metrics": {},
        "created_at": "2026-11-22T08:00:00.123Z",
        "started_at": None,
        "completed_at": None,
    } | fields


def told(prediction_id: str, **fields: Any) -> bytes:
    """The body of a webhook."""
    return json.dumps(prediction(prediction_id, **fields)).encode()


class Wire:
    """A connection. `status` reads one whole answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> "Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, *pieces: bytes, gap_s: float = 0.0) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if gap_s:
                await asyncio.sleep(gap_s)

    async def answer(self, within_s: float = 10) -> tuple[int, dict[str, str], bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), within_s)
        status, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split()[1]), headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def status(self, within_s: float = 10) -> int:
        return (await self.answer(within_s))[0]

    async def rest(self, within_s: float = 10) -> bytes:
        """All that comes until the other side closes; a connection that is reset has said nothing more."""
        try:
            return await asyncio.wait_for(self.reader.read(), within_s)
        except ConnectionError:
            return b""

    def close(self) -> None:
        self.writer.transport.abort()


async def ask(port: int, *pieces: bytes, gap_s: float = 0.0, within_s: float = 10) -> bytes:
    """What comes back for these bytes until the other side closes."""
    wire = await Wire.to(port)
    try:
        await wire.send(*pieces, gap_s=gap_s)
        return await wire.rest(within_s)
    finally:
        wire.close()


def resident_bytes(pid: int) -> int:
    """Memory that a process holds now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

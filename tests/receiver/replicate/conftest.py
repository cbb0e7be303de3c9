"""A server that says what it is told to say, byte for byte, and a time that passes only when somebody sleeps."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from receiver.replicate.client import Replicate

TOKEN = "r8_not-a-token-but-long-enough-to-look-like-one"


def reply(status: int = 200, body: Any = None, **headers: str) -> bytes:
    """A whole HTTP/1.1 answer; `body` is JSON unless it is bytes, header names are written with underscores."""
    content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    lines = [f"HTTP/1.1 {status} Said"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if "content_length" not in headers:
        lines.append(f"content-length: {len(content)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


@dataclass(frozen=True)
class Heard:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    raw: Sequence[tuple[bytes, bytes]] = ()

    @property
    def told(self) -> Any:
        return json.loads(self.body)


@dataclass
class Scripted:
    """Plays `script` from the front, one item a request: bytes are sent, `HANG` never answers, `CUT` closes at once.

    Bytes that promise more than they hold are followed by closing. The last item is repeated for ever.
    """

    script: list[bytes | str]
    heard: list[Heard] = field(default_factory=list)
    url: str = ""
    at_once: int = 0
    at_once_most: int = 0
    pause_s: float = 0.0
    connections: set[asyncio.Task[None]] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(asyncio.create_task(self._connection(reader, writer)))

    async def heard_of(self, count: int) -> list[Heard]:
        """What was heard, once it is `count` requests."""
        async with asyncio.timeout(10):
            while len(self.heard) < count:
                self.news.clear()
                await self.news.wait()
        return self.heard

    async def stop(self) -> None:
        for connection in self.connections:
            connection.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        lines = [line.partition(":") for line in head[1:] if line]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        raw = [(name.lower().encode("latin-1"), value.strip().encode("latin-1")) for name, _, value in lines]
        body = await self._body(reader, headers)
        self.heard.append(Heard(method, target, headers, body, raw))
        self.news.set()
        item = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.at_once += 1
        self.at_once_most = max(self.at_once, self.at_once_most)
        await asyncio.sleep(self.pause_s)
        self.at_once -= 1
        if item == "HANG":
            await reader.read()
        if not isinstance(item, bytes):
            return False
        writer.write(item)
        await writer.drain()
        return b"connection: close" not in item.lower()

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            whole = b""
            while size := int(await reader.readline(), 16):
                whole += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
            return whole
        return await reader.readexactly(int(headers.get("content-length", "0")))


@dataclass
class Time:
    """Seconds that pass only by sleeping."""

    now_s: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        self.slept.append(pause_s)
        self.now_s += pause_s
        await asyncio.sleep(0)


@pytest.fixture
def said() -> Callable[..., bytes]:
    return reply


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def token() -> str:
    return TOKEN


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as closing:
        yield closing


@pytest.fixture
def scripted(stack: AsyncExitStack) -> Callable[..., Any]:
    """`await scripted(item, …)` starts a server on a free port of the loopback."""

    async def start(*script: bytes | str) -> Scripted:
        served = Scripted(list(script) or [reply()])
        server = await asyncio.start_server(served, "127.0.0.1", 0, limit=1 << 20)
        stack.push_async_callback(served.stop)
        stack.callback(server.close)
        served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return served

    return start


@pytest.fixture
def client_of(stack: AsyncExitStack, passing: Time) -> Callable[..., Any]:
    """`await client_of(url)` is a client whose time is `passing`; closed before the server is."""

    async def build(url: str, *, token: str | None = TOKEN) -> Replicate:
        client = Replicate(
            base_url=f"{url}/v1",
            token=token,
            clock=passing,
            rng=random.Random(7),
            sleep=passing.sleep,
        )
        return await stack.enter_async_context(client)

    return build

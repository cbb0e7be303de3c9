"""A TCP proxy that cuts a connection where a test wants it: at a byte of what the client says, or of the answer."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Cut:
    """Once the client says `trigger`, let `ask` bytes from there on pass, and `answer` bytes of what comes back."""

    trigger: bytes
    ask: int | None = None
    answer: int | None = None
    done: bool = False


@dataclass
class Proxy:
    """Passes everything on, until `cut` is set and its trigger is heard."""

    host: str
    port: int
    listens: int = 0
    cut: Cut | None = None
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _server: "asyncio.Server | None" = None

    async def start(self) -> None:
        """Listen, after a `close` on the same port again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.listens)
        self.listens = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._pass_on(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self.host, self.port)
        pair = _Pair(self)
        ways = [
            asyncio.ensure_future(pair.carry(reader, back, pair.asked)),
            asyncio.ensure_future(pair.carry(there, writer, pair.answered)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in (back, writer):
                with contextlib.suppress(OSError):
                    each.close()


class _Pair:
    """One connection and the one behind it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._cut: Cut | None = None

    def asked(self, data: bytes) -> bytes:
        cut = self._proxy.cut
        if cut is None or cut.done or cut.trigger not in data:
            return data
        self._cut, cut.done = cut, True
        return data if cut.ask is None else data[: data.index(cut.trigger) + cut.ask]

    def answered(self, data: bytes) -> bytes:
        return data if self._cut is None or self._cut.answer is None else data[: self._cut.answer]

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: Callable[[bytes], bytes]
    ) -> None:
        """Until one side ends, or less is to pass than came."""
        while data := await reader.read(65536):
            let = passed(data)
            writer.write(let)
            await writer.drain()
            if len(let) < len(data):
                return

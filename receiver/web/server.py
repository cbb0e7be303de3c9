"""Listening: uvicorn on httptools, with the limits that it does not have of its own.

`serve` runs in the loop that calls it; uvloop is the caller's choice (`uvloop.run`). Signals are the caller's too.
httptools reads header blocks of any length; ours end at `HEAD_BYTES_MAX`, well above the 64 KiB that we promise.
"""

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import uvicorn

from receiver.core.errors import Misconfigured
from receiver.web.app import Application
from receiver.web.bodies import WHOLE
from receiver.web.express import Express

BACKLOG = 2048  # connections that the kernel holds while we are busy
GRACE_S = 8  # for answers under way at the end; a command ends within ten seconds
KEEP_ALIVE_S = 30  # of an idle connection between two requests: longer than the pauses of those who poll
HEAD_S = 15.0  # for the request line and all headers
HEAD_BYTES_MAX = 256 * 1024
"""Of the pieces in which a header block arrives. Above the promised 64 KiB, since a piece may hold more than that."""

FAREWELL_S = 0.5  # closing at once on a client that still sends resets the connection, and it never sees the answer

CONNECTIONS_MAX = 8192
"""Idle ones included: 4,096 readers of the feed, 1,024 of files, 1,024 requests, and room for webhooks."""

FILES_MAX = 65_536  # open files that we ask the system for, if it lets us: a socket each, and what lies behind

_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def serve(
    app: Application, *, host: str, port: int, stop: asyncio.Event, on_listening: Callable[[str, int], None]
) -> None:
    """Serve until `stop` is set, then finish what is under way for at most `GRACE_S`.

    `on_listening` hears the address, with the port that a 0 became. Raises Misconfigured when it can't be had.
    """
    listening = _listen(host, port)
    _allow_files()
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, lambda: on_listening(host, listening[0].getsockname()[1]))
    ending = asyncio.create_task(_end(server, app, stop))
    try:
        await server.serve(sockets=listening)
    finally:
        ending.cancel()
        for each in listening:
            each.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()


async def _end(server: uvicorn.Server, app: Application, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True
    await app.close()


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Connection(Express):
    """One connection, with a deadline and a limit for each header block, and an end to dribbling."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True  # before the first byte, too
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._was_asked = False
        self._deaf = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.close()
            return
        self._head_timer = self.loop.call_later(HEAD_S, self._hang_up, _TOO_LATE)

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        super().data_received(data)
        if not self._in_head:
            return
        # Rare: a head in several pieces. One that came whole has cost nothing but this look.
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._hang_up(_TOO_LONG)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._hang_up, _TOO_LATE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._was_asked = True
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        cast("dict[str, Any]", self.scope)[WHOLE] = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        unread = self.cycle.more_body and self.cycle.response_complete and not self.pipeline
        super().on_response_complete()
        if unread:
            # Answered before the request was whole: what still comes has no deadline and no reader any more.
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)

    def _hang_up(self, answer: bytes) -> None:
        """Say why, where anything was said to us, and close once the other side had the time to hear it."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        answering = self._was_asked and not self.cycle.response_complete
        if self._head_bytes and not answering:  # never into the middle of the answer to the request before
            self.transport.write(answer)
            self.loop.call_later(FAREWELL_S, self.transport.close)
        else:
            self.transport.close()


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address that a host name has; all on one port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise Misconfigured(f"OUTKEEP_HOST {host!r} is no address of this machine that we could listen on.") from None
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        wanted = (*address[:1], sockets[0].getsockname()[1] if sockets else port, *address[2:])
        try:
            sockets.append(_bound(family, kind, protocol, wanted))
        except OSError as error:
            refused = error
            if error.errno == errno.EADDRINUSE:
                break
    if refused is not None and (not sockets or refused.errno == errno.EADDRINUSE):
        for each in sockets:
            each.close()
        raise Misconfigured(_sentence(host, port, refused)) from None
    return sockets


def _bound(family: int, kind: int, protocol: int, address: Sequence[Any]) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(tuple(address))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _sentence(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"OUTKEEP_PORT {port} is taken by another program on {host}: stop it, or choose another port."
    if error.errno == errno.EACCES:
        return f"OUTKEEP_PORT {port} is not allowed to us: choose one above 1023."
    return f"OUTKEEP_HOST {host!r} can't be listened on ({os.strerror(error.errno or 0)}): it has to be one of ours."


def _allow_files() -> None:
    """Use what the system allows: the usual 1,024 open files are fewer than the connections that we take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

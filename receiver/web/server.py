"""Listening: uvicorn on httptools, with the limits that it does not have of its own (see `connection`).

`serve` runs in the loop that calls it; uvloop is the caller's choice (`uvloop.run`). Signals are the caller's too.
"""

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import uvicorn

from receiver.core.errors import Misconfigured
from receiver.web.app import Application
from receiver.web.connection import CONNECTIONS_MAX, Connection, Crowd

BACKLOG = 2048  # connections that the kernel holds while we are busy
GRACE_S = 8  # for answers under way at the end; a command ends within ten seconds
KEEP_ALIVE_S = 30  # of an idle connection between two requests: longer than the pauses of those who poll
FILES_MAX = 65_536  # open files that we ask the system for, if it lets us: a socket each, and what lies behind
FILES_RESERVED = 256  # for ledger, bucket and spool, where the system allows fewer files than we take connections


async def serve(
    app: Application, *, host: str, port: int, stop: asyncio.Event, on_listening: Callable[[str, int], None]
) -> None:
    """Serve until `stop` is set, then finish what is under way for at most `GRACE_S`.

    `on_listening` hears the address, with the port that a 0 became. Raises Misconfigured when it can't be had.
    """
    listening = _listen(host, port)
    crowd = Crowd(set(), min(CONNECTIONS_MAX, max(1, _allow_files() - FILES_RESERVED)))
    config = uvicorn.Config(
        app,
        http=partial(Connection, crowd=crowd),  # type: ignore[arg-type]
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
    crowd.connections = server.server_state.connections  # type: ignore[assignment]
    ending = asyncio.create_task(_end(server, app, stop))
    watching = asyncio.create_task(crowd.watch())
    try:
        await server.serve(sockets=listening)
    finally:
        ending.cancel()
        watching.cancel()
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


def _allow_files() -> int:
    """Use what the system allows: the usual 1,024 open files are fewer than the connections that we take. How many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return FILES_MAX if soft == resource.RLIM_INFINITY else soft

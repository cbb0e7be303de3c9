"""The sandbox on a port: in the loop of the caller, without signal handlers."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, replace
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.sandbox.app import create_app
from receiver.sandbox.options import Options
from receiver.sandbox.sandbox import Sandbox

ANY_TOKEN = "r8_sandbox0000000000000000000000000000000"  # noqa: S105 - as good as any where any token is taken
GRACE_S = 2  # for answers on their way when it ends
BACKLOG = 2048

_silent = logging.getLogger(__name__)
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


@dataclass(frozen=True, slots=True)
class Running:
    """A sandbox that listens. `url` is its origin, `api_url` the base of its API; `token` and `secret` fit it."""

    url: str
    api_url: str
    token: str
    sandbox: Sandbox

    @property
    def secret(self) -> str:
        return self.sandbox.secret


class Protocol(HttpToolsProtocol):
    """Lends the connection to the app, which tears and cuts it on purpose, and keeps quiet about that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _silent

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.asynccontextmanager
async def running(options: Options, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Running]:
    """Serves until the block ends. Port 0 is any free one. Raises OSError when the address can't be had.

    `options.public_url` is filled in when empty.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is told: without it each answer takes 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        shown = f"[{host}]" if ":" in host else host
        url = options.public_url or f"http://{shown}:{listening.getsockname()[1]}"
        app = create_app(replace(options, public_url=url))
        sandbox: Sandbox = app.state.sandbox
        async with _served(app, sandbox, listening):
            yield Running(url, f"{url}/v1", options.token or ANY_TOKEN, sandbox)


@contextlib.asynccontextmanager
async def _served(app: Any, sandbox: Sandbox, listening: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]))
    try:
        await server.up.wait()
        yield
    finally:
        sandbox.stopped.set()
        server.should_exit = True
        await serving

"""What stands before the API: the token, the rate limits, and misbehaviour of every call."""

import time
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver.sandbox import errors
from receiver.sandbox.antics import played
from receiver.sandbox.sandbox import Sandbox

CREATES_A_MINUTE = 600  # docs, topics/predictions/rate-limits
OTHERS_A_MINUTE = 3000
GETS_A_MINUTE = 60_000  # seen on GET /predictions/{id}: `ratelimit-remaining: 59999`
BURST_S = 1.0  # "short bursts above allowed": a second's worth at once, and no less than one
SCHEMES = ("bearer", "token")  # `Token` still stands in some of the documents' examples


class Gate:
    """ASGI middleware for everything under /v1."""

    def __init__(self, app: ASGIApp, sandbox: Sandbox) -> None:
        self._app = app
        self._sandbox = sandbox
        self._next_s: dict[int, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/") or _keyless(scope["path"]):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        limit = _limit(request)
        try:
            self._check(request, limit)
        except errors.Problem as problem:
            await problem.response()(scope, receive, send)
            return
        prank = self._sandbox.strike("api", self._sandbox.general.api)
        other = await played(request, prank)
        if other is not None:
            await other(scope, receive, send)
            return
        await self._app(scope, receive, _labelled(send, limit))

    def _check(self, request: Request, limit: int) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        wanted = self._sandbox.options.token
        if scheme.lower() not in SCHEMES or not token.strip() or (wanted is not None and token.strip() != wanted):
            raise errors.unauthenticated()
        if self._sandbox.options.rate_limits:
            self._throttle(limit)

    def _throttle(self, limit: int) -> None:
        """A leaky bucket for each limit: `_next_s` is when it is empty again."""
        now_s = time.monotonic()
        each_s = 60 / limit
        full_s = max(self._next_s.get(limit, 0.0), now_s) + each_s
        if full_s - now_s > max(BURST_S, each_s):
            raise errors.throttled(max(1, round(full_s - now_s)))
        self._next_s[limit] = full_s


def _limit(request: Request) -> int:
    path, method = request.url.path, request.method
    if method == "POST" and path.endswith("/predictions"):
        return CREATES_A_MINUTE
    return GETS_A_MINUTE if method == "GET" and path.startswith("/v1/predictions/") else OTHERS_A_MINUTE


def _keyless(path: str) -> bool:
    return path.startswith("/v1/files/") and path.endswith("/download")


def _labelled(send: Send, limit: int) -> Send:
    labels = [
        (b"ratelimit-remaining", str(limit - 1).encode()),
        (b"ratelimit-reset", b"1"),
        (b"replicate-edge-cluster", b"sandbox"),
    ]

    async def labelled(message: Message) -> None:
        if message["type"] == "http.response.start":
            _extend(message, labels)
        await send(message)

    return labelled


def _extend(message: MutableMapping[str, Any], labels: list[tuple[bytes, bytes]]) -> None:
    message["headers"] = [*message.get("headers", []), *labels]

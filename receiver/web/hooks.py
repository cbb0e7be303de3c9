"""Replicate's signed calls: the hot path, a plain ASGI function in front of everything else.

Facts (Replicate's docs, topics/webhooks): the last call of a prediction is tried again for about a minute, any other
never; redirects are not followed; any 2xx within a few seconds is an acknowledgement.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Scope, Send

from receiver.core.errors import LedgerFull, LedgerUnavailable, SecretUnknown
from receiver.replicate.signature import Unverified
from receiver.web.bodies import WHOLE, Bodies, BodyRefused, Gone, Headers

PATH = "/webhooks/replicate"

FULL_RETRY_S = 1  # the buffer before the disk empties many times a second
UNAVAILABLE_RETRY_S = 5  # a ledger that is down, a secret that could not be fetched: a few tries fit in the minute
TOKEN_LENGTH_MAX = 128  # ours have 22; a longer one is nobody's and is dropped, since it only helps to route

Take = Callable[[bytes, Headers, str | None], Awaitable[None]]  # as flows.accept.Accept is called
Begin = Callable[[bytes, Headers, str | None], "asyncio.Future[bool] | None"]  # as Accept.begin

_log = logging.getLogger(__name__)


def _answer(status: int, *headers: tuple[bytes, bytes], empty: bool = True) -> Message:
    length = [(b"content-length", b"0")] if empty else []
    return {"type": "http.response.start", "status": status, "headers": [*length, *headers]}


def _retry(after_s: int) -> tuple[bytes, bytes]:
    return b"retry-after", b"%d" % after_s


_EMPTY: Message = {"type": "http.response.body", "body": b""}
_TAKEN = _answer(200)
_UNVERIFIED = _answer(401)
_FAILED = _answer(500)
_FULL = _answer(503, _retry(FULL_RETRY_S))
_UNAVAILABLE = _answer(503, _retry(UNAVAILABLE_RETRY_S))
_NOT_POSTED = _answer(405, (b"allow", b"POST"), empty=False)


class Hooks:
    """`POST /webhooks/replicate` and the same with a token. The answer never has a body: strangers learn nothing."""

    def __init__(
        self, *, accept: Take, count: Callable[[str], None], bodies: Bodies, begin: Begin | None = None
    ) -> None:
        """`count` hears what became of each call; `begin` is the short way of `accept`."""
        self._begin = begin
        self._accept = accept
        self._count = count
        self._bodies = bodies

    def begin(self, scope: Scope, body: bytes) -> "asyncio.Future[bool] | None":
        """The short way for a call whose body is whole: done once it may be answered 200. None if it is not simple.

        LedgerFull, here or as the outcome, is to be answered 503.
        """
        if self._begin is None or scope["method"] != "POST":
            return None
        headers = scope["headers"]
        if any(name == b"content-encoding" for name, _ in headers):
            return None
        try:
            taken = self._begin(body, headers, _token(scope["path"]))
        except LedgerFull:
            self._count("shed")
            raise
        if taken is not None:
            taken.add_done_callback(self._counted)
        return taken

    def _counted(self, taken: "asyncio.Future[bool]") -> None:
        if taken.cancelled():
            return
        if taken.exception() is None:
            self._count("accepted")
        elif isinstance(taken.exception(), LedgerFull):
            self._count("shed")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._bodies.dismiss(receive, send, _NOT_POSTED, b"")
            return
        headers = scope["headers"]
        try:
            body = await self._bodies.read(headers, receive, whole=WHOLE in scope)
        except BodyRefused as refused:
            await self._refuse(refused, receive, send)
            return
        with self._bodies.holding(len(body)):
            outcome, start = await self._taken(body, headers, _token(scope["path"]))
        self._count(outcome)
        await send(start)
        await send(_EMPTY)

    async def _taken(self, body: bytes, headers: Headers, token: str | None) -> tuple[str, Message]:
        try:
            await self._accept(body, headers, token)
        except Unverified as verdict:
            return verdict.reason.value, _UNVERIFIED
        except LedgerFull:
            return "shed", _FULL
        except LedgerUnavailable:
            return "ledger_unavailable", _UNAVAILABLE
        except SecretUnknown:
            return "secret_unknown", _UNAVAILABLE
        except Exception:  # noqa: BLE001 - never a 2xx, never a traceback to a stranger
            _log.exception("A webhook could not be taken.")
            return "failed", _FAILED
        return "accepted", _TAKEN

    async def _refuse(self, refused: BodyRefused, receive: Receive, send: Send) -> None:
        self._count(refused.outcome)
        if not isinstance(refused, Gone):
            more = (_retry(FULL_RETRY_S),) if refused.status == 503 else ()
            await self._bodies.dismiss(receive, send, _answer(refused.status, *more, empty=False), b"")


def is_hook(path: str) -> bool:
    """Whether a path is the webhook's, with or without a token; any token will do, since a call is better taken."""
    return path.startswith(PATH) and (len(path) == len(PATH) or path[len(PATH)] == "/")


def _token(path: str) -> str | None:
    token = path[len(PATH) + 1 :].removesuffix("/")
    plain = token.isascii() and token.isprintable() and "/" not in token
    return token if token and plain and len(token) <= TOKEN_LENGTH_MAX else None

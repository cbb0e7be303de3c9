"""One request to Replicate's API over httpx, once: the only place that knows httpx.

`httpx` and `httpcore` log full URLs at INFO; whoever sets up logging keeps them at WARNING.
"""

import asyncio

import httpx

from receiver.core.redact import REDACTED
from receiver.replicate.calls import ASKING_MAX, CREATING_MAX
from receiver.replicate.errors import Rejected, Unavailable
from receiver.replicate.request import Answer, Request

CONNECT_S = 5.0
SILENCE_S = 30.0
"""Seconds without a byte before we give up; `Prefer: wait` adds what it asked for."""

IDLE_S = 4.0
"""How long a connection is kept: shorter than any server keeps it, lest a create meet one that is just being closed."""

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Twice the largest webhook that we take; a page of the account's list is far below it."""

_MALFORMED = "A header or parameter is malformed"
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Wire:
    """The connections to one base URL. The token goes nowhere else: no redirects, no proxies out of the air."""

    def __init__(self, *, base_url: str, token: str | None, user_agent: str) -> None:
        own = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"}
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._base_url = base_url
        self._token = token.encode() if token else None
        self._client = httpx.AsyncClient(
            headers=own | authorization,
            timeout=SILENCE_S,
            limits=httpx.Limits(
                max_connections=CREATING_MAX + ASKING_MAX, max_keepalive_connections=ASKING_MAX, keepalive_expiry=IDLE_S
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def send(self, request: Request, *, wait_s: float, within_s: float) -> Answer:
        """The answer, whatever its status.

        `Unavailable` when none came whole within `within_s` seconds, `Rejected` when the request is no HTTP.
        """
        patience = httpx.Timeout(SILENCE_S + wait_s, connect=CONNECT_S, pool=CONNECT_S)
        try:
            async with asyncio.timeout(within_s):
                return await self._exchange(request, patience)
        except _NEVER_SENT as error:
            raise Unavailable(title="no connection", detail=str(error)) from error
        except httpx.LocalProtocolError as error:
            raise Rejected(status=400, title="Bad request", detail=_MALFORMED, sent=False) from error
        except (httpx.TransportError, TimeoutError) as error:
            raise Unavailable(title="connection lost", detail=type(error).__name__, maybe_done=True) from error

    async def _exchange(self, request: Request, patience: httpx.Timeout) -> Answer:
        built = self._built(request, patience)
        try:
            response = await self._client.send(built, stream=True)
        except AttributeError as error:  # from anyio, on uvloop, of a peer that is gone as soon as it was reached
            raise httpx.ConnectError("the connection ended as soon as it was made", request=built) from error
        try:
            body = await _whole(response)
            said = body if response.is_success else self._without_token(body)
            return Answer(response.status_code, dict(response.headers), said)
        finally:
            await response.aclose()

    def _built(self, request: Request, patience: httpx.Timeout) -> httpx.Request:
        try:
            return self._client.build_request(
                request.method,
                self._base_url + request.path,
                params=list(request.query) or None,
                headers=dict(request.headers),
                content=request.content,
                timeout=patience,
            )
        except (ValueError, httpx.InvalidURL) as error:  # a header or query that is no text of HTTP
            raise Rejected(status=400, title="Bad request", detail=_MALFORMED, sent=False) from error

    def _without_token(self, body: bytes) -> bytes:
        """Whoever answers may echo what it was sent, and errors are shown to people."""
        return body.replace(self._token, REDACTED.encode()) if self._token else body

    async def aclose(self) -> None:
        await self._client.aclose()


async def _whole(response: httpx.Response) -> bytes:
    """The raw body within its cap: we asked for no encoding, and unpacking would let a small answer fill the memory."""
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise Unavailable(status=response.status_code, title="an encoding that we did not ask for", maybe_done=True)
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            raise Unavailable(status=response.status_code, title="an answer beyond our cap", maybe_done=True)
    return bytes(body)

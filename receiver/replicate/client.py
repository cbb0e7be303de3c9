"""Replicate's API as methods. What it answers is returned as told, parsed and escaped (`payload.read_json`), no more.

Paths, bodies and statuses are those of Replicate's OpenAPI file (1.0.0-a1, March 2026) and of recorded traffic.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from receiver.core.errors import Misconfigured
from receiver.replicate.calls import DEADLINE_S, Calls, Surroundings
from receiver.replicate.errors import Rejected, Unavailable
from receiver.replicate.paths import checked, cursor, owned, query_of, under
from receiver.replicate.request import Answer, Request
from receiver.replicate.signature import Secret

if TYPE_CHECKING:
    from receiver.replicate.wire import Wire

WAIT_S_MAX = 60
"""What `Prefer: wait` alone means, and the most that it can ask for."""

PAGES_MAX = 1000
"""Pages of one walk, 100 predictions each: an account that makes more in the hour that counts needs another design."""

PORT_MAX = 65_535

_PREFER = re.compile(r"wait(?:=([1-9][0-9]?))?", re.ASCII)
_CANCEL_AFTER = re.compile(r"(?=\d)(?:\d{1,5}h)?(?:\d{1,5}m)?(?:\d{1,6}s?)?", re.ASCII)
_BASE = re.compile(
    r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?(?:/[A-Za-z0-9._~-]+)*/?", re.ASCII
)
_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_NOT_PASSED_ON = frozenset(
    ("authorization", "host", "cookie", "connection", "content-length", "transfer-encoding", "accept-encoding")
)
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, in Replicate's order. `next` and `previous` are cursors for the same method, or None."""

    results: tuple[Mapping[str, Any], ...]
    next: str | None
    previous: str | None


class Replicate:
    """A client for one account. Every method raises only `ReplicateError`s (and says in `calls` what is repeated).

    `base_url` includes `/v1`; the token is sent there and nowhere else. `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        *,
        base_url: str,
        token: str | None,
        clock: Callable[[], float],
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        user_agent: str = "outkeep",
    ) -> None:
        base = _base(base_url)
        if token is not None and not _TOKEN.fullmatch(token):
            raise Misconfigured("The token for Replicate is one word of visible ASCII characters.")

        def connect() -> "Wire":
            from receiver.replicate.wire import Wire  # noqa: PLC0415 - httpx costs half a second: on first use

            return Wire(base_url=base, token=token, user_agent=user_agent)

        self._calls = Calls(connect, Surroundings(clock=clock, rng=rng, sleep=sleep))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Calls that are still on their way fail."""
        await self._calls.aclose()

    async def create(
        self,
        *,
        input: Mapping[str, Any],  # noqa: A002 - Replicate's own name
        version: str | None = None,
        model: str | None = None,
        deployment: str | None = None,
        webhook: str | None = None,
        webhook_events_filter: Sequence[str] | None = None,
        prefer: str | None = None,
        cancel_after: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Create a prediction by exactly one of `version` (any of the three forms that Replicate takes), `model`
        (`owner/name`, or `owner/name:version`) and `deployment` (`owner/name`).

        `prefer` is `wait` or `wait=n` (1 to 60 s), `cancel_after` like `30`, `5m`, `1h30m45s`; `extra` are more fields
        of the body. Repeated only after a 429 or without any connection. An `Unavailable` with `maybe_done` may have
        made a prediction: only the account's list tells.
        """
        path, named = _creating(version=version, model=model, deployment=deployment)
        body = dict(extra or {}) | named | {"input": input}
        if webhook is not None:
            body["webhook"] = webhook
        if webhook_events_filter is not None:
            body["webhook_events_filter"] = list(webhook_events_filter)
        headers, wait_s = _create_headers(prefer, cancel_after)
        answer = await self._calls.answer(
            Request("POST", path, headers=headers | _JSON, content=_encoded(body)),
            repeatable=False,
            creating=True,
            wait_s=wait_s,
            deadline_s=DEADLINE_S + wait_s,
        )
        return answer.object()

    async def get(self, prediction_id: str) -> dict[str, Any]:
        """A prediction as it is now. After an hour `output` is null and `data_removed` true."""
        return await self._object("GET", under("predictions", prediction_id))

    async def cancel(self, prediction_id: str) -> dict[str, Any]:
        """Ask that it stop. Repeated like a GET: to cancel twice is to cancel once."""
        return await self._object("POST", under("predictions", prediction_id, "cancel"))

    async def account(self) -> dict[str, Any]:
        """Whose token this is: `type`, `username`, `name`."""
        return await self._object("GET", "/account")

    async def model(self, owner: str, name: str) -> dict[str, Any]:
        return await self._object("GET", under("models", owner, name))

    async def version(self, owner: str, name: str, version_id: str) -> dict[str, Any]:
        """A version with its `openapi_schema`, which is null or missing for some; official models may have none."""
        return await self._object("GET", under("models", owner, name, "versions", version_id))

    async def versions(self, owner: str, name: str, *, at: str | None = None) -> Page:
        """A page of a model's versions, newest first; official models may answer `NotFound` or an empty page."""
        return await self._page(under("models", owner, name, "versions"), query_of(at) if at else ())

    async def hardware(self) -> tuple[Mapping[str, Any], ...]:
        """`name` and `sku` of each kind of hardware."""
        answer = await self.request("GET", "/hardware")
        return _objects(answer.json(), answer.status)

    async def webhook_secret(self) -> Secret:
        """The secret that signs the webhooks of this account; `Unavailable` if what it answers is no such secret."""
        told = await self._object("GET", "/webhooks/default/secret")
        key = told.get("key")
        try:
            return Secret.parse(key if isinstance(key, str) else "")
        except ValueError as error:
            raise Unavailable(status=200, title="The webhook secret can't be used", detail=str(error)) from None

    async def list(
        self,
        *,
        at: str | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        source: str | None = None,
    ) -> Page:
        """A page of the account's predictions, newest first, 100 a page; moments as ISO 8601.

        `at` is a cursor from an earlier page and holds the other parameters by itself.
        """
        named = {"created_after": created_after, "created_before": created_before, "source": source}
        given = tuple((name, value) for name, value in named.items() if value is not None)
        return await self._page("/predictions", query_of(at) if at else given)

    async def pages(
        self, *, created_after: str | None = None, created_before: str | None = None
    ) -> AsyncIterator[Page]:
        """All pages of the account's predictions, newest first.

        `Unavailable` when the cursors run in a circle or for too long: who counts on having seen all must hear of it.
        """
        page = await self.list(created_after=created_after, created_before=created_before)
        seen: set[str] = set()
        yield page
        while page.next:
            if page.next in seen or len(seen) >= PAGES_MAX:
                raise Unavailable(status=200, title="The pages of the list have no end")
            seen.add(page.next)
            page = await self.list(at=page.next)
            yield page

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        repeatable: bool | None = None,
        creating: bool = False,
        deadline_s: float = DEADLINE_S,
    ) -> Answer:
        """Any other call: `path` below the base URL, its names percent-encoded; `Rejected` when it would leave it.

        Repeated after lost connections and 5xx only when `repeatable` (GET, HEAD and QUERY are, unless told
        otherwise). Of `headers` those that belong to us or to the connection are left out: a caller's key stays here.
        """
        again = method in ("GET", "HEAD", "QUERY") if repeatable is None else repeatable
        passed_on = {name: value for name, value in (headers or {}).items() if name.lower() not in _NOT_PASSED_ON}
        asked = Request(method, checked(path), query=query, headers=passed_on, content=content)
        return await self._calls.answer(asked, repeatable=again, creating=creating, deadline_s=deadline_s)

    async def _object(self, method: str, path: str) -> dict[str, Any]:
        return (await self.request(method, path, repeatable=True)).object()

    async def _page(self, path: str, query: Sequence[tuple[str, str]]) -> Page:
        answer = await self.request("GET", path, query=query)
        told = answer.object()
        results = _objects(told.get("results"), answer.status)
        onward = cursor(told.get("next"))
        if onward is None and told.get("next"):
            raise Unavailable(status=answer.status, title="The next page of the list is none that can be asked for")
        return Page(results, next=onward, previous=cursor(told.get("previous")))


def _base(url: str) -> str:
    match = _BASE.fullmatch(url)
    if not match or int(match["port"] or 0) > PORT_MAX:
        raise Misconfigured("The URL of Replicate's API is like https://api.replicate.com/v1, without user or query.")
    return url.rstrip("/")


def _creating(*, version: str | None, model: str | None, deployment: str | None) -> tuple[str, dict[str, str]]:
    """The path of a create and what its body names."""
    if sum(name is not None for name in (version, model, deployment)) != 1:
        raise _refused("Name one of version, model and deployment")
    if deployment is not None:
        return owned("deployments", deployment, "predictions"), {}
    if model is not None and ":" not in model:
        return owned("models", model, "predictions"), {}
    return "/predictions", {"version": version or model or ""}


def _create_headers(prefer: str | None, cancel_after: str | None) -> tuple[dict[str, str], float]:
    """The headers of a create, and the seconds that the answer may take on account of them."""
    headers: dict[str, str] = {}
    wait_s = 0
    if prefer is not None:
        asked = _PREFER.fullmatch(prefer)
        if not asked:
            raise _refused("Prefer is wait, or wait=n with 1 to 60 seconds")
        headers["Prefer"] = prefer
        wait_s = min(int(asked[1] or WAIT_S_MAX), WAIT_S_MAX)
    if cancel_after is not None:
        if not _CANCEL_AFTER.fullmatch(cancel_after):
            raise _refused("Cancel-After is like 30, 30s, 5m or 1h30m45s")
        headers["Cancel-After"] = cancel_after
    return headers, wait_s


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise _refused("The input can't be written as JSON") from None


def _refused(detail: str) -> Rejected:
    return Rejected(status=422, title="Bad request", detail=detail, sent=False)


def _objects(told: Any, status: int) -> tuple[Mapping[str, Any], ...]:
    """The objects in a list; entries that are none are left out, since one odd entry must not hide the others."""
    if not isinstance(told, list):
        raise Unavailable(status=status, title="The body is no list where one was expected")
    return tuple(item for item in told if isinstance(item, dict))

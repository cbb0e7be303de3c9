"""Everything that listens on our one port: webhooks first, then the guard, then the routes."""

import asyncio
import logging
from urllib.parse import unquote, urlsplit

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from receiver.core.errors import LedgerUnavailable, MaybeMade, UpstreamError
from receiver.flows.give import Give
from receiver.runtime.bell import Ring
from receiver.runtime.house import House
from receiver.web.api import Api
from receiver.web.bodies import Bodies, BodyRefused, Gone
from receiver.web.feed import Feed
from receiver.web.files import Files
from receiver.web.gateway import Gateway, canonical
from receiver.web.guard import Guard, is_replicates
from receiver.web.health import Health
from receiver.web.hooks import Hooks, is_hook
from receiver.web.page import Page
from receiver.web.problems import Problem, not_found, problem_answer, retry_after, unavailable
from receiver.web.replays import Replays
from receiver.web.rescues import Rescues

REQUESTS_MAX = 1024
"""On the API and the page at once, readers of the feed and of files apart: beyond that they are shed, so that there is
always room for webhooks."""

ONCE = {"X-Should-Retry": "false"}
"""Replicate's newer Python client asks again after any 5xx, creates included, unless it is told not to."""

_WATCHING = ("/healthz", "/readyz", "/metrics")  # whoever watches us wants to know above all when we have no time
_UNLIMITED = ("/events", "/files/", *_WATCHING)  # the first two have limits of their own

_log = logging.getLogger(__name__)


class Application:
    """An ASGI application. `close` ends what would go on for ever, before the server waits for what is under way."""

    def __init__(self, house: House) -> None:
        bodies = Bodies()  # webhooks have their own, so that nobody else's bodies can crowd them out
        self.closing = asyncio.Event()
        self._bell = house.bell
        self._bodies = bodies
        self._pressed = house.ledger.pressed
        self._hooks = Hooks(accept=house.accept, begin=house.accept.begin, count=house.metrics.webhook, bodies=Bodies())
        self._prefix = unquote(urlsplit(house.settings.public_url).path).rstrip("/")
        self._guard = Guard(house.keys, house.settings.public_url, clock=_loop_s)
        self._feed = Feed(house)
        self._health = Health(house)
        self._answering = 0
        routes = [
            *Gateway(house, bodies).routes(),
            *Api(house).routes(),
            *Replays(house, bodies).routes(),
            *Rescues(house, bodies).routes(),
            *self._health.routes(),
            *Page(house).routes(),
            Route("/events", self._feed, methods=["GET"]),
            Route("/files/{link}/{name}", Files(Give(house.ledger, house.bucket)), methods=["GET", "OPTIONS"]),
        ]
        self._routes = Router(routes, redirect_slashes=False)

    async def close(self) -> None:
        self.closing.set()
        self._bell.ring_here([Ring.PREDICTIONS])  # who waits for one looks once more, and leaves
        self._health.close()
        await self._feed.tail.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        scope = self._below_prefix(scope)
        if is_hook(scope["path"]):
            await self._hooks(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    def is_webhook(self, scope: Scope) -> bool:
        """Whether a request brings a webhook: those are taken when nobody else is."""
        return is_hook(self._below_prefix(scope)["path"])

    def begin(self, scope: Scope, body: bytes) -> "asyncio.Future[bool] | None":
        """The express for webhooks: see `Hooks.begin`. None for everything else."""
        scope = self._below_prefix(scope)
        return self._hooks.begin(scope, body) if is_hook(scope["path"]) else None

    def _below_prefix(self, scope: Scope) -> Scope:
        """The public URL may have a path: whether a proxy takes it off or not, we are there."""
        path = scope["path"]
        if self._prefix and (path + "/").startswith(self._prefix + "/"):
            return {**scope, "path": path[len(self._prefix) :] or "/"}
        return scope

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything but webhooks. An error becomes an answer, or cuts the one that has begun."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._admitted(scope, receive, watched)
        except BodyRefused as refused:
            await self._refuse(refused, receive, send)
        except Exception as error:  # noqa: BLE001 - the caller gets an answer, the log gets the rest
            problem = self._problem(error, scope)
            if not started:
                await problem_answer(problem)(scope, receive, send)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, raw_path = scope["path"], scope.get("raw_path") or b""
        server = scope.get("server")
        key = self._guard.admit(scope["method"], path, scope["headers"], port=server and server[1])
        if is_replicates(path):
            path = canonical(path, raw_path)
        # With "app" in its scope the router raises what it does not find, and we answer in the shape of the route.
        scope = {**scope, "path": path, "app": self, "outkeep.key": key, "outkeep.closing": self.closing}
        if not path.startswith(_WATCHING) and self._pressed():
            raise unavailable("Webhooks come first, and there are many; try again in a moment.", retry_s=1)
        if path.startswith(_UNLIMITED):
            await self._routes(scope, receive, send)
            return
        if self._answering >= REQUESTS_MAX:
            raise unavailable("Too many requests at once; try again in a moment.", retry_s=1)
        self._answering += 1
        try:
            await self._routes(scope, receive, send)
        finally:
            self._answering -= 1

    async def _refuse(self, refused: BodyRefused, receive: Receive, send: Send) -> None:
        if isinstance(refused, Gone):
            return
        headers = retry_after(1) if refused.status == 503 else {}
        answer = problem_answer(Problem(refused.status, refused.title, refused.detail, headers=headers))
        kept = [(name, value) for name, value in answer.raw_headers if name != b"content-length"]
        start = {"type": "http.response.start", "status": refused.status, "headers": kept}
        await self._bodies.dismiss(receive, send, start, bytes(answer.body))

    def _problem(self, error: Exception, scope: Scope) -> Problem:
        if isinstance(error, Problem):
            return error
        if isinstance(error, UpstreamError):
            return _upstream(error)
        if isinstance(error, LedgerUnavailable):
            _log.warning("The ledger was needed in vain: %s", error)
            return unavailable("The ledger can't be read or written just now; try again in a moment.")
        if isinstance(error, HTTPException) and error.status_code == 404:
            return not_found()
        if isinstance(error, HTTPException) and error.status_code == 405:
            return self._wrong_method(scope)
        _log.error("A request could not be answered.", exc_info=error)
        return Problem(500, "Internal error", "Something went wrong here; the log of this Outkeep says what.")

    def _wrong_method(self, scope: Scope) -> Problem:
        path = canonical(scope["path"], scope["raw_path"]) if is_replicates(scope["path"]) else scope["path"]
        found = [route for route in self._routes.routes if isinstance(route, Route) and route.path_regex.match(path)]
        allowed = sorted({method for route in found for method in route.methods or ()})
        detail = f"Method {scope['method']} is not allowed here."
        return Problem(405, "Method not allowed", detail, headers={"Allow": ", ".join(allowed)})

    async def _live(self, receive: Receive, send: Send) -> None:
        """For servers other than ours."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


def create_app(house: House) -> Application:
    """The web side of a service."""
    return Application(house)


def _upstream(error: UpstreamError) -> Problem:
    """What Replicate said, in its own words; a status that is no error is one of a broken gateway."""
    status = error.status if 400 <= error.status <= 599 else 502
    told = {**error.problem, "status": status}
    headers = dict(ONCE) if isinstance(error, MaybeMade) else {}
    if error.retry_after_s is not None:
        headers |= retry_after(error.retry_after_s)
        told.setdefault("retry_after", int(headers["Retry-After"]))
    return Problem(status, "Replicate said no", str(error), headers=headers, body=told)


def _loop_s() -> float:
    return asyncio.get_running_loop().time()

"""`/healthz`, `/readyz`, `/metrics` and the schemas of our events: what other programs look at."""

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.core.errors import LedgerUnavailable
from receiver.core.schemas import schema
from receiver.runtime.house import House
from receiver.runtime.telemetry import CONTENT_TYPE
from receiver.web.problems import NO_STORE, json_answer, json_bytes, not_found

LOOK_S_MAX = 3.0  # a ledger that takes longer to write one row does not take deliveries
PATIENCE_S = 0.5  # for a look at bucket and Replicate; the next answer has what came later
READY_S = 1.0  # how long one look holds: anybody may ask, and each look costs a commit
UNAVAILABLE, DEGRADED, OK = "unavailable", "degraded", "ok"


@dataclass(slots=True)
class Health:
    """The endpoints."""

    house: House
    _look: asyncio.Future[None] | None = None
    _failing: list[str] = field(default_factory=list)
    _writable: bool = False
    _looked_s: float = -float("inf")
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self.alive, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/schemas/{name}/1.json", self.schema, methods=["GET"]),
        ]

    def close(self) -> None:
        if self._look is not None:
            self._look.cancel()

    async def alive(self, _: Request) -> Response:
        return json_answer({"status": OK})

    async def ready(self, _: Request) -> Response:
        """503 only when no delivery could be taken: whatever else is down, webhooks must still come in."""
        if not await self._takes_deliveries():
            return json_answer({"status": UNAVAILABLE, "failing": ["ledger"]}, 503, {"Retry-After": "1"})
        failing = await self._known_failing()
        return json_answer({"status": DEGRADED, "failing": failing} if failing else {"status": OK})

    async def metrics(self, _: Request) -> Response:
        ledger = self.house.ledger
        counts = {**await ledger.counts(), "at_risk": await ledger.count_at_risk(self.house.risky_before_ms())}
        text = self.house.metrics.render(counts, now_ms=self.house.now_ms())
        return Response(text, headers={**NO_STORE, "Content-Type": CONTENT_TYPE})

    async def schema(self, request: Request) -> Response:
        told = schema(request.path_params["name"], self.house.links)
        if told is None:
            raise not_found("There is no event of this type.")
        headers = {"Cache-Control": "public, max-age=3600", "Access-Control-Allow-Origin": "*"}
        return Response(json_bytes(told), headers=headers, media_type="application/schema+json")

    async def _known_failing(self) -> list[str]:
        """What is down as far as we know: a probe of a second must not time out because the bucket does."""
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(self._look_around())
        await asyncio.wait([self._look], timeout=PATIENCE_S)
        return self._failing

    async def _look_around(self) -> None:
        """Kept whoever still waits for it: one that took long is what the next answer has."""
        self._failing = await self.house.failing()

    async def _takes_deliveries(self) -> bool:
        clock = asyncio.get_running_loop().time
        async with self._looking:
            if clock() - self._looked_s >= READY_S:
                try:
                    async with asyncio.timeout(LOOK_S_MAX):
                        self._writable = await self.house.ledger.ready()
                except (LedgerUnavailable, TimeoutError):
                    self._writable = False
                self._looked_s = clock()
        return self._writable and not self.house.ledger.is_broken()

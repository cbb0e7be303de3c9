"""A call that was not verified: kept to be looked at and judged again, as far as that costs nobody else anything."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence

from receiver.core.delivery import UNVERIFIED_PREFIX, Delivery, DeliveryState
from receiver.core.errors import LedgerUnavailable
from receiver.ledger.ledger import Ledger
from receiver.replicate.signature import Reason

BURST = 60
RATE_PER_S = 1.0
"""Calls kept: a burst, then so many a second. Enough to see what comes; a flood costs the disk one sync a second."""

ROWS_MAX = 5_000
"""In the ledger, the oldest go first: at that rate more than an hour's, longer than an output can be fetched."""

BYTES_MAX = 64 * 2**20  # of their bodies and headers together
BODY_BYTES_MAX = 256 * 1024  # webhooks have 2 KB, some hundreds; a longer body is not kept
HEADERS_BYTES_MAX = 16 * 1024  # beyond it only those are kept that the verdict depends on, and of these no more
WAITING_MAX = 64  # in memory
WAITING_BYTES_MAX = 4 * 2**20
GATHER_S = 0.2  # what comes in this time shares a transaction
CLOSE_S = 2.0  # what can't be written by then is dropped
SAY_EVERY_S = 300.0  # a mistyped secret shows at once, a flood fills no log

_REASONS = {
    None: "no signing secret was known yet",
    Reason.HEADER_MISSING: "a header of the signature is missing",
    Reason.HEADER_REPEATED: "a header of the signature is there twice",
    Reason.ID_MALFORMED: "its webhook-id is malformed",
    Reason.TIMESTAMP_MALFORMED: "its timestamp is malformed",
    Reason.TIMESTAMP_OUTSIDE: "its timestamp is over 5 minutes off",
    Reason.SIGNATURE_MALFORMED: "its signature is malformed",
    Reason.UNEXPLAINED: "signed with no secret that we know",
}
_SIGNING = b"webhook-"  # how the headers begin that the verdict depends on

log = logging.getLogger("outkeep.quarantine")


class Quarantine:
    """`keep` never waits and never fails; a task writes what it took. Without room for a call, it is dropped.

    `clock` gives seconds that never go back, `chance` a name that nobody has, `count` hears `kept` or `dropped`.
    """

    def __init__(
        self, *, ledger: Ledger, clock: Callable[[], float], chance: Callable[[], str], count: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._chance = chance
        self._count = count
        self._tokens, self._filled_s = float(BURST), clock()
        self._waiting: deque[Delivery] = deque()
        self._bytes = 0  # of what waits or is being written
        self._unsaid, self._said_s = 0, -float("inf")
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def keep(
        self,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        token: str | None,
        received_ms: int,
        reason: Reason | None,
    ) -> None:
        """Keep a call if there is room; `reason` is None for one that came before any secret was known."""
        self._say(_REASONS[reason])
        if self._closing.is_set() or not self._may():
            self._count("dropped")
            return
        kept, told = _capped(body, headers, _REASONS[reason])
        call = Delivery(
            id=UNVERIFIED_PREFIX + self._chance(),
            received_ms=received_ms,
            body=body if len(body) <= BODY_BYTES_MAX else b"",
            headers=kept,
            token=token,
            state=DeliveryState.UNVERIFIED,
            reason=told,
        )
        size = len(call.body) + _length(call.headers)
        if len(self._waiting) >= WAITING_MAX or self._bytes + size > WAITING_BYTES_MAX:
            self._count("dropped")
            return
        self._waiting.append(call)
        self._bytes += size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="quarantine")

    async def close(self) -> None:
        """Write what waits, as far as that is quickly done."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _say(self, reason: str) -> None:
        self._unsaid += 1
        if self._clock() - self._said_s >= SAY_EVERY_S:
            log.warning(
                "a webhook was refused: %s (refused since the last line like this: %d); "
                "see `outkeep deliveries --state quarantined`",
                reason,
                self._unsaid,
            )
            self._unsaid, self._said_s = 0, self._clock()

    def _may(self) -> bool:
        now_s = self._clock()
        self._tokens = min(BURST, self._tokens + (now_s - self._filled_s) * RATE_PER_S)
        self._filled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def _write(self) -> None:
        while self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), GATHER_S)
            calls = list(self._waiting)
            self._waiting.clear()
            outcome = "kept" if await self._written(calls) else "dropped"
            self._bytes -= sum(len(call.body) + _length(call.headers) for call in calls)
            for _ in calls:
                self._count(outcome)

    async def _written(self, calls: Sequence[Delivery]) -> bool:
        try:
            await self._ledger.quarantine(calls, rows_max=ROWS_MAX, bytes_max=BYTES_MAX)
        except LedgerUnavailable:
            return False  # whoever needs the ledger says so; this was to cost nobody anything
        except Exception:
            log.exception("calls that were not verified could not be kept")
            return False
        return True


def _capped(
    body: bytes, headers: Sequence[tuple[bytes, bytes]], reason: str
) -> tuple[Sequence[tuple[bytes, bytes]], str]:
    """The headers that are kept, and the reason with what is not."""
    if len(body) > BODY_BYTES_MAX:
        reason += f"; its body of {len(body)} bytes was not kept"
    if _length(headers) <= HEADERS_BYTES_MAX:
        return tuple(headers), reason
    signing = tuple((name, value) for name, value in headers if name.lower().startswith(_SIGNING))
    return signing if _length(signing) <= HEADERS_BYTES_MAX else (), f"{reason}; of its headers not all were kept"


def _length(headers: Sequence[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)

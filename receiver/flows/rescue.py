"""One more look at all that may still be had: the account's list, and the outputs that were given up."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from receiver.core.ring import Ring
from receiver.flows.sweep import Sweep
from receiver.flows.upstream import problem
from receiver.ledger.ledger import Ledger

WALK_MS_MAX = 30_000  # of the list in one go: whoever asked waits for the answer, and asks for the next part
RUN_MS_MAX = 1_800_000  # a prediction runs for half an hour: what ended since a moment began no earlier before it
LOST_MAX = 100  # outputs opened again in one transaction
LOST_AGAIN_MAX = 10_000  # and in one go, all of which are fetched once more
REASONS = ("gone", "unavailable", "conflict", "refused")  # that may have passed


@dataclass(frozen=True, slots=True)
class Rescued:
    """What a rescue set going: ids new to us, and ids that we knew less of; how many of both still run; outputs (by
    prediction and path) that are tried again. `next_ms`: the list goes on with what was created before; None at its
    end.
    """

    since_ms: int
    found: tuple[str, ...]
    updated: tuple[str, ...]
    running: tuple[str, ...]
    tried_again: tuple[tuple[str, str], ...]
    next_ms: int | None


@dataclass(frozen=True, slots=True)
class Rescue:
    """Sweep back to a moment, and have lost outputs fetched again; archiving itself is the worker's, as ever."""

    ledger: Ledger
    sweep: Sweep
    ring: Callable[..., None]
    now_ms: Callable[[], int]
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def under_way(self) -> bool:
        return self._turn.locked()

    async def __call__(self, since_ms: int, *, before_ms: int | None = None) -> Rescued:
        """All that ended since then; `before_ms` goes on where another one ended. Raises UpstreamError."""
        async with self._turn:
            back_to_ms = max(0, since_ms - RUN_MS_MAX)
            again = [] if before_ms is not None else await self._try_again(back_to_ms)
            walk = await self.sweep.walk(back_to_ms, before_ms=before_ms, until_ms=self.now_ms() + WALK_MS_MAX)
        if walk.error is not None and walk.down_to_ms is None:
            raise problem(walk.error) from walk.error
        return Rescued(
            since_ms=since_ms,
            found=tuple(walk.found),
            updated=tuple(walk.updated),
            running=tuple(sorted(walk.running)),
            tried_again=tuple(again),
            next_ms=None if walk.whole or walk.down_to_ms is None else walk.down_to_ms + 1,
        )

    async def _try_again(self, created_after_ms: int) -> list[tuple[str, str]]:
        """By id, so that one which is lost once more meanwhile does not come again."""
        opened: list[tuple[str, str]] = []
        after_id = 0
        while len(opened) < LOST_AGAIN_MAX:
            lost = await self.ledger.lost_outputs(
                REASONS, created_after_ms=created_after_ms, after_id=after_id, limit=LOST_MAX
            )
            if not lost:
                break
            async with self.ledger.transaction() as tx:
                await tx.lock({prediction_id for _, prediction_id, _ in lost})
                await tx.reopen([number for number, _, _ in lost])
            self.ring(Ring.OUTPUTS)
            opened += [(prediction_id, path) for _, prediction_id, path in lost]
            after_id = lost[-1][0]
        return opened

"""One more look at all that may still be had: the account's list, and the outputs that were given up."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from receiver.core.ring import Ring
from receiver.flows.sweep import Sweep, Walk
from receiver.flows.upstream import problem
from receiver.ledger.ledger import Ledger
from receiver.ledger.rescuing import Lost

WALK_MS_MAX = 30_000  # of the list in one go: whoever asked waits for the answer, and asks for the next part
RUN_MS_MAX = 1_800_000  # a prediction runs for half an hour: what ended since a moment began no earlier before it
LOST_MAX = 100  # outputs opened again in one transaction
LOST_GAP_MS = 2_000  # between two such lots: their deadlines are over, and would go before those that can be met
LOST_SEEN_MAX = 10_000  # looked at in one go
TOO_MANY = "More than {count} outputs are lost, and only the oldest were looked at: look back less far for the others."
REASONS = ("gone", "unavailable", "conflict", "refused")  # that may have passed


@dataclass(frozen=True, slots=True)
class Rescued:
    """What a rescue set going: ids new to us, ids that we knew less of, those of both that still run, outputs that are
    tried again; `gone` are lost outputs that can't be. `settled` counts what the list told and we knew to its end.
    `next_ms`: the list goes on with what was created before; None at its end. `trouble` says what is left out.
    """

    since_ms: int
    found: tuple[str, ...]
    updated: tuple[str, ...]
    running: tuple[str, ...]
    settled: int
    tried_again: tuple[Lost, ...]
    gone: tuple[Lost, ...]
    next_ms: int | None
    trouble: str | None


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
        """All that ended since then; `before_ms` goes on where another one ended.

        Raises UpstreamError when nothing came of it: without the list, lost outputs are still tried again.
        """
        async with self._turn:
            back_to_ms = max(0, since_ms - RUN_MS_MAX)
            lost = [] if before_ms is not None else await self._reopened(back_to_ms)
            walk = await self.sweep.walk(back_to_ms, before_ms=before_ms, until_ms=self.now_ms() + WALK_MS_MAX)
        if walk.error is not None and walk.down_to_ms is None and not lost:
            raise problem(walk.error) from walk.error
        return Rescued(
            since_ms=since_ms,
            found=tuple(walk.found),
            updated=tuple(walk.updated),
            running=tuple(sorted(walk.running)),
            settled=walk.settled,
            tried_again=tuple(each for each in lost if _may_be_back(each)),
            gone=tuple(each for each in lost if not _may_be_back(each)),
            next_ms=None if walk.whole or walk.down_to_ms is None else walk.down_to_ms + 1,
            trouble=_trouble(walk, lost),
        )

    async def _reopened(self, created_after_ms: int) -> list[Lost]:
        """What is lost, after all of it that may be back was opened again. By id: what is lost once more comes once."""
        seen: list[Lost] = []
        lots = 0
        while len(seen) < LOST_SEEN_MAX:
            after_id = seen[-1].id if seen else 0
            lost = await self.ledger.lost_outputs(created_after_ms=created_after_ms, after_id=after_id, limit=LOST_MAX)
            if not lost:
                break
            seen += lost
            again = [each for each in lost if _may_be_back(each)]
            async with self.ledger.transaction() as tx:
                await tx.lock({each.prediction_id for each in again})
                await tx.reopen([each.id for each in again], due_in_ms=lots * LOST_GAP_MS)
            lots += bool(again)
            self.ring(Ring.OUTPUTS)
        return seen


def _trouble(walk: Walk, lost: Sequence[Lost]) -> str | None:
    if walk.error is not None and walk.down_to_ms is None:
        return f"The account's list could not be read: {problem(walk.error)}"
    return TOO_MANY.format(count=LOST_SEEN_MAX) if len(lost) >= LOST_SEEN_MAX else None


def _may_be_back(lost: Lost) -> bool:
    """Of a `data:` URI nothing is kept, and of what Replicate had removed no address was ever known."""
    return lost.reason in REASONS and lost.source != "" and not lost.source.startswith("data:")

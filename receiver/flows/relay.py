"""Giving events their place in the feed: by one numberer, after they are committed, so that no cursor skips one."""

from collections.abc import Callable
from dataclasses import dataclass

from receiver.core.ring import Ring
from receiver.ledger.ledger import Ledger

NUMBERED_MAX = 1000  # events in one transaction


@dataclass(frozen=True, slots=True)
class Relay:
    ledger: Ledger
    ring: Callable[..., None]

    async def step(self, limit: int = NUMBERED_MAX) -> int:
        """Number what is new, in order; gives how many events that were."""
        numbered = await self.ledger.number_events(limit)
        if numbered:
            self.ring(Ring.FEED)
        return numbered

"""Outputs at risk are told in the log, each once, long before they are lost: also those that nobody came to fetch."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from receiver.core.output import Output, risky_before_ms
from receiver.ledger.ledger import Ledger

TOLD_MAX = 10_000  # remembered as told; whatever is at risk beyond that may be told again
LINES_MAX = 20  # of one step; the rest is told by its number, since thousands of lines would say no more

log = logging.getLogger("outkeep.deadlines")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Looks at what is left of the time. Changes nothing."""

    ledger: Ledger
    output_ttl_ms: int
    now_ms: Callable[[], int]
    told: dict[int, None] = field(default_factory=dict)

    async def step(self) -> int:
        """Tell what became at risk; gives how many."""
        now_ms = self.now_ms()
        risky = await self.ledger.at_risk(risky_before_ms(now_ms, self.output_ttl_ms), TOLD_MAX)
        fresh = [output_id for output_id in risky if output_id not in self.told]
        if not fresh:
            return 0
        for output in await self.ledger.outputs_with(fresh[:LINES_MAX]):
            log.warning("%s of %s is at risk: %s", output.path, output.prediction_id, _why(output, now_ms))
        if len(fresh) > LINES_MAX:
            log.warning("%d more outputs are at risk: see /api/outputs?at_risk=true", len(fresh) - LINES_MAX)
        self.told.update(dict.fromkeys(fresh))
        for output_id in list(self.told)[: max(0, len(self.told) - TOLD_MAX)]:
            del self.told[output_id]
        return len(fresh)


def _why(output: Output, now_ms: int) -> str:
    left_s = (output.expires_ms - now_ms) // 1000
    when = f"it vanishes in {left_s} s" if left_s > 0 else f"it may have vanished {-left_s} s ago"
    met = f"the last attempt met {output.history[-1].problem}" if output.history else "no attempt has ended yet"
    return f"{when}, {output.attempts} attempts so far, {met}"

"""What became of requests whose answer we never received: each is explained by a prediction, or was never made."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from receiver.core.clock import iso
from receiver.core.intent import Likeness, likeness, model_of
from receiver.core.prediction import Prediction
from receiver.flows.sweep import Sweep
from receiver.ledger.ledger import Ledger
from receiver.ledger.nouns import Intent, IntentState

log = logging.getLogger("outkeep.explain")

UNDER_WAY_MS = 60_000  # a call ends within half a minute: an older one died with its process
UNCLEAR_MS = 2_000  # one that ended without a clear answer may be looked for as soon as the list knows of it
SKEW_MS = 60_000  # between Replicate's clock and ours
MADE_MS_MAX = 120_000  # after the request, by our clock: what is created later is not what it asked for
GIVE_UP_MS = 600_000  # the list is up to date long before that
CANDIDATES_MAX = 2_000  # predictions looked at for one request: more than 600 a minute can't be created


@dataclass(frozen=True, slots=True)
class Explain:
    """Read the list where predictions of unanswered requests would be, and give each to the request that it fits."""

    ledger: Ledger
    sweep: Sweep
    now_ms: Callable[[], int]

    async def step(self) -> int:
        """Gives how many requests are explained now."""
        now_ms = self.now_ms()
        waiting = [each for each in await self.ledger.open_intents(now_ms) if _is_due(each, now_ms)]
        if not waiting:
            return 0
        begin_ms, end_ms = waiting[0].made_ms - SKEW_MS, waiting[-1].made_ms + MADE_MS_MAX
        walk = await self.sweep.walk(begin_ms, before_ms=end_ms)
        explained = [await self._one(each) for each in waiting]
        if walk.whole:
            for intent in waiting:
                if now_ms - intent.made_ms > GIVE_UP_MS:
                    await self._never_made(intent)
        return sum(explained)

    async def _one(self, intent: Intent) -> bool:
        """Find the prediction of one request; True when there is one."""
        likely = await self._likely(intent)
        if not likely:
            return False
        async with self.ledger.transaction() as tx:
            known = await tx.lock(likely)
            now_known = await tx.intended(intent.token)
            if now_known is None or now_known.state == IntentState.KNOWN:
                return False  # another process was quicker
            taken = await tx.explained(likely, since_ms=intent.made_ms - SKEW_MS - MADE_MS_MAX)
            free = [known[each] for each in likely if each not in taken and each in known]
            if free:
                await tx.save([replace(free[0], key_name=free[0].key_name or intent.key_name)])
                await tx.explain({intent.token: free[0].id})
        if free:
            log.info("prediction %s came of a request whose answer was not received", free[0].id)
        return bool(free)

    async def _likely(self, intent: Intent) -> list[str]:
        """Predictions that fit, the best first."""
        request = intent.request or {}
        fitting: list[tuple[Likeness, Prediction]] = []
        seen, after = 0, None
        while seen < CANDIDATES_MAX:
            page = await self.ledger.predictions(
                model=model_of(intent.path, request),
                created_after_ms=intent.made_ms - SKEW_MS,
                created_before_ms=intent.made_ms + MADE_MS_MAX,
                after=after,
                limit=100,
            )
            fitting += [(fits, each) for each in page.items if (fits := likeness(intent.path, request, each))]
            seen, after = seen + len(page.items), page.next
            if after is None:
                break
        fitting.sort(key=lambda each: (-each[0], abs(each[1].created_ms - intent.made_ms), each[1].id))
        return [each.id for _, each in fitting]

    async def _never_made(self, intent: Intent) -> None:
        """The list has no prediction for it. What is explained by now stays so: that word is the last."""
        await self.ledger.resolve_intent(intent.token, state=IntentState.REJECTED, prediction_id=None)
        now_known = await self.ledger.intent(intent.token)
        if now_known is not None and now_known.state == IntentState.REJECTED:
            made = iso(intent.made_ms)
            log.warning(
                "a request of %s (%s) was never made: Replicate's list has no such prediction", made, intent.path
            )


def _is_due(intent: Intent, now_ms: int) -> bool:
    age_ms = now_ms - intent.made_ms
    return age_ms >= (UNCLEAR_MS if intent.state == IntentState.UNCLEAR else UNDER_WAY_MS)

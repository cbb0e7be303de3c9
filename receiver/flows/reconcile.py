"""Asking Replicate ourselves about predictions that it has fallen silent about: the guarantee behind the webhook."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from receiver.core.errors import UpstreamError
from receiver.core.prediction import Prediction, Source, Update
from receiver.flows.asking import Patience
from receiver.flows.observe import Observe
from receiver.flows.upstream import bad_gateway, problem
from receiver.ledger.ledger import Ledger
from receiver.ledger.nouns import UpdateRow
from receiver.replicate.client import Replicate
from receiver.replicate.errors import NotFound, ReplicateError
from receiver.replicate.payload import Unreadable, read_update

QUESTIONS_MAX = 16  # asked at once: far below Replicate's 3,000 a minute
LEASE_MS = 15_000  # a question that got no answer by then is asked again
QUESTION_S_MAX = 14.0  # for one answer: when its lease ends, nobody is still waiting for it
DENIALS_MIN = 3  # in a row, before we believe that a prediction is not there
ABSENT = "absent"  # our word for that, among the updates of a prediction
DENIED = (
    "Replicate does not know this prediction (any more): asked {times} times, nothing was heard of it for {minutes}"
    " minutes. What it may have made can't be had any more."
)

log = logging.getLogger("outkeep.reconcile")


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask Replicate about one prediction, whether we know it or not."""

    replicate: Replicate
    observe: Observe
    now_ms: Callable[[], int]

    async def __call__(self, prediction_id: str) -> Prediction | None:
        """The prediction as known afterwards, None when Replicate does not know it. Raises UpstreamError."""
        try:
            told = await self.replicate.get(prediction_id)
            update = read_update(told, source=Source.POLL, received_ms=self.now_ms())
        except NotFound:
            return None
        except ReplicateError as error:
            raise problem(error) from error
        except Unreadable as error:
            raise bad_gateway(error.reason) from error
        if update.prediction_id != prediction_id:
            raise bad_gateway("Replicate told of another prediction than we asked about.")
        (prediction,) = await self.observe([update])
        return prediction


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Ask about every open prediction whose time has come."""

    ledger: Ledger
    ask: Ask
    patience: Patience

    async def step(self, limit: int = QUESTIONS_MAX) -> int:
        """Gives the number of predictions that Replicate was asked about; one without an answer becomes due again."""
        due = await self.ledger.claim_questions(limit, lease_ms=LEASE_MS)
        waiting = {prediction.id for prediction in due}
        try:
            await asyncio.gather(*(self._one(prediction, waiting) for prediction in due))
        except asyncio.CancelledError:
            await asyncio.shield(self.ledger.hand_back_questions(waiting))
            raise
        return len(due)

    async def _one(self, prediction: Prediction, waiting: set[str]) -> None:
        try:
            async with asyncio.timeout(QUESTION_S_MAX):
                known = await self.ask(prediction.id)
        except (UpstreamError, TimeoutError):
            known = prediction  # the claim moved its due time: it will be asked again
        waiting.discard(prediction.id)
        if known is None:
            await self._denied(prediction)

    async def _denied(self, prediction: Prediction) -> None:
        """Replicate does not know it. That may pass; after the life of an output nothing of it can be had any more."""
        now_ms, ttl_ms = self.ask.now_ms(), self.ask.observe.output_ttl_ms
        times = 1 + await self.ledger.times_told(prediction.id, ABSENT, after_ms=prediction.heard_ms)
        if now_ms - prediction.heard_ms >= ttl_ms and times >= DENIALS_MIN:
            error = DENIED.format(times=times, minutes=(now_ms - prediction.heard_ms) // 60_000)
            told = {"id": prediction.id, "status": "failed", "error": error}
            await self.ask.observe([Update(prediction.id, Source.POLL, now_ms, told)])
            log.error("prediction %s is given up: %s", prediction.id, error)
            return
        async with self.ledger.transaction() as tx:
            now_known = (await tx.lock([prediction.id])).get(prediction.id)
            if now_known is not None and not now_known.final:
                await tx.save([self.patience.absent(now_known, output_ttl_ms=ttl_ms)])
                await tx.heard([UpdateRow(prediction.id, now_ms, Source.POLL, ABSENT)])

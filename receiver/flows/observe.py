"""The one door for truth: what Replicate said, by whatever road, is merged into what we know."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from receiver.core import event as events
from receiver.core.delivery import Delivery, DeliveryState
from receiver.core.errors import LedgerRefused, LedgerUnavailable
from receiver.core.files import FileRule
from receiver.core.links import Links
from receiver.core.prediction import Decision, Prediction, Source, Update, decide
from receiver.core.ring import Ring
from receiver.flows.asking import Patience
from receiver.flows.schemas import Schemas
from receiver.ledger.ledger import Ledger
from receiver.ledger.transaction import Transaction
from receiver.replicate.payload import Unreadable, read_delivery, read_update

log = logging.getLogger("outkeep.observe")

READ_MAX = 100  # deliveries in one transaction: enough to share its fsync, few enough to let others have their turn
_LARGE_BODY_BYTES = 256 * 1024  # parsing more than this would hold up everybody on the event loop


@dataclass(frozen=True, slots=True)
class Observe:
    """Merge updates: predictions, outputs and events change in one transaction, or nothing does."""

    ledger: Ledger
    links: Links
    rule: FileRule
    schemas: Schemas
    patience: Patience
    output_ttl_ms: int
    link: Callable[[], str]
    ring: Callable[..., None]

    async def step(self, limit: int = READ_MAX) -> int:
        """Read what came by webhook, oldest first; gives the number of deliveries that were read.

        One that can't be processed, for whatever reason that is its own, is quarantined and stops nobody behind it.
        """
        try:
            return await self._batch(limit, set())
        except LedgerRefused:
            pass  # one of them holds what can't be written
        except LedgerUnavailable:
            raise  # a full disk, a lost connection, a deadlock: no delivery is to blame, and all are read later
        except Exception:
            log.exception("deliveries could not be read together; they are read one by one")
        return await self._one_by_one()

    async def _one_by_one(self) -> int:
        taken: set[str] = set()
        try:
            return await self._batch(1, taken)
        except Exception as error:
            if isinstance(error, LedgerUnavailable) and not isinstance(error, LedgerRefused):
                raise
            reason = f"It could not be processed ({type(error).__name__})."
            async with self.ledger.transaction() as tx:
                guilty = [delivery for delivery in await tx.unread(1) if delivery.id in taken]
                await tx.mark([(delivery.id, DeliveryState.QUARANTINED, reason, None) for delivery in guilty])
            return len(guilty)

    async def _batch(self, limit: int, taken: set[str]) -> int:
        """Read at most `limit` deliveries, whose ids are put into `taken`; gives how many those were."""
        unknown: set[tuple[str, str]] = set()
        async with self.ledger.transaction() as tx:
            deliveries = await tx.unread(limit)
            taken.update(delivery.id for delivery in deliveries)
            if not deliveries:
                return 0
            updates, verdicts = await self._read(deliveries, unknown)
            tokens = {delivery.id: delivery.token for delivery in deliveries if delivery.token}
            names = await tx.key_names(set(tokens.values()))
            owners = [names.get(tokens.get(update.delivery_id or "", "")) for update in updates]
            decisions, finished = await self._merge(tx, updates, owners)
            verdicts += [
                (update.delivery_id or "", decision.verdict, decision.reason, update.prediction_id)
                for update, decision in zip(updates, decisions, strict=True)
            ]
            await tx.mark(verdicts)
        self._ring(decisions, finished)
        for model, version in unknown:
            await self.schemas.learn(model, version)
        return len(deliveries)

    async def __call__(self, updates: Sequence[Update], *, key_name: str | None = None) -> list[Prediction]:
        """Merge what was heard in an answer of Replicate's API; gives the predictions as known afterwards."""
        for update in updates:
            missing = self._schema_missing(update)
            if missing:
                await self.schemas.learn(*missing)
        async with self.ledger.transaction() as tx:
            decisions, finished = await self._merge(tx, updates, [key_name] * len(updates))
        self._ring(decisions, finished)
        return [decision.prediction for decision in decisions]

    async def _read(
        self, deliveries: Sequence[Delivery], unknown: set[tuple[str, str]]
    ) -> tuple[list[Update], list[tuple[str, DeliveryState, str | None, str | None]]]:
        """Updates out of bodies. What can't be understood is quarantined; what waits for a schema stays unread."""
        updates: list[Update] = []
        quarantined: list[tuple[str, DeliveryState, str | None, str | None]] = []
        for delivery in deliveries:
            try:
                update = await _update(delivery)
            except Unreadable as verdict:
                quarantined.append((delivery.id, DeliveryState.QUARANTINED, verdict.reason, None))
                continue
            missing = self._schema_missing(update)
            if missing:
                unknown.add(missing)
            else:
                updates.append(update)
        return updates, quarantined

    def _schema_missing(self, update: Update) -> tuple[str, str] | None:
        return self.schemas.missing(update, self.rule)

    async def _merge(
        self, tx: Transaction, updates: Sequence[Update], owners: Sequence[str | None]
    ) -> tuple[list[Decision], int]:
        """What becomes of each update, and how many manifests are due now."""
        known = await tx.lock({update.prediction_id for update in updates})
        decisions = [self._decide(known, update, owner) for update, owner in zip(updates, owners, strict=True)]
        await tx.save(list(known.values()))
        for update, decision in zip(updates, decisions, strict=True):
            if decision.found:
                await tx.found(
                    update.prediction_id,
                    decision.found,
                    expires_ms=self._expires_ms(decision.prediction, update),
                    link=self.link,
                )
        heard = zip(updates, decisions, strict=True)
        await tx.heard([update for update, decision in heard if _kept(update, decision)])
        await tx.tell([event for decision in decisions for event in decision.events])
        await tx.unfinish({decision.prediction.id for decision in decisions if _told_more_of_its_end(decision)})
        finished = await tx.finish({prediction.id for prediction in known.values() if prediction.final})
        return decisions, finished

    def _decide(self, known: dict[str, Prediction], update: Update, owner: str | None) -> Decision:
        """Decide on one update, and remember the outcome for the next one about the same prediction."""
        rule = replace(self.rule, by_schema=self.schemas.files(update))
        decision = decide(known.get(update.prediction_id), update, is_file=rule, links=self.links, key_name=owner)
        prediction = self.patience.after(decision.prediction, update)
        known[update.prediction_id] = prediction
        return replace(decision, prediction=prediction)

    def _ring(self, decisions: Sequence[Decision], finished: int) -> None:
        """Wake those, and only those, who have something to do now."""
        if any(decision.found for decision in decisions):
            self.ring(Ring.OUTPUTS)
        if finished:
            self.ring(Ring.MANIFESTS)
        if any(decision.events for decision in decisions):
            self.ring(Ring.EVENTS)
        if not all(decision.prediction.final for decision in decisions):
            self.ring(Ring.QUESTIONS)
        if decisions:
            self.ring(Ring.PREDICTIONS)

    def _expires_ms(self, prediction: Prediction, update: Update) -> int:
        began_ms = update.received_ms if prediction.completed_ms is None else prediction.completed_ms
        return began_ms + self.output_ttl_ms


async def _update(delivery: Delivery) -> Update:
    if len(delivery.body) > _LARGE_BODY_BYTES:
        told = await asyncio.to_thread(read_delivery, delivery.body)
    else:
        told = read_delivery(delivery.body)
    return read_update(told, source=Source.WEBHOOK, received_ms=delivery.received_ms, delivery_id=delivery.id)


def _told_more_of_its_end(decision: Decision) -> bool:
    """Whether a manifest that is due, or being written this moment, would lack what was heard just now."""
    ends = any(event.type == events.COMPLETED for event in decision.events)
    return decision.prediction.final and decision.verdict == DeliveryState.APPLIED and not ends


def _kept(update: Update, decision: Decision) -> bool:
    """Every webhook leaves a row, a poll only when it told something: a slow model must not fill the disk."""
    return update.source == Source.WEBHOOK or decision.verdict == DeliveryState.APPLIED

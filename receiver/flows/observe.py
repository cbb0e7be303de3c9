"""The one door for truth: what Replicate said, by whatever road, is merged into what we know."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from receiver.core import event as events
from receiver.core.delivery import Delivery, DeliveryState
from receiver.core.errors import LedgerRefused, LedgerUnavailable
from receiver.core.files import FileRule
from receiver.core.links import Links
from receiver.core.prediction import Decision, Prediction, Sifted, Source, Update, decide, sift
from receiver.core.ring import Ring
from receiver.flows.asking import Patience
from receiver.flows.schemas import Schemas
from receiver.ledger.ledger import Ledger
from receiver.ledger.transaction import Transaction
from receiver.replicate.payload import Unreadable, read_delivery, read_update

log = logging.getLogger("outkeep.observe")

READ_MAX = 100  # deliveries in one transaction: enough to share its fsync, few enough to let others have their turn
PRESSED_READ_MAX = 10  # while webhooks queue for the disk: they wait for as long as our transaction takes
_LARGE_BYTES = 256 * 1024  # reading more than this would hold up everybody on the event loop


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
            return await self._batch(min(limit, PRESSED_READ_MAX) if self.ledger.pressed() else limit, [])
        except LedgerRefused:
            pass  # one of them holds what can't be written
        except LedgerUnavailable:
            raise  # a full disk, a lost connection, a deadlock: no delivery is to blame, and all are read later
        except Exception:
            log.exception("deliveries could not be read together; they are read one by one")
        return await self._one_by_one()

    async def _one_by_one(self) -> int:
        waiting: list[Delivery] = []
        try:
            return await self._batch(1, waiting)
        except Exception as error:
            if isinstance(error, LedgerUnavailable) and not isinstance(error, LedgerRefused):
                raise
            reason = f"It could not be processed ({type(error).__name__})."
            async with self.ledger.transaction() as tx:
                guilty = await tx.take(waiting)
                await tx.mark([(delivery.id, DeliveryState.QUARANTINED, reason, None) for delivery in guilty])
            return len(guilty)

    async def _batch(self, limit: int, waiting: list[Delivery]) -> int:
        """Read at most `limit` deliveries, which are put into `waiting`; gives how many were ours to read.

        What takes long comes before the transaction: while that lasts, no webhook can be taken in.
        """
        waiting.extend(await self.ledger.unread(limit))
        if not waiting:
            return 0
        read = await self._read(waiting)
        async with self.ledger.transaction() as tx:
            ours = {delivery.id: delivery.token for delivery in await tx.take(waiting)}
            heard = [each for each in read.heard if each.update.delivery_id in ours]
            tokens = [ours[each.update.delivery_id or ""] for each in heard]
            decisions, finished = await self._merge(tx, heard, await self._owners(tx, heard, tokens))
            verdicts = [verdict for verdict in read.quarantined if verdict[0] in ours] + [
                (each.update.delivery_id or "", decision.verdict, decision.reason, each.update.prediction_id)
                for each, decision in zip(heard, decisions, strict=True)
            ]
            await tx.mark(verdicts)
        _log_losses(decisions)
        self._ring(decisions, finished)
        for model, version in read.unknown:
            await self.schemas.learn(model, version)
        return len(ours)

    async def __call__(self, updates: Sequence[Update], *, key_name: str | None = None) -> list[Prediction]:
        """Merge what was heard in an answer of Replicate's API; gives the predictions as known afterwards."""
        for model, version in await asyncio.to_thread(self._schemas_missing, updates):
            await self.schemas.learn(model, version)
        heard = await asyncio.to_thread(lambda: [self._sift(update) for update in updates])
        async with self.ledger.transaction() as tx:
            owners = await self._owners(tx, heard, [None] * len(heard))
            decisions, finished = await self._merge(tx, heard, [owner or key_name for owner in owners])
        _log_losses(decisions)
        self._ring(decisions, finished)
        return [decision.prediction for decision in decisions]

    async def _read(self, waiting: Sequence[Delivery]) -> "_Read":
        if sum(len(delivery.body) for delivery in waiting) > _LARGE_BYTES:
            return await asyncio.to_thread(self._understood, waiting)
        return self._understood(waiting)

    def _understood(self, waiting: Sequence[Delivery]) -> "_Read":
        """What the bodies say. What can't be understood is quarantined; what waits for a schema stays unread."""
        read = _Read()
        for delivery in waiting:
            try:
                update = read_update(
                    read_delivery(delivery.body),
                    source=Source.WEBHOOK,
                    received_ms=delivery.received_ms,
                    delivery_id=delivery.id,
                )
            except Unreadable as verdict:
                read.quarantined.append((delivery.id, DeliveryState.QUARANTINED, verdict.reason, None))
                continue
            missing = self._schemas_missing([update])
            read.unknown.update(missing)
            if not missing:
                read.heard.append(self._sift(update))
        return read

    def _schemas_missing(self, updates: Sequence[Update]) -> set[tuple[str, str]]:
        return {missing for update in updates if (missing := self.schemas.missing(update, self.rule))}

    def _sift(self, update: Update) -> Sifted:
        return sift(update, replace(self.rule, by_schema=self.schemas.files(update)))

    async def _owners(self, tx: Transaction, heard: Sequence[Sifted], tokens: Sequence[str | None]) -> list[str | None]:
        """Which API keys made these predictions, as far as a token says: ours came back with the call, or is told.

        From then on we know what became of the requests that the tokens were made for.
        """
        told = [
            token or self.links.token(each.update.told.get("webhook"))
            for each, token in zip(heard, tokens, strict=True)
        ]
        names = await tx.key_names({token for token in told if token})
        pairs = zip(told, heard, strict=True)
        await tx.explain({token: each.update.prediction_id for token, each in pairs if token in names})
        return [names.get(token or "") for token in told]

    async def _merge(
        self, tx: Transaction, heard: Sequence[Sifted], owners: Sequence[str | None]
    ) -> tuple[list[Decision], int]:
        """What becomes of each update, and how many manifests are due now."""
        known = await tx.lock({each.update.prediction_id for each in heard})
        decisions = [self._decide(known, each, owner) for each, owner in zip(heard, owners, strict=True)]
        await tx.save(list(known.values()))
        told = [(each.update, decision) for each, decision in zip(heard, decisions, strict=True)]
        for update, decision in told:
            if decision.found:
                await tx.found(
                    update.prediction_id,
                    decision.found,
                    expires_ms=self._expires_ms(decision.prediction, update),
                    link=self.link,
                )
        await tx.heard([update for update, decision in told if _kept(update, decision)])
        await tx.tell([event for decision in decisions for event in decision.events])
        await tx.unfinish({decision.prediction.id for decision in decisions if _told_more_of_its_end(decision)})
        finished = await tx.finish({prediction.id for prediction in known.values() if prediction.final})
        return decisions, finished

    def _decide(self, known: dict[str, Prediction], heard: Sifted, owner: str | None) -> Decision:
        """Decide on one update, and remember the outcome for the next one about the same prediction."""
        update = heard.update
        decision = decide(known.get(update.prediction_id), heard, links=self.links, key_name=owner)
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


@dataclass(slots=True)
class _Read:
    """What some deliveries say: updates to merge, verdicts on those that say nothing, and schemas to learn first."""

    heard: list[Sifted] = field(default_factory=list)
    quarantined: list[tuple[str, DeliveryState, str | None, str | None]] = field(default_factory=list)
    unknown: set[tuple[str, str]] = field(default_factory=set)


def _log_losses(decisions: Sequence[Decision]) -> None:
    """One line for each prediction with files that are lost as soon as they are heard of."""
    for decision in decisions:
        lost = [item for item in decision.found if item.lost] if decision.verdict == DeliveryState.APPLIED else []
        if lost:
            more = f" and {len(lost) - 1} more" if lost[1:] else ""
            log.error("%s%s of %s is lost: %s", lost[0].path, more, decision.prediction.id, lost[0].lost)


def _told_more_of_its_end(decision: Decision) -> bool:
    """Whether a manifest that is due, or being written this moment, would lack what was heard just now."""
    ends = any(event.type == events.COMPLETED for event in decision.events)
    return decision.prediction.final and decision.verdict == DeliveryState.APPLIED and not ends


def _kept(update: Update, decision: Decision) -> bool:
    """Every webhook leaves a row, a poll only when it told something: a slow model must not fill the disk."""
    return update.source == Source.WEBHOOK or decision.verdict == DeliveryState.APPLIED

"""One transaction: everything in it is kept, or nothing. Its methods take batches, each is one or few statements."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa

from receiver.core.delivery import Delivery, DeliveryState
from receiver.core.event import Event
from receiver.core.output import Found, OutputState
from receiver.core.prediction import Prediction
from receiver.core.telling import shown_source
from receiver.ledger import rows
from receiver.ledger.columns import LABEL_MAX
from receiver.ledger.intents import Intending
from receiver.ledger.nouns import Heard
from receiver.ledger.settling import Settling
from receiver.ledger.tables import data_uris, deliveries, events, outputs, predictions, updates


class Transaction(Settling, Intending):
    """To be had from `Ledger.transaction`. Lock the predictions you touch, first and all at once."""

    async def take(self, read: Sequence[Delivery]) -> list[Delivery]:
        """Those of these deliveries that are still unread; nobody else gets them until this transaction ends."""
        if not read:
            return []
        kept = await self._connection.execute(
            sa.select(deliveries.c.sequence)
            .where(
                deliveries.c.sequence.in_([each.sequence for each in read]),
                deliveries.c.state == DeliveryState.ACCEPTED,
            )
            .order_by(deliveries.c.sequence)
            .with_for_update(skip_locked=True)
        )
        ours = set(kept.scalars())
        return [each for each in read if each.sequence in ours]

    async def lock(self, prediction_ids: Collection[str]) -> dict[str, Prediction]:
        """Be the only one who touches these until the end, whether they exist yet or not; those that do, by id."""
        if not prediction_ids:
            return {}
        wanted = sorted(set(prediction_ids))
        if self._database.dialect == "postgresql":
            keys = sa.func.unnest(sa.cast(sorted(map(_key, wanted)), sa.ARRAY(sa.BigInteger))).column_valued("key")
            await self._connection.execute(sa.select(sa.func.pg_advisory_xact_lock(keys)))
        found = await self._connection.execute(
            sa.select(*rows.PREDICTION_COLUMNS)
            .where(predictions.c.id.in_(wanted))
            .order_by(predictions.c.id)
            .with_for_update()
        )
        return {row.id: rows.prediction(row) for row in found}

    async def save(self, known: Sequence[Prediction]) -> None:
        """Keep predictions as given, new or known. A final one is asked about no more: its `ask_due_ms` is dropped."""
        if not known:
            return
        insert = self._database.insert(predictions)
        values = [rows.prediction_values(each) for each in known]
        kept = {name: insert.excluded[name] for name in values[0] if name != "id"}
        await self._connection.execute(
            insert.on_conflict_do_update(index_elements=[predictions.c.id], set_=kept), values
        )

    async def found(
        self,
        prediction_id: str,
        files: Sequence[Found],
        *,
        expires_ms: int,
        link: Callable[[], str],
        due_ms: int | None = None,
    ) -> None:
        """Keep the files of a prediction as outputs, due at once or at `due_ms`.

        A path that is known: while it is pending its source and deadline are renewed, once it is settled it stays.
        """
        pending = [each for each in files if each.lost is None]
        lost = [each for each in files if each.lost is not None]
        due = self._database.clock.now() if due_ms is None else sa.literal(due_ms, sa.BigInteger)
        insert = self._database.insert(outputs).values(due_ms=due)
        common = {"prediction_id": prediction_id, "expires_ms": expires_ms, "attempts": 0, "history": []}
        if pending:
            renewed = insert.on_conflict_do_update(
                index_elements=[outputs.c.prediction_id, outputs.c.path_key],
                set_={"source": insert.excluded.source, "expires_ms": insert.excluded.expires_ms},
                where=outputs.c.state == OutputState.PENDING,
            ).returning(outputs.c.id, outputs.c.path)
            state = {**common, "state": OutputState.PENDING, "reason": None}
            kept = await self._connection.execute(renewed, [{**state, **_source(each, link)} for each in pending])
            await self._keep_data({row.path: row.id for row in kept}, pending)
        if lost:
            ignored = insert.on_conflict_do_nothing(index_elements=[outputs.c.prediction_id, outputs.c.path_key])
            state = {**common, "state": OutputState.LOST}
            await self._connection.execute(
                ignored, [{**state, "reason": each.lost, **_source(each, link)} for each in lost]
            )

    async def heard(self, told: Sequence[Heard]) -> None:
        """Keep that these updates came."""
        if told:
            await self._connection.execute(
                sa.insert(updates),
                [
                    {
                        "prediction_id": each.prediction_id,
                        "received_ms": each.received_ms,
                        "source": each.source,
                        "status": each.status,
                        "delivery_id": each.delivery_id,
                    }
                    for each in told
                ],
            )

    async def tell(self, facts: Sequence[Event]) -> None:
        """Put events into the outbox, in this order. An id that is there already is the same fact: nothing happens."""
        if facts:
            insert = self._database.insert(events).on_conflict_do_nothing(index_elements=[events.c.id])
            await self._connection.execute(insert, [rows.event_values(each) for each in facts])

    async def mark(self, read: Sequence[tuple[str, DeliveryState, str | None, str | None]]) -> None:
        """What became of deliveries: id, state, reason, prediction."""
        if read:
            statement = (
                sa.update(deliveries)
                .where(deliveries.c.id == sa.bindparam("delivery"))
                .values(
                    state=sa.bindparam("new_state"),
                    reason=sa.bindparam("new_reason"),
                    prediction_id=sa.bindparam("new_prediction"),
                )
            )
            names = ("delivery", "new_state", "new_reason", "new_prediction")
            await self._connection.execute(statement, [dict(zip(names, each, strict=True)) for each in read])

    async def finish(self, prediction_ids: Collection[str], *, again: bool = False) -> int:
        """Have the manifests written of those that are final and have no pending output; `again` also of archived ones.

        Gives how many became due by this. With the predictions locked, two workers who settle the last two outputs
        can't both miss it.
        """
        if not prediction_ids:
            return 0
        pending = sa.exists().where(outputs.c.prediction_id == predictions.c.id, outputs.c.state == OutputState.PENDING)
        due = sa.update(predictions).where(
            predictions.c.id.in_(list(prediction_ids)),
            predictions.c.final,
            predictions.c.manifest_due_ms.is_(None),
            ~pending,
        )
        if not again:
            due = due.where(predictions.c.archived_ms.is_(None))
        made = await self._connection.execute(due.values(manifest_due_ms=self._database.clock.now()))
        return made.rowcount

    async def unfinish(self, prediction_ids: Collection[str]) -> None:
        """Take manifests back that are due or being written, since more was heard; those of archived ones stay."""
        if prediction_ids:
            await self._connection.execute(
                sa.update(predictions)
                .where(predictions.c.id.in_(list(prediction_ids)), predictions.c.archived_ms.is_(None))
                .values(manifest_due_ms=None, manifest_lease=None, manifest_ms=None)
            )

    async def _keep_data(self, ids: dict[str, int], files: Sequence[Found]) -> None:
        """Keep whole `data:` URIs apart; forget those of outputs that have another source now."""
        uris = [
            {"output_id": ids[each.path], "uri": each.source}
            for each in files
            if each.path in ids and each.source.startswith("data:")
        ]
        kept = {each["output_id"] for each in uris}
        others = [number for number in ids.values() if number not in kept]
        if others:
            await self._connection.execute(sa.delete(data_uris).where(data_uris.c.output_id.in_(others)))
        if uris:
            insert = self._database.insert(data_uris)
            renewed = insert.on_conflict_do_update(
                index_elements=[data_uris.c.output_id], set_={"uri": insert.excluded.uri}
            )
            await self._connection.execute(renewed, uris)


def _key(prediction_id: str) -> int:
    """A prediction as the key of an advisory lock."""
    return int.from_bytes(hashlib.sha256(prediction_id.encode("utf-8", "replace")).digest()[:8], "big", signed=True)


def path_key(path: str) -> str:
    """A path as an index can hold it: itself, or its SHA-256 when it is long."""
    if len(path) <= LABEL_MAX:
        return path
    return "~" + hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()


def _source(found: Found, link: Callable[[], str]) -> dict[str, Any]:
    return {"path": found.path, "path_key": path_key(found.path), "source": shown_source(found.source), "link": link()}

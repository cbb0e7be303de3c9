"""Calls that nobody vouches for, kept within bounds, and deliveries that are to be read again."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from receiver.core.delivery import Delivery, DeliveryState
from receiver.ledger import rows
from receiver.ledger.columns import Plain
from receiver.ledger.room import Room
from receiver.ledger.tables import deliveries, updates

Statement = TypeVar("Statement", sa.Select[Any], sa.Delete)

# Only what was not verified is verified again, and needs its body for it.
_BODY = sa.case((deliveries.c.state == DeliveryState.UNVERIFIED, deliveries.c.body), else_=sa.literal(b""))
_COPIED = ("received_ms", "token", "headers", "body")
_INSERTED = ("id", "state", "repeats", *_COPIED)


class Quarantine(Room):
    """Part of the ledger."""

    async def quarantine(self, refused: Sequence[Delivery], *, rows_max: int, bytes_max: int) -> None:
        """Keep calls that were not verified; the oldest of them go as far as there are more than fit."""
        size = sum(len(rows.headers_value(each.headers)) + len(each.body) for each in refused)
        beyond = await self._beyond(rows_max - len(refused), bytes_max - size)
        values = [
            {
                "id": each.id,
                "received_ms": each.received_ms,
                "token": each.token,
                "state": DeliveryState.UNVERIFIED,
                "reason": each.reason,
                "repeats": 0,
                "headers": rows.headers_value(each.headers),
                "body": each.body,
            }
            for each in refused
        ]
        async with self._database.write() as connection:
            if beyond is not None:
                await connection.execute(_unverified(sa.delete(deliveries)).where(deliveries.c.sequence <= beyond))
            await connection.execute(sa.insert(deliveries), values)

    async def let_in(self, verified: Mapping[int, str]) -> set[str]:
        """Make deliveries of calls that are verified after all: by their `sequence` the webhook's own id.

        Gives the ids that are new by this. The calls themselves are gone then, also those whose id was there already.
        """
        if not verified:
            return set()
        insert = self._database.insert(deliveries).from_select(_INSERTED, _delivered(verified))
        fresh = insert.on_conflict_do_nothing(index_elements=[deliveries.c.id]).returning(deliveries.c.id)
        async with self._database.write() as connection:
            new = set((await connection.execute(fresh)).scalars())
            await connection.execute(
                _unverified(sa.delete(deliveries)).where(deliveries.c.sequence.in_(list(verified)))
            )
        return new

    async def read_again(self, sequences: Collection[int]) -> None:
        """Have deliveries read once more, as if nobody had; what they told once is not listed twice."""
        known = (deliveries.c.sequence, deliveries.c.id, deliveries.c.prediction_id)
        read = (
            sa.select(*known)
            .where(
                deliveries.c.sequence.in_(list(sequences)),
                deliveries.c.state.not_in((DeliveryState.ACCEPTED, DeliveryState.UNVERIFIED)),
            )
            .order_by(deliveries.c.sequence)
            .with_for_update()
        )
        async with self._database.write() as connection:
            taken = (await connection.execute(read)).all()
            await connection.execute(
                sa.update(deliveries)
                .where(deliveries.c.sequence.in_([row.sequence for row in taken]))
                .values(state=DeliveryState.ACCEPTED, reason=None)
            )
            await connection.execute(
                sa.delete(updates).where(
                    updates.c.prediction_id.in_({row.prediction_id for row in taken if row.prediction_id}),
                    updates.c.delivery_id.in_([row.id for row in taken]),
                )
            )

    async def replayable(
        self,
        *,
        state: DeliveryState | str | None,
        received_after_ms: int | None,
        received_before_ms: int | None,
        after: int,
        until: int,
        limit: int,
    ) -> list[Delivery]:
        """Deliveries that do not wait to be read anyway, oldest first, with `sequence` in (after, until]."""
        wanted = _replayable().where(
            deliveries.c.state != DeliveryState.ACCEPTED,
            deliveries.c.sequence > after,
            deliveries.c.sequence <= until,
        )
        if state is not None:
            wanted = wanted.where(deliveries.c.state.in_(held(state)))
        if received_after_ms is not None:
            wanted = wanted.where(deliveries.c.received_ms >= received_after_ms)
        if received_before_ms is not None:
            wanted = wanted.where(deliveries.c.received_ms < received_before_ms)
        return await self._found(wanted.limit(limit))

    async def replayable_by_id(self, ids: Collection[str]) -> list[Delivery]:
        """The deliveries with these ids, oldest first."""
        return await self._found(_replayable().where(deliveries.c.id.in_(list(ids))))

    async def known_deliveries(self, ids: Collection[str]) -> set[str]:
        """Those of these ids that deliveries have."""
        async with self._database.read() as connection:
            found = await connection.execute(sa.select(deliveries.c.id).where(deliveries.c.id.in_(list(ids))))
            return set(found.scalars())

    async def newest_delivery(self) -> int:
        """The `sequence` of the delivery that came last, 0 if there is none."""
        async with self._database.read() as connection:
            return await connection.scalar(sa.select(sa.func.max(deliveries.c.sequence))) or 0

    async def _beyond(self, rows_max: int, bytes_max: int) -> int | None:
        """Up to which `sequence` unverified calls are too many or too heavy; found without holding up a writer."""
        size = sa.func.length(deliveries.c.headers) + sa.func.length(deliveries.c.body)
        newest_first = deliveries.c.sequence.desc()
        ranked = _unverified(
            sa.select(
                deliveries.c.sequence,
                sa.func.row_number().over(order_by=newest_first).label("place"),
                sa.func.sum(size).over(order_by=newest_first).label("total"),
            )
        ).subquery()
        too_many = sa.or_(ranked.c.place > rows_max, ranked.c.total > bytes_max)
        async with self._database.read() as connection:
            beyond: int | None = await connection.scalar(sa.select(sa.func.max(ranked.c.sequence)).where(too_many))
        return beyond

    async def _found(self, wanted: sa.Select[Any]) -> list[Delivery]:
        async with self._database.read() as connection:
            return [rows.delivery(row, bytes(row.body)) for row in await connection.execute(wanted)]


def held(state: DeliveryState | str) -> list[DeliveryState]:
    """The states in the ledger that are told as this one."""
    return [each for each in DeliveryState if each.told == state]


def _replayable() -> sa.Select[Any]:
    return sa.select(*rows.DELIVERY_COLUMNS, _BODY.label("body")).order_by(deliveries.c.sequence)


def _delivered(verified: Mapping[int, str]) -> sa.Select[Any]:
    """The rows that calls become under their webhooks' own ids, oldest first; none of one that is no call any more."""
    webhook_id = sa.case(
        {sequence: sa.literal(each, Plain) for sequence, each in verified.items()}, value=deliveries.c.sequence
    )
    new = (webhook_id, sa.literal(DeliveryState.ACCEPTED.value), sa.literal(0))
    calls = _unverified(sa.select(*new, *(deliveries.c[name] for name in _COPIED)))
    return calls.where(deliveries.c.sequence.in_(list(verified))).order_by(deliveries.c.sequence)


def _unverified(statement: Statement) -> Statement:
    return statement.where(deliveries.c.state == DeliveryState.UNVERIFIED)

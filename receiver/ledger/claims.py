"""Work that is due: claimed for the length of a lease, renewed, handed back. Settling is the transaction's."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from receiver.core.delivery import Delivery, DeliveryState
from receiver.core.output import Output, OutputState
from receiver.core.prediction import Prediction
from receiver.ledger import rows
from receiver.ledger.due import held, vanishing
from receiver.ledger.nouns import ManifestClaim, OutputClaim
from receiver.ledger.room import Room
from receiver.ledger.tables import data_uris, deliveries, outputs, predictions

UNREAD_BYTES_MAX = 4 * 2**20  # handed out at once; a larger body comes alone


class Claims(Room):
    """Part of the ledger. Each verb is a transaction of its own; every claim has a fencing token, its lease."""

    async def unread(self, limit: int) -> list[Delivery]:
        """Deliveries that nobody has read or takes this moment, oldest first. They are not ours: `Transaction.take`."""
        waiting = (
            sa.select(deliveries.c.sequence, sa.func.length(deliveries.c.body))
            .where(deliveries.c.state == DeliveryState.ACCEPTED)
            .order_by(deliveries.c.sequence)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with self._database.read() as connection:
            seen: list[int] = []
            size = 0
            for sequence, length in await connection.execute(waiting):
                size += length
                if seen and size > UNREAD_BYTES_MAX:
                    break
                seen.append(sequence)
            if not seen:
                return []
            found = await connection.execute(
                sa.select(*rows.DELIVERY_COLUMNS, deliveries.c.body)
                .where(deliveries.c.sequence.in_(seen))
                .order_by(deliveries.c.sequence)
            )
            return [rows.delivery(row, bytes(row.body)) for row in found]

    async def claim_outputs(
        self,
        limit: int,
        *,
        lease_ms: int,
        spool: str = "",
        held_min: int = 0,
        held_max: int | None = None,
        besides: Collection[str] = (),
    ) -> list[OutputClaim]:
        """Due outputs, earliest deadline first, ours for `lease_ms`; then up to `held_max` of those whose bytes are in
        `spool` already: nothing takes them away. `held_min` of these go before all others. The attempt is counted now:
        a fetch that kills its worker never gets to report. What we hold under the leases `besides` is passed by, run
        out or not: we are still at work on it.
        """
        now = self._database.clock.now()
        held_max = limit if held_max is None else held_max
        async with self._database.write() as connection:
            free = sa.or_(outputs.c.lease.is_(None), outputs.c.lease.not_in(list(besides)))
            claimed = await self._claim(connection, held(now, spool).where(free), min(held_min, held_max), lease_ms)
            held_max -= len(claimed)
            claimed += await self._claim(connection, vanishing(now).where(free), limit - len(claimed), lease_ms)
            room = min(limit - len(claimed), held_max)
            claimed += await self._claim(connection, held(now, spool).where(free), room, lease_ms)
            if not claimed:
                return []
            uris = await _uris(connection, [row.id for row in claimed if row.source.startswith("data:")])
            known = await _predictions(connection, {row.prediction_id for row in claimed})
        claims = [
            OutputClaim(rows.output(row, uris.get(row.id)), known[row.prediction_id], row.lease) for row in claimed
        ]
        return sorted(claims, key=lambda each: (each.output.expires_ms, each.output.id))

    async def _claim(
        self, connection: AsyncConnection, due: sa.Select[Any], limit: int, lease_ms: int
    ) -> list[rows.Row]:
        if limit <= 0:
            return []
        pick = due.limit(limit).with_for_update(skip_locked=True, of=outputs).cte("pick")
        claim = (
            sa.update(outputs)
            .where(outputs.c.id.in_(sa.select(pick.c.id)))
            .values(
                due_ms=self._database.clock.now() + lease_ms,
                lease=self._database.token(),
                attempts=outputs.c.attempts + 1,
            )
            .returning(*rows.OUTPUT_COLUMNS, outputs.c.lease)
        )
        return list((await connection.execute(claim)).all())

    async def claim_manifests(self, limit: int, *, lease_ms: int) -> list[ManifestClaim]:
        """Predictions whose manifest is due, longest due first, ours for `lease_ms`."""
        now = self._database.clock.now()
        pick = (
            sa.select(predictions.c.id)
            .where(predictions.c.manifest_due_ms <= now)
            .order_by(predictions.c.manifest_due_ms, predictions.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("pick")
        )
        claim = (
            sa.update(predictions)
            .where(predictions.c.id.in_(sa.select(pick.c.id)))
            .values(
                manifest_due_ms=now + lease_ms,
                manifest_lease=self._database.token(),
                manifest_ms=sa.func.coalesce(predictions.c.manifest_ms, now),
            )
            .returning(*rows.PREDICTION_COLUMNS, predictions.c.manifest_lease, predictions.c.manifest_ms)
        )
        async with self._database.write() as connection:
            claimed = (await connection.execute(claim)).all()
            files = await outputs_of(connection, [row.id for row in claimed])
        claims = [
            ManifestClaim(rows.prediction(row), tuple(files[row.id]), row.manifest_lease, row.manifest_ms)
            for row in claimed
        ]
        return sorted(claims, key=lambda each: (each.archived_ms, each.prediction.id))

    async def claim_questions(self, limit: int, *, lease_ms: int) -> list[Prediction]:
        """Open predictions that Replicate should be asked about, longest due first; due again in `lease_ms`.

        `asks` counts this one. No token: asking twice does no harm, and the answer is merged, not settled.
        """
        now = self._database.clock.now()
        pick = (
            sa.select(predictions.c.id)
            .where(predictions.c.final.is_(sa.false()), predictions.c.ask_due_ms <= now)
            .order_by(predictions.c.ask_due_ms, predictions.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("pick")
        )
        claim = (
            sa.update(predictions)
            .where(predictions.c.id == pick.c.id)
            .values(ask_due_ms=now + lease_ms, asks=predictions.c.asks + 1)
            .returning(*rows.PREDICTION_COLUMNS)
        )
        async with self._database.write() as connection:
            claimed = (await connection.execute(claim)).all()
        return [rows.prediction(row) for row in sorted(claimed, key=lambda row: (row.heard_ms, row.id))]

    async def renew(self, leases: Sequence[str], *, lease_ms: int) -> set[str]:
        """Hold claims for `lease_ms` from now; gives those that are still ours. The rest were claimed by another.

        Waits for nobody: what a transaction has in hand, ours or another's, is left until the next time.
        """
        if not leases:
            return set()
        until = self._database.clock.now() + lease_ms
        file, manifest = outputs.c.lease, predictions.c.manifest_lease
        ours = sa.union(*(sa.select(lease).where(lease.in_(list(leases))) for lease in (file, manifest)))
        async with self._database.write() as connection:
            await connection.execute(_leased(outputs, file, leases, passing=True).values(due_ms=until))
            await connection.execute(_leased(predictions, manifest, leases, passing=True).values(manifest_due_ms=until))
            return set((await connection.execute(ours)).scalars())

    async def hand_back(self, leases: Sequence[str]) -> None:
        """Give claims up: they are due at once, and the attempt does not count. Others' claims are left alone."""
        if not leases:
            return
        now = self._database.clock.now()
        async with self._database.write() as connection:
            await connection.execute(
                _leased(outputs, outputs.c.lease, leases).values(
                    due_ms=now, lease=None, attempts=outputs.c.attempts - 1
                )
            )
            await connection.execute(
                _leased(predictions, predictions.c.manifest_lease, leases).values(
                    manifest_due_ms=now, manifest_lease=None
                )
            )

    async def hand_back_questions(self, prediction_ids: Collection[str]) -> None:
        """Have these asked about at once, by whoever comes next."""
        if not prediction_ids:
            return
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(predictions)
                .where(predictions.c.id.in_(list(prediction_ids)), predictions.c.final.is_(sa.false()))
                .values(ask_due_ms=self._database.clock.now())
            )

    async def free_leases(self) -> None:
        """Make everything that is claimed due at once: for a start after which nobody else can be at work."""
        now = self._database.clock.now()
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(outputs).where(outputs.c.lease.is_not(None)).values(due_ms=now, lease=None)
            )
            await connection.execute(
                sa.update(predictions)
                .where(predictions.c.manifest_lease.is_not(None))
                .values(manifest_due_ms=now, manifest_lease=None)
            )

    async def due_in_ms(self) -> dict[str, int | None]:
        """How long until there is something to do, by kind of work: 0 for now, None for nothing in sight."""
        now = self._database.clock.now()
        earliest = {
            "deliveries": sa.select(sa.func.min(deliveries.c.sequence) * 0 + now).where(
                deliveries.c.state == DeliveryState.ACCEPTED
            ),
            "outputs": sa.select(sa.func.min(outputs.c.due_ms)).where(outputs.c.state == OutputState.PENDING),
            "manifests": sa.select(sa.func.min(predictions.c.manifest_due_ms)).where(
                predictions.c.manifest_due_ms.is_not(None)
            ),
            "questions": sa.select(sa.func.min(predictions.c.ask_due_ms)).where(
                predictions.c.final.is_(sa.false()), predictions.c.ask_due_ms.is_not(None)
            ),
        }
        columns = [(each.scalar_subquery() - now).label(name) for name, each in earliest.items()]
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(*columns))).one()
        return {name: None if left is None else max(0, left) for name, left in zip(earliest, row, strict=True)}


async def outputs_of(connection: AsyncConnection, prediction_ids: Sequence[str]) -> dict[str, list[Output]]:
    """The outputs of each of these predictions, in order of their ids, `data:` sources shortened."""
    found: dict[str, list[Output]] = {each: [] for each in prediction_ids}
    if found:
        told = await connection.execute(
            sa.select(*rows.OUTPUT_COLUMNS).where(outputs.c.prediction_id.in_(list(found))).order_by(outputs.c.id)
        )
        for row in told:
            found[row.prediction_id].append(rows.output(row))
    return found


async def _uris(connection: AsyncConnection, output_ids: Sequence[int]) -> dict[int, str]:
    if not output_ids:
        return {}
    found = await connection.execute(
        sa.select(data_uris.c.output_id, data_uris.c.uri).where(data_uris.c.output_id.in_(output_ids))
    )
    return dict(found.all())


async def _predictions(connection: AsyncConnection, prediction_ids: set[str]) -> dict[str, Prediction]:
    found = await connection.execute(
        sa.select(*rows.PREDICTION_COLUMNS).where(predictions.c.id.in_(list(prediction_ids)))
    )
    return {row.id: rows.prediction(row) for row in found}


def _leased(table: sa.Table, lease: sa.Column[Any], leases: Sequence[str], *, passing: bool = False) -> sa.Update:
    """An update of the rows under these leases, locked in one order so that two of these never wait for each other;
    `passing`: of those that nobody has locked.
    """
    held = sa.select(table.c.id).where(lease.in_(list(leases))).order_by(table.c.id)
    mine = held.with_for_update(skip_locked=passing).cte("mine")
    return sa.update(table).where(table.c.id.in_(sa.select(mine.c.id)))

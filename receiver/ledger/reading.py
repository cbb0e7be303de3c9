"""What people and programs look up. Reading never waits for a writer, and holds up none."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from receiver.core.delivery import Delivery, DeliveryState
from receiver.core.event import Event
from receiver.core.output import Output, OutputState
from receiver.core.prediction import Prediction
from receiver.ledger import claims, rows
from receiver.ledger.due import at_risk
from receiver.ledger.nouns import Page, UpdateRow
from receiver.ledger.paging import page
from receiver.ledger.quarantine import held
from receiver.ledger.room import Room
from receiver.ledger.tables import deliveries, events, outputs, predictions, updates

ROWS_MAX = 10_000  # updates or events shown of one prediction: the latest of them


class Reading(Room):
    """Part of the ledger. `data:` sources are shortened to `data:<type>` in all that is read here."""

    async def prediction(self, id: str) -> Prediction | None:  # noqa: A002 - the noun has an id
        """The prediction with this id."""
        async with self._database.read() as connection:
            found = await connection.execute(sa.select(*rows.PREDICTION_COLUMNS).where(predictions.c.id == id))
            row = found.first()
        return None if row is None else rows.prediction(row)

    async def statuses(self, prediction_ids: Collection[str]) -> dict[str, str]:
        """The status of each of these predictions that we know."""
        known = sa.select(predictions.c.id, predictions.c.status).where(predictions.c.id.in_(prediction_ids))
        async with self._database.read() as connection:
            return {row.id: row.status for row in await connection.execute(known)}

    async def outputs(self, prediction_id: str) -> list[Output]:
        """The outputs of a prediction, in the order of its output JSON."""
        return (await self.outputs_of([prediction_id]))[prediction_id]

    async def outputs_of(self, prediction_ids: Sequence[str]) -> dict[str, list[Output]]:
        """The outputs of each of these predictions; an empty list where there is none."""
        async with self._database.read() as connection:
            return await claims.outputs_of(connection, prediction_ids)

    async def output_by_link(self, link: str) -> Output | None:
        """The output that a permanent link names."""
        async with self._database.read() as connection:
            found = await connection.execute(sa.select(*rows.OUTPUT_COLUMNS).where(outputs.c.link == link))
            row = found.first()
        return None if row is None else rows.output(row)

    async def updates(self, prediction_id: str) -> list[UpdateRow]:
        """When Replicate said something about a prediction, oldest first."""
        columns = [updates.c[name] for name in ("prediction_id", "received_ms", "source", "status", "delivery_id")]
        latest = sa.select(*columns).where(updates.c.prediction_id == prediction_id).order_by(updates.c.id.desc())
        async with self._database.read() as connection:
            found = (await connection.execute(latest.limit(ROWS_MAX))).all()
        return [UpdateRow(*row) for row in reversed(found)]

    async def events(self, prediction_id: str) -> list[Event]:
        """The facts told about a prediction, oldest first."""
        latest = (
            sa.select(*rows.EVENT_COLUMNS)
            .where(events.c.prediction_id == prediction_id)
            .order_by(events.c.number.desc())
            .limit(ROWS_MAX)
        )
        async with self._database.read() as connection:
            found = (await connection.execute(latest)).all()
        return [rows.event(row) for row in reversed(found)]

    async def delivery(self, id: str) -> Delivery | None:  # noqa: A002 - the noun has an id
        """The delivery with this id, body included."""
        async with self._database.read() as connection:
            found = await connection.execute(
                sa.select(*rows.DELIVERY_COLUMNS, deliveries.c.body).where(deliveries.c.id == id)
            )
            row = found.first()
        return None if row is None else rows.delivery(row, bytes(row.body))

    async def deliveries(
        self,
        *,
        state: DeliveryState | str | None = None,
        prediction_id: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Delivery]:
        """Deliveries, newest first, without their bodies; `state` is as it is told.

        ValueError when `after` is no cursor of ours.
        """
        wanted = _where(sa.select(*rows.DELIVERY_COLUMNS), deliveries, prediction_id=prediction_id)
        if state is not None:
            wanted = wanted.where(deliveries.c.state.in_(held(state)))
        async with self._database.read() as connection:
            return await page(connection, wanted, (deliveries.c.sequence,), rows.delivery, after=after, limit=limit)

    async def predictions(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        key_name: str | None = None,
        archived: bool | None = None,
        created_after_ms: int | None = None,
        created_before_ms: int | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Prediction]:
        """Predictions, newest created first; created in [after, before); fewer on a page where they are heavy.

        ValueError as in `deliveries`.
        """
        wanted = _where(sa.select(*rows.PREDICTION_COLUMNS), predictions, status=status, model=model, key_name=key_name)
        if archived is not None:
            known = predictions.c.archived_ms
            wanted = wanted.where(known.is_not(None) if archived else known.is_(None))
        if created_after_ms is not None:
            wanted = wanted.where(predictions.c.created_ms >= created_after_ms)
        if created_before_ms is not None:
            wanted = wanted.where(predictions.c.created_ms < created_before_ms)
        keys, weight = (predictions.c.created_ms, predictions.c.id), sa.func.length(predictions.c.told)
        async with self._database.read() as connection:
            return await page(connection, wanted, keys, rows.prediction, after=after, limit=limit, weight=weight)

    async def list_outputs(
        self,
        *,
        state: OutputState | str | None = None,
        prediction_id: str | None = None,
        at_risk_before_ms: int | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Output]:
        """Outputs, newest first; those at risk when `at_risk_before_ms` is given. ValueError as in `deliveries`."""
        wanted = _where(sa.select(*rows.OUTPUT_COLUMNS), outputs, state=state, prediction_id=prediction_id)
        if at_risk_before_ms is not None:
            wanted = wanted.where(at_risk(self._database.clock.now(), at_risk_before_ms))
        async with self._database.read() as connection:
            return await page(connection, wanted, (outputs.c.id,), rows.output, after=after, limit=limit)


def _where(wanted: sa.Select[Any], table: sa.Table, **values: str | None) -> sa.Select[Any]:
    """Only the rows with these values; None does not filter."""
    return wanted.where(*(table.c[name] == value for name, value in values.items() if value is not None))

"""Small things by name, and how much there is of everything."""

from typing import Any

import sqlalchemy as sa

from receiver.core.delivery import DeliveryState
from receiver.core.output import OutputState
from receiver.ledger.due import out_of_reach
from receiver.ledger.feed import LAST
from receiver.ledger.room import Room
from receiver.ledger.tables import deliveries, events, facts, outputs, predictions


class Facts(Room):
    """Part of the ledger."""

    async def fact(self, name: str) -> str | None:
        """What is kept under a name."""
        async with self._database.read() as connection:
            value: str | None = await connection.scalar(sa.select(facts.c.value).where(facts.c.name == name))
        return value

    async def set_fact(self, name: str, value: str) -> None:
        """Keep a value in place of whatever there is."""
        insert = self._database.insert(facts).values(name=name, value=value)
        async with self._database.write() as connection:
            await connection.execute(
                insert.on_conflict_do_update(index_elements=[facts.c.name], set_={"value": insert.excluded.value})
            )

    async def counts(self) -> dict[str, Any]:
        """How much there is: `deliveries` and `outputs` by state, `predictions_open`, `manifests_due`,
        `pending_expires_ms` (of the output out of reach that disappears first, or None),
        `events_unnumbered`, `last_sequence`.
        """
        single = {
            "predictions_open": _count(predictions).where(predictions.c.final.is_(sa.false())),
            "manifests_due": _count(predictions).where(predictions.c.manifest_due_ms.is_not(None)),
            "pending_expires_ms": sa.select(sa.func.min(outputs.c.expires_ms)).where(
                out_of_reach(self._database.clock.now())
            ),
            "events_unnumbered": _count(events).where(events.c.sequence.is_(None)),
            "last_sequence": sa.select(facts.c.value).where(facts.c.name == LAST),
        }
        told: dict[str, Any] = {}
        async with self._database.read() as connection:
            for name, table, states in (("deliveries", deliveries, DeliveryState), ("outputs", outputs, OutputState)):
                by_state = await connection.execute(sa.select(table.c.state, sa.func.count()).group_by(table.c.state))
                told[name] = {state.value: 0 for state in states} | dict(by_state.all())
            columns = [each.scalar_subquery().label(name) for name, each in single.items()]
            row = (await connection.execute(sa.select(*columns))).one()
        told |= dict(zip(single, row, strict=True))
        return told | {"last_sequence": int(told["last_sequence"] or 0)}


def _count(table: sa.Table) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(table)

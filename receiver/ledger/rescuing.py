"""What a rescue and a sweep look for: lost outputs that may be back, questions that an answer makes needless."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from receiver.core.output import OutputState
from receiver.ledger.room import Room
from receiver.ledger.tables import outputs, predictions, updates


@dataclass(frozen=True, slots=True)
class Lost:
    """An output that is lost."""

    id: int
    prediction_id: str
    path: str
    reason: str
    source: str


class Rescuing(Room):
    """Part of the ledger."""

    async def lost_outputs(self, *, created_after_ms: int, after_id: int, limit: int) -> list[Lost]:
        """Outputs that are lost, of predictions created since then, in the order of their ids."""
        columns = (outputs.c.id, outputs.c.prediction_id, outputs.c.path, outputs.c.reason, outputs.c.source)
        wanted = (
            sa.select(*columns)
            .join(predictions, predictions.c.id == outputs.c.prediction_id)
            .where(
                outputs.c.state == OutputState.LOST,
                outputs.c.id > after_id,
                predictions.c.created_ms >= created_after_ms,
            )
            .order_by(outputs.c.id)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [Lost(*row) for row in await connection.execute(wanted)]

    async def questions_due(self, prediction_ids: Sequence[str]) -> set[str]:
        """Those of these open predictions that Replicate is to be asked about by now."""
        due = sa.select(predictions.c.id).where(
            predictions.c.id.in_(list(prediction_ids)), predictions.c.ask_due_ms <= self._database.clock.now()
        )
        async with self._database.read() as connection:
            return set((await connection.execute(due)).scalars())

    async def times_told(self, prediction_id: str, status: str, *, after_ms: int) -> int:
        """How often an update with this status came since then."""
        counted = sa.select(sa.func.count()).where(
            updates.c.prediction_id == prediction_id, updates.c.status == status, updates.c.received_ms > after_ms
        )
        async with self._database.read() as connection:
            return int(await connection.scalar(counted) or 0)

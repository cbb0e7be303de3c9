"""What a clock that was put back has left lying: due at moments that are far ahead by now."""

import sqlalchemy as sa

from receiver.core.output import OutputState
from receiver.ledger.room import Room
from receiver.ledger.tables import outputs, predictions


class Hastening(Room):
    """Part of the ledger."""

    async def hasten(self, *, later_ms: int) -> int:
        """Make outputs and manifests due that are due later than in `later_ms`, claimed or not; gives how many."""
        now = self._database.clock.now()
        far = now + later_ms
        async with self._database.write() as connection:
            files = await connection.execute(
                sa.update(outputs)
                .where(outputs.c.state == OutputState.PENDING, outputs.c.due_ms > far)
                .values(due_ms=now)
            )
            manifests = await connection.execute(
                sa.update(predictions).where(predictions.c.manifest_due_ms > far).values(manifest_due_ms=now)
            )
        return files.rowcount + manifests.rowcount

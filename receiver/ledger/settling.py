"""Settling claims: only whoever still holds the lease may, and only once. And opening again what was lost."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from receiver.core.output import Attempt, OutputState, Stored
from receiver.ledger import rows
from receiver.ledger.database import Database
from receiver.ledger.nouns import ManifestClaim, OutputClaim
from receiver.ledger.tables import data_uris, outputs, predictions

HISTORY_FIRST, HISTORY_LAST = 50, 150  # attempts on record of one output: how it began, and how it went lately


class Settling:
    """Part of a transaction. Each answers False, and has written nothing, when the lease is not ours any more."""

    def __init__(self, database: Database, connection: AsyncConnection) -> None:
        self._database = database
        self._connection = connection

    async def settle_archived(self, claim: OutputClaim, stored: Stored) -> bool:
        """The output is in the bucket, confirmed. Of a `data:` URI only the type is kept."""
        return await self._settle(
            claim, state=OutputState.ARCHIVED, stored=rows.stored_values(stored), reason=None, done=True
        )

    async def settle_failed(
        self, claim: OutputClaim, problem: str, at_ms: int, retry_in_ms: int, *, held_by: str = ""
    ) -> bool:
        """This attempt failed; the next is due in `retry_in_ms`. `held_by`: the spool that has the bytes whole."""
        due_ms = self._database.clock.now() + retry_in_ms
        return await self._settle(claim, due_ms=due_ms, history=_history(claim, problem, at_ms), held_by=held_by)

    async def settle_lost(self, claim: OutputClaim, reason: str, at_ms: int, problem: str | None = None) -> bool:
        """The output can't be had any more: `reason` in a word, `problem` as it is on record of the last attempt."""
        return await self._settle(
            claim, state=OutputState.LOST, reason=reason, history=_history(claim, problem or reason, at_ms), done=True
        )

    async def settle_manifest(self, claim: ManifestClaim, manifest_key: str) -> bool:
        """The manifest is in the bucket: the prediction is archived, as of the claim's `archived_ms`."""
        settled = await self._connection.execute(
            sa.update(predictions)
            .where(predictions.c.id == claim.prediction.id, predictions.c.manifest_lease == claim.lease)
            .values(
                archived_ms=claim.archived_ms,
                manifest_key=manifest_key,
                revision=predictions.c.revision + 1,
                manifest_due_ms=None,
                manifest_lease=None,
                manifest_ms=None,
            )
        )
        return settled.rowcount == 1

    async def reopen(self, output_ids: Collection[int], *, due_in_ms: int = 0, held_by: str = "") -> int:
        """Have lost outputs fetched once more, with their history; gives how many. Lock their predictions first.

        `held_by` is as in `settle_failed`. A manifest that is due or being written waits for them.
        """
        if not output_ids:
            return 0
        opened = await self._connection.execute(
            sa.update(outputs)
            .where(outputs.c.id.in_(list(output_ids)), outputs.c.state == OutputState.LOST)
            .values(
                state=OutputState.PENDING,
                reason=None,
                due_ms=self._database.clock.now() + due_in_ms,
                lease=None,
                held_by=held_by,
            )
            .returning(outputs.c.prediction_id)
        )
        owners = opened.scalars().all()
        await self._connection.execute(
            sa.update(predictions)
            .where(predictions.c.id.in_(set(owners)), predictions.c.manifest_due_ms.is_not(None))
            .values(
                manifest_due_ms=None,
                manifest_lease=None,
                manifest_ms=sa.case((predictions.c.archived_ms.is_(None), None), else_=predictions.c.manifest_ms),
            )
        )
        return len(owners)

    async def amend(self, prediction_id: str) -> None:
        """Note that an archived prediction has more than its manifest says: `amended` until that is written again."""
        await self._connection.execute(
            sa.update(predictions)
            .where(
                predictions.c.id == prediction_id,
                predictions.c.archived_ms.is_not(None),
                predictions.c.manifest_ms.is_(None),
            )
            .values(manifest_ms=self._database.clock.now())
        )

    async def amended(self, prediction_id: str) -> bool:
        """Whether `amend` noted something since the manifest of this archived prediction was written."""
        found = await self._connection.scalar(
            sa.select(predictions.c.id).where(
                predictions.c.id == prediction_id,
                predictions.c.archived_ms.is_not(None),
                predictions.c.manifest_ms.is_not(None),
            )
        )
        return found is not None

    async def _settle(self, claim: OutputClaim, *, done: bool = False, **values: Any) -> bool:
        settled = await self._connection.execute(
            sa.update(outputs)
            .where(
                outputs.c.id == claim.output.id,
                outputs.c.lease == claim.lease,
                outputs.c.state == OutputState.PENDING,
            )
            .values(**{"lease": None, "held_by": "", **values})
        )
        ours = settled.rowcount == 1
        if ours and done and claim.output.source.startswith("data:"):
            await self._connection.execute(sa.delete(data_uris).where(data_uris.c.output_id == claim.output.id))
        return ours


def _history(claim: OutputClaim, problem: str, at_ms: int) -> list[list[Any]]:
    """With this attempt at its end. Nobody else can have added one: the lease is ours, or nothing is written."""
    known = rows.history_values((*claim.output.history, Attempt(at_ms, problem)))
    if len(known) > HISTORY_FIRST + HISTORY_LAST:
        return known[:HISTORY_FIRST] + known[-HISTORY_LAST:]
    return known

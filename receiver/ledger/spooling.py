"""What lies in spools, and what is about to vanish since it lies in none."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from receiver.core.output import Output, OutputState
from receiver.ledger import rows
from receiver.ledger.due import SPOOL_FACT, at_risk, vanishing
from receiver.ledger.facts import Facts
from receiver.ledger.tables import outputs


class Spooling(Facts):
    """Part of the ledger."""

    async def tend_spool(self, spool: str, now_ms: int) -> None:
        """Say that the worker of this spool is there: others leave alone what it holds."""
        await self.set_fact(SPOOL_FACT + spool, str(now_ms))

    async def in_spool(self, spool: str, links: Sequence[str]) -> dict[str, OutputState]:
        """Note that this spool holds the bytes of these outputs, named by their links; the state of those we know."""
        mine = sa.select(outputs.c.id).where(
            outputs.c.link.in_(links), outputs.c.state == OutputState.PENDING, outputs.c.held_by == ""
        )
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(outputs)
                .where(outputs.c.id.in_(mine.where(outputs.c.lease.is_(None)).with_for_update(skip_locked=True)))
                .values(held_by=spool)
            )
            known = await connection.execute(
                sa.select(outputs.c.link, outputs.c.state).where(outputs.c.link.in_(links))
            )
            return {row.link: OutputState(row.state) for row in known}

    async def waits(self) -> bool:
        """Whether an output that can vanish is due and in nobody's hands."""
        due = vanishing(self._database.clock.now()).where(outputs.c.lease.is_(None)).limit(1)
        async with self._database.read() as connection:
            return await connection.scalar(due) is not None

    async def at_risk(self, before_ms: int, limit: int) -> list[int]:
        """The ids of up to `limit` outputs at risk, the first to vanish first; see `core.output.risky_before_ms`.

        Nothing but ids: with their histories thousands of outputs take seconds to read.
        """
        wanted = sa.select(outputs.c.id).where(self._risky(before_ms)).order_by(outputs.c.expires_ms, outputs.c.id)
        async with self._database.read() as connection:
            return list((await connection.execute(wanted.limit(limit))).scalars())

    async def outputs_with(self, ids: Collection[int]) -> list[Output]:
        """Outputs by their ids, the first to vanish first."""
        wanted = sa.select(*rows.OUTPUT_COLUMNS).where(outputs.c.id.in_(list(ids)))
        async with self._database.read() as connection:
            found = await connection.execute(wanted.order_by(outputs.c.expires_ms, outputs.c.id))
            return [rows.output(row) for row in found]

    async def count_at_risk(self, before_ms: int) -> int:
        """How many outputs are at risk."""
        async with self._database.read() as connection:
            return int(await connection.scalar(sa.select(sa.func.count()).where(self._risky(before_ms))) or 0)

    def _risky(self, before_ms: int) -> sa.ColumnElement[bool]:
        return at_risk(self._database.clock.now(), before_ms)

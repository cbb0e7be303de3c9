"""The outbox as a feed: events get their place in it after they were committed, and are read by it."""

from collections.abc import Sequence
from itertools import accumulate

import sqlalchemy as sa

from receiver.core.event import Event
from receiver.ledger import rows
from receiver.ledger.room import Room
from receiver.ledger.tables import events, facts

LAST = "events.last_sequence"  # outlives the events, so that pruning never makes a number come back
_NUMBERING = 0x6F75746B_00000002  # advisory lock: one numberer


class Feed(Room):
    """Part of the ledger."""

    async def number_events(self, limit: int = 1000) -> int:
        """Give places in the feed, 1, 2, 3 … without a gap, to at most `limit` events that have none; how many it were.

        Only committed events are seen, so one whose transaction ends late gets a later place and is not skipped. Events
        of one prediction keep their order, since its transactions follow each other under its lock.
        """
        async with self._database.write() as connection:
            await self._database.one_at_a_time(connection, _NUMBERING)
            waiting = (
                await connection.scalars(
                    sa.select(events.c.number).where(events.c.sequence.is_(None)).order_by(events.c.number).limit(limit)
                )
            ).all()
            if not waiting:
                return 0
            kept = await connection.scalar(sa.select(facts.c.value).where(facts.c.name == LAST))
            last = int(kept or 0)
            await connection.execute(
                sa.update(events).where(events.c.number == sa.bindparam("one")).values(sequence=sa.bindparam("place")),
                [{"one": number, "place": place} for place, number in enumerate(waiting, last + 1)],
            )
            insert = self._database.insert(facts).values(name=LAST, value=str(last + len(waiting)))
            await connection.execute(
                insert.on_conflict_do_update(index_elements=[facts.c.name], set_={"value": insert.excluded.value})
            )
            return len(waiting)

    async def feed(self, after: int, limit: int, *, types: Sequence[str] | None = None) -> list[Event]:
        """Events that come after a place in the feed, in order; of some types only."""
        wanted = sa.select(*rows.EVENT_COLUMNS).where(events.c.sequence > after)
        if types is not None:
            wanted = wanted.where(events.c.type.in_(list(types)))
        async with self._database.read() as connection:
            found = await connection.execute(wanted.order_by(events.c.sequence).limit(limit))
            return [rows.event(row) for row in found]

    async def feed_fits(self, after: int, limit: int, *, bytes_max: int, types: Sequence[str] | None = None) -> int:
        """How many of the events that `feed` would give are light enough to be held at once; 1 at least."""
        wanted = sa.select(sa.func.length(events.c.body)).where(events.c.sequence > after)
        if types is not None:
            wanted = wanted.where(events.c.type.in_(list(types)))
        async with self._database.read() as connection:
            sizes = (await connection.scalars(wanted.order_by(events.c.sequence).limit(limit))).all()
        heavy = sum(total > bytes_max for total in accumulate(sizes))
        return max(1, limit if not heavy else len(sizes) - heavy)

    async def last_sequence(self) -> int:
        """The place of the last event that ever got one; 0 before the first."""
        async with self._database.read() as connection:
            kept = await connection.scalar(sa.select(facts.c.value).where(facts.c.name == LAST))
        return int(kept or 0)

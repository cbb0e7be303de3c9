"""Forgetting what was promised for a time only. Predictions and outputs stay."""

from typing import Any

import sqlalchemy as sa

from receiver.core.delivery import DeliveryState
from receiver.ledger.nouns import IntentState
from receiver.ledger.room import Room
from receiver.ledger.tables import deliveries, events, intents


class Pruning(Room):
    """Part of the ledger."""

    async def prune(self, *, events_before_ms: int, deliveries_before_ms: int, limit: int) -> int:
        """Delete the oldest events and deliveries, at most `limit` of each, and how many it were: call until it is 0.

        An event without a place in the feed and a delivery that nobody has read are kept however old they are. What
        became of requests goes with the deliveries, once it is clear.
        """
        oldest_events = _oldest(events.c.number, (events.c.time_ms, events.c.sequence), limit)
        oldest_deliveries = _oldest(deliveries.c.sequence, (deliveries.c.received_ms, deliveries.c.state), limit)
        clear = sa.select(intents.c.token).where(
            intents.c.state.in_((IntentState.KNOWN, IntentState.REJECTED)), intents.c.made_ms < deliveries_before_ms
        )
        async with self._database.write() as connection:
            gone = [
                await connection.execute(statement)
                for statement in (
                    sa.delete(events).where(
                        events.c.number.in_(
                            sa.select(oldest_events.c.number).where(
                                oldest_events.c.time_ms < events_before_ms, oldest_events.c.sequence.is_not(None)
                            )
                        )
                    ),
                    sa.delete(deliveries).where(
                        deliveries.c.sequence.in_(
                            sa.select(oldest_deliveries.c.sequence).where(
                                oldest_deliveries.c.received_ms < deliveries_before_ms,
                                oldest_deliveries.c.state != DeliveryState.ACCEPTED,
                            )
                        )
                    ),
                    sa.delete(intents).where(intents.c.token.in_(clear.limit(limit))),
                )
            ]
        return sum(result.rowcount for result in gone)


def _oldest(order: sa.Column[Any], others: tuple[sa.Column[Any], ...], limit: int) -> sa.Subquery:
    """The first rows in order of insertion: their times rise with it, so no index by time is needed."""
    return sa.select(order, *others).order_by(order).limit(limit).subquery()

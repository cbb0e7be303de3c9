"""Which outputs are due: those that will vanish, by their deadlines; then those whose bytes lie safely in a spool."""

from typing import Any

import sqlalchemy as sa

from receiver.core.output import RISKY_ATTEMPTS, OutputState
from receiver.ledger.tables import facts, outputs

SPOOL_FACT = "spool."  # and the spool's name: when its worker was last at work, in milliseconds
ABANDONED_MS = 120_000  # a worker tells of its spool every few seconds: after this silence others fetch anew

_PENDING = outputs.c.state == OutputState.PENDING


def vanishing(now: sa.ColumnElement[int]) -> sa.Select[Any]:
    """Due outputs of which nobody holds the bytes, earliest deadline first."""
    return (
        sa.select(outputs.c.id)
        .where(_PENDING, outputs.c.held_by == "", outputs.c.due_ms <= now)
        .order_by(outputs.c.expires_ms, outputs.c.id)
    )


def at_risk(now: sa.ColumnElement[int], before_ms: int) -> sa.ColumnElement[bool]:
    """Out of reach, and about to vanish or long in trouble."""
    soon = outputs.c.expires_ms < before_ms
    return sa.and_(out_of_reach(now), sa.or_(soon, outputs.c.attempts >= RISKY_ATTEMPTS))


def out_of_reach(now: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Pending, its bytes in no spool that somebody tends."""
    anywhere = outputs.c.held_by >= ""  # always true: has SQLite go by the index of deadlines, not through every row
    return sa.and_(_PENDING, anywhere, outputs.c.held_by.not_in(_tended(now)))


def held(now: sa.ColumnElement[int], spool: str) -> sa.Select[Any]:
    """Due outputs whose bytes this spool holds, or one that nobody tends any more; longest due first."""
    return (
        sa.select(outputs.c.id)
        .where(_PENDING, outputs.c.held_by != "", outputs.c.due_ms <= now)
        .where(sa.or_(outputs.c.held_by == spool, outputs.c.held_by.not_in(_tended(now))))
        .order_by(outputs.c.due_ms, outputs.c.id)
    )


def _tended(now: sa.ColumnElement[int]) -> sa.Select[Any]:
    """The spools whose workers are there: few, and looked for once in a statement."""
    # As text, since other facts are no numbers and a database may look at all of them; alike long until 2286.
    since = sa.cast(now - ABANDONED_MS, sa.Text)
    start = len(SPOOL_FACT)
    return sa.select(sa.func.substr(facts.c.name, start + 1)).where(
        sa.func.substr(facts.c.name, 1, start) == SPOOL_FACT, facts.c.value > since
    )

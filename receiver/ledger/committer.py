"""Taking deliveries in: everything that waits at a moment is committed together, with one sync of the disk."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from receiver.core.delivery import Delivery
from receiver.core.errors import LedgerFull, LedgerUnavailable
from receiver.ledger.columns import storable
from receiver.ledger.database import Database
from receiver.ledger.rows import headers_value
from receiver.ledger.tables import deliveries, facts

WAITING_MAX = 4_096  # deliveries in memory; a disk that syncs in 10 ms takes that many in well under a second
WAITING_BYTES_MAX = 128 * 2**20  # four bodies of the largest size that is taken
BATCH_MAX = 512  # rows of one transaction: beyond this a longer one saves nothing
BATCH_BYTES_MAX = 32 * 2**20
GIVE_UP_AFTER = 2  # failures in a row, one row each, after which it is not the rows that are wrong
BEAT_S_MAX = 5.0  # a disk or a server that takes longer for one row is as good as down
HEARTBEAT = "heartbeat"
_ROW_BYTES = 1_024  # what a delivery weighs besides its body and headers


@dataclass(eq=False, slots=True)
class _Waiting:
    """One caller: a delivery, or None to have the time written as a sign of life."""

    delivery: Delivery | None
    size: int
    done: "asyncio.Future[bool]"


class Committer:
    """One task that commits; it adds no waiting, it takes what queued up while the last commit ran."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[_Waiting] = deque()
        self._rows = 0
        self._bytes = 0
        self._wake = asyncio.Event()
        self._closed = False
        beat = database.insert(facts)
        self._beat = beat.on_conflict_do_update(index_elements=[facts.c.name], set_={"value": beat.excluded.value})
        self._task = asyncio.create_task(self._run(), name="ledger committer")

    async def accept(self, delivery: Delivery) -> bool:
        """Returns once the delivery is on disk: True if its id is new, False if it was there already.

        A repeat is counted on the row, except on PostgreSQL while somebody reads that row: counting waits for nobody.
        LedgerFull at once when too much waits; LedgerUnavailable when it could not be committed. A caller that leaves
        does not take its delivery back.
        """
        return await self._take(delivery)

    async def beat(self) -> None:
        """Write the time, the way a delivery is written; raises like `accept`, and when it takes too long."""
        try:
            async with asyncio.timeout(BEAT_S_MAX):
                await self._take(None)
        except TimeoutError as error:
            raise LedgerUnavailable(f"The ledger did not take a row within {BEAT_S_MAX:.0f} s.") from error

    async def close(self) -> None:
        """Commit what waits, then stop."""
        self._closed = True
        self._wake.set()
        await self._task

    def _take(self, delivery: Delivery | None) -> "asyncio.Future[bool]":
        if self._closed:
            raise LedgerUnavailable("The ledger is closed.")
        one = _Waiting(delivery, _size(delivery), asyncio.get_running_loop().create_future())
        if self._rows >= WAITING_MAX or (self._rows and self._bytes + one.size > WAITING_BYTES_MAX):
            raise LedgerFull("More deliveries wait for the disk than fit in memory: come back in a moment.")
        self._rows += 1
        self._bytes += one.size
        self._waiting.append(one)
        self._wake.set()
        return one.done

    async def _run(self) -> None:
        while self._waiting or not self._closed:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._next():
                await self._commit(batch)
                self._rows -= len(batch)
                self._bytes -= sum(one.size for one in batch)

    def _next(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < BATCH_MAX and (not batch or size < BATCH_BYTES_MAX):
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        problem = await self._try(batch)
        if problem is None:
            return
        in_a_row = 0
        for place, one in enumerate(batch):
            problem = await self._try([one])
            in_a_row = 0 if problem is None else in_a_row + 1
            if problem is not None:
                _fail([one], problem)
            if in_a_row == GIVE_UP_AFTER and problem is not None:
                _fail(batch[place + 1 :], problem)
                return

    async def _try(self, batch: Sequence[_Waiting]) -> Exception | None:
        """Commit these together and tell their callers, or give back why not."""
        try:
            new = await self._write(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait, and the task lives on
            return error
        for one in batch:
            if not one.done.done():
                one.done.set_result(one.delivery is None or new.pop(one.delivery.id, False))
        return None

    async def _write(self, batch: Sequence[_Waiting]) -> dict[str, bool]:
        """Insert in one transaction; which ids are new. Two calls with one id are one row with a repeat."""
        times: dict[str, int] = {}
        rows: dict[str, Delivery] = {}
        for one in batch:
            if one.delivery is not None:
                name = one.delivery.id
                times[name] = times.get(name, 0) + 1
                rows.setdefault(name, one.delivery)
        async with self._database.commit() as connection:
            if len(times) < len(batch) and any(one.delivery is None for one in batch):
                await connection.execute(self._beat, {"name": HEARTBEAT, "value": str(self._database.clock.now_ms())})
            if not rows:
                return {}
            values = [value for name, delivery in rows.items() for value in _values(delivery, times[name] - 1)]
            told = await connection.exec_driver_sql(self._insert(len(rows)), tuple(values))
            new = {row[0] for row in told}
            again = [{"delivery": name, "times": count} for name, count in times.items() if storable(name) not in new]
            if again:
                await connection.execute(_COUNT, again)
        return {name: storable(name) in new for name in rows}

    def _insert(self, rows: int) -> str:
        """One statement for all rows: for each row of its own sqlite3 would give up the interpreter and win it back."""
        mark = "?" if self._database.dialect == "sqlite" else "%s"
        row = f"({', '.join([mark] * len(_COLUMNS))})"
        names = ", ".join(_COLUMNS)
        return (
            f"INSERT INTO {deliveries.name} ({names}) VALUES {', '.join([row] * rows)}"  # noqa: S608 - names of ours
            " ON CONFLICT (id) DO NOTHING RETURNING id"
        )


_COLUMNS = ("id", "received_ms", "token", "state", "reason", "prediction_id", "repeats", "headers", "body")

# Whoever reads a delivery holds its row; the committer, for which everybody waits, passes by.
_COUNT = (
    sa.update(deliveries)
    .where(
        deliveries.c.sequence.in_(
            sa.select(deliveries.c.sequence)
            .where(deliveries.c.id == sa.bindparam("delivery"))
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
    )
    .values(repeats=deliveries.c.repeats + sa.bindparam("times"))
)


def _size(delivery: Delivery | None) -> int:
    """Bytes that one waiting caller holds, about."""
    if delivery is None:
        return _ROW_BYTES
    return _ROW_BYTES + len(delivery.body) + sum(len(name) + len(value) for name, value in delivery.headers)


def _values(delivery: Delivery, repeats: int) -> tuple[Any, ...]:
    """What stands in `_COLUMNS`."""
    return (
        storable(delivery.id),
        delivery.received_ms,
        _storable(delivery.token),
        delivery.state.value,
        _storable(delivery.reason),
        _storable(delivery.prediction_id),
        delivery.repeats + repeats,
        headers_value(delivery.headers),
        delivery.body,
    )


def _storable(text: str | None) -> str | None:
    return None if text is None else storable(text)


def _fail(batch: Sequence[_Waiting], problem: Exception) -> None:
    for one in batch:
        if not one.done.done():
            one.done.set_exception(_told(problem))


def _told(problem: Exception) -> LedgerUnavailable:
    """A new error for every caller: a raised one grows a traceback, and must not be shared."""
    if isinstance(problem, LedgerUnavailable):
        error = type(problem)(str(problem))
    else:
        error = LedgerUnavailable(f"The delivery could not be written: {type(problem).__name__}")
    error.__cause__ = problem.__cause__ or problem
    return error

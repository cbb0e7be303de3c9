"""Taking deliveries in: everything that waits at a moment is committed together, with one sync of the disk."""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from receiver.core.delivery import Delivery
from receiver.core.errors import LedgerFull, LedgerUnavailable
from receiver.ledger.admission import Admission, Ahead, Callers
from receiver.ledger.columns import storable
from receiver.ledger.database import Database, Dialect, reason
from receiver.ledger.rows import headers_value
from receiver.ledger.unbroken import unbroken

WAITING_MAX = 4_096  # deliveries in memory; a disk that syncs in 10 ms takes that many in well under a second
WAITING_BYTES_MAX = 128 * 2**20  # four bodies of the largest size that is taken
BATCH_MAX = 512  # rows of one transaction: beyond this a longer one saves nothing
LARGE_BYTES = (
    2**20
)  # from here on one delivery costs the disk what hundreds of usual ones do: every second batch is one
BATCH_BYTES_MAX = 32 * 2**20
GIVE_UP_AFTER = 2  # failures in a row, one row each, after which it is not the rows that are wrong
HEARTBEAT = "heartbeat"
_ROW_BYTES = 1_024  # what a delivery weighs besides its body and headers


@dataclass(eq=False, slots=True)
class _Waiting:
    """One caller: a delivery, or None to have the time written as a sign of life."""

    delivery: Delivery | None
    size: int
    since_s: float
    done: "asyncio.Future[bool]"


class Committer:
    """One thread that commits; it adds no waiting, it takes what queued up while the last commit ran."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[_Waiting] = deque()
        self._large: deque[_Waiting] = deque()
        self._came_bytes = 0  # of usual deliveries, as the loop counts them
        self._went_bytes = 0  # likewise, as the thread does
        self._was_large = False
        self._flying_bytes = 0  # of the batch that is being written
        self._rows = 0
        self._bytes = 0
        self._admission = Admission()
        self._callers = Callers(_late)
        self._wake = asyncio.Event()
        self._closed = False
        self._sql = _Statements(database.dialect)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-committer")
        self._task = asyncio.create_task(self._run(), name="ledger committer")

    async def accept(self, delivery: Delivery) -> bool:
        """Returns once the delivery is on disk: True if its id is new, False if it was there already.

        A repeat is counted on the row, except on PostgreSQL while somebody reads that row: counting waits for nobody.
        LedgerFull at once when too much waits, or in a while when the disk does not answer; LedgerUnavailable when it
        could not be committed. A caller that leaves, or is sent away, does not take its delivery back.
        """
        return await self.begin(delivery)

    async def beat(self) -> None:
        """Write the time, the way a delivery is written; raises like `accept`, in the same time."""
        await self.begin(None)

    async def close(self) -> None:
        """Commit what waits, then stop."""
        self._closed = True
        self._wake.set()
        await self._task
        self._thread.shutdown()

    def begin(self, delivery: Delivery | None) -> "asyncio.Future[bool]":
        """Have a delivery (or a sign of life) written with the next batch; the future tells as `accept` does."""
        if self._closed:
            raise LedgerUnavailable("The ledger is closed.")
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        one = _Waiting(delivery, _size(delivery), now_s, loop.create_future())
        if self._rows >= WAITING_MAX or (self._rows and self._bytes + one.size > WAITING_BYTES_MAX):
            raise LedgerFull("More deliveries wait for the disk than fit in memory: come back in a moment.")
        if delivery is not None and not self._admission.admits(now_s, self._ahead(one.size, now_s)):
            raise LedgerFull("The disk is too slow for all that come: come back in a moment.")
        self._rows += 1
        self._bytes += one.size
        self._admission.begun(now_s)
        self._callers.add(one.done, now_s)
        if one.size >= LARGE_BYTES:
            self._large.append(one)
        else:
            self._came_bytes += one.size
            self._waiting.append(one)
        self._wake.set()
        return one.done

    def pressed(self) -> bool:
        """Whether deliveries queue so that whoever else wants something should come later."""
        now_s = asyncio.get_running_loop().time()
        half_full = self._rows > WAITING_MAX // 2 or self._bytes > WAITING_BYTES_MAX // 2
        return half_full or self._admission.presses(now_s, self._ahead(0, now_s))

    def _ahead(self, size: int, now_s: float) -> Ahead:
        """What has to be committed until a newcomer of that size is: usual ones let one large one pass at most."""
        usual_bytes, large = self._came_bytes - self._went_bytes, len(self._large)
        large_bytes = max(0, self._bytes - usual_bytes - self._flying_bytes)
        if size >= LARGE_BYTES:
            return Ahead(self._flying_bytes, 1 + 2 * large, usual_bytes + large_bytes + size)
        batches = 1 + len(self._waiting) // BATCH_MAX
        waited_s = now_s - self._oldest_s(now_s) if batches == 1 else 0.0
        return Ahead(self._flying_bytes, batches, usual_bytes + large_bytes // max(1, large) + size, waited_s)

    def _oldest_s(self, now_s: float) -> float:
        """Since when the first of those waits that would be written together with a newcomer."""
        try:
            return self._waiting[0].since_s
        except IndexError:  # nobody does, or the thread has just taken them
            return now_s

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting or self._large or not self._closed:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._large:
                async with self._database.committers_turn():
                    # Cancelled or not, the turn ends with the thread's work: nobody else may write meanwhile.
                    await unbroken(loop.run_in_executor(self._thread, self._drain, loop))

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: batch after batch while some wait and nobody else does. Callers hear of each at once."""
        while batch := self._next():
            loop.call_soon_threadsafe(self._tell, batch, self._commit(batch))
            if self._database.others_wait():
                self._flying_bytes = 0
                return

    def _next(self) -> list[_Waiting]:
        self._was_large = bool(self._large) and not (self._was_large and self._waiting)
        if self._was_large:
            self._flying_bytes = self._large[0].size
            return [self._large.popleft()]
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < BATCH_MAX and size < BATCH_BYTES_MAX:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        self._went_bytes += size
        self._flying_bytes = size
        return batch

    def _tell(self, batch: Sequence[_Waiting], outcomes: Sequence[bool | Exception]) -> None:
        size = sum(one.size for one in batch)
        self._rows -= len(batch)
        self._bytes -= size
        self._admission.ended(size, asyncio.get_running_loop().time(), more=self._rows > 0)
        self._callers.answered([one.done for one in batch])
        for one, outcome in zip(batch, outcomes, strict=True):
            if one.done.done():
                continue
            if isinstance(outcome, Exception):
                one.done.set_exception(_told(outcome))
            else:
                one.done.set_result(outcome)

    def _commit(self, batch: Sequence[_Waiting]) -> Sequence[bool | Exception]:
        """For each of the batch whether it is new, or why it could not be written."""
        together = self._try(batch)
        if not isinstance(together, Exception):
            return together
        if isinstance(together, LedgerUnavailable):  # no row is to blame
            return [together] * len(batch)
        alone: list[bool | Exception] = []
        in_a_row = 0
        for one in batch:
            if in_a_row < GIVE_UP_AFTER:
                outcome = self._try([one])
                in_a_row = in_a_row + 1 if isinstance(outcome, Exception) else 0
            alone.append(outcome if isinstance(outcome, Exception) else outcome[0])
        return alone

    def _try(self, batch: Sequence[_Waiting]) -> Sequence[bool] | Exception:
        try:
            return self._write(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait, and the thread lives on
            return error

    def _write(self, batch: Sequence[_Waiting]) -> list[bool]:
        """Insert in one transaction; which are new. Two calls with one id are one row with a repeat."""
        times: dict[str, int] = {}
        rows: dict[str, Delivery] = {}
        for one in batch:
            if one.delivery is not None:
                name = storable(one.delivery.id)
                times[name] = times.get(name, 0) + 1
                rows.setdefault(name, one.delivery)
        new: set[str] = set()
        with self._database.lend() as connection:
            cursor = connection.cursor()
            if any(one.delivery is None for one in batch):
                cursor.execute(self._sql.beat, (HEARTBEAT, str(self._database.clock.now_ms())))
            if rows:
                values = [value for name, row in rows.items() for value in _values(row, times[name] - 1)]
                cursor.execute(self._sql.insert(len(rows)), values)
                new.update(row[0] for row in cursor.fetchall())
            for name in rows.keys() - new:
                cursor.execute(self._sql.count, (times[name], name))
            cursor.close()
        told = []
        for one in batch:
            name = "" if one.delivery is None else storable(one.delivery.id)
            told.append(one.delivery is None or name in new)
            new.discard(name)
        return told


class _Statements:
    """What the committer says to the database, straight to its driver: SQLAlchemy's part would cost as much again."""

    def __init__(self, dialect: Dialect) -> None:
        mark = "?" if dialect == "sqlite" else "%s"
        # Whoever reads a delivery holds its row; the committer, for which everybody waits, passes by.
        passing = "" if dialect == "sqlite" else " FOR UPDATE SKIP LOCKED"
        self._row = f"({', '.join([mark] * len(_COLUMNS))})"
        self.beat = (
            f"INSERT INTO facts (name, value) VALUES ({mark}, {mark})"  # noqa: S608 - words of ours
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        )
        self.count = (
            f"UPDATE deliveries SET repeats = repeats + {mark} WHERE sequence IN"  # noqa: S608 - words of ours
            f" (SELECT sequence FROM deliveries WHERE id = {mark}{passing})"
        )

    def insert(self, rows: int) -> str:
        """One statement for all: for each row of its own sqlite3 would give up the interpreter and win it back."""
        return (
            f"INSERT INTO deliveries ({', '.join(_COLUMNS)}) VALUES {', '.join([self._row] * rows)}"  # noqa: S608
            " ON CONFLICT (id) DO NOTHING RETURNING id"
        )


_COLUMNS = ("id", "received_ms", "token", "state", "reason", "prediction_id", "repeats", "headers", "body")


def _size(delivery: Delivery | None) -> int:
    """Bytes that one waiting caller holds, about."""
    if delivery is None:
        return _ROW_BYTES
    return _ROW_BYTES + len(delivery.body) + sum([len(name) + len(value) for name, value in delivery.headers])


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


def _late() -> LedgerFull:
    return LedgerFull("The disk did not answer in time; the delivery may be kept all the same.")


def _told(problem: Exception) -> LedgerUnavailable:
    """A new error for every caller: a raised one grows a traceback, and must not be shared."""
    if isinstance(problem, LedgerUnavailable):
        error = type(problem)(str(problem))
    else:
        error = LedgerUnavailable(f"The delivery could not be written: {reason(problem)}")
    error.__cause__ = problem.__cause__ or problem
    return error

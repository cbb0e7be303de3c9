"""Opening a ledger on SQLite: one process, one connection that writes, readers beside it.

Only that one connection writes, resets the log (the WAL) and checkpoints it; it is the last to close, and readers open
the file read-only, which can do none of these. So the bug by which two connections that write or checkpoint at the same
moment spoil a database (SQLite 3.7.0 to 3.51.2, Debian 12's among them) finds no second connection here. Another
program that writes to the file would be one: look at it with `sqlite3 -readonly`.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from receiver.core.errors import LedgerUnavailable, Misconfigured
from receiver.ledger.database import Clock, Database, Turns
from receiver.ledger.trust import Trust, is_busy, verdict

READERS_MAX = 4  # connections that read at once; each has a thread
BUSY_MS = 5_000  # a checkpoint or a backup from outside may hold the file for a moment
LOG_BYTES_MAX = 16 * 2**20  # of log between checkpoints: each costs two syncs more
CACHE_KIB = 16_384

# synchronous=FULL syncs the log at every commit: what was answered 2xx survives a power cut. WAL lets readers read on.
# SQLite's own checkpoints keep their errors to themselves, so there are none: `Writer` makes them.
_WRITING = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA wal_autocheckpoint=0",
    f"PRAGMA journal_size_limit={LOG_BYTES_MAX}",
    f"PRAGMA cache_size=-{CACHE_KIB}",
    f"PRAGMA busy_timeout={BUSY_MS}",
)
_READING = (f"PRAGMA busy_timeout={BUSY_MS}",)


def connect(url: sa.URL, now_ms: Callable[[], int]) -> Database:
    """The database in a local file. Creates the folder; takes the file for this process alone, or Misconfigured."""
    if not url.database or url.database == ":memory:":
        raise Misconfigured("A ledger on SQLite is a file: sqlite:///path/to/ledger.db")
    path = _path(url.database)
    closing = AsyncExitStack()
    lock = _lock(path)
    closing.callback(os.close, lock)
    trust = Trust()
    pen = _Pen(path, trust)
    writing = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"isolation_level": None, "check_same_thread": False, "factory": pen.make},
    )
    sa.event.listen(writing.sync_engine, "connect", _running(_WRITING))
    sa.event.listen(writing.sync_engine, "connect", _begin_log)
    sa.event.listen(writing.sync_engine, "begin", _begin)
    reading = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"}),
        pool_size=READERS_MAX,
        max_overflow=0,
        pool_reset_on_return=None,  # nothing to undo: every statement stands for itself
        hide_parameters=True,
        connect_args={"isolation_level": None},
    )
    sa.event.listen(reading.sync_engine, "connect", _running(_READING))
    for engine in (writing, reading):
        closing.push_async_callback(engine.dispose)
    clock = Clock("sqlite", now_ms)
    return Database("sqlite", clock, pen.lend, writing, reading, Turns(), trust=trust, closing=closing)


class _Pen:
    """The one connection that writes, also for the committer's thread. Whose turn it is, `Turns` says."""

    def __init__(self, path: Path, trust: Trust) -> None:
        self._log = Path(f"{path}-wal")
        self._trust = trust
        self._connection: Writer | None = None

    def make(self, *args: Any, **kwargs: Any) -> "Writer":
        """In the place of `sqlite3.Connection` when the writing engine connects."""
        self._connection = Writer(*args, **kwargs)
        self._connection.log = self._log
        return self._connection

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed, and so on disk, at the end of the block; undone by any error.

        LedgerUnavailable, or LedgerBroken, where it is not what was to be written that is to blame.
        """
        connection = self._connection
        if connection is None:
            raise LedgerUnavailable("The ledger is not open.")
        self._trust.check()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.commit()
        except BaseException as error:
            self._trust.judge(error)
            connection.rollback()
            self._trust.check()
            if is_busy(error):
                raise LedgerUnavailable("Another program has locked the ledger's file: have it let go.") from error
            raise


class Writer(sqlite3.Connection):
    """A connection whose commits checkpoint, in sight: an error of the disk is told, a full disk is tried again."""

    log: Path

    def commit(self) -> None:
        """Commit, and write the log into the database when it has grown long."""
        self.execute("COMMIT")  # fails where there is no transaction any more, which sqlite3's own passes over
        if self._log_bytes() > LOG_BYTES_MAX:
            self._checkpoint()

    def _log_bytes(self) -> int:
        """Of the log, or `LOG_BYTES_MAX` where less than that is in use: so far SQLite cuts a log that begins anew."""
        with suppress(FileNotFoundError):  # a file system that can't have a log keeps the ledger without one
            return self.log.stat().st_size
        return 0

    def _checkpoint(self) -> None:
        """Waits for nobody. What a reader keeps it from, or a full disk, the next one does."""
        try:
            self.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if verdict(error) is not None:
                raise


def _path(told: str) -> Path:
    """Where the file is, however it is called: each name of its own would have a lock and a log of its own."""
    path = Path(told).resolve()
    with suppress(OSError):  # told when it is opened
        if path.stat().st_nlink > 1:
            raise Misconfigured(
                f"The ledger {path} has a second name (a hard link), under which SQLite would not see what is written"
                " under the first. Remove one of them."
            )
    return path


def _lock(path: Path) -> int:
    """Take the file next to the ledger that says that it is in use. The system drops the lock with the process."""
    if path.is_dir():
        raise LedgerUnavailable(f"The ledger {path} can't be opened: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerUnavailable(f"The ledger {path} can't be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Misconfigured(
            f"The ledger {path} is in use by another process; SQLite takes one. Stop the other, or use Postgres."
        ) from error
    return lock


def _running(statements: tuple[str, ...]) -> Callable[[Any, Any], None]:
    def run(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()

    return run


def _begin_log(connection: Any, _record: Any) -> None:
    """Write the log that another process left into the database, and begin it anew.

    Where a disk failed under that process the system may show pages of the log that are not on the disk, and nothing
    may be appended to those. A full disk keeps it from this, and so does a reader from outside: then it goes on.
    """
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        if verdict(error) is not None:
            raise
    finally:
        cursor.close()


def _begin(connection: sa.Connection) -> None:
    """Ask for the right to write at once: a read that turns into a write is refused by SQLite without waiting."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")

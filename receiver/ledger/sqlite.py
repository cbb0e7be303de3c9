"""Opening a ledger on SQLite: one process, one connection that writes, readers beside it."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from receiver.core.errors import LedgerUnavailable, Misconfigured
from receiver.ledger.database import Clock, Database, Turns

READERS_MAX = 4  # connections that read at once; each has a thread
BUSY_MS = 5_000  # a checkpoint or a backup from outside may hold the file for a moment
CHECKPOINT_PAGES = 4_000  # 16 MB of log between checkpoints: each costs two syncs more
CACHE_KIB = 16_384

# synchronous=FULL syncs the log at every commit: what was answered 2xx survives a power cut. WAL lets readers read on.
_WRITING = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}",
    f"PRAGMA cache_size=-{CACHE_KIB}",
    f"PRAGMA busy_timeout={BUSY_MS}",
)
_READING = (f"PRAGMA busy_timeout={BUSY_MS}",)


def connect(url: sa.URL, now_ms: Callable[[], int]) -> Database:
    """The database in a local file. Creates the folder; takes the file for this process alone, or Misconfigured."""
    if not url.database or url.database == ":memory:":
        raise Misconfigured("A ledger on SQLite is a file: sqlite:///path/to/ledger.db")
    path = Path(url.database).absolute()
    closing = AsyncExitStack()
    lock = _lock(path)
    closing.callback(os.close, lock)
    pen = _Pen()
    writing = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"isolation_level": None, "check_same_thread": False, "factory": pen.make},
    )
    sa.event.listen(writing.sync_engine, "connect", _running(_WRITING))
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
    return Database("sqlite", clock, pen.lend, writing, reading, Turns(), closing)


class _Pen:
    """The one connection that writes, also for the committer's thread. Whose turn it is, `Turns` says."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    def make(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        """In the place of `sqlite3.Connection` when the writing engine connects."""
        self._connection = sqlite3.Connection(*args, **kwargs)
        return self._connection

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed, and so on disk, at the end of the block; undone by any error."""
        connection = self._connection
        if connection is None:
            raise LedgerUnavailable("The ledger is not open.")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")  # fails where there is no transaction any more, which commit() passes over
        except BaseException:
            connection.rollback()
            raise


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


def _begin(connection: sa.Connection) -> None:
    """Ask for the right to write at once: a read that turns into a write is refused by SQLite without waiting."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")

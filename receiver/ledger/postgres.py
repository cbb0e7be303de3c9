"""Opening a ledger on PostgreSQL."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from receiver.core.errors import LedgerUnavailable, Misconfigured
from receiver.ledger.database import Clock, Database, reason

CONNECTIONS_MAX = 10  # of one process, besides the one each of committer, listener and keeper
CONNECT_S = 5

# A server that vanished without a word is noticed in 20 s, not in the hours that TCP allows.
_LIVENESS = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 20_000}

# A transaction that its worker forgot must not hold locks for ever. And a commit is a commit only once it is on disk,
# whatever the server's default is.
_SESSION = (
    "SELECT set_config('idle_in_transaction_session_timeout', '60000', false)",
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)

E = TypeVar("E")

_WRONG = ("password authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")

NO_DRIVER = (
    "OUTKEEP_DATABASE_URL: a ledger on Postgres needs its driver: install Outkeep with its extra, `pip install"
    " '.[postgres]'`, or in the clone `uv run --extra postgres outkeep`."
)


def connect(url: sa.URL, now_ms: Callable[[], int], skew_ms: int = 0) -> Database:
    """The database at a `postgresql://` URL; nothing is connected yet. Misconfigured without the driver."""
    if importlib.util.find_spec("psycopg") is None:
        raise Misconfigured(NO_DRIVER)
    closing = AsyncExitStack()
    committing = _made(sa.create_engine, url, connections=1)
    writing = engine(url, connections=CONNECTIONS_MAX)
    closing.callback(committing.dispose)
    closing.push_async_callback(writing.dispose)
    reading = writing.execution_options(isolation_level="AUTOCOMMIT")
    clock = Clock("postgresql", now_ms, skew_ms)
    return Database("postgresql", clock, partial(_lend, committing), writing, reading, closing=closing)


@contextmanager
def _lend(committing: sa.Engine) -> Iterator[Any]:
    """A transaction on the driver's connection; one that failed is not used again."""
    connection = committing.raw_connection()
    try:
        yield connection
        connection.commit()
    except BaseException:
        connection.invalidate()
        raise
    finally:
        connection.close()


def engine(url: sa.URL, *, connections: int) -> AsyncEngine:
    """Connections with our settings, opened when they are needed."""
    return _made(create_async_engine, url, connections=connections)


def _made(create: Callable[..., E], url: sa.URL, *, connections: int) -> E:
    known = {"connect_timeout": CONNECT_S, "application_name": "outkeep", **_LIVENESS}
    try:
        made = create(
            url.set(drivername="postgresql+psycopg"),
            pool_size=connections,
            max_overflow=0,
            pool_timeout=10,
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            connect_args={name: value for name, value in known.items() if name not in url.query},
        )
    except ImportError as error:  # installed, but without libpq
        raise Misconfigured(NO_DRIVER) from error
    sa.event.listen(getattr(made, "sync_engine", made), "connect", _prepare)
    return made


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for statement in _SESSION:
        cursor.execute(statement)
    cursor.close()
    connection.commit()


async def reach(database: Database) -> None:
    """Connect once, so that a wrong address or password is told in one sentence at the start."""
    url = database.writing.url
    place = f"{url.host or 'the local socket'}:{url.port or 5432}"
    try:
        async with database.writing.connect():
            pass
    except sa.exc.SQLAlchemyError as error:
        said = reason(error)
        kind = Misconfigured if any(word in str(error) for word in _WRONG) else LedgerUnavailable
        raise kind(f"OUTKEEP_DATABASE_URL: Postgres at {place} can't be used: {said}") from error

"""The database behind the ledger: transactions that write, connections that read, its clock, its errors."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from receiver.core.errors import LedgerRefused, LedgerUnavailable
from receiver.ledger.trust import Trust, verdict
from receiver.ledger.unbroken import Unbroken

_LIMIT_EXCEEDED = "54"  # PostgreSQL's class of states for statements and rows that are too large for it

Dialect = Literal["sqlite", "postgresql"]
Lend = Callable[[], AbstractContextManager[Any]]


@dataclass(slots=True)
class Clock:
    """The clock that leases and due times follow: the database's own on PostgreSQL, this process's on SQLite.

    `skew_ms` puts PostgreSQL's clock ahead, for tests that can't wait.
    """

    dialect: Dialect
    now_ms: Callable[[], int]
    skew_ms: int = 0

    def now(self) -> sa.ColumnElement[int]:
        """Now in milliseconds since 1970, in SQL; the same throughout one statement."""
        if self.dialect == "sqlite":
            return sa.literal(self.now_ms(), sa.BigInteger)
        epoch_s = sa.extract("epoch", sa.func.statement_timestamp())
        return sa.cast(sa.func.floor(epoch_s * 1000), sa.BigInteger) + sa.literal(self.skew_ms, sa.BigInteger)


class Turns:
    """Who may write next on SQLite, which takes one writer: the committer after every transaction, if it wants to.

    Transactions queue for `ordinary` first, so that never more than one of them is ahead of the committer.
    """

    def __init__(self) -> None:
        self.ordinary = asyncio.Lock()
        self.pen = asyncio.Lock()


@dataclass(slots=True)
class Database:
    """`lend` gives the committer a transaction on the driver's own connection, in a thread; `writing` is for all else.

    On SQLite both stand on the same connection, the only one that writes, and `turns` says who has it.
    """

    dialect: Dialect
    clock: Clock
    lend: Lend
    writing: AsyncEngine
    reading: AsyncEngine
    turns: Turns | None = None
    trust: Trust = field(default_factory=Trust)
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    @asynccontextmanager
    async def committers_turn(self) -> AsyncIterator[None]:
        """While the block lasts the committer may `lend`; it waits for one other transaction at most."""
        if self.turns is None:
            yield
            return
        async with self.turns.pen:
            yield

    def others_wait(self) -> bool:
        """Whether somebody waits for the committer to end its turn. May be asked from its thread."""
        return self.turns is not None and self.turns.ordinary.locked()

    def write(self) -> "Connected":
        """A transaction: it commits at the end of the block and rolls back on any error. See `Trust`."""
        return Connected(self.writing, self.turns, self.trust)

    def read(self) -> "Connected":
        """A connection that reads, each statement for itself; it waits for no writer."""
        return Connected(self.reading)

    def insert(self, table: sa.Table) -> "sqlite.Insert | postgresql.Insert":
        """An INSERT that knows what to do on a conflict."""
        return sqlite.insert(table) if self.dialect == "sqlite" else postgresql.insert(table)

    def token(self) -> sa.ColumnElement[Any]:
        """A new fencing token for every row, in SQL."""
        if self.dialect == "sqlite":
            return sa.func.lower(sa.func.hex(sa.func.randomblob(16)))
        return sa.cast(sa.func.gen_random_uuid(), sa.Text)

    async def one_at_a_time(self, connection: AsyncConnection, key: int) -> None:
        """Until the end of the transaction, be the only one with this key; on SQLite a writer is alone anyway."""
        if self.dialect == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.literal(key, sa.BigInteger))))


class Connected:
    """A connection for the length of a block. What the database or its driver raises leaves as LedgerUnavailable.

    It writes if it is given the trust that this takes, in a transaction and, on SQLite, in its turn.
    """

    def __init__(self, engine: AsyncEngine, turns: Turns | None = None, trust: Trust | None = None) -> None:
        self._engine = engine
        self._turns = turns
        self._trust = trust
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> AsyncConnection:
        try:
            if self._turns is not None:
                return await self._in_turn(self._turns)
            return await self._stack.enter_async_context(
                self._engine.connect() if self._trust is None else self._engine.begin()
            )
        except BaseException as error:
            await self._stack.aclose()
            self._failed(error)
            raise

    async def _in_turn(self, turns: Turns) -> AsyncConnection:
        await self._stack.enter_async_context(turns.ordinary)
        await self._stack.enter_async_context(turns.pen)
        if self._trust is not None:
            self._trust.check()
        connection = Unbroken(self._engine)
        try:
            await connection.begun()
        except asyncio.CancelledError:
            if connection.in_transaction():
                await connection.end(well=False)
            raise

        async def end(kind: type[BaseException] | None, *_: object) -> None:
            await connection.end(well=kind is None)

        self._stack.push_async_exit(end)
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseException as failed:
            self._failed(failed)
            raise
        if error is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        broken = None if self._trust is None else verdict(error)
        if broken is not None and self._trust is not None:
            self._trust.judge(error)
            raise broken from error
        raise_unavailable(error)


def raise_unavailable(error: BaseException) -> None:
    """Turn what a database raises into LedgerUnavailable or LedgerRefused; anything else is left alone."""
    if isinstance(error, SQLAlchemyError):
        kind = LedgerRefused if _is_refusal(error) else LedgerUnavailable
        raise kind(f"The ledger can't be used now: {reason(error)}") from error


def _is_refusal(error: SQLAlchemyError) -> bool:
    """Whether what was to be written is to blame, and not the disk, the connection or somebody else's transaction."""
    if isinstance(error, DBAPIError):
        too_large = str(getattr(error.orig, "sqlstate", "")).startswith(_LIMIT_EXCEEDED)
        return too_large or isinstance(error, DataError | IntegrityError)
    return isinstance(error, StatementError)


def reason(error: BaseException) -> str:
    """The first line of what the driver said: further lines, statements and parameters may hold what is secret."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    lines = str(error).splitlines()
    return lines[0].strip() if lines else type(error).__name__

"""The ledger: what we remember, on SQLite or PostgreSQL. The only part of the service that speaks SQL."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from receiver.core.delivery import Delivery
from receiver.core.errors import LedgerBroken, Misconfigured
from receiver.ledger import postgres, schema, sqlite
from receiver.ledger.bells import Bells
from receiver.ledger.claims import Claims
from receiver.ledger.committer import Committer
from receiver.ledger.database import Database, Dialect
from receiver.ledger.feed import Feed
from receiver.ledger.hastening import Hastening
from receiver.ledger.intents import Intents
from receiver.ledger.keeping import Keeping
from receiver.ledger.pruning import Pruning
from receiver.ledger.quarantine import Quarantine
from receiver.ledger.reading import Reading
from receiver.ledger.rescuing import Rescuing
from receiver.ledger.spooling import Spooling
from receiver.ledger.transaction import Transaction


class Ledger(Claims, Keeping, Feed, Reading, Spooling, Intents, Pruning, Quarantine, Rescuing, Hastening, Bells):
    """One ledger for the whole process. Every verb may raise LedgerUnavailable; then nothing was promised."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._committer = Committer(database)

    @classmethod
    async def open(cls, url: str, *, now_ms: Callable[[], int], skew_ms: int = 0) -> Self:
        """Open the ledger at `sqlite:///path` or `postgresql://…`.

        SQLite: makes the folder, the tables and migrates; takes the file for this process alone; frees all leases.
        Postgres: makes the tables in an empty database, LedgerOutdated if they are older. `skew_ms` puts its clock
        ahead, for tests. Raises Misconfigured, LedgerOutdated or LedgerUnavailable, never with a password in it.
        """
        database = connect(url, now_ms, skew_ms)
        try:
            if database.dialect == "postgresql":
                await postgres.reach(database)
            await schema.prepare(database)
            if database.dialect == "sqlite":
                await Claims(database).free_leases()
        except BaseException:
            await database.closing.aclose()
            raise
        return cls(database)

    async def close(self) -> None:
        """Commit what waits, then let go of the database."""
        await self._committer.close()
        await self._database.closing.aclose()

    @property
    def dialect(self) -> Dialect:
        return self._database.dialect

    async def accept(self, delivery: Delivery) -> bool:
        """Keep a delivery; returns once it is on disk. See `Committer.accept`."""
        return await self._committer.accept(delivery)

    def begin(self, delivery: Delivery) -> "asyncio.Future[bool]":
        """Likewise, for who can't await: it may raise LedgerFull or LedgerUnavailable, and so may its outcome."""
        return self._committer.begin(delivery)

    def pressed(self) -> bool:
        """Whether so many deliveries wait that other work should be turned away."""
        return self._committer.pressed()

    async def broken(self) -> LedgerBroken:
        """Returns if the disk fails this process, with the error that it should end with: nothing is taken any more."""
        return await self._database.trust.lost()

    def is_broken(self) -> bool:
        """Whether that has happened."""
        return self._database.trust.is_lost()

    async def ready(self) -> bool:
        """True when a delivery could be taken now; LedgerUnavailable when not."""
        await self._committer.beat()
        return True

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction: kept at the end of the block, undone by any error. On SQLite one at a time.

        Inside the block call no other verb of the ledger that writes: it would wait for this one to end.
        """
        return _Transacting(self._database)


async def migrate(url: str) -> bool:
    """Bring the schema of the ledger at this URL up to date; False if it was. Raises like `Ledger.open`."""
    database = connect(url, lambda: 0)
    try:
        if database.dialect == "postgresql":
            await postgres.reach(database)
        return await schema.upgrade(database)
    finally:
        await database.closing.aclose()


def connect(url: str, now_ms: Callable[[], int], skew_ms: int = 0) -> Database:
    """The database that a URL names, not looked at yet."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # the latter for a port that is no number
        parsed = None
    if parsed is not None and parsed.drivername == "sqlite":
        return sqlite.connect(parsed, now_ms)
    if parsed is not None and parsed.drivername in {"postgresql", "postgres"}:
        return postgres.connect(parsed, now_ms, skew_ms)
    raise Misconfigured("OUTKEEP_DATABASE_URL is neither sqlite:///path nor postgresql://user:password@host/name")


class _Transacting(AbstractAsyncContextManager[Transaction]):
    """The block of one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connected = database.write()

    async def __aenter__(self) -> Transaction:
        return Transaction(self._database, await self._connected.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connected.__aexit__(kind, error, trace)

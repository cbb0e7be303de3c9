"""Wake-ups between processes, on PostgreSQL: hints only, whoever misses one finds the work by its due time."""

import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any

import sqlalchemy as sa

from receiver.core.errors import LedgerUnavailable
from receiver.ledger import postgres
from receiver.ledger.database import Connected, Database, reason
from receiver.ledger.room import Room

CHANNEL = "outkeep"


class Bells(Room):
    """Part of the ledger. On SQLite there is no other process: nothing is said and nothing is heard."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._name = uuid.uuid4().hex  # so that nobody hears himself

    async def notify(self, kinds: Iterable[str]) -> None:
        """Tell the other processes of this ledger. Once per batch, after its commit: every call serialises commits."""
        words = " ".join((self._name, *kinds))
        if self._database.dialect == "postgresql":
            async with self._database.read() as connection:
                await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, words)))

    async def listen(self) -> AsyncIterator[str]:
        """The kinds that other processes tell, as they come. LedgerUnavailable when the connection ends."""
        if self._database.dialect == "sqlite":
            return
        engine = postgres.engine(self._database.writing.url, connections=1)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(engine.dispose)
            at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
            connection = await stack.enter_async_context(Connected(at_once))
            await connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            driver = (await connection.get_raw_connection()).driver_connection
            while True:
                for words in await _next(driver):
                    speaker, *kinds = words.split() or [""]
                    for kind in kinds if speaker != self._name else ():
                        yield kind


async def _next(driver: Any) -> list[str]:
    """What was said since the last call, at least one thing."""
    from psycopg import Error  # noqa: PLC0415 - only with the extra

    try:
        return [said.payload async for said in driver.notifies(stop_after=1)]
    except Error as error:
        raise LedgerUnavailable(f"The ledger can't be listened to now: {reason(error)}") from error

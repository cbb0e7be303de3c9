"""A connection whose statements are waited for once they have begun, whoever is cancelled meanwhile.

SQLAlchemy throws away a connection in whose statement somebody was cancelled. On SQLite that is the only one that
writes, and what the cancelled one had begun would still be running when the next one takes its turn.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

T = TypeVar("T")


async def unbroken(work: Awaitable[T]) -> T:
    """The outcome of `work`, which runs to its end; a cancellation that came meanwhile is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at: what was cancelled is not told twice
        raise cancelled
    return task.result()


class Unbroken(AsyncConnection):
    """Like the connection that it is, but cancelled between statements only. `end` closes it."""

    _transaction: AsyncTransaction

    async def begun(self) -> "Unbroken":
        """Connect and begin a transaction."""

        async def begin() -> None:
            await self.start()
            self._transaction = self.begin()
            try:
                await self._transaction.start()
            except BaseException:
                await self.close()
                raise

        await unbroken(begin())
        return self

    async def end(self, *, well: bool) -> None:
        """Commit, or roll back, and let go of the connection."""

        async def end() -> None:
            try:
                await (self._transaction.commit() if well else self._transaction.rollback())
            finally:
                await self.close()

        await unbroken(end())

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        return await unbroken(super().execute(*args, **kwargs))

    async def run_sync(self, *args: Any, **kwargs: Any) -> Any:
        return await unbroken(super().run_sync(*args, **kwargs))

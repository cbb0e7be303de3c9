"""Holding claims while work on them goes on: by a thread and a connection that no busy loop can starve."""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from types import TracebackType

from receiver.core.errors import LedgerUnavailable
from receiver.ledger import postgres
from receiver.ledger.claims import Claims
from receiver.ledger.database import Database
from receiver.ledger.room import Room

TURNS_OF_LEASE = 3  # renewed that often in the time that a lease lasts: two turns may fail
SILENT_TURNS_MAX = 24  # two minutes with leases of 15 s: a loop that did nothing for so long is as good as dead
END_S_MAX = 0.5  # for a turn in hand at the end; a server that does not answer is not waited for

log = logging.getLogger("outkeep.leases")

Held = Callable[[], Collection[str]]
Lost = Callable[[Collection[str]], None]


class Keeping(Room):
    """Part of the ledger."""

    def keeping(self, held: Held, *, lease_ms: int, lost: Lost) -> AbstractAsyncContextManager[object]:
        """While the block lasts, hold the claims whose leases `held` gives, each time for `lease_ms` more.

        `held` is called in a thread; `lost`, with leases that others have by now, on the event loop. On SQLite, where
        nobody else can claim, there is nothing to do: `claim_outputs` passes by what its caller works on.
        """
        if self._database.dialect == "sqlite":
            return nullcontext()
        return _Keeper(self._database, held, lease_ms, lost)


class _Keeper(AbstractAsyncContextManager[object]):
    """The thread. It has an event loop of its own, to speak to the ledger as everybody does."""

    def __init__(self, database: Database, held: Held, lease_ms: int, lost: Lost) -> None:
        own = postgres.connect(database.writing.url, database.clock.now_ms)
        self._database = replace(own, clock=database.clock)
        self._held, self._lease_ms, self._lost = held, lease_ms, lost
        self._missing: set[str] = set()
        self._silent_turns = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-keeper", daemon=True)

    async def __aenter__(self) -> object:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        await asyncio.to_thread(self._thread.join, END_S_MAX)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while not self._ended.wait(self._lease_ms / 1000 / TURNS_OF_LEASE):
                try:
                    runner.run(self._turn())
                except LedgerUnavailable:
                    pass  # told by all others who meet it; the next turn connects anew
                except Exception:
                    log.exception("leases could not be renewed; it will be tried again")
            runner.run(self._database.closing.aclose())

    async def _turn(self) -> None:
        self._silent_turns += 1
        self._loop.call_soon_threadsafe(self._alive)
        held = set(self._held())
        if not held or self._silent_turns > SILENT_TURNS_MAX:
            return
        kept = await Claims(self._database).renew(sorted(held), lease_ms=self._lease_ms)
        # What was settled this moment is not there any more, either: only who misses it twice has lost it.
        lost, self._missing = (held - kept) & self._missing, held - kept
        if lost:
            self._loop.call_soon_threadsafe(self._lost, lost)

    def _alive(self) -> None:
        self._silent_turns = 0

"""The newest events, ready-made as bytes and shared by everybody who reads the feed.

A queue for each reader collapses at 20 events a second and 1,000 readers; one ring of bytes that all of them look
into, with one read of the ledger and one wake-up for whatever came in the meantime, carries hundreds.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter

from receiver.core.errors import LedgerUnavailable
from receiver.core.event import Event, cursor, told
from receiver.runtime.bell import Ring
from receiver.runtime.house import House
from receiver.web.problems import json_bytes

EVENTS_KEPT = 4096
"""Events in the ring, of one or two kilobytes apiece: a reader further behind reads the ledger."""

BYTES_KEPT = 32 * 1024 * 1024
"""Of all events in the ring: an archived prediction of ten thousand outputs makes an event of megabytes."""

BYTES_READ = 16 * 1024 * 1024
"""Of events out of the ledger for one reader: `created` holds a whole input, often with pictures in it."""

READ_MAX = 1000  # events in one read of the ledger
MESSAGES_MAX = 500  # events in one piece to a reader: a slow one shall not have the whole ring in its buffer
TICK_S = 5.0  # readers are woken at least this often, to see to their heartbeats
LINGER_TICKS = 12  # without a reader: long-polling ones come and go
PAUSE_S = 0.005  # between two wake-ups: what comes in the meantime is told together
PAUSE_S_PER_READER = 0.00005  # so that waking 1,000 readers takes no more than a part of our time
RETRY_S = 1.0  # after the ledger could not be read

_log = logging.getLogger(__name__)
_sequence = attrgetter("sequence")


@dataclass(frozen=True, slots=True)
class Line:
    """One event of the feed: as JSON, and as a message of Server-Sent Events (`id:` and one `data:` line)."""

    sequence: int
    type: str
    json: bytes
    message: bytes


def line(event: Event) -> Line:
    sequence = event.sequence or 0
    json = json_bytes(told(event))
    return Line(sequence, event.type, json, b"id: %s\ndata: %s\n\n" % (cursor(sequence).encode("ascii"), json))


class Tail:
    """The end of the feed. It runs while somebody reads: `join` before, `leave` after."""

    def __init__(self, house: House) -> None:
        self.closing = False
        self.readers = 0
        self._ledger = house.ledger
        self._bell = house.bell
        self._lines: list[Line] = []
        self._bytes = 0
        self._floor = 0  # every event after this place, up to the end, is in the ring
        self._starting = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._shared_for = (-1, -1)
        self._shared: tuple[int, bytes] = (0, b"")

    async def join(self) -> None:
        """Count as a reader; returns once the ring follows the ledger. Raises LedgerUnavailable."""
        async with self._starting:
            if self._running is None:
                self._lines, self._bytes = [], 0
                self._floor = await self._ledger.last_sequence()
                self._running = asyncio.create_task(self._follow())
            self.readers += 1

    def leave(self) -> None:
        self.readers -= 1

    async def close(self) -> None:
        """Wake everybody for the last time and stop."""
        self.closing = True
        self._wake()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    @property
    def end(self) -> int:
        """The place of the newest event that we know of."""
        return self._lines[-1].sequence if self._lines else self._floor

    async def wait(self, after: int, timeout_s: float) -> None:
        """Wait until there is something after a place, until the next tick, or until the time is up."""
        if self.end > after or self.closing:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def lines(self, after: int, limit: int, types: Collection[str] | None = None) -> Sequence[Line]:
        """At most `limit` events after a place: from the ring or, for readers far behind, from the ledger."""
        if after < self._floor:
            return (await self._past(after, limit, types))[0]
        start = self._index(after)
        if types is None:
            return self._lines[start : start + limit]
        matching = (item for item in self._lines[start:] if item.type in types)
        return [item for _, item in zip(range(limit), matching, strict=False)]

    async def messages(self, after: int, types: Collection[str] | None) -> tuple[int, bytes]:
        """What comes next after a place as Server-Sent Events, and the place up to which that is all.

        Readers who wait at the same place for all types get the same bytes.
        """
        end = self.end
        if types is None and self._shared_for == (after, end):
            return self._shared
        if after < self._floor:
            found, more = await self._past(after, MESSAGES_MAX, types)
            last = found[-1].sequence if found else after
            return (last if more else max(end, last)), _joined(found)
        start = self._index(after)
        found = self._lines[start : start + MESSAGES_MAX]
        place = found[-1].sequence if found else after
        if types is not None:
            return place, _joined([item for item in found if item.type in types])
        self._shared_for, self._shared = (after, end), (place, _joined(found))
        return self._shared

    async def _past(self, after: int, limit: int, types: Collection[str] | None) -> tuple[list[Line], bool]:
        """From the ledger, and whether there may be more: a reader far behind gets no more than can be held."""
        wanted = None if types is None else list(types)
        limit = await self._ledger.feed_fits(after, limit, bytes_max=BYTES_READ, types=wanted)
        found = [line(event) for event in await self._ledger.feed(after, limit, types=wanted)]
        return found, len(found) == limit

    def _index(self, after: int) -> int:
        """Where in the ring the first event after a place stands."""
        return bisect_right(self._lines, after, key=_sequence)

    async def _follow(self) -> None:
        """Read what is new whenever the bell says so, and wake the readers; ends when there are none for a while."""
        lonely = 0
        while lonely < LINGER_TICKS:
            seen = self._bell.count(Ring.FEED)
            await self._read()
            self._wake()
            await asyncio.sleep(PAUSE_S + self.readers * PAUSE_S_PER_READER)
            await self._bell.wait(Ring.FEED, seen=seen, timeout_s=TICK_S)
            lonely = 0 if self.readers else lonely + 1
        self._running = None

    async def _read(self) -> None:
        try:
            while events := await self._ledger.feed(self.end, READ_MAX):
                self._keep([line(event) for event in events])
                if len(events) < READ_MAX:
                    return
        except LedgerUnavailable as error:
            _log.warning("The feed stands still: %s", error)
            await asyncio.sleep(RETRY_S)
        except Exception:  # noqa: BLE001 - the readers wait, the log says for what
            _log.exception("The feed stands still.")
            await asyncio.sleep(RETRY_S)

    def _keep(self, found: Sequence[Line]) -> None:
        self._lines.extend(found)
        self._bytes += sum(len(item.json) for item in found)
        drop = max(0, len(self._lines) - EVENTS_KEPT)
        freed = sum(len(item.json) for item in self._lines[:drop])
        while drop < len(self._lines) - 1 and self._bytes - freed > BYTES_KEPT:
            freed += len(self._lines[drop].json)
            drop += 1
        if drop:
            self._floor = self._lines[drop - 1].sequence
            self._bytes -= freed
            del self._lines[:drop]

    def _wake(self) -> None:
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()


def _joined(found: Sequence[Line]) -> bytes:
    return b"".join(item.message for item in found)

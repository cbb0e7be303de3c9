"""Wake-ups within one process: whoever waits for a kind of work hears at once that there is some."""

import asyncio
from collections.abc import Callable, Iterable

from receiver.core.ring import Ring

__all__ = ["Bell", "Ring"]


class Bell:
    """`ring` wakes everybody who waits for that kind. Ringing with nobody waiting is heard by whoever looks next.

    Each listener asks with the count it has seen, so that a ring between two looks is never missed.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = dict.fromkeys(Ring, 0)
        self._waiting: dict[str, set[asyncio.Future[None]]] = {kind: set() for kind in Ring}
        self._watchers: list[Callable[[frozenset[str]], None]] = []

    def ring(self, *kinds: str) -> None:
        """Wake those who wait for these kinds, here and (through the watchers) in other processes."""
        self.ring_here(kinds)
        for watcher in self._watchers:
            watcher(frozenset(kinds))

    def ring_here(self, kinds: Iterable[str]) -> None:
        """Wake those who wait in this process only."""
        for kind in kinds:
            if kind not in self._counts:
                continue
            self._counts[kind] += 1
            for future in self._waiting[kind]:
                if not future.done():
                    future.set_result(None)
            self._waiting[kind].clear()

    def watch(self, watcher: Callable[[frozenset[str]], None]) -> None:
        """Have a function called, without waiting for it, with the kinds of every ring."""
        self._watchers.append(watcher)

    def count(self, kind: str) -> int:
        """How often this kind has rung so far."""
        return self._counts[kind]

    async def wait(self, kind: str, *, seen: int, timeout_s: float | None) -> int:
        """Wait until the kind has rung more than `seen` times, or the time is up; gives the count now."""
        if self._counts[kind] > seen or (timeout_s is not None and timeout_s <= 0):
            return self._counts[kind]
        future = asyncio.get_running_loop().create_future()
        self._waiting[kind].add(future)
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            pass
        finally:
            self._waiting[kind].discard(future)
        return self._counts[kind]

"""Room on a disk: how many bytes may lie there at once, who holds them, and who waits for them."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from storage.errors import Cancelled, SpoolUnavailable

WAIT_SLICE_S = 0.2
RETRY_AFTER_S = 5.0


class Room:
    """At most `bytes_max` for all names together, and `free_min` bytes of the folder's disk left to everybody else."""

    def __init__(self, folder: Path, bytes_max: int, *, free_min: int, wait_s: float) -> None:
        self._folder, self._bytes_max, self._free_min, self._wait_s = folder, bytes_max, free_min, wait_s
        self._queue: list[object] = []
        self._held: dict[str, int] = {}
        self._changed = threading.Condition()
        self._closed = False

    @property
    def used_bytes(self) -> int:
        """Bytes held by anybody."""
        with self._changed:
            return sum(self._held.values())

    def reserve(self, name: str, size: int, cancelled: Callable[[], bool]) -> None:
        """Hold `size` bytes in all for a name, waiting a little for others. Raises SpoolUnavailable, Cancelled.

        Who asks first is served first: callers that come in the order of their deadlines are served in it. One that
        holds room already and grows does not queue, since others wait for it to end.
        """
        until = time.monotonic() + self._wait_s
        ticket = object()
        with self._changed:
            if name not in self._held:
                self._queue.append(ticket)
            try:
                while (ticket in self._queue and self._queue[0] is not ticket) or not self._fits(name, size):
                    if self._closed or cancelled():
                        raise Cancelled("The transfer was stopped.")
                    if time.monotonic() > until or size > self._bytes_max:
                        raise SpoolUnavailable("The spool is full.", retry_after_s=RETRY_AFTER_S)
                    self._changed.wait(WAIT_SLICE_S)
                self._held[name] = size
            finally:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                    self._changed.notify_all()

    def note(self, name: str, size: int) -> None:
        """What lies there already holds its room, whatever the cap."""
        with self._changed:
            self._held.setdefault(name, size)

    def release(self, name: str) -> None:
        """Give back what a name held."""
        with self._changed:
            self._held.pop(name, None)
            self._changed.notify_all()

    def forget(self, gone: Callable[[str], bool]) -> None:
        """Give back what names held that are gone, since another process removed them."""
        with self._changed:
            names = list(self._held)
        for name in filter(gone, names):
            self.release(name)

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, name: str, size: int) -> bool:
        held = self._held.get(name, 0)
        if sum(self._held.values()) - held + size > self._bytes_max:
            return False
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise SpoolUnavailable(f"The spool folder cannot be used: {error.strerror}.") from error
        return free - (size - held) >= self._free_min

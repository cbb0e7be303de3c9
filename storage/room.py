"""Room on a disk: how many bytes may lie there at once, who holds them, and who waits for them."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from storage.errors import Cancelled, SpoolUnavailable

DISK_FREE_BYTES_MIN = 256 * 1024 * 1024
"""Left to everybody else on the disk; a ledger on it must still be able to write."""
RESERVE_WAIT_S = 10.0
"""Longest wait for others to finish: a server that waits on us meanwhile would give up much later than this."""
WAIT_SLICE_S = 0.2
RETRY_AFTER_S = 5.0


class Room:
    """At most `bytes_max` for all names together, and `free_min` bytes of the folder's disk left to everybody else."""

    def __init__(self, folder: Path, bytes_max: int, *, free_min: int, wait_s: float) -> None:
        self._folder, self._bytes_max, self._free_min, self._wait_s = folder, bytes_max, free_min, wait_s
        self._queue: list[object] = []
        self._held: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}  # of what is held: the disk still calls it free
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
                while lack := self._lack(name, size, behind=ticket in self._queue and self._queue[0] is not ticket):
                    if self._closed or cancelled():
                        raise Cancelled("The transfer was stopped.")
                    if time.monotonic() > until or size > self._bytes_max:
                        raise SpoolUnavailable(lack, retry_after_s=RETRY_AFTER_S)
                    self._changed.wait(WAIT_SLICE_S)
                self._unwritten[name] = self._unwritten.get(name, 0) + size - self._held.get(name, 0)
                self._held[name] = size
            finally:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                    self._changed.notify_all()

    def note(self, name: str, size: int) -> None:
        """What lies there already holds its room, whatever the cap."""
        with self._changed:
            self._held.setdefault(name, size)

    def wrote(self, name: str, count: int) -> None:
        """So much more of what a name holds is on the disk."""
        with self._changed:
            self._unwritten[name] = self._unwritten.get(name, 0) - count

    def emptied(self, name: str) -> None:
        """Nothing of what a name holds is on the disk any more."""
        with self._changed:
            self._unwritten[name] = self._held.get(name, 0)

    def finished(self, name: str, size: int) -> None:
        """All of it is on the disk, `size` bytes: no more than that is held."""
        with self._changed:
            self._held[name] = size
            self._unwritten.pop(name, None)
            self._changed.notify_all()

    def release(self, name: str) -> None:
        """Give back what a name held."""
        with self._changed:
            self._held.pop(name, None)
            self._unwritten.pop(name, None)
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

    def _lack(self, name: str, size: int, *, behind: bool) -> str:
        """Why a name can't hold `size` bytes now, "" if it can; `behind` somebody who asked before."""
        if size > self._bytes_max:
            return f"The file needs {size} bytes, more than the {self._bytes_max} that the spool may hold."
        held = self._held.get(name, 0)
        if behind or sum(self._held.values()) - held + size > self._bytes_max:
            return "The spool is full."
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise SpoolUnavailable(f"The spool folder cannot be used: {error.strerror}.") from error
        promised = sum(left for left in self._unwritten.values() if left > 0)
        return "" if free - promised - (size - held) >= self._free_min else "The spool's disk is full."

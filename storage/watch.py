"""How long a transfer may take, and whether anybody still wants it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.errors import Cancelled, GaveWay, SourceUnavailable


class Stalled(SourceUnavailable):
    """The server stopped sending, or sends too slowly to be waited for: another connection may do better."""


SLICE_S = 0.2
"""Longest that a thread waits in one system call: a cancelled transfer stops within it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of one transfer. `read_s` bounds a silence and, apart from it, the whole head of an answer.

    A body slower than `rate_min` bytes a second over `rate_window_s` of waiting is given up: a server that sends one
    byte every few seconds would otherwise hold a thread for an hour. One slower than `rate_crowded` is given up when
    others wait for its place.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    total_s: float = 3600.0
    rate_min: int = 1024
    rate_crowded: int = 32 * 1024
    rate_window_s: float = 30.0


def never() -> bool:
    """For transfers for whose place nobody waits."""
    return False


@dataclass(slots=True)
class Watch:
    """Looks at the clock for one transfer. Raises Cancelled, SourceUnavailable, GaveWay; used by one thread."""

    patience: Patience
    cancelled: Callable[[], bool]
    crowded: Callable[[], bool] = never
    started: float = field(default_factory=time.monotonic)
    _head_until: float | None = None
    _silent_since: float = 0.0
    _waited_s: float = 0.0
    _received: int = 0

    def check(self) -> float:
        """Raise if nobody wants the transfer any more or its time is up; the time now, in seconds."""
        if self.cancelled():
            raise Cancelled("The transfer was stopped.")
        now = time.monotonic()
        if now - self.started > self.patience.total_s:
            raise SourceUnavailable(f"The file did not arrive within {self.patience.total_s:g} s.")
        return now

    def begin_head(self) -> None:
        """A request was sent: from here the whole head of the answer has `read_s`."""
        self._silent_since = time.monotonic()
        self._head_until = self._silent_since + self.patience.read_s

    def begin_body(self) -> None:
        """The head is read: from here silence and rate are watched."""
        self._head_until = None
        self._silent_since = time.monotonic()
        self._waited_s, self._received = 0.0, 0

    def received(self, count: int, waited_s: float) -> None:
        """`count` bytes (0: none yet) came after `waited_s` of waiting for them."""
        now = self.check()
        if count:
            self._silent_since = now
        elif now - self._silent_since > self.patience.read_s:
            raise Stalled(f"The server sent nothing for {self.patience.read_s:g} s.")
        if self._head_until is not None:
            if now > self._head_until:
                raise SourceUnavailable(f"The server's answer did not begin within {self.patience.read_s:g} s.")
            return
        self._waited_s += waited_s
        self._received += count
        if self._waited_s >= self.patience.rate_window_s:
            if self._received < self.patience.rate_min * self._waited_s:
                raise Stalled(f"The server sent less than {self.patience.rate_min} bytes a second.")
            if self._received < self.patience.rate_crowded * self._waited_s and self.crowded():
                raise GaveWay("The server is slow, and others wait for this place.")
            self._waited_s, self._received = 0.0, 0

    def resumed(self) -> None:
        """Our own side paused (disk, spool): that silence is not the server's."""
        self._silent_since = time.monotonic()

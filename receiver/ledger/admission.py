"""Who is still taken when the disk is slow: nobody waits long for an answer, and who would have to hears so at once."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

WAIT_S_MAX = 1.2
"""Of what is expected for a newcomer. Replicate gives an answer a few seconds: this leaves room for being wrong."""

ANSWER_S_MAX = 1.8
"""After which one who was taken hears no, whatever became of the delivery. A call that comes again is harmless."""

PRESSED_S = 0.6  # of expected waiting: from here on whoever can come later makes room for those who can't
PRESSED_FOR_S = 1.0  # after somebody was refused: as long as callers are told to stay away
_LAST = 4  # batches of which the slowest counts
_FORGET = 0.7  # what a batch leaves of the weight of those before it: about the last three count
_SPREAD_BYTES = 64 * 1024  # batches that differ in size by less than this say nothing about what a byte costs


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is in front of a newcomer: the bytes that are being written, and the batches and bytes until its own.

    Of the last two its own are a part. `waited_s`: how long the first one of its batch waits already, since each one
    more has that one wait longer.
    """

    flying: int
    batches: int
    size: int
    waited_s: float = 0.0


@dataclass(slots=True)
class Admission:
    """Expects how long a newcomer would wait, from how long the last batches took.

    A batch costs a sync, however small it is, and something for each byte: a line through the last few. The slowest of
    them counts, since others write in between, and a batch that does not end for as long as it has lasted. Times are
    seconds of any clock that never goes back.
    """

    _began_s: float | None = None
    _refused_s: float = -float("inf")
    _weight: float = 0.0
    _size: float = 0.0
    _took_s: float = 0.0
    _size_size: float = 0.0
    _size_took: float = 0.0
    _costs: tuple[float, float] = (0.0, 0.0)  # seconds of a batch, and of a byte in it
    _last: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_LAST))

    def begun(self, now_s: float) -> None:
        """Somebody waits; tell it as often as you like."""
        if self._began_s is None:
            self._began_s = now_s

    def ended(self, size: int, now_s: float, *, more: bool) -> None:
        """A batch of that many bytes was told; whether more wait."""
        took_s = 0.0 if self._began_s is None else now_s - self._began_s
        self._began_s = now_s if more else None
        self._weight = _FORGET * self._weight + 1
        self._size = _FORGET * self._size + size
        self._took_s = _FORGET * self._took_s + took_s
        self._size_size = _FORGET * self._size_size + size * size
        self._size_took = _FORGET * self._size_took + size * took_s
        self._last.append((size, took_s))
        self._costs = self._learned()  # here, since far more calls than batches want to know

    def admits(self, now_s: float, ahead: Ahead) -> bool:
        """Whether one more may wait."""
        if self._began_s is None or self.expected_s(now_s, ahead) <= WAIT_S_MAX:
            return True  # with nobody waiting one is always taken, or we would never hear that the disk is well again
        self._refused_s = now_s
        return False

    def expected_s(self, now_s: float, ahead: Ahead) -> float:
        """How long a newcomer would wait, or whoever of its batch came first."""
        gone_s = 0.0 if self._began_s is None else now_s - self._began_s
        sync_s, byte_s = self._costs
        left_s = max(0.0, sync_s + ahead.flying * byte_s - gone_s) if ahead.flying else 0.0
        return max(ahead.waited_s + left_s + ahead.batches * sync_s + ahead.size * byte_s, gone_s)

    def presses(self, now_s: float, ahead: Ahead) -> bool:
        """Whether whoever can come later should: somebody was just refused, or a queue is about to be too long."""
        if now_s - self._refused_s < PRESSED_FOR_S:
            return True
        return ahead.batches > 1 and self.expected_s(now_s, ahead) > PRESSED_S

    def _learned(self) -> tuple[float, float]:
        """What `_costs` says, from all that was seen."""
        mean_size, mean_took_s = self._size / self._weight, self._took_s / self._weight
        spread = self._size_size / self._weight - mean_size**2
        together = self._size_took / self._weight - mean_size * mean_took_s
        byte_s = max(0.0, together / (max(0.0, spread) + _SPREAD_BYTES**2))
        slowest_s = max([took_s - byte_s * size for size, took_s in self._last])
        return max(0.0, mean_took_s - byte_s * mean_size, slowest_s), byte_s


class Callers:
    """Those who wait, in the order in which they came. Who waits too long is told so, whatever becomes of the rest."""

    def __init__(self, sorry: Callable[[], Exception]) -> None:
        self._sorry = sorry
        self._since_s: dict[asyncio.Future[bool], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, done: "asyncio.Future[bool]", now_s: float) -> None:
        self._since_s[done] = now_s
        if self._timer is None:
            self._timer = done.get_loop().call_later(ANSWER_S_MAX, self._look)

    def answered(self, those: Iterable["asyncio.Future[bool]"]) -> None:
        """They have heard."""
        for done in those:
            self._since_s.pop(done, None)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for done, since_s in list(self._since_s.items()):
            if since_s + ANSWER_S_MAX > now_s:
                self._timer = loop.call_at(since_s + ANSWER_S_MAX, self._look)
                return
            del self._since_s[done]
            if not done.done():
                done.set_exception(self._sorry())

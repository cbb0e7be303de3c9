"""Calls to Replicate's API that wait their turn, are repeated where that is safe, and end in an answer or an error.

This is the one layer that repeats: what it may is decided by the kind of error, and it is never a create that may have
been carried out (Replicate knows no idempotency keys). Deadlines are for the whole call, waiting included.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from receiver.core.retry import gap_ms
from receiver.replicate.errors import Rejected, ReplicateError, Throttled, Unavailable
from receiver.replicate.refusal import refusal
from receiver.replicate.request import Answer, Request

if TYPE_CHECKING:
    from receiver.replicate.wire import Wire

DEADLINE_S = 30.0
"""For a whole call with its repetitions, unless the caller says otherwise: whoever calls has a schedule of its own."""

ATTEMPTS_MAX = 5
"""With gaps up to 0.5, 1, 2 and 4 s; longer troubles are the caller's to schedule."""

ASKING_MAX = 16
"""Requests in flight that create nothing: 16 at 300 ms each come near the 3,000 a minute that Replicate allows."""

ASKING_EACH_S = 60 / 3000
"""Between requests that create nothing, once a burst is used up: ten thousand questions take 3 minutes and a half."""

BURST_S = 2.0
"""What has not been asked for so long may be asked at once; Replicate allows short bursts."""

CREATING_MAX = 64
"""Creates in flight. It allows 600 a minute, and `Prefer: wait` holds a place for up to one."""

_LOST = frozenset((None, 408, 500, 502, 503, 504, 520, 521, 522, 523, 524))  # 52x: the edge did not reach the origin
_SPREAD = 0.25  # those who waited for one moment come back over the next quarter of the wait, not all at once


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Time and chance: `clock` in seconds, never going back; `sleep` and `rng` as in asyncio and random."""

    clock: Callable[[], float]
    rng: random.Random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Lane:
    """Requests that share a rate limit at Replicate: so many at once, one `each_s`, and all wait after a 429."""

    def __init__(self, around: Surroundings, *, places: int, each_s: float = 0.0) -> None:
        self._around = around
        self._places = asyncio.Semaphore(places)
        self._opens_at_s = around.clock()
        self._each_s = each_s
        self._spoken_for_s = around.clock()  # up to when the limit is used up

    def close_for(self, pause_s: float) -> None:
        self._opens_at_s = max(self._opens_at_s, self._around.clock() + pause_s)

    @asynccontextmanager
    async def place(self, *, until_s: float) -> AsyncIterator[None]:
        """A place in the lane once it is open, or an error at once when that can't be before `until_s`."""
        clock = self._around.clock
        try:
            async with asyncio.timeout(max(0.0, until_s - clock())):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable(title="too many requests of ours are waiting", sent=False) from None
        try:
            while (closed_s := self._opens_at_s - clock()) > 0:
                if clock() + closed_s >= until_s:
                    raise Throttled(
                        status=429, title="waiting after an earlier 429", retry_after_s=closed_s, sent=False
                    )
                await self._around.sleep(closed_s * (1 + _SPREAD * self._around.rng.random()))
            await self._paced()
            yield
        finally:
            self._places.release()

    async def _paced(self) -> None:
        """Wait until the limit has room for one more."""
        now_s = self._around.clock()
        self._spoken_for_s = max(self._spoken_for_s, now_s) + self._each_s
        if (wait_s := self._spoken_for_s - now_s - BURST_S) > 0:
            await self._around.sleep(wait_s)


class Calls:
    """Sends requests over the `Wire` that `connect` makes, once, in a thread: loading httpx takes half a second."""

    def __init__(self, connect: Callable[[], "Wire"], around: Surroundings) -> None:
        self._connect = connect
        self._around = around
        self._wire: asyncio.Future[Wire] | None = None
        # Creating has the narrowest limit by far and holds its places long: polls, which save outputs, go beside it.
        self._creating = Lane(around, places=CREATING_MAX)
        self._asking = Lane(around, places=ASKING_MAX, each_s=ASKING_EACH_S)

    async def answer(
        self,
        request: Request,
        *,
        repeatable: bool,
        creating: bool = False,
        wait_s: float = 0.0,
        deadline_s: float = DEADLINE_S,
    ) -> Answer:
        """A 2xx answer, or a `ReplicateError`.

        `repeatable`: once more does no harm even if the first was carried out. `creating`: counts as creating a
        prediction. `wait_s` is what `Prefer: wait` adds to the silence we bear. All in seconds.
        """
        until_s = self._around.clock() + deadline_s
        lane = self._creating if creating else self._asking
        attempts = 0
        while True:
            attempts += 1
            async with lane.place(until_s=until_s):
                outcome = await self._once(request, wait_s=wait_s, until_s=until_s)
                if isinstance(outcome, Answer):
                    return outcome
                pause_s = self._pause_s(outcome, attempts)
                if isinstance(outcome, Throttled):
                    lane.close_for(pause_s)
            too_late = self._around.clock() + pause_s >= until_s
            if too_late or not self._may_repeat(request, outcome, attempts, repeatable=repeatable):
                raise outcome
            await self._around.sleep(pause_s)

    async def _once(self, request: Request, *, wait_s: float, until_s: float) -> Answer | ReplicateError:
        wire = await self._connected()
        try:
            answer = await wire.send(request, wait_s=wait_s, within_s=max(0.0, until_s - self._around.clock()))
        except (Unavailable, Rejected) as error:
            return error
        if 200 <= answer.status < 300:
            return answer
        return refusal(status=answer.status, headers=answer.headers, body=answer.body)

    def _pause_s(self, error: ReplicateError, attempts: int) -> float:
        return gap_ms(attempts, self._around.rng.random(), asked_s=error.retry_after_s) / 1000

    def _may_repeat(self, request: Request, error: ReplicateError, attempts: int, *, repeatable: bool) -> bool:
        if attempts >= ATTEMPTS_MAX or not (request.content is None or isinstance(request.content, bytes)):
            return False
        if isinstance(error, Throttled):
            return True
        return isinstance(error, Unavailable) and error.status in _LOST and (repeatable or not error.maybe_done)

    async def _connected(self) -> "Wire":
        if self._wire is None:
            self._wire = asyncio.ensure_future(asyncio.to_thread(self._connect))
        return await asyncio.shield(self._wire)

    async def aclose(self) -> None:
        if self._wire is not None:
            await (await self._wire).aclose()

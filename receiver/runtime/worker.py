"""The loops: each takes one step after another, sleeps until there is something to do, and wakes at once when told."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from receiver.core.errors import LedgerUnavailable
from receiver.flows.archive import LEASE_MS
from receiver.flows.conclude import MANIFESTS_MAX
from receiver.flows.observe import READ_MAX
from receiver.flows.reconcile import QUESTIONS_MAX
from receiver.flows.relay import NUMBERED_MAX
from receiver.runtime.bell import Ring
from receiver.runtime.house import House

LOOK_EVERY_S = 5.0  # a ring from another process can get lost: nobody sleeps longer than this without looking
TROUBLE_GAP_S = 1.0  # between tries while the ledger is down
STOP_S = 8.0  # for work in hand at the end; what is not done by then is handed back
SWEEP_BUCKET_EVERY_S = 3600.0  # what is half-written there is looked at once it is a day old
TIDY_EVERY_S = 30.0  # well below ledger.due.ABANDONED_MS
PRUNE_EVERY_S = 600.0
SWEEP_AGAIN_S = 60.0  # after one that broke off
SWEEP_FIRST_S = 30.0  # of patience with the first one: ten thousand predictions are a hundred pages
EXPLAIN_EVERY_S = 5.0  # requests without an answer are rare: mostly this finds none
PRUNED_MAX = 500  # rows in one small transaction
DAY_MS = 86_400_000
STORM_PER_S = 500  # webhooks a second from which on they are taken in first and read later
LULL_S = 0.05
IDLE_S = 0.1  # before another look at what is due but could not be had: another process has it in hand
GIVE_WAY_S = 1.0  # even in a storm that does not end, some are read every second

log = logging.getLogger("outkeep.worker")


class Worker:
    """All flows of one process. `run` returns once `stop` is set and the work in hand is finished or handed back."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._stop = asyncio.Event()
        self._swept = asyncio.Event()  # the first time, well or not
        self._taken, self._taken_s = 0, 0.0  # deliveries that had come when we last looked, and when that was

    async def run(self, stop: asyncio.Event) -> None:
        self._stop = stop
        house = self._house
        loops = [
            self._loop(Ring.DELIVERIES, self._read, READ_MAX),
            self._loop(Ring.MANIFESTS, house.conclude.step, MANIFESTS_MAX),
            self._loop(Ring.EVENTS, house.relay.step, NUMBERED_MAX),
            self._questions(),
            self._every(LOOK_EVERY_S, house.deadlines.step),
            self._every(TIDY_EVERY_S, house.tidy.step),
            self._every(SWEEP_BUCKET_EVERY_S, house.tidy.sweep_bucket),
            self._every(PRUNE_EVERY_S, self._prune),
            self._every(EXPLAIN_EVERY_S, house.explain.step),
        ]
        if self._sweeping:
            loops.append(self._sweeps())
        tended = house.ledger.tend_spool(house.archive.spool.identity(), house.now_ms())
        await self._safely(tended)  # before anybody looks what is at risk
        keeping = house.ledger.keeping(self._leases, lease_ms=LEASE_MS, lost=house.archive.drop)
        async with keeping, asyncio.TaskGroup() as group:
            group.create_task(self._archive_loop())
            tasks = [group.create_task(loop) for loop in loops]
            group.create_task(self._cut_short(tasks))

    def _leases(self) -> list[str]:
        """Of all that is in hand. Called in another thread: copying is one act of the interpreter."""
        return [*self._house.archive.leases, *self._house.conclude.leases]

    async def _cut_short(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """End what waits for Replicate or a bucket in the midst of a step; its work becomes due again by itself."""
        await self._stop.wait()
        _, late = await asyncio.wait(tasks, timeout=STOP_S / 2)
        for task in late:
            task.cancel()

    async def _loop(self, kind: Ring, step: Callable[[int], Awaitable[int]], full: int) -> None:
        """Step after step of `full` things while there are so many; asleep until a ring or until something is due."""
        while not self._stop.is_set():
            seen = self._house.bell.count(kind)
            did = await self._safely(step(full))
            if did is None or did < full:
                await self._sleep(kind, seen, least_s=0.0 if did else IDLE_S)

    @property
    def _sweeping(self) -> bool:
        return bool(self._house.settings.sweep_every_s) and self._house.settings.replicate_token is not None

    async def _sweeps(self) -> None:
        """The first one at once, since it covers our own outage; one that broke off is taken up again soon."""
        every_s = self._house.settings.sweep_every_s
        while not self._stop.is_set():
            walk = await self._safely(self._house.sweep.run())
            self._swept.set()
            whole = walk is not None and walk.whole
            await self._first_of(self._stop.wait(), timeout_s=every_s if whole else min(every_s, SWEEP_AGAIN_S))

    async def _questions(self) -> None:
        """The list tells of a hundred predictions at once, so after an outage it goes before the single questions."""
        if self._sweeping:
            await self._first_of(self._swept.wait(), self._stop.wait(), timeout_s=SWEEP_FIRST_S)
        await self._loop(Ring.QUESTIONS, self._house.reconcile.step, QUESTIONS_MAX)

    async def _read(self, limit: int) -> int:
        """Read deliveries, though in a storm only once in a while: taking them in goes first, reading has an hour."""
        bell, now = self._house.bell, asyncio.get_running_loop().time
        give_way_until = now() + GIVE_WAY_S
        while not self._stop.is_set() and now() < give_way_until:
            count, moment = bell.count(Ring.DELIVERIES), now()
            rate = (count - self._taken) / max(moment - self._taken_s, LULL_S)
            self._taken, self._taken_s = count, moment
            if rate < STORM_PER_S:
                break
            await asyncio.sleep(LULL_S)
        return await self._house.observe.step(limit)

    async def _archive_loop(self) -> None:
        """As many outputs at once as there are workers; a free place is filled at once, a slow file holds up nobody."""
        archive, places = self._house.archive, self._house.settings.workers
        running: set[asyncio.Task[None]] = set()
        while not self._stop.is_set():
            seen = self._house.bell.count(Ring.OUTPUTS)
            begun = await self._safely(archive.start(places - len(running)))
            running.update(begun or ())
            if len(running) < places:
                await self._sleep(Ring.OUTPUTS, seen, *running, least_s=0.0 if begun else IDLE_S)
            else:
                await self._first_of(self._stop.wait(), *running, timeout_s=LOOK_EVERY_S)
            running = {task for task in running if not _ended(task)}
        await self._wind_up(running)

    async def _wind_up(self, running: set[asyncio.Task[None]]) -> None:
        """Let what is nearly done finish; the rest hands its outputs back."""
        if running:
            _, late = await asyncio.wait(running, timeout=STOP_S / 2)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=STOP_S / 2)
            for task in running:
                _ended(task)

    async def _sleep(self, kind: Ring, seen: int, *tasks: asyncio.Task[None], least_s: float) -> None:
        """Until the bell rings, a task ends, something becomes due (not before `least_s`), or the stop."""
        due_ms = await self._safely(self._due_in_ms(kind))
        timeout_s = LOOK_EVERY_S if due_ms is None else min(LOOK_EVERY_S, max(least_s, due_ms / 1000))
        rung = self._house.bell.wait(kind, seen=seen, timeout_s=None)
        await self._first_of(rung, self._stop.wait(), *tasks, timeout_s=timeout_s)

    @staticmethod
    async def _first_of(*waits: Awaitable[object], timeout_s: float | None = None) -> None:
        """Wait for any of these; tasks go on afterwards, mere waiting ends."""
        futures = [asyncio.ensure_future(wait) for wait in waits]
        mere = [future for future, wait in zip(futures, waits, strict=True) if future is not wait]
        try:
            await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in mere:
                future.cancel()
            await asyncio.gather(*mere, return_exceptions=True)

    async def _due_in_ms(self, kind: Ring) -> float | None:
        return (await self._house.ledger.due_in_ms()).get(kind)

    async def _every(self, seconds: float, step: Callable[[], Awaitable[object]]) -> None:
        while not self._stop.is_set():
            await self._safely(step())
            try:
                await asyncio.wait_for(self._stop.wait(), seconds)
            except TimeoutError:
                continue

    async def _prune(self) -> None:
        settings, now_ms = self._house.settings, self._house.now_ms()
        pruned = PRUNED_MAX
        while pruned >= PRUNED_MAX and not self._stop.is_set():
            pruned = await self._house.ledger.prune(
                events_before_ms=now_ms - settings.keep_events_days * DAY_MS,
                deliveries_before_ms=now_ms - settings.keep_deliveries_days * DAY_MS,
                limit=PRUNED_MAX,
            )

    async def _safely(self, work: Awaitable[Any]) -> Any:
        """A step that fails is logged and tried again a little later: no trouble ends a loop."""
        try:
            return await work
        except LedgerUnavailable as error:
            log.warning("the ledger is not available: %s", error)
        except Exception:
            log.exception("a step failed; it will be tried again")
        await asyncio.sleep(TROUBLE_GAP_S)
        return None


def _ended(task: asyncio.Task[None]) -> bool:
    """Whether it has; what went wrong with it is told."""
    error = None if not task.done() or task.cancelled() else task.exception()
    if isinstance(error, LedgerUnavailable):
        log.warning("an output becomes due again with its lease, since the ledger is not available: %s", error)
    elif error is not None:
        log.error("archiving failed; the output becomes due again with its lease", exc_info=error)
    return task.done()


async def mirror(house: House, stop: asyncio.Event) -> None:
    """Hear the rings of other processes on the same ledger, and tell them ours (Postgres only)."""
    pending: set[str] = set()
    rung = asyncio.Event()

    def note(kinds: frozenset[str]) -> None:
        pending.update(kinds)
        rung.set()

    async def tell() -> None:
        while True:
            await rung.wait()
            rung.clear()
            kinds = sorted(pending)
            pending.clear()
            await _quietly(house.ledger.notify(kinds))

    async def hear() -> None:
        while True:
            await _quietly(_listen(house))
            await asyncio.sleep(TROUBLE_GAP_S)

    house.bell.watch(note)
    tasks = [asyncio.create_task(tell()), asyncio.create_task(hear())]
    try:
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(house: House) -> None:
    async for kind in house.ledger.listen():
        house.bell.ring_here([kind])


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except LedgerUnavailable as error:
        log.warning("the ledger is not available: %s", error)
    except Exception:
        log.exception("hearing or telling other processes failed; it will be tried again")

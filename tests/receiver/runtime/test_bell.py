import asyncio

from receiver.runtime.bell import Bell, Ring


async def test_a_ring_wakes_everybody_who_waits_for_that_kind():
    bell = Bell()
    waits = [asyncio.create_task(bell.wait(Ring.FEED, seen=0, timeout_s=5)) for _ in range(3)]
    other = asyncio.create_task(bell.wait(Ring.EVENTS, seen=0, timeout_s=0.05))
    await asyncio.sleep(0)
    bell.ring(Ring.FEED)
    assert await asyncio.gather(*waits) == [1, 1, 1]
    assert await other == 0


async def test_a_ring_between_two_looks_is_not_missed():
    bell = Bell()
    seen = bell.count(Ring.OUTPUTS)
    bell.ring(Ring.OUTPUTS)
    assert await bell.wait(Ring.OUTPUTS, seen=seen, timeout_s=None) == seen + 1


async def test_whoever_does_not_want_to_wait_is_told_at_once():
    assert await Bell().wait(Ring.FEED, seen=0, timeout_s=0) == 0


async def test_rings_are_passed_on_to_other_processes_but_theirs_are_not_passed_back():
    bell = Bell()
    heard: list[frozenset[str]] = []
    bell.watch(heard.append)
    bell.ring(Ring.FEED, Ring.EVENTS)
    bell.ring_here([Ring.FEED, "unheard of"])
    assert heard == [frozenset({"feed", "events"})]
    assert bell.count(Ring.FEED) == 2


async def test_who_stops_waiting_is_forgotten():
    bell = Bell()
    task = asyncio.create_task(bell.wait(Ring.FEED, seen=0, timeout_s=None))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bell.ring(Ring.FEED)
    assert not bell._waiting[Ring.FEED]

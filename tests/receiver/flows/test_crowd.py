"""Places for urgent outputs: slow sources give way to them."""

import asyncio

from receiver.core.output import OutputState
from receiver.flows.crowd import Crowd
from tests.receiver.flows.test_deadlines import only, settled_by_replicate


def test_nobody_gives_way_while_nobody_waits():
    crowd = Crowd()
    alone = crowd.enter("a", 5)
    assert not alone()
    crowd.waits = True
    assert alone()


def test_whoever_vanishes_first_keeps_its_place():
    crowd = Crowd()
    crowd.waits = True
    first, second, third = (crowd.enter(name, expires_ms) for name, expires_ms in (("a", 5), ("b", 6), ("c", 7)))
    assert [first(), second(), third()] == [False, True, True]
    crowd.leave("a")
    assert [second(), third()] == [False, True]


async def test_without_a_free_place_it_is_seen_whether_anybody_waits(home):
    one, two = await settled_by_replicate(home, "one", "two", sandbox={"files": ["once:slow:2"]})
    tasks = await home.house.archive.start(1)
    await asyncio.sleep(0.2)
    assert await home.house.archive.start(0) == []
    assert home.house.archive.crowd.waits
    tasks += await home.house.archive.start(1)
    assert not home.house.archive.crowd.waits
    assert await home.house.archive.start(0) == []
    assert not home.house.archive.crowd.waits
    await asyncio.wait(tasks)
    assert {(await only(home, each)).state for each in (one, two)} == {OutputState.ARCHIVED}

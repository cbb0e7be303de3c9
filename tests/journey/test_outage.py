"""We are away for 45 minutes, or for 70: what Replicate tells nobody meanwhile is asked for afterwards.

Time is moved, not waited for: before the outage the stand-in's clock and that of the service's process are behind.
"""

import asyncio
import contextlib
import hashlib
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Self

import httpx
import pytest

from receiver.sandbox.options import Options
from receiver.sandbox.predictions import Attempt, Prediction
from tests.journey.world import World, until

BEFORE, ELSEWHERE = 40, 120  # created through us right before the outage, and by others during it
pytestmark = pytest.mark.timeout(300)  # a tenth of it where nobody else is at work
MINUTES = 45
SILENCE_S = f"{MINUTES * 60 + 6}"  # of the past process, whose clock PostgreSQL does not share: due 6 s from now
FINAL_TRIES = 7  # of a final webhook until Replicate gives up
SHAPES: tuple[Any, ...] = (
    "file:png",
    ["file:png", "file:webp", "and a word"],
    {"video": "file:mp4", "frames": [{"image": "file:png"}]},
    "inline:png",
    "once upon a time",
)
_BEHIND = """
import time
now = time.time_ns
time.time_ns = lambda: now() - {behind_ns}
from receiver.cli import main
main()
"""


class Past:
    """The stand-in and the first process of the service, so many minutes ago."""

    def __init__(self, world: World, minutes: float) -> None:
        self._world, self._behind_ns = world, int(minutes * 60e9)

    async def __aenter__(self) -> Self:
        vars(self._world.sandbox.sandbox)["now_ns"] = lambda: time.time_ns() - self._behind_ns
        with (self._world.folder / "past.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _BEHIND.format(behind_ns=self._behind_ns), "serve",
                env=self._world.environ, cwd=self._world.folder, stdout=log, stderr=log,
            )  # fmt: skip
        self._world.processes.append(self._process)
        await until(lambda: self._world._answers(self._process))
        return self

    async def __aexit__(self, *_: object) -> None:
        del vars(self._world.sandbox.sandbox)["now_ns"]

    async def die(self) -> set[str]:
        """Gives the ids of those whose end was told in time: on a slow machine there may be some."""
        await self._world.kill(self._process)
        await asyncio.sleep(0.2)  # until the stand-in has noted the last answers
        return {story.id for story in stories(self._world) if any(each.status for each in ends(story))}


def stories(world: World) -> list[Prediction]:
    return list(world.sandbox.sandbox.predictions.values())


def ends(story: Prediction) -> list[Attempt]:
    """Every try to tell its end."""
    return [attempt for attempt in story.attempts if attempt.event == "completed"]


def given_up(story: Prediction) -> bool:
    """It is final, and its final webhook, if one was asked for, has failed for the last time."""
    tries = ends(story)
    assert not any(attempt.status for attempt in tries), "somebody answered during the outage"
    return story.final and (story.webhook is None or len(tries) == FINAL_TRIES)


async def at_work(world: World, count: int) -> None:
    """Have predictions created through us that take a while, of every shape."""
    mischief = [{"output": SHAPES[number % len(SHAPES)], "duration_s": 200} for number in range(count)]
    await asyncio.gather(*(world.create("sandbox/image", sandbox=each) for each in mischief))


async def made_elsewhere(world: World, count: int) -> None:
    headers = {"Authorization": f"Bearer {world.sandbox.token}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=30) as client:
        for number in range(count):
            asked = {"input": {"sandbox": {"output": SHAPES[number % len(SHAPES)], "duration_s": 1}}}
            answer = await client.post(f"{world.sandbox.api_url}/models/sandbox/image/predictions", json=asked)
            assert answer.status_code == 201, answer.text


async def settled(world: World, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """All of them, each told whole, once none is left open."""
    wanted = set(ids)
    known: dict[str, Any] = {}

    async def look() -> bool:
        known.clear()
        after = None
        while True:
            query = {"limit": "1000"} | ({"after": after} if after else {})
            page = (await world.http.get("/api/predictions", params=query)).json()
            known.update({item["id"]: item for item in page["items"] if item["archived_at"]})
            after = page["next"]
            if after is None:
                return known.keys() >= wanted

    try:
        await until(look, patience_s=120)
    except TimeoutError:
        raise AssertionError(f"not archived: {sorted(wanted - known.keys())}\n{world.log()}") from None
    return {number: await world.prediction(number) for number in wanted}


async def assert_kept(world: World, told: dict[str, dict[str, Any]]) -> int:
    """Every file that Replicate served is behind its permanent link, byte for byte; gives how many those are."""
    files = 0
    for story in stories(world):
        truth = {each.path: each.facts.sha256 for each in story.truth if each.facts is not None}
        outputs = {output["path"]: output for output in told[story.id]["outputs"]}
        assert outputs.keys() == truth.keys()
        for path, output in outputs.items():
            assert (output["state"], output["sha256"]) == ("archived", truth[path])
            answer = await world.http.get(output["url"])
            assert hashlib.sha256(answer.content).hexdigest() == truth[path]
        files += len(truth)
    return files


def assert_told_once(events: list[dict[str, Any]], told: dict[str, dict[str, Any]]) -> None:
    assert len({event["id"] for event in events}) == len(events)
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    for known in told.values():
        mine = [event["type"].removeprefix("outkeep.") for event in events if event["subject"] == known["id"]]
        outputs = sorted(f"output.{output['state']}" for output in known["outputs"])
        assert (mine[0], mine[-1]) == ("prediction.created", "prediction.archived")
        assert sorted(mine[1:-1]) == sorted(["prediction.completed", *outputs])


async def test_45_minutes_of_our_own_outage_lose_nothing(anywhere):
    world = await anywhere(Options(seed=11, speed=0.02), OUTKEEP_RECONCILE_AFTER_S=SILENCE_S)
    async with Past(world, minutes=MINUTES) as past:
        await world.misbehave({"files": "503"})
        waiting = [await world.create("sandbox/four-images") for _ in range(5)]
        for number in waiting:  # known to be final, but their files could not be had before we went
            await until(partial(_is_final, world, number))
        await at_work(world, BEFORE)
        heard_of = await past.die()
        await world.misbehave({})
        await made_elsewhere(world, ELSEWHERE)
        away = [story for story in stories(world) if story.id not in {*waiting, *heard_of}]
        await until(lambda: all(given_up(story) for story in away))
    assert len(away) > ELSEWHERE
    await world.serve()
    told = await settled(world, (story.id for story in stories(world)))
    assert await assert_kept(world, told) >= BEFORE + ELSEWHERE
    heard = {
        update["source"] for story in away for update in told[story.id]["updates"] if update["status"] == "succeeded"
    }
    assert heard <= {"poll", "sweep"}
    assert_told_once(await world.events(), told)


async def test_open_predictions_of_ours_are_found_by_asking_alone(anywhere):
    environ = {"OUTKEEP_SWEEP_EVERY_S": "0", "OUTKEEP_RECONCILE_AFTER_S": SILENCE_S}
    world = await anywhere(Options(seed=12, speed=0.02), **environ)
    async with Past(world, minutes=MINUTES) as past:
        await at_work(world, BEFORE)
        heard_of = await past.die()
        away = [story for story in stories(world) if story.id not in heard_of]
        await until(lambda: all(given_up(story) for story in away))
    assert away
    await world.serve()
    told = await settled(world, (story.id for story in stories(world)))
    await assert_kept(world, told)
    heard = {
        update["source"] for story in away for update in told[story.id]["updates"] if update["status"] == "succeeded"
    }
    assert heard == {"poll"}


async def test_what_is_gone_after_70_minutes_is_told_lost_with_its_reason(anywhere):
    world = await anywhere(Options(seed=13, speed=0.02))
    async with Past(world, minutes=70) as past:
        await world.misbehave({"files": "503"})
        waiting = await world.create("sandbox/four-images")
        await until(lambda: _is_final(world, waiting))
        await at_work(world, 20)
        heard_of = await past.die()
        await world.misbehave({})
        await made_elsewhere(world, 30)
        away = [story.id for story in stories(world) if story.id not in {waiting, *heard_of}]
        await until(lambda: all(given_up(story) for story in stories(world) if story.id in away))
    await world.serve()
    told = await settled(world, (story.id for story in stories(world)))
    assert len(told) == 51
    losses = {
        number: [(each["state"], each["reason"]) for each in told[number]["outputs"]] for number in (waiting, *away)
    }
    assert losses.pop(waiting) == [("lost", "gone")] * 4
    assert all(output["attempts"] > 0 for output in told[waiting]["outputs"])
    assert set(map(tuple, losses.values())) == {(("lost", "removed"),)}
    assert_told_once(await world.events(), told)


async def _is_final(world: World, number: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return bool((await world.prediction(number)).get("completed_at"))
    return False

"""The account's list: read whole, in parts, twice, and as odd as it may come."""

import asyncio
from typing import Any

import httpx
import pytest

from receiver.core.clock import iso
from receiver.core.output import OutputState
from receiver.flows.sweep import REST, WATERMARK
from receiver.sandbox.options import Options
from tests.journey.world import until
from tests.receiver.flows.test_asking import elsewhere, misbehave
from tests.receiver.replicate.conftest import Scripted, reply

HOUR_MS = 3_600_000


async def made(home, count: int, model: str = "sandbox/numbers") -> list[str]:
    """Predictions that others made with the same token, newest last."""
    headers, path = {"Authorization": f"Bearer {home.sandbox.token}"}, f"models/{model}/predictions"
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        answers = [await client.post(f"{home.sandbox.api_url}/{path}", json={"input": {}}) for _ in range(count)]
    return [answer.json()["id"] for answer in answers]


async def ended(home, ids: list[str]) -> None:
    """Wait until the sandbox has ended these."""
    async with httpx.AsyncClient(trust_env=False) as client:
        for number in ids:
            while True:
                told = (await client.get(f"{home.sandbox.url}/_sandbox/predictions", params={"id": number})).json()
                if told["predictions"][0]["status"] in {"succeeded", "failed"}:
                    break
                await asyncio.sleep(0.01)


async def test_a_sweep_that_breaks_off_is_taken_up_where_it_ended(home):
    ids = await made(home, 210)
    await misbehave(home, list=["2x:ok", "401"])
    walk = await home.house.sweep.run()
    assert (walk.whole, len(walk.found)) == (False, 200)
    assert await home.house.ledger.fact(REST)
    await misbehave(home)
    late = await elsewhere(home, "sandbox/numbers")
    walk = await home.house.sweep.run()
    assert walk.whole
    assert late in walk.found
    assert len(walk.found) == 11
    assert set(await home.house.ledger.statuses([*ids, late])) == {*ids, late}
    assert await home.house.ledger.fact(REST) == ""


async def test_the_rest_of_a_broken_sweep_is_read_however_far_back_the_next_one_looks(home):
    """The watermark has moved on meanwhile: only the span that was noted leads there."""
    ids = await made(home, 130)
    await misbehave(home, list=["once:ok", "401"])
    await home.house.sweep.run()
    await misbehave(home)
    home.clock.ahead_ms = 3 * HOUR_MS
    await home.house.ledger.set_fact(WATERMARK, str(home.clock()))
    assert len((await home.house.sweep.run()).found) == 30
    assert len(await home.house.ledger.statuses(ids)) == 130


async def test_a_break_in_the_rest_leaves_a_smaller_rest(home):
    ids = await made(home, 310)
    await misbehave(home, list=["2x:ok", "401"])
    assert len((await home.house.sweep.run()).found) == 200
    home.clock.ahead_ms = 3 * HOUR_MS
    await home.house.ledger.set_fact(WATERMARK, str(home.clock()))
    await misbehave(home, list=["2x:ok", "401"])
    walk = await home.house.sweep.run()
    assert not walk.whole
    assert 90 < len(walk.found) <= 100, "one page, with what was created in the millisecond where the first one ended"
    await misbehave(home)
    assert len((await home.house.sweep.run()).found) == 110 - len(walk.found)
    assert len(await home.house.ledger.statuses(ids)) == 310


async def test_a_second_break_forgets_nothing_of_the_first(home):
    old = await made(home, 110)
    await misbehave(home, list=["once:ok", "401"])
    await home.house.sweep.run()
    await home.house.ledger.set_fact(WATERMARK, str(home.clock() + HOUR_MS))
    await asyncio.sleep(0.01)
    new = await made(home, 110)
    await misbehave(home, list=["once:ok", "401"])
    assert len((await home.house.sweep.run()).found) == 100
    await misbehave(home)
    await home.house.ledger.set_fact(WATERMARK, str(home.clock() + 3 * HOUR_MS))
    assert len((await home.house.sweep.run()).found) == 20
    assert len(await home.house.ledger.statuses([*old, *new])) == 220


async def test_a_break_before_the_rest_keeps_it(home):
    await made(home, 110)
    await misbehave(home, list=["once:ok", "401"])
    await home.house.sweep.run()
    home.clock.ahead_ms = 3 * HOUR_MS
    await home.house.ledger.set_fact(WATERMARK, str(home.clock()))
    await misbehave(home, list=["401"])
    assert (await home.house.sweep.run()).found == []
    await misbehave(home)
    assert len((await home.house.sweep.run()).found) == 10


async def test_known_open_predictions_are_brought_up_to_date_without_a_question_each(home):
    ids = [(await home.create("sandbox/numbers", sandbox={"webhook": "never"})).id for _ in range(5)]
    running = (await home.create("sandbox/slow", sandbox={"duration_s": 3000, "webhook": "never"})).id
    await ended(home, ids)
    await until(lambda: home.sandbox.sandbox.predictions[running].status == "processing")
    home.clock.ahead_ms = 61_000
    walk = await home.house.sweep.run()
    assert {*ids} <= {*walk.updated}
    for number in ids:
        known = await home.house.ledger.prediction(number)
        assert known is not None
        assert known.final
    assert await home.house.reconcile.step() == 0, "the list has told of the running one, too"
    assert (await home.house.ledger.prediction(running)).status == "processing"
    home.clock.ahead_ms = 200_000
    assert (await home.house.sweep.run()).news == 0
    assert await home.house.reconcile.step() == 0, "nothing new, though told: it need not be asked about"
    home.clock.ahead_ms = 600_000
    assert await home.house.reconcile.step() == 1


async def test_items_of_the_list_without_an_output_are_asked_about(home):
    (number,) = ids = await made(home, 1, "sandbox/four-images")
    await ended(home, ids)
    await misbehave(home, list=["lean"])
    await home.house.sweep.run()
    assert len(await home.house.ledger.outputs(number)) == 4, "at once, and not when the manifest is to be written"
    known = await home.finish(number)
    assert known.told["input"] is not None
    outputs = await home.house.ledger.outputs(number)
    assert [output.state for output in outputs] == [OutputState.ARCHIVED] * 4


async def test_items_without_an_output_that_cannot_be_asked_about_are_kept_all_the_same(home):
    (number,) = ids = await made(home, 1)
    await ended(home, ids)
    await misbehave(home, list=["lean"], api=["once:ok", "2x:404", "ok"])
    assert (await home.house.sweep.run()).found == [number]


async def test_odd_items_of_the_list_hide_none_of_the_others(build):
    items: list[Any] = [
        5, None, "x", [], {}, {"id": None}, {"id": "../../etc"}, {"id": "a" * 65, "status": "succeeded"},
        {"id": "when", "status": "succeeded", "output": "text", "created_at": "the day before"},
        {"id": "what", "status": 7, "created_at": 12, "output": None, "input": [], "data_removed": "yes"},
        {"id": "twice", "status": "starting"}, {"id": "twice", "status": "succeeded", "output": 1},
        {"id": "deep", "status": "failed", "error": {"a": [1]}, "output": {"b": [[[]]]}},
    ]  # fmt: skip
    served = Scripted([reply(200, {"results": items, "next": None, "previous": 3})])
    async with await asyncio.start_server(served, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        home = await build(OUTKEEP_REPLICATE_URL=f"http://127.0.0.1:{port}/v1")
        assert (await home.house.sweep.run()).whole
        await served.stop()
    known = await home.house.ledger.statuses(["when", "what", "twice", "deep", "a" * 65])
    assert known == {"when": "succeeded", "what": "unknown", "twice": "succeeded", "deep": "failed"}


async def test_what_was_removed_before_we_came_is_told_lost_and_not_passed_over(home):
    (number,) = ids = await made(home, 1, "sandbox/image")
    await ended(home, ids)
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(f"{home.sandbox.url}/_sandbox/expire", json={"prediction": number})).raise_for_status()
    await home.house.sweep.run()
    assert (await home.finish(number)).archived_ms is not None
    (output,) = await home.house.ledger.outputs(number)
    assert (output.state, output.reason) == (OutputState.LOST, "removed")


@pytest.mark.parametrize("ago", ["3h", iso(0)])
async def test_the_next_sweep_looks_back_as_far_as_it_is_told(home, ago):
    await home.house.sweep.run()
    home.clock.ahead_ms = 2 * HOUR_MS + 60_000
    await home.house.ledger.set_fact(WATERMARK, str(home.clock()))
    (number,) = await made(home, 1)
    assert (await home.house.sweep.run()).found == [], "by its own clock that was two hours ago"
    await home.house.sweep.look_back(ago)
    assert (await home.house.sweep.run()).found == [number]


async def test_looking_back_less_far_than_is_due_changes_nothing(home):
    await home.house.ledger.set_fact(WATERMARK, "1000")
    await home.house.sweep.look_back("1m")
    assert await home.house.ledger.fact(WATERMARK) == "1000"
    with pytest.raises(ValueError, match="duration"):
        await home.house.sweep.look_back("yesterday")


async def test_a_list_that_cannot_be_had_is_told_and_moves_nothing(build):
    home = await build(Options(seed=3, mischief={"list": ["401"]}))
    walk = await home.house.sweep.run()
    assert walk.error is not None
    assert await home.house.ledger.fact(WATERMARK) is None
    assert await home.house.ledger.fact(REST) is None


async def test_a_watermark_in_the_future_hides_nothing(home):
    """As a clock that was put back leaves it."""
    await home.house.ledger.set_fact(WATERMARK, str(home.clock() + 12 * HOUR_MS))
    (made_now,) = await made(home, 1)
    assert made_now in (await home.house.sweep.run()).found

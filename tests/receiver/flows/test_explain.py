"""Requests whose answer was never received: no prediction without its maker, and none asked for twice."""

import asyncio
import json
import logging

import httpx
import pytest

from receiver.core.errors import UpstreamError
from receiver.flows.explain import GIVE_UP_MS, UNCLEAR_MS, UNDER_WAY_MS
from receiver.ledger.nouns import IntentState
from receiver.sandbox.options import Options
from tests.journey.world import until
from tests.receiver.flows.test_asking import misbehave
from tests.receiver.flows.test_sweep import ended

PATH = "/models/sandbox/image/predictions"


async def listed(home) -> list[dict]:
    """All that the sandbox has made."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{home.sandbox.url}/_sandbox/predictions")).json()["predictions"]


async def lose_answer(home, key_name: str = "app", **given: object) -> None:
    """Have a prediction made whose create answer never comes."""
    sandbox = {"create": "lost", "webhook": "never"}
    with pytest.raises(UpstreamError) as refusal:
        await home.house.create(PATH, {"input": {**given, "sandbox": sandbox}}, key_name=key_name)
    assert "may have made the prediction" in str(refusal.value)


async def open_intents(home) -> list:
    return await home.house.ledger.open_intents(home.clock() + 1000)


@pytest.fixture(params=["a webhook", "polls only"])
async def either(request, build):
    """With the token told in the list, and with nothing but the list to go by."""
    home = await build()
    object.__setattr__(home.house.create, "asks_for_webhook", request.param == "a webhook")
    return home


async def test_a_create_whose_answer_was_lost_is_found_with_its_maker_and_made_once(either):
    await lose_answer(either, prompt="lost")
    (made,) = await listed(either)
    either.clock.ahead_ms = UNCLEAR_MS + 1000
    await either.house.explain.step()
    known = await either.house.ledger.prediction(made["id"])
    assert known.key_name == "app"
    assert await open_intents(either) == []
    await ended(either, [made["id"]])
    assert (await either.finish(made["id"])).archived_ms is not None
    assert len(await listed(either)) == 1


async def test_of_requests_alike_each_gets_a_prediction_of_its_own(build):
    home = await build()
    object.__setattr__(home.house.create, "asks_for_webhook", False)
    for key_name in ("first", "second", "third"):
        await lose_answer(home, key_name, prompt="the same")
    home.clock.ahead_ms = UNCLEAR_MS + 1000
    assert await home.house.explain.step() == 3
    names = [(await home.house.ledger.prediction(made["id"])).key_name for made in await listed(home)]
    assert sorted(names) == ["first", "second", "third"]


@pytest.mark.parametrize("prompt", ["another", "never made"], ids=["another input", "another request"])
async def test_a_prediction_of_another_input_or_another_request_is_not_taken_for_it(build, prompt):
    home = await build()
    object.__setattr__(home.house.create, "asks_for_webhook", False)
    made = await home.create(prompt=prompt)
    await misbehave(home, create=["reset"])
    with pytest.raises(UpstreamError):
        await home.create(prompt="never made")
    home.clock.ahead_ms = UNCLEAR_MS + 1000
    assert await home.house.explain.step() == 0
    (intent,) = await open_intents(home)
    assert intent.state == IntentState.UNCLEAR
    assert (await home.house.ledger.prediction(made.id)).key_name == "app"


async def test_a_request_that_came_to_nothing_is_called_so_after_a_while(home, caplog):
    await misbehave(home, create=["reset"])
    with pytest.raises(UpstreamError):
        await home.create(prompt="never made")
    await misbehave(home, list=["401"])
    home.clock.ahead_ms = GIVE_UP_MS + 1000
    await home.house.explain.step()
    assert len(await open_intents(home)) == 1, "while the list can't be read nothing is known"
    await misbehave(home)
    with caplog.at_level(logging.WARNING):
        await home.house.explain.step()
    assert await open_intents(home) == []
    assert "was never made" in caplog.text
    assert await listed(home) == []


async def test_a_call_that_is_still_under_way_is_left_alone(home):
    late = asyncio.create_task(home.create(sandbox={"create": "late:1"}))
    await until(lambda: listed(home))
    home.clock.ahead_ms = UNDER_WAY_MS - 10_000
    assert await home.house.explain.step() == 0
    home.clock.ahead_ms = 0
    assert (await late).key_name == "app"
    assert await open_intents(home) == []


async def test_a_webhook_explains_the_request_that_its_token_was_made_for(home):
    """The process died before the answer came; the first thing that is heard is the webhook."""
    late = asyncio.create_task(home.create(sandbox={"create": "late:3600"}))
    made = await until(lambda: listed(home))
    for task in home.house.create._under_way:
        task.cancel()
    await asyncio.gather(late, return_exceptions=True)
    (intent,) = await open_intents(home)
    body = json.dumps({"id": made[0]["id"], "status": "starting"}).encode()
    await home.webhook(body, token=intent.token)
    await home.house.observe.step()
    assert (await home.house.ledger.prediction(made[0]["id"])).key_name == "app"
    assert await open_intents(home) == []


async def test_the_sweep_knows_the_maker_by_the_webhook_that_the_list_tells(home):
    await lose_answer(home, prompt="lost")
    await home.house.sweep.run()
    (made,) = await listed(home)
    assert (await home.house.ledger.prediction(made["id"])).key_name == "app"
    assert await open_intents(home) == []


async def test_the_request_on_disk_holds_no_secret(home):
    await misbehave(home, create=["reset"])
    secret = "r8_" + "a" * 37
    with pytest.raises(UpstreamError):
        await home.create(prompt=f"use {secret}", auth="hunter2")
    (intent,) = await open_intents(home)
    assert intent.request is not None
    assert secret not in json.dumps(dict(intent.request))
    assert "hunter2" not in json.dumps(dict(intent.request))


@pytest.mark.parametrize(("prank", "made"), [("lost", 1), ("reset", 0), ("500", 0), ("once:429", 1)])
async def test_a_create_is_asked_for_again_only_when_nothing_was_made(build, prank, made):
    home = await build(Options(seed=3, speed=0.02, mischief={"create": [prank]}))
    try:
        await home.create(prompt="once")
    except UpstreamError:
        assert prank != "once:429"
    assert len(await listed(home)) == made

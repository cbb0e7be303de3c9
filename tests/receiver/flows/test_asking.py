import asyncio
import json
from typing import Any

import httpx
import pytest

from receiver.core.errors import UpstreamError
from receiver.core.prediction import Prediction, Source, Update
from receiver.flows import reconcile
from receiver.flows.asking import ABSENT_GAP_MS, GAP_MS_MAX, POLL_MS, Patience
from receiver.flows.reconcile import DENIALS_MIN
from receiver.sandbox.options import Options

HOUR_MS = 3_600_000


async def misbehave(home, **mischief: object) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(f"{home.sandbox.url}/_sandbox/mischief", json=mischief)).raise_for_status()


async def elsewhere(home, model: str = "sandbox/image") -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {home.sandbox.token}"}
        answer = await client.post(
            f"{home.sandbox.api_url}/models/{model}/predictions", json={"input": {}}, headers=headers
        )
    return answer.json()["id"]


async def test_a_prediction_that_nobody_mentions_is_asked_about(home):
    known = await home.create(sandbox={"webhook": "never"})
    assert await home.house.reconcile.step() == 0
    home.clock.ahead_ms = 61_000
    assert await home.house.reconcile.step() == 1
    updates = await home.house.ledger.updates(known.id)
    assert {update.source for update in updates} <= {"create", "poll"}
    await home.finish(known.id)


async def test_an_unanswered_question_is_asked_again(home):
    known = await home.create()
    await misbehave(home, api=["404"])
    home.clock.ahead_ms = 61_000
    assert await home.house.reconcile.step() == 1
    now_known = await home.house.ledger.prediction(known.id)
    assert now_known is not None
    assert now_known.ask_due_ms == pytest.approx(home.clock() + ABSENT_GAP_MS, abs=5000)


async def test_a_question_is_given_up_before_its_lease_ends_and_asked_again(home, monkeypatch):
    assert reconcile.LEASE_MS <= 15_000
    assert reconcile.QUESTION_S_MAX * 1000 < reconcile.LEASE_MS
    known = await home.create(sandbox={"webhook": "never"})
    await misbehave(home, api=["hang:60"])
    home.clock.ahead_ms = 61_000
    monkeypatch.setattr(reconcile, "QUESTION_S_MAX", 0.3)
    assert await asyncio.wait_for(home.house.reconcile.step(), 5) == 1
    await misbehave(home)
    assert await home.house.reconcile.step() == 0
    home.clock.ahead_ms += reconcile.LEASE_MS
    assert await home.house.reconcile.step() == 1
    await home.finish(known.id)


async def test_questions_that_are_broken_off_are_due_at_once(home):
    await home.create(sandbox={"webhook": "never"})
    await misbehave(home, api=["hang:60"])
    home.clock.ahead_ms = 61_000
    asking = asyncio.create_task(home.house.reconcile.step())
    await asyncio.sleep(0.3)
    asking.cancel()
    await asyncio.wait([asking])
    await misbehave(home)
    assert await home.house.reconcile.step() == 1


async def denied(home, prediction_id: str) -> Prediction:
    """One more question that Replicate answers with 404."""
    before = await home.house.ledger.prediction(prediction_id)
    home.clock.ahead_ms += max(0, before.ask_due_ms - home.clock()) + 1000
    assert await home.house.reconcile.step() == 1
    return await home.house.ledger.prediction(prediction_id)


async def test_what_replicate_denies_for_longer_than_outputs_live_ends_as_failed(home):
    known = await home.create()
    await misbehave(home, api=["404"])
    began_ms, asked = home.clock(), 0
    while not known.final:
        known, asked = await denied(home, known.id), asked + 1
        assert asked < 10
    assert HOUR_MS <= home.clock() - began_ms < HOUR_MS + 2 * ABSENT_GAP_MS
    assert asked >= DENIALS_MIN
    assert known.status == "failed"
    assert "does not know this prediction" in known.told["error"]
    sources = [(update.source, update.status) for update in await home.house.ledger.updates(known.id)]
    assert sources == [("create", "starting"), *[("poll", "absent")] * (asked - 1), ("poll", "failed")]
    await home.steps()
    told = [event.type for event in await home.house.ledger.events(known.id)]
    assert told[-2:] == ["outkeep.prediction.completed", "outkeep.prediction.archived"]


async def test_one_denial_after_a_long_silence_ends_nothing(home):
    known = await home.create()
    home.clock.ahead_ms = 3 * HOUR_MS
    await misbehave(home, api=["404"])
    for _ in range(DENIALS_MIN - 1):
        known = await denied(home, known.id)
        assert not known.final
    assert (await denied(home, known.id)).final


async def test_a_denied_prediction_that_is_known_again_goes_on(home):
    known = await home.create("sandbox/numbers", sandbox={"webhook": "never"})
    await misbehave(home, api=["404"])
    home.clock.ahead_ms = 3 * HOUR_MS
    await denied(home, known.id)
    await misbehave(home)
    assert (await home.finish(known.id)).status == "succeeded"


async def test_what_replicate_does_not_answer_leaves_the_question_open(build):
    home = await build(REPLICATE_API_TOKEN="r8_wrong", OUTKEEP_RECONCILE_AFTER_S="0.1")
    await home.webhook(b'{"id":"p1","status":"processing"}')
    await home.house.observe.step()
    home.clock.ahead_ms = 1000
    await misbehave(home, api=["401"])
    assert await home.house.reconcile.step() == 1
    home.clock.ahead_ms = 60_000
    assert await home.house.reconcile.step() == 1


async def test_patience_doubles_up_to_a_cap_and_ends_with_the_prediction():
    patience = Patience(now_ms=lambda: 0, silence_ms=60_000, polls_only=False)
    asked = Update("p", Source.POLL, 0, {"status": "processing"})
    known = Prediction("p", {"status": "processing"}, 0, 0)
    gaps = [patience.after(Prediction(**{**_fields(known), "asks": asks}), asked).ask_due_ms for asks in range(4)]
    assert gaps == [60_000, 120_000, 240_000, GAP_MS_MAX]
    final = Prediction("p", {"status": "succeeded"}, 0, 0, ask_due_ms=7)
    assert patience.after(final, asked).ask_due_ms is None
    steady = Patience(now_ms=lambda: 0, silence_ms=60_000, polls_only=True)
    assert steady.after(known, asked).ask_due_ms == POLL_MS


def _fields(known: Prediction) -> dict[str, Any]:
    return {name: getattr(known, name) for name in known.__dataclass_fields__}


async def test_asking_about_an_id_that_nobody_knows_tells_none(home):
    assert await home.house.ask("nosuchprediction") is None


async def test_the_accounts_list_finds_what_others_made(home):
    found = await elsewhere(home)
    assert await home.house.sweep.step() == 1
    assert (await home.finish(found)).key_name is None
    assert await home.house.sweep.step() == 0
    assert await home.house.ledger.fact("swept_ms") is not None


async def test_a_list_that_cannot_be_had_moves_no_watermark(build):
    home = await build(Options(seed=3, mischief={"list": ["401"]}))
    assert await home.house.sweep.step() == 0
    assert await home.house.ledger.fact("swept_ms") is None


async def test_what_replicate_refuses_is_told_in_its_own_words(home):
    with pytest.raises(UpstreamError) as refusal:
        await home.create("sandbox/no-such-model")
    assert refusal.value.status == 404
    assert await home.house.ledger.open_intents(home.clock() + 1000) == []


@pytest.mark.parametrize(("prank", "status"), [("401", 502), ("500", 502), ("402", 402), ("html", 502)])
async def test_refusals_and_outages_reach_the_caller_as_problems(home, prank, status):
    await misbehave(home, create=[prank])
    with pytest.raises(UpstreamError) as refusal:
        await home.create()
    assert refusal.value.status == status
    assert refusal.value.problem["detail"]
    assert home.sandbox.token not in str(refusal.value.problem)


async def test_a_prediction_can_be_stopped(home):
    known = await home.create("sandbox/slow", sandbox={"duration_s": 1000})
    assert (await home.house.cancel(known.id)).status == "canceled"
    with pytest.raises(UpstreamError):
        await home.house.cancel("nosuchprediction")


async def test_without_a_way_to_reach_us_no_webhook_is_asked_for(build):
    home = await build()
    object.__setattr__(home.house.create, "asks_for_webhook", False)
    known = await home.create()
    async with httpx.AsyncClient(trust_env=False) as client:
        told = (await client.get(f"{home.sandbox.url}/_sandbox/predictions", params={"id": known.id})).json()
    assert told["predictions"][0].get("webhook") is None


async def test_a_callers_own_webhook_is_refused_rather_than_dropped(home):
    body = {"input": {}, "webhook": "https://app.example/hook"}
    with pytest.raises(UpstreamError) as refusal:
        await home.house.create("/models/sandbox/image/predictions", body, key_name=None)
    assert refusal.value.status == 422
    assert "GET /events" in refusal.value.problem["detail"]


async def test_one_prediction_of_the_list_that_cannot_be_processed_hides_no_other(home, monkeypatch):
    made = [await elsewhere(home) for _ in range(4)]
    decide = type(home.house.observe)._decide

    def faulty(self, known, heard, owner):
        if heard.update.prediction_id == made[2]:
            raise ZeroDivisionError
        return decide(self, known, heard, owner)

    monkeypatch.setattr(type(home.house.observe), "_decide", faulty)
    await home.house.sweep.step()
    known = await home.house.ledger.statuses(made)
    assert set(known) == {*made} - {made[2]}
    assert await home.house.ledger.fact("swept_ms") is not None


async def test_silence_counts_from_when_a_webhook_came_and_not_from_when_it_was_read(home):
    body: dict[str, object] = {
        "id": "p1",
        "model": "a/b",
        "version": "v",
        "status": "processing",
        "input": {},
        "output": None,
    }
    before_ms = home.clock()
    await home.webhook(json.dumps(body).encode())
    home.clock.ahead_ms = 3_600_000
    await home.house.observe.step()
    known = await home.house.ledger.prediction("p1")
    assert known.ask_due_ms - before_ms < 120_000

import asyncio
import json
import time
from dataclasses import replace

import httpx
import pytest

from receiver.core.delivery import DeliveryState
from receiver.core.errors import LedgerUnavailable, SecretUnknown
from receiver.ledger.transaction import Transaction
from receiver.replicate.signature import Unverified
from receiver.sandbox.options import Options


def body(prediction_id: str = "p1", status: str = "succeeded", **fields: object) -> bytes:
    return json.dumps({"id": prediction_id, "status": status, "model": "a/b", "version": "v", **fields}).encode()


async def states(home) -> dict[str, DeliveryState]:
    return {delivery.id: delivery.state for delivery in (await home.house.ledger.deliveries()).items}


async def test_a_signed_webhook_is_on_record_word_for_word(home):
    raw = body(output="hi") + b"  "
    await home.webhook(raw, "msg_x", token="tok")
    kept = await home.house.ledger.delivery("msg_x")
    assert kept is not None
    assert (kept.body, kept.token, kept.state) == (raw, "tok", DeliveryState.ACCEPTED)
    assert dict(kept.headers)[b"webhook-id"] == b"msg_x"


async def test_a_forged_webhook_has_no_effect(home):
    with pytest.raises(Unverified):
        await home.house.accept(body(), home.signed(body(status="failed"), "msg_f"), None)
    assert await states(home) == {}


async def test_the_same_webhook_again_is_taken_and_told_once(home):
    await asyncio.gather(*(home.webhook(body(), "msg_1") for _ in range(5)))
    await home.house.observe.step()
    assert await states(home) == {"msg_1": DeliveryState.APPLIED}
    kept = await home.house.ledger.delivery("msg_1")
    assert kept is not None
    assert kept.repeats == 4


async def test_while_no_secret_can_be_had_a_webhook_is_told_to_come_back(build):
    home = await build(Options(seed=3, mischief={"secret": ["500"]}))
    with pytest.raises(SecretUnknown):
        await home.webhook(body())


async def test_a_rotated_secret_is_fetched_within_the_request(home):
    await home.webhook(body(), "msg_1")
    home.house.accept.secrets._fetched_s -= 60  # the last fetch is a while ago
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(f"{home.sandbox.url}/_sandbox/rotate-secret")).raise_for_status()
    await home.webhook(body("p2"), "msg_2")
    assert set(await states(home)) == {"msg_1", "msg_2"}


async def test_what_cannot_be_understood_is_quarantined_and_stops_nobody(home):
    for number, raw in enumerate([b"no json", b"[]", b'{"id": "../x"}', b"[" * 5000, body("good")]):
        await home.webhook(raw, f"msg_{number}")
    assert await home.house.observe.step() == 5
    told = await states(home)
    assert [told[f"msg_{number}"].value for number in range(5)] == ["quarantined"] * 4 + ["applied"]
    assert await home.house.ledger.prediction("good") is not None


async def test_a_fault_of_ours_hurts_only_the_delivery_that_shows_it(home, monkeypatch):
    decide = type(home.house.observe)._decide

    def faulty(self, known, heard, owner):
        if heard.update.prediction_id == "poison":
            raise ZeroDivisionError
        return decide(self, known, heard, owner)

    monkeypatch.setattr(type(home.house.observe), "_decide", faulty)
    for name in ("p1", "poison", "p2"):
        await home.webhook(body(name), f"msg_{name}")
    for _ in range(4):
        await home.house.observe.step()
    told = await states(home)
    assert {name: state.value for name, state in told.items()} == {
        "msg_p1": "applied",
        "msg_poison": "quarantined",
        "msg_p2": "applied",
    }
    kept = await home.house.ledger.delivery("msg_poison")
    assert kept is not None
    assert kept.reason == "It could not be processed (ZeroDivisionError)."


async def test_late_and_repeated_words_are_told_apart(home):
    await home.webhook(body(status="processing"), "a")
    await home.webhook(body(status="succeeded"), "b")
    await home.webhook(body(status="processing"), "c")
    await home.webhook(body(status="succeeded"), "d")
    await home.house.observe.step()
    assert {name: state.value for name, state in (await states(home)).items()} == {
        "a": "applied",
        "b": "applied",
        "c": "stale",
        "d": "repeated",
    }
    updates = await home.house.ledger.updates("p1")
    assert [(update.status, update.delivery_id) for update in updates] == [
        ("processing", "a"),
        ("succeeded", "b"),
        ("processing", "c"),
        ("succeeded", "d"),
    ]


async def test_the_token_in_the_url_says_whose_prediction_it_is(home):
    known = await home.create()
    assert known.key_name == "app"
    intents = [await home.house.ledger.intent(token) for token in await _tokens(home, known.id)]
    assert [(intent.state, intent.prediction_id) for intent in intents if intent] == [("known", known.id)]


async def _tokens(home, prediction_id: str) -> list[str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        told = (await client.get(f"{home.sandbox.url}/_sandbox/predictions", params={"id": prediction_id})).json()
    return [told["predictions"][0]["webhook"].rsplit("/", 1)[-1]]


async def test_a_large_body_is_read_like_any_other(home):
    await home.webhook(body(logs="x" * 600_000), "big")
    assert await home.house.observe.step() == 1
    known = await home.house.ledger.prediction("p1")
    assert known is not None
    assert len(known.told["logs"]) == 600_000


async def test_a_webhook_does_not_wait_until_a_huge_odd_body_is_read(home):
    odd = [f"small string {number}" for number in range(200_000)]
    await home.webhook(body("huge", input={"odd": odd}), "huge")
    began = time.monotonic()
    reading = asyncio.create_task(home.house.observe.step())
    waits: list[float] = []
    while not reading.done():
        asked = time.monotonic()
        await home.webhook(body(f"p{len(waits)}"), f"small_{len(waits)}")
        waits.append(time.monotonic() - asked)
        await asyncio.sleep(0.01)
    assert await reading == 1
    assert max(waits) < (time.monotonic() - began) * 0.75
    assert (await states(home))["huge"] is DeliveryState.APPLIED


async def test_text_that_a_database_cannot_hold_is_processed_all_the_same(home):
    await home.webhook(
        b'{"id":"p1","status":"succeeded","logs":"a\\u0000b\\ud800","metrics":{"x":NaN},"output":"t"}', "odd"
    )
    await home.house.observe.step()
    assert (await states(home))["odd"] is DeliveryState.APPLIED


async def test_a_large_body_is_verified_beside_the_event_loop(home):
    raw = body(logs="x" * (24 * 2**20))
    headers = home.signed(raw, "large")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    await home.webhook(body("other"), "small")  # so that the secret is known
    counting = asyncio.create_task(count())
    with pytest.raises(Unverified):
        await home.house.accept(raw[:-1], headers, None)
    counting.cancel()
    assert turns > 5


async def test_a_ledger_in_trouble_blames_no_delivery(home, monkeypatch):
    await home.webhook(body("p1"), "msg_1")
    troubles = 3
    save = Transaction.save

    async def failing(self, known):
        nonlocal troubles
        if troubles:
            troubles -= 1
            raise LedgerUnavailable("The ledger can't be used now: database or disk is full")
        await save(self, known)

    monkeypatch.setattr(Transaction, "save", failing)
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            await home.house.observe.step()
        assert await states(home) == {"msg_1": DeliveryState.ACCEPTED}
    assert await home.house.observe.step() == 1
    assert await states(home) == {"msg_1": DeliveryState.APPLIED}


async def test_what_the_ledger_refuses_is_quarantined_and_stops_nobody(home, monkeypatch):
    for name in ("p1", "poison", "p2"):
        await home.webhook(body(name), f"msg_{name}")
    save = Transaction.save

    async def wide(self, known):
        await save(self, [replace(each, asks=2**70 if each.id == "poison" else each.asks) for each in known])

    monkeypatch.setattr(Transaction, "save", wide)
    for _ in range(4):
        await home.house.observe.step()
    assert {name: state.value for name, state in (await states(home)).items()} == {
        "msg_p1": "applied",
        "msg_poison": "quarantined",
        "msg_p2": "applied",
    }


async def test_only_the_delivery_that_failed_is_quarantined(home, monkeypatch):
    await home.webhook(body("poison"), "msg_poison")
    await home.webhook(body("good"), "msg_good")

    async def faulty(self, tx, updates, owners):
        del self, tx, owners
        raise ZeroDivisionError

    take = Transaction.take
    calls = 0

    async def hidden(self, read):
        """From the third time on another process holds the first delivery."""
        nonlocal calls
        calls += 1
        return (await take(self, read))[0 if calls < 3 else 1 :]

    monkeypatch.setattr(type(home.house.observe), "_merge", faulty)
    monkeypatch.setattr(Transaction, "take", hidden)
    assert await home.house.observe.step() == 0
    assert set((await states(home)).values()) == {DeliveryState.ACCEPTED}


async def test_a_caller_who_leaves_in_the_middle_of_creating_does_not_hide_the_prediction(home):
    await home.create()  # connections are made
    for number in range(25):
        creating = asyncio.create_task(home.create())
        await asyncio.sleep(number * 0.001)
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
    for _ in range(1500):
        if not home.house.create._under_way:
            break
        await asyncio.sleep(0.02)
    assert await home.house.ledger.open_intents(home.clock() + 1000) == []
    made = (await home.house.ask.replicate.list()).results
    known = (await home.house.ledger.predictions()).items
    assert {told["id"] for told in made} == {each.id for each in known}
    assert {each.key_name for each in known} == {"app"}
    assert len(known) > 1

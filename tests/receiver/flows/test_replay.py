"""Deliveries once more: verified again over their own bytes, or read again through the one door."""

import json
from dataclasses import replace
from itertools import count

import pytest

from receiver.core.clock import iso
from receiver.core.delivery import DeliveryState
from receiver.core.ring import Ring
from receiver.flows import replay
from receiver.flows.replay import Selection
from receiver.replicate.secrets import REFETCH_EVERY_S, SigningSecrets
from receiver.replicate.signature import Secret
from tests.receiver.flows.test_quarantine import BODY, OTHER, forge, quarantined
from tests.servers import postgres

HOUR_MS = 3_600_000
QUARANTINED = Selection(state="quarantined")


@pytest.fixture(params=["sqlite", "postgresql"])
async def home(request, build):
    """A house on each kind of ledger."""
    if request.param == "sqlite":
        return await build()
    return await build(OUTKEEP_DATABASE_URL=await postgres.server().database())


def corrected(home):
    """Replaying once the secret that the forged calls are signed with is the configured one."""
    return replace(home.house.replay, secrets=signing(configured=[Secret.parse(OTHER)]))


def signing(*, fetch=None, configured=(), clock=lambda: 0.0):
    return SigningSecrets(configured=configured, fetch=fetch, clock=clock)


def counts(done):
    return {
        "let_in": done.let_in,
        "already": done.already_here,
        "refused": done.still_refused,
        "again": done.read_again,
    }


async def deliveries(home, state=None):
    return [each.id for each in (await home.house.ledger.deliveries(state=state)).items]


async def test_what_a_corrected_secret_explains_is_let_in_and_read(home):
    await forge(home, "msg_1", token="tok")
    await forge(home, "msg_2", json.dumps({"id": "p2", "status": "processing"}).encode())
    before = {each.received_ms for each in await quarantined(home)}
    home.clock.ahead_ms = 24 * HOUR_MS
    done = await corrected(home).selected(QUARANTINED, dry_run=False)
    assert counts(done) == {"let_in": 2, "already": 0, "refused": 0, "again": 0}
    assert await deliveries(home) == ["msg_2", "msg_1"]
    assert await home.house.observe.step() == 2
    kept = await home.house.ledger.delivery("msg_1")
    assert (kept.state, kept.body, kept.token) == (DeliveryState.APPLIED, BODY, "tok")
    assert {each.received_ms for each in (await home.house.ledger.deliveries()).items} == before
    assert (await home.house.ledger.prediction("p1")).status == "succeeded"
    assert counts(await corrected(home).selected(QUARANTINED, dry_run=False)) == dict.fromkeys(counts(done), 0)


async def test_what_still_fails_stays_with_its_reason(home):
    await forge(home, "msg_1")
    home.clock.ahead_ms = HOUR_MS
    await forge(home, "msg_old")  # signed an hour before it came, and no less so later
    home.clock.ahead_ms = 0
    left = [(each.id, each.reason) for each in await quarantined(home)]
    done = await home.house.replay.selected(QUARANTINED, dry_run=False)
    assert counts(done) == {"let_in": 0, "already": 0, "refused": 2, "again": 0}
    assert [(each.id, each.reason) for each in await quarantined(home)] == left
    done = await corrected(home).selected(QUARANTINED, dry_run=False)
    assert counts(done) == {"let_in": 1, "already": 0, "refused": 1, "again": 0}
    assert [each.reason for each in await quarantined(home)] == ["its timestamp is over 5 minutes off"]


@pytest.mark.parametrize("page", [1, replay.PAGE])
async def test_a_call_whose_id_is_known_is_dropped_and_the_first_of_two_is_let_in(home, monkeypatch, page):
    monkeypatch.setattr(replay, "PAGE", page)
    await home.webhook(BODY, "msg_1")
    await home.house.observe.step()
    for name in ("msg_1", "msg_2", "msg_2"):
        await forge(home, name, b"not the genuine one")
    await quarantined(home)
    dry = await corrected(home).selected(QUARANTINED, dry_run=True)
    assert len(await quarantined(home)) == 3
    done = await corrected(home).selected(QUARANTINED, dry_run=False)
    assert counts(done) == counts(dry) == {"let_in": 1, "already": 2, "refused": 0, "again": 0}
    assert await deliveries(home) == ["msg_2", "msg_1"]
    assert (await home.house.ledger.delivery("msg_1")).body == BODY


async def test_a_secret_is_fetched_again_when_none_explains_a_call(build):
    home = await build()
    await forge(home)
    await quarantined(home)
    now_s, given = [0.0], [Secret.parse(home.sandbox.secret), Secret.parse(OTHER)]

    async def fetch():
        return given.pop(0)

    again = replace(home.house.replay, secrets=signing(fetch=fetch, clock=lambda: now_s[0]))
    assert (await again.selected(QUARANTINED, dry_run=True)).let_in == 0
    assert len(given) == 1
    now_s[0] += REFETCH_EVERY_S
    assert (await again.selected(QUARANTINED, dry_run=True)).let_in == 1


async def test_a_delivery_read_again_tells_nothing_twice(home):
    made = await home.create(prompt="a cat")
    known = await home.finish(made.id)
    told = {"id": made.id, "status": "succeeded", "completed_at": iso(known.completed_ms), **known.told}
    await home.webhook(json.dumps(told).encode(), "msg_1")
    await home.webhook(b"no json", "msg_2")
    await home.steps()
    events = await home.house.ledger.events(made.id)
    updates = await home.house.ledger.updates(made.id)
    for _ in range(2):
        done = await home.house.replay.selected(Selection(received_after_ms=0), dry_run=False)
        assert counts(done) == {"let_in": 0, "already": 0, "refused": 0, "again": 2}
        assert await deliveries(home, "accepted") == ["msg_2", "msg_1"]
        await home.steps()
    assert await home.house.ledger.events(made.id) == events
    assert len(await home.house.ledger.updates(made.id)) == len(updates)
    assert await home.house.ledger.prediction(made.id) == await home.finish(made.id)
    assert await deliveries(home, "quarantined") == ["msg_2"]


async def test_a_dry_run_counts_what_the_run_then_does(home):
    await home.webhook(b"no json", "msg_1")
    await home.house.observe.step()
    await forge(home, "msg_2")
    await home.webhook(BODY, "msg_3")
    before = [(each.id, each.state) for each in [*await quarantined(home), *await quarantined(home)]]
    dry = await corrected(home).selected(QUARANTINED, dry_run=True)
    assert before == [(each.id, each.state) for each in [*await quarantined(home), *await quarantined(home)]]
    assert counts(await corrected(home).selected(QUARANTINED, dry_run=False)) == counts(dry)
    assert counts(dry) == {"let_in": 1, "already": 0, "refused": 0, "again": 1}
    assert await deliveries(home, "accepted") == ["msg_2", "msg_3", "msg_1"]


async def test_what_is_to_be_read_wakes_the_worker_and_nothing_else_does(build):
    home = await build()
    await forge(home, "msg_1")
    await quarantined(home)
    for again, dry_run, rung in (
        (home.house.replay, False, 0),
        (corrected(home), True, 0),
        (corrected(home), False, 1),
    ):
        await again.selected(QUARANTINED, dry_run=dry_run)
        assert home.house.bell.count(Ring.DELIVERIES) == rung
    await home.house.observe.step()
    await home.house.replay.named(["msg_1"], dry_run=False)
    assert home.house.bell.count(Ring.DELIVERIES) == 2


async def test_deliveries_are_replayed_by_their_ids_and_unknown_ones_are_named(home):
    await forge(home, "msg_1")
    await home.webhook(BODY, "msg_2")
    await home.house.observe.step()
    (call,) = await quarantined(home)
    done = await corrected(home).named([call.id, "msg_2", "nobody", "msg_2", "odd \x00"], dry_run=False)
    assert counts(done) == {"let_in": 1, "already": 0, "refused": 0, "again": 1}
    assert done.unknown == ["nobody", "odd \x00"]
    assert sorted(await deliveries(home, "accepted")) == ["msg_1", "msg_2"]


async def test_many_go_in_pages_and_what_comes_meanwhile_is_left_alone(home, monkeypatch):
    monkeypatch.setattr(replay, "PAGE", 2)
    monkeypatch.setattr(replay, "PAGES_MAX", 2)
    for place in range(7):
        await home.webhook(json.dumps({"id": f"p{place}", "status": "processing"}).encode(), f"msg_{place}")
    await forge(home, "msg_f")
    await quarantined(home)
    await home.house.observe.step()
    everything, after = Selection(received_after_ms=0), None
    done: list[tuple[int, int]] = []
    while not done or after is not None:
        step = await corrected(home).selected(everything, dry_run=False, after=after)
        after = step.next
        done.append((step.let_in, step.read_again))
        await home.webhook(BODY, f"late_{len(done)}")
        await home.house.observe.step()
        assert len(done) < 10
    assert done == [(0, 4), (1, 3), (0, 0)]


async def test_a_run_that_takes_long_says_where_to_go_on_and_a_dry_run_looks_at_everything(home, monkeypatch):
    monkeypatch.setattr(replay, "PAGE", 2)
    for place in range(5):
        await forge(home, f"msg_{place}")
    await quarantined(home)
    told_s = count(0, replay.BUSY_S_MAX / 2)
    slow = replace(corrected(home), clock=lambda: next(told_s))
    assert (await slow.selected(QUARANTINED, dry_run=True)).let_in == 5
    step = await slow.selected(QUARANTINED, dry_run=False)
    assert (step.let_in, step.next is not None) == (4, True)
    step = await slow.selected(QUARANTINED, dry_run=False, after=step.next)
    assert (step.let_in, step.next) == (1, None)


async def test_a_place_that_is_none_is_an_error_of_the_caller(build):
    home = await build()
    for after in ("", "1", "1.2.3", "a.b", "1.-2", "1" * 30 + ".1"):
        with pytest.raises(ValueError, match="replay"):
            await home.house.replay.selected(QUARANTINED, dry_run=True, after=after)

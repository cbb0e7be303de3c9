"""Calls that were not verified: kept within bounds, at nobody's expense."""

import asyncio
import contextlib
import json
import time

import pytest

from receiver.core.delivery import DeliveryState
from receiver.core.errors import SecretUnknown
from receiver.flows import quarantine
from receiver.replicate.signature import Unverified
from receiver.sandbox.options import Options
from tests.servers import postgres

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = json.dumps({"id": "p1", "status": "succeeded", "model": "a/b", "version": "v", "output": "hi"}).encode()


@pytest.fixture(params=["sqlite", "postgresql"])
async def home(request, build):
    """A house on each kind of ledger."""
    if request.param == "sqlite":
        return await build()
    return await build(OUTKEEP_DATABASE_URL=await postgres.server().database())


async def forge(home, webhook_id="msg_f", body=BODY, more=(), token=None):
    """A call signed with a secret that is not Replicate's."""
    headers = [*home.signed(body, webhook_id, OTHER), *more]
    with contextlib.suppress(Unverified):
        await home.house.accept(body, headers, token)
        raise AssertionError("it was taken")


async def quarantined(home):
    """What is there once everything has been written or dropped."""
    task = home.house.accept.quarantine._task
    if task is not None:
        await task
    return (await home.house.ledger.deliveries(state="quarantined")).items


def counted(home, outcome):
    return home.house.metrics.registry.get_sample_value("outkeep_quarantine_total", {"outcome": outcome}) or 0


async def test_a_forged_call_is_kept_word_for_word_with_its_reason(home):
    home.clock.ahead_ms = 7_000
    await forge(home, body=b"\x00\xff", more=[(b"x-odd", b"caf\xe9 \x01\x7f")], token="tok")
    (kept,) = await quarantined(home)
    call = await home.house.ledger.delivery(kept.id)
    assert call.body == b"\x00\xff"
    assert dict(call.headers)[b"x-odd"] == b"caf\xe9 \x01\x7f"
    assert dict(call.headers)[b"webhook-id"] == b"msg_f"
    assert (call.token, call.reason) == ("tok", "signed with no secret that we know")
    assert abs(call.received_ms - home.clock()) < 5_000
    assert call.id.startswith("unverified.")
    assert await home.house.observe.step() == 0
    assert counted(home, "kept") == 1


async def test_the_reason_says_what_was_wrong(build):
    home = await build()
    named, dated, signature = home.signed(BODY, "msg_1")
    spoiled = {
        "a header of the signature is missing": [dated, signature],
        "a header of the signature is there twice": [named, dated, signature, named],
        "its webhook-id is malformed": [(b"webhook-id", b"a.b"), dated, signature],
        "its timestamp is malformed": [named, (b"webhook-timestamp", b"x"), signature],
        "its timestamp is over 5 minutes off": [named, (b"webhook-timestamp", b"1614265330"), signature],
        "its signature is malformed": [named, dated, (b"webhook-signature", b"v1,x")],
    }
    for headers in spoiled.values():
        with pytest.raises(Unverified):
            await home.house.accept(BODY, headers, None)
    assert [call.reason for call in reversed(await quarantined(home))] == list(spoiled)


async def test_a_call_that_comes_before_any_secret_is_known_is_kept(build):
    home = await build(Options(seed=3, mischief={"secret": ["500"]}))
    with pytest.raises(SecretUnknown):
        await home.webhook(BODY)
    (kept,) = await quarantined(home)
    assert kept.reason == "no signing secret was known yet"


async def test_a_genuine_webhook_is_taken_though_a_forged_one_had_its_id(home):
    for _ in range(3):
        await forge(home, "msg_1")
    await quarantined(home)
    await home.webhook(BODY, "msg_1")
    await forge(home, "msg_1")
    assert await home.house.observe.step() == 1
    assert (await home.house.ledger.delivery("msg_1")).state is DeliveryState.APPLIED
    assert len(await quarantined(home)) == 4


async def test_of_a_flood_a_burst_is_kept_and_genuine_webhooks_in_between_are_taken(home, monkeypatch):
    monkeypatch.setattr(quarantine, "WAITING_MAX", 1_000)  # the rate alone is looked at here
    began = time.monotonic()
    for place in range(600):
        await forge(home, f"msg_{place}")
        if place % 60 == 0:
            await home.webhook(BODY, f"good_{place}")
    passed_s = time.monotonic() - began
    kept = len(await quarantined(home))
    assert quarantine.BURST <= kept <= quarantine.BURST + 1 + passed_s * quarantine.RATE_PER_S
    assert counted(home, "kept") + counted(home, "dropped") == 600
    assert len((await home.house.ledger.deliveries(state="accepted")).items) == 10


async def test_what_waits_in_memory_is_bounded(build, monkeypatch):
    monkeypatch.setattr(quarantine, "WAITING_MAX", 5)
    home = await build()
    for place in range(20):
        await forge(home, f"msg_{place}")
    assert len(await quarantined(home)) == 5
    monkeypatch.setattr(quarantine, "WAITING_BYTES_MAX", 2_500)
    for place in range(5):
        await forge(home, f"msg_{place}", bytes(1_000))
    assert len(await quarantined(home)) == 7


async def test_the_ledger_holds_no_more_than_its_caps(home, monkeypatch):
    monkeypatch.setattr(quarantine, "ROWS_MAX", 4)
    for place in range(10):
        await forge(home, f"msg_{place}", str(place).encode())
        await quarantined(home)
    claimed = [dict(call.headers)[b"webhook-id"] for call in await quarantined(home)]
    assert claimed == [b"msg_9", b"msg_8", b"msg_7", b"msg_6"]


async def test_of_a_long_body_only_its_length_is_kept(build):
    home = await build()
    await forge(home, body=bytes(quarantine.BODY_BYTES_MAX + 1))
    await forge(home, body=bytes(quarantine.BODY_BYTES_MAX))
    whole, cut = [await home.house.ledger.delivery(call.id) for call in await quarantined(home)]
    assert len(whole.body) == quarantine.BODY_BYTES_MAX
    assert cut.body == b""
    assert cut.reason == "signed with no secret that we know; its body of 262145 bytes was not kept"


async def test_of_long_headers_only_those_of_the_signature_are_kept(build):
    home = await build()
    filler = [(b"x-filler", b"y" * 1_000)] * 60
    await forge(home, more=filler)
    await forge(home, more=[*filler, (b"webhook-more", b"y" * 60_000)])
    none, signing = [await home.house.ledger.delivery(call.id) for call in await quarantined(home)]
    assert {name for name, _ in signing.headers} == {b"webhook-id", b"webhook-timestamp", b"webhook-signature"}
    assert none.headers == ()
    assert "of its headers not all were kept" in signing.reason


async def test_without_a_ledger_calls_are_refused_as_ever_and_dropped(home):
    async with home.house.ledger._database.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE deliveries RENAME TO away")
    for place in range(10):
        await forge(home, f"msg_{place}")
    await home.house.accept.quarantine._task
    assert counted(home, "dropped") == 10
    async with home.house.ledger._database.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE away RENAME TO deliveries")
    await forge(home)
    assert len(await quarantined(home)) == 1


async def test_what_waits_at_the_end_is_written_and_what_comes_later_is_dropped(home):
    await forge(home)
    began = time.monotonic()
    await home.house.accept.quarantine.close()
    assert time.monotonic() - began < quarantine.CLOSE_S
    await forge(home)
    assert counted(home, "dropped") == 1
    assert len((await home.house.ledger.deliveries()).items) == 1


async def test_a_ledger_that_hangs_does_not_hold_up_the_end(build, monkeypatch):
    monkeypatch.setattr(quarantine, "CLOSE_S", 0.1)
    home = await build()
    await forge(home)
    async with home.house.ledger.transaction():
        await asyncio.sleep(quarantine.GATHER_S)
        await home.house.accept.quarantine.close()
    assert (await home.house.ledger.deliveries()).items == []


async def test_a_mistyped_secret_shows_in_the_log_and_a_flood_does_not_fill_it(build, caplog):
    home = await build()
    for number in range(100):
        await forge(home, f"msg_{number}")
    said = [record.getMessage() for record in caplog.records if record.name == "outkeep.quarantine"]
    assert len(said) == 1
    assert "signed with no secret that we know" in said[0]

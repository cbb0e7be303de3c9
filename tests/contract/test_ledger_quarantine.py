"""Calls that nobody vouches for: bounded, in nobody's way, and let in once under their own ids."""

import asyncio
from collections.abc import Sequence

import pytest

from receiver.core.delivery import Delivery, DeliveryState
from receiver.ledger import Ledger
from receiver.ledger.nouns import UpdateRow
from tests.contract.ledger_nouns import NOW_MS, delivery, given, prediction

ROOMY = {"rows_max": 1_000, "bytes_max": 2**20}


def call(name: str, body: bytes = b"{}", **values: object) -> Delivery:
    return delivery(
        f"unverified.{name}", body, state=DeliveryState.UNVERIFIED, reason="signed with no secret", **values
    )


async def listed(ledger: Ledger, state: str | None = None) -> list[str]:
    return [each.id for each in (await ledger.deliveries(state=state)).items]


async def numbers(ledger: Ledger, *ids: str) -> list[int]:
    return [each.sequence for each in await ledger.replayable_by_id(ids)]


async def replayable(ledger: Ledger, state: str | None = None, **bounds: int | None) -> Sequence[Delivery]:
    wanted = {"received_after_ms": None, "received_before_ms": None, "after": 0, "until": 2**62, "limit": 100, **bounds}
    return await ledger.replayable(state=state, **wanted)  # type: ignore[arg-type]


async def mark(ledger: Ledger, name: str, state: DeliveryState, about: str | None = "p1") -> None:
    async with ledger.transaction() as tx:
        await tx.mark([(name, state, None, about)])
        if about is not None:
            await tx.heard([UpdateRow(about, NOW_MS, "webhook", "processing", name)])


async def test_what_was_not_verified_is_listed_as_quarantined_and_read_by_nobody(ledger: Ledger) -> None:
    headers = ((b"webhook-id", b"msg_1"), (b"x-odd", b"caf\xe9\x01\x7f"))
    await ledger.accept(delivery("nonsense"))
    await mark(ledger, "nonsense", DeliveryState.QUARANTINED, None)
    await ledger.quarantine([call("a", b"\x00\xff", headers=headers, token="tok")], **ROOMY)
    await ledger.accept(delivery("msg_1"))
    assert await listed(ledger, "quarantined") == ["unverified.a", "nonsense"]
    assert await listed(ledger, "accepted") == ["msg_1"]
    kept = await ledger.delivery("unverified.a")
    assert kept == call("a", b"\x00\xff", headers=headers, token="tok")
    assert (await ledger.due_in_ms())["deliveries"] == 0
    await mark(ledger, "msg_1", DeliveryState.APPLIED)
    assert (await ledger.due_in_ms())["deliveries"] is None


async def test_the_oldest_make_room_when_there_are_too_many(ledger: Ledger) -> None:
    for first in range(0, 12, 3):
        await ledger.quarantine([call(str(place)) for place in range(first, first + 3)], rows_max=5, bytes_max=2**20)
        await ledger.accept(delivery(f"msg_{first}"))
    assert await listed(ledger, "quarantined") == [f"unverified.{place}" for place in (11, 10, 9, 8, 7)]
    assert await listed(ledger, "accepted") == ["msg_9", "msg_6", "msg_3", "msg_0"]


async def test_the_oldest_make_room_when_they_are_too_heavy(ledger: Ledger) -> None:
    headers = ((b"x" * 38, b"y" * 60),)  # 100 bytes with what stands between
    for place in range(6):
        await ledger.quarantine([call(str(place), b"z" * 900, headers=headers)], rows_max=100, bytes_max=3_500)
    assert await listed(ledger, "quarantined") == [f"unverified.{place}" for place in (5, 4, 3)]


async def test_they_are_pruned_with_the_deliveries(ledger: Ledger) -> None:
    await ledger.quarantine([call("old", received_ms=1), call("new", received_ms=100)], **ROOMY)
    assert await ledger.prune(events_before_ms=0, deliveries_before_ms=50, limit=10) == 1
    assert await listed(ledger) == ["unverified.new"]


async def test_a_call_is_let_in_under_its_own_id_and_to_be_read(ledger: Ledger) -> None:
    headers = ((b"webhook-id", b"msg_1"),)
    await ledger.quarantine([call("a", b"word for word\x00", headers=headers, token="tok", received_ms=7)], **ROOMY)
    (number,) = await numbers(ledger, "unverified.a")
    assert await ledger.let_in({number: "msg_1"}) == {"msg_1"}
    assert await ledger.delivery("unverified.a") is None
    kept = await ledger.delivery("msg_1")
    assert kept == delivery("msg_1", b"word for word\x00", headers=headers, token="tok", received_ms=7)
    assert await ledger.accept(delivery("msg_1")) is False


async def test_a_call_whose_id_is_there_already_changes_nothing_and_goes(ledger: Ledger) -> None:
    await ledger.accept(delivery("msg_1", b"genuine"))
    await ledger.quarantine([call("a", b"forged"), call("b"), call("c")], **ROOMY)
    found = await ledger.replayable_by_id(["unverified.a", "unverified.b", "unverified.c"])
    wanted = dict(zip([each.sequence for each in found], ["msg_1", "msg_2", "msg_2"], strict=True))
    assert await ledger.let_in(wanted) == {"msg_2"}
    kept = await ledger.delivery("msg_1")
    assert kept is not None
    assert kept.body == b"genuine"
    assert await listed(ledger) == ["msg_2", "msg_1"]


async def test_letting_in_at_once_from_two_sides_lets_in_once(ledger: Ledger) -> None:
    await ledger.quarantine([call(str(place)) for place in range(20)], **ROOMY)
    found = await ledger.replayable_by_id([f"unverified.{place}" for place in range(20)])
    wanted = {each.sequence: f"msg_{each.id.partition('.')[2]}" for each in found}
    new = await asyncio.gather(*(ledger.let_in(wanted) for _ in range(4)))
    assert sorted(len(each) for each in new) == [0, 0, 0, 20]
    assert len(await listed(ledger, "accepted")) == 20


async def test_only_what_was_not_verified_is_ever_let_in(ledger: Ledger) -> None:
    await ledger.accept(delivery("msg_1"))
    (number,) = await numbers(ledger, "msg_1")
    assert await ledger.let_in({number: "msg_2", number + 1: "msg_3"}) == set()
    assert await listed(ledger) == ["msg_1"]


@pytest.mark.parametrize("state", [DeliveryState.QUARANTINED, DeliveryState.APPLIED, DeliveryState.STALE])
async def test_a_signed_delivery_is_read_again_and_its_update_is_not_listed_twice(
    ledger: Ledger, state: DeliveryState
) -> None:
    await given(ledger, prediction())
    await ledger.accept(delivery("msg_1"))
    await ledger.accept(delivery("msg_2"))
    await mark(ledger, "msg_1", state)
    await mark(ledger, "msg_2", DeliveryState.APPLIED)
    await ledger.read_again(await numbers(ledger, "msg_1"))
    assert await listed(ledger, "accepted") == ["msg_1"]
    assert [each.delivery_id for each in await ledger.updates("p1")] == ["msg_2"]
    kept = await ledger.delivery("msg_1")
    assert kept is not None
    assert (kept.reason, kept.body) == (None, b'{"id":"p1"}')


async def test_reading_again_leaves_alone_what_nobody_vouches_for(ledger: Ledger) -> None:
    await ledger.quarantine([call("a")], **ROOMY)
    await ledger.read_again(await numbers(ledger, "unverified.a"))
    assert await listed(ledger, "accepted") == []


async def test_replayable_are_chosen_by_state_time_and_place_oldest_first(ledger: Ledger) -> None:
    for place in range(4):
        await ledger.accept(delivery(f"msg_{place}", received_ms=place))
    for name, state in (("msg_0", DeliveryState.APPLIED), ("msg_1", DeliveryState.QUARANTINED)):
        await mark(ledger, name, state)
    await mark(ledger, "msg_2", DeliveryState.APPLIED)
    await ledger.quarantine([call("a", b"judged again", received_ms=4)], **ROOMY)
    found = await replayable(ledger)
    assert [each.id for each in found] == ["msg_0", "msg_1", "msg_2", "unverified.a"]
    assert [each.body for each in found] == [b"", b"", b"", b"judged again"]
    assert found[-1].sequence == await ledger.newest_delivery()
    assert [each.id for each in await replayable(ledger, "quarantined")] == ["msg_1", "unverified.a"]
    assert [each.id for each in await replayable(ledger, received_after_ms=1, received_before_ms=4)] == [
        "msg_1",
        "msg_2",
    ]
    assert [each.id for each in await replayable(ledger, after=found[0].sequence, limit=1)] == ["msg_1"]
    assert [each.id for each in await replayable(ledger, until=found[1].sequence)] == ["msg_0", "msg_1"]
    assert await ledger.known_deliveries({"msg_3", "msg_9", "odd \x00"}) == {"msg_3"}

import asyncio
import time
from typing import Any

import pytest

from receiver.core.delivery import DeliveryState
from receiver.core.errors import LedgerFull, LedgerUnavailable
from receiver.ledger import Ledger, admission, committer
from tests.contract.ledger_nouns import delivery, event, given, prediction
from tests.servers.ledgers import Ledgers

ODD = 'nul \x00, lone \ud800 and \udc80, emoji 🐈, quote "'


async def test_a_delivery_is_kept_word_for_word(ledger: Ledger) -> None:
    body = bytes(range(256))
    headers = ((b"webhook-id", b"msg_1"), (b"X-Odd", b"caf\xe9: x"), (b"x-odd", b""))
    assert await ledger.accept(delivery(body=body, headers=headers, token="tok")) is True
    kept = await ledger.delivery("msg_1")
    assert kept == delivery(body=body, headers=headers, token="tok")
    assert await ledger.delivery("msg_2") is None


async def test_a_repeat_changes_nothing_and_is_counted(ledger: Ledger) -> None:
    await ledger.accept(delivery(body=b"first"))
    assert await ledger.accept(delivery(body=b"second")) is False
    assert await ledger.accept(delivery(body=b"third")) is False
    kept = await ledger.delivery("msg_1")
    assert kept is not None
    assert (kept.body, kept.repeats) == (b"first", 2)


async def test_of_many_with_one_id_at_once_one_is_new(ledger: Ledger) -> None:
    new = await asyncio.gather(*(ledger.accept(delivery(f"msg_{place % 7}")) for place in range(70)))
    assert sum(new) == 7
    page = await ledger.deliveries()
    assert [each.repeats for each in page.items] == [9] * 7


async def test_deliveries_that_wait_together_keep_their_order(ledger: Ledger) -> None:
    await asyncio.gather(*(ledger.accept(delivery(f"msg_{place}")) for place in range(600)))
    unread = await ledger.unread(1000)
    assert [each.id for each in unread] == [f"msg_{place}" for place in range(600)]


async def test_what_was_accepted_is_there_after_a_restart(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await ledger.accept(delivery())
    await ledgers.close()
    again = await ledgers.open()
    assert await again.accept(delivery()) is False


async def test_a_poisonous_row_hurts_only_itself(ledger: Ledger) -> None:
    poison = delivery("poison", received_ms=2**70)
    several = [*(delivery(f"a{place}") for place in range(5)), poison, *(delivery(f"b{place}") for place in range(5))]
    outcomes = await asyncio.gather(*map(ledger.accept, several), return_exceptions=True)
    assert [outcome is True for outcome in outcomes] == [each is not poison for each in several]
    assert isinstance(outcomes[5], LedgerUnavailable)


async def test_when_it_is_not_the_row_that_is_wrong_everybody_is_told(ledger: Ledger) -> None:
    several = [delivery(f"poison{place}", received_ms=2**70) for place in range(5)]
    outcomes = await asyncio.gather(*map(ledger.accept, several), return_exceptions=True)
    assert all(isinstance(outcome, LedgerUnavailable) for outcome in outcomes)
    assert await ledger.accept(delivery()) is True


async def test_too_much_waiting_is_refused_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "WAITING_MAX", 3)
    waiting = [asyncio.ensure_future(ledger.accept(delivery(f"msg_{place}"))) for place in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(LedgerFull):
        await ledger.accept(delivery("msg_3"))
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert await ledger.accept(delivery("msg_3")) is True


async def test_too_many_bytes_waiting_are_refused_but_one_body_always_fits(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "WAITING_BYTES_MAX", 1000)
    large = asyncio.ensure_future(ledger.accept(delivery("large", b"x" * 5000)))
    await asyncio.sleep(0)
    with pytest.raises(LedgerFull):
        await ledger.accept(delivery("next", b"x"))
    assert await large is True


async def test_a_caller_that_goes_away_leaves_its_delivery(ledger: Ledger) -> None:
    gone = asyncio.ensure_future(ledger.accept(delivery("gone")))
    stays = asyncio.ensure_future(ledger.accept(delivery("stays")))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays is True
    assert await ledger.delivery("gone") is not None


async def test_closing_commits_what_waits_and_then_refuses(ledger: Ledger) -> None:
    waiting = asyncio.ensure_future(ledger.accept(delivery()))
    await asyncio.sleep(0)
    await ledger.close()
    assert await waiting is True
    with pytest.raises(LedgerUnavailable):
        await ledger.accept(delivery("late"))
    await ledger.close()


async def test_a_ledger_that_can_be_written_is_ready(ledger: Ledger) -> None:
    assert await ledger.ready() is True
    assert await ledger.fact(committer.HEARTBEAT) is not None
    assert all(await asyncio.gather(ledger.ready(), ledger.accept(delivery())))


async def test_a_ledger_that_takes_too_long_is_not_ready(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "ANSWER_S_MAX", 0.0)
    with pytest.raises(LedgerUnavailable, match="in time"):
        await ledger.ready()


async def test_unread_deliveries_come_oldest_first_until_they_are_marked(ledger: Ledger) -> None:
    for name in ("a", "b", "c"):
        await ledger.accept(delivery(name))
    waiting = await ledger.unread(2)
    assert [each.id for each in waiting] == ["a", "b"]
    async with ledger.transaction() as tx:
        assert await tx.take(waiting) == waiting
        await tx.mark([("a", DeliveryState.APPLIED, None, "p1"), ("b", DeliveryState.QUARANTINED, ODD, ODD)])
    assert [each.id for each in await ledger.unread(2)] == ["c"]
    async with ledger.transaction() as tx:
        assert await tx.take(waiting) == []
    first, second = await ledger.delivery("a"), await ledger.delivery("b")
    assert first is not None
    assert second is not None
    assert (first.state, first.reason, first.prediction_id) == (DeliveryState.APPLIED, None, "p1")
    assert second.reason == 'nul \\u0000, lone \\ud800 and \\udc80, emoji 🐈, quote "'
    found = await ledger.deliveries(prediction_id=ODD)
    assert [each.id for each in found.items] == ["b"]


async def test_unread_bodies_are_handed_out_in_portions(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.ledger.claims.UNREAD_BYTES_MAX", 1000)
    for name in ("a", "b", "c"):
        await ledger.accept(delivery(name, b"x" * 600))
    assert [each.id for each in await ledger.unread(10)] == ["a"]


async def test_deliveries_are_listed_newest_first_in_pages_without_bodies(ledger: Ledger) -> None:
    for place in range(5):
        await ledger.accept(delivery(f"msg_{place}"))
    async with ledger.transaction() as tx:
        await tx.mark([("msg_1", DeliveryState.APPLIED, None, "p1")])
    first = await ledger.deliveries(limit=2)
    assert [(each.id, each.body) for each in first.items] == [("msg_4", b""), ("msg_3", b"")]
    await ledger.accept(delivery("msg_5"))
    second = await ledger.deliveries(after=first.next, limit=3)
    assert [each.id for each in second.items] == ["msg_2", "msg_1", "msg_0"]
    assert second.next is None
    assert [each.id for each in (await ledger.deliveries(state="applied")).items] == ["msg_1"]


@pytest.mark.parametrize("cursor", ["", "x", "é", "bnVsbA", "WzFd.", "WyJhIl0", "WzFlMzBd", "W3RydWVd", "WzEsMl0"])
async def test_a_cursor_that_is_not_ours_is_an_error_of_the_caller(ledger: Ledger, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await ledger.deliveries(after=cursor)


async def test_pruning_spares_what_was_not_read_or_has_no_place_in_the_feed(ledger: Ledger) -> None:
    for name in ("read", "unread", "new"):
        await ledger.accept(delivery(name, received_ms=1 if name != "new" else 100))
    async with ledger.transaction() as tx:
        await tx.mark([(name, DeliveryState.APPLIED, None, "p1") for name in ("read", "new")])
    await given(ledger, prediction())
    for name in ("e1", "e2", "e3"):
        async with ledger.transaction() as tx:
            await tx.tell([event(name)])
    assert await ledger.number_events(2) == 2
    pruned = [await ledger.prune(events_before_ms=2**50, deliveries_before_ms=50, limit=1) for _ in range(2)]
    assert pruned == [2, 1]
    assert [each.id for each in (await ledger.deliveries()).items] == ["new", "unread"]
    assert [each.id for each in await ledger.events("p1")] == ["e3"]
    assert await ledger.number_events() == 1
    assert [each.sequence for each in await ledger.feed(0, 10)] == [3]


async def test_what_the_driver_says_leaves_as_one_plain_sentence(ledger: Ledger) -> None:
    async def fail() -> None:
        async with ledger.transaction() as tx:
            for _ in range(2):
                await tx._connection.exec_driver_sql("INSERT INTO facts (name, value) VALUES ('hush', 'secret')")

    with pytest.raises(LedgerUnavailable) as caught:
        await fail()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert await ledger.fact("hush") is None


async def test_nobody_else_writes_while_a_cancelled_commit_is_still_under_way(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = committer._values

    def slow(*args: Any) -> tuple[Any, ...]:
        time.sleep(0.3)
        return values(*args)

    monkeypatch.setattr(committer, "_values", slow)
    waiting = asyncio.create_task(ledger.accept(delivery()))
    await asyncio.sleep(0.1)
    ending = asyncio.create_task(ledger._committer.close())
    await asyncio.sleep(0)
    ending.cancel()
    await given(ledger, prediction("p2"))
    assert await waiting is True
    await asyncio.gather(ending, return_exceptions=True)
    assert await ledger.delivery("msg_1") is not None
    assert await ledger.prediction("p2") is not None
    ledger._committer._task = asyncio.create_task(asyncio.sleep(0))  # it was cancelled: leave one that can be closed

import asyncio
from pathlib import Path

from receiver.core.event import Event
from receiver.ledger import Ledger
from tests.contract.ledger_nouns import delivery, event, file, given, prediction
from tests.servers.ledgers import Ledgers, make


async def test_events_get_their_places_one_after_the_other(ledger: Ledger) -> None:
    async with ledger.transaction() as tx:
        await tx.tell([event(f"e{place}") for place in range(5)])
    assert await ledger.feed(0, 10) == []
    assert await ledger.last_sequence() == 0
    assert [await ledger.number_events(3) for _ in range(3)] == [3, 2, 0]
    feed = await ledger.feed(0, 10)
    assert [(each.id, each.sequence) for each in feed] == [(f"e{place}", place + 1) for place in range(5)]
    assert [each.id for each in await ledger.feed(3, 1)] == ["e3"]
    assert await ledger.last_sequence() == 5


async def test_the_same_fact_told_twice_is_one_event(ledger: Ledger) -> None:
    for _ in range(2):
        async with ledger.transaction() as tx:
            await tx.tell([event("e1"), event("e1"), event("e2")])
        await ledger.number_events()
    assert [each.id for each in await ledger.feed(0, 10)] == ["e1", "e2"]


async def test_an_event_comes_back_as_it_was_told(ledger: Ledger) -> None:
    told = Event("e1", "outkeep.output.lost", "p1", 5, {"data": {"x": "\x00\ud800 🐈", "n": [2**70, None]}})
    async with ledger.transaction() as tx:
        await tx.tell([told])
    assert await ledger.events("p1") == [told]


async def test_the_feed_can_be_read_by_type(ledger: Ledger) -> None:
    async with ledger.transaction() as tx:
        await tx.tell([event("e1"), event("e2", kind="outkeep.output.lost"), event("e3")])
    await ledger.number_events()
    assert [each.id for each in await ledger.feed(0, 10, types=["outkeep.output.lost", "x"])] == ["e2"]
    assert await ledger.feed(0, 10, types=[]) == []


async def test_how_many_of_the_next_events_can_be_held_is_known_before_they_are_read(ledger: Ledger) -> None:
    sizes = {"e1": 100, "e2": 100, "e3": 900, "e4": 100}
    async with ledger.transaction() as tx:
        await tx.tell([Event(name, "outkeep.x", "p1", 5, {"x": "x" * size}) for name, size in sizes.items()])
    await ledger.number_events()
    assert [await ledger.feed_fits(place, 10, bytes_max=500) for place in range(4)] == [2, 1, 1, 10]
    assert await ledger.feed_fits(0, 1, bytes_max=500) == 1
    assert await ledger.feed_fits(0, 10, bytes_max=5000) == 10
    assert await ledger.feed_fits(0, 10, bytes_max=50, types=["outkeep.y"]) == 10


async def test_numbers_never_come_back_after_pruning(ledger: Ledger) -> None:
    for name in ("e1", "e2"):
        async with ledger.transaction() as tx:
            await tx.tell([event(name)])
        await ledger.number_events()
        await ledger.prune(events_before_ms=2**50, deliveries_before_ms=0, limit=10)
    assert await ledger.last_sequence() == 2
    async with ledger.transaction() as tx:
        await tx.tell([event("e3")])
    await ledger.number_events()
    assert [each.sequence for each in await ledger.feed(2, 10)] == [3]


async def test_an_event_that_commits_late_is_not_skipped(tmp_path: Path) -> None:
    """On PostgreSQL, where its row is older than the one that was numbered first; SQLite has one writer."""
    ledgers = await make("postgresql", tmp_path)
    ledger = await ledgers.open()
    async with ledger.transaction() as late:
        await late.tell([event("late", "p2")])
        async with ledger.transaction() as tx:
            await tx.tell([event("early")])
        assert await ledger.number_events() == 1
        assert [each.id for each in await ledger.feed(0, 10)] == ["early"]
    assert await ledger.number_events() == 1
    assert [each.id for each in await ledger.feed(1, 10)] == ["late"]
    await ledgers.close()


async def test_several_numberers_leave_no_gap_and_give_nothing_twice(ledgers: Ledgers) -> None:
    opened = [await ledgers.open()]
    if ledgers.dialect == "postgresql":
        opened.append(await ledgers.open())

    async def tell(ledger: Ledger, about: str) -> None:
        for place in range(10):
            async with ledger.transaction() as tx:
                await tx.lock([about])
                await tx.tell([event(f"{about}.{place}.{part}", about) for part in range(2)])

    async def number(ledger: Ledger) -> None:
        while await ledger.last_sequence() < 160:
            await ledger.number_events(7)

    await asyncio.gather(*(tell(opened[place % len(opened)], f"p{place}") for place in range(8)), *map(number, opened))
    feed = await opened[0].feed(0, 1000)
    assert [each.sequence for each in feed] == list(range(1, 161))
    for place in range(8):
        mine = [each.id for each in feed if each.prediction_id == f"p{place}"]
        assert mine == [f"p{place}.{turn}.{part}" for turn in range(10) for part in range(2)]


async def test_a_fact_is_what_was_set_last(ledger: Ledger) -> None:
    assert await ledger.fact("secret") is None
    await ledger.set_fact("secret", "other")
    await ledger.set_fact("secret", "last")
    assert await ledger.fact("secret") == "last"


async def test_counts_tell_how_much_there_is(ledger: Ledger) -> None:
    assert await ledger.counts() == {
        "deliveries": {"accepted": 0, "applied": 0, "repeated": 0, "stale": 0, "quarantined": 0, "unverified": 0},
        "outputs": {"pending": 0, "archived": 0, "lost": 0},
        "predictions_open": 0,
        "manifests_due": 0,
        "pending_expires_ms": None,
        "events_unnumbered": 0,
        "last_sequence": 0,
    }
    await ledger.accept(delivery())
    await given(ledger, prediction(), [file("output.0"), file("output.1", "x", "refused")], expires_ms=77)
    async with ledger.transaction() as tx:
        await tx.tell([event("e1"), event("e2")])
    await ledger.number_events(1)
    counts = await ledger.counts()
    assert (counts["deliveries"]["accepted"], counts["outputs"]) == (1, {"pending": 1, "archived": 0, "lost": 1})
    assert (counts["predictions_open"], counts["pending_expires_ms"]) == (1, 77)
    assert (counts["events_unnumbered"], counts["last_sequence"]) == (1, 1)


async def test_only_what_waits_is_due(ledger: Ledger) -> None:
    assert await ledger.due_in_ms() == {"deliveries": None, "outputs": None, "manifests": None, "questions": None}
    await ledger.accept(delivery())
    assert (await ledger.due_in_ms())["deliveries"] == 0


async def test_other_processes_hear_what_is_told_and_nobody_hears_himself(ledgers: Ledgers) -> None:
    first = await ledgers.open()
    if ledgers.dialect == "sqlite":
        await first.notify(["outputs"])
        assert [kind async for kind in first.listen()] == []
        return
    second = await ledgers.open()
    heard: list[str] = []

    async def listen() -> None:
        async for kind in second.listen():
            heard.append(kind)
            if kind == "end":
                return

    listening = asyncio.create_task(listen())
    while "end" not in heard:
        await second.notify(["mine"])
        await first.notify(["outputs", "events"])
        await first.notify(["end"])
        await asyncio.sleep(0.05)
    await listening
    assert "mine" not in heard
    assert heard[-3:] == ["outputs", "events", "end"]

"""Outputs whose bytes lie in a spool: out of danger, and out of the way of those that are not."""

import asyncio
import random
import time
from typing import Any

from receiver.ledger import Ledger
from receiver.ledger.due import ABANDONED_MS, SPOOL_FACT
from receiver.ledger.nouns import OutputClaim
from tests.contract.ledger_nouns import NOW_MS, claim_one, file, given, prediction
from tests.servers.ledgers import Ledgers


async def hold(ledger: Ledger, claim: OutputClaim, spool: str = "mine") -> None:
    async with ledger.transaction() as tx:
        assert await tx.settle_failed(claim, "unavailable: bucket", NOW_MS, 0, held_by=spool)


async def paths(ledger: Ledger, limit: int = 10, **how: Any) -> list[str]:
    claims = await ledger.claim_outputs(limit, lease_ms=15_000, **how)
    return [each.output.path for each in claims]


async def test_what_can_still_vanish_goes_before_what_a_spool_holds(ledger: Ledger) -> None:
    await given(ledger, prediction("soon"), [file("held")], expires_ms=NOW_MS)
    await hold(ledger, await claim_one(ledger))
    await given(ledger, prediction("late"), [file("output.0"), file("output.1")], expires_ms=NOW_MS + 1_000)
    assert await paths(ledger, 2, spool="mine") == ["output.0", "output.1"]
    (claim,) = await ledger.claim_outputs(10, lease_ms=15_000, spool="mine")
    assert (claim.output.path, claim.output.held_by, claim.output.attempts) == ("held", "mine", 2)


async def test_no_more_of_what_is_held_is_claimed_than_was_asked_for(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file(f"output.{place}") for place in range(3)])
    for claim in await ledger.claim_outputs(2, lease_ms=15_000):
        await hold(ledger, claim)
    assert await paths(ledger, spool="mine", held_max=0) == ["output.2"]
    assert len(await paths(ledger, spool="mine", held_max=1)) == 1
    assert len(await paths(ledger, spool="mine")) == 1


async def test_one_that_is_held_goes_first_where_room_is_wanted(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file(f"output.{place}") for place in range(5)])
    for claim in await ledger.claim_outputs(2, lease_ms=15_000):
        await hold(ledger, claim)
    assert await paths(ledger, 2, spool="mine", held_min=1) == ["output.0", "output.2"]
    assert await paths(ledger, 3, spool="mine", held_min=1, held_max=1) == ["output.1", "output.3", "output.4"]


async def test_what_another_spool_holds_is_left_to_its_worker_until_that_falls_silent(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction(), [file()])
    await ledger.set_fact("another fact", "no number")
    await ledger.set_fact(f"{SPOOL_FACT}theirs", str(ledgers.now_ms()))
    await hold(ledger, await claim_one(ledger), "theirs")
    assert await paths(ledger, spool="mine") == []
    ledgers.forward(ABANDONED_MS - 5_000)
    assert await paths(ledger, spool="mine") == []
    await ledger.set_fact(f"{SPOOL_FACT}theirs", str(ledgers.now_ms()))
    ledgers.forward(ABANDONED_MS - 5_000)
    assert await paths(ledger, spool="mine") == []
    ledgers.forward(10_000)
    assert await paths(ledger, spool="mine") == ["output"]


async def test_what_is_held_does_not_count_as_vanishing(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file("output.0")], expires_ms=70)
    await given(ledger, prediction("p2"), [file("output.1")], expires_ms=77)
    await ledger.tend_spool("mine", time.time_ns() // 1_000_000)
    (first,) = await ledger.claim_outputs(1, lease_ms=15_000)
    await hold(ledger, first)
    assert (await ledger.counts())["pending_expires_ms"] == 77


async def test_what_lies_where_nobody_is_any_more_is_at_risk(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction(), [file()], expires_ms=77)
    await hold(ledger, await claim_one(ledger), "theirs")
    await ledger.tend_spool("theirs", ledgers.now_ms())
    assert (await ledger.count_at_risk(100), (await ledger.counts())["pending_expires_ms"]) == (0, None)
    ledgers.forward(ABANDONED_MS + 5_000)
    assert (await ledger.count_at_risk(100), (await ledger.counts())["pending_expires_ms"]) == (1, 77)
    assert [each.path for each in (await ledger.list_outputs(at_risk_before_ms=100)).items] == ["output"]
    await ledger.tend_spool("theirs", ledgers.now_ms())
    assert await ledger.at_risk(100, 10) == []


async def test_two_workers_take_two_hundred_outputs_in_the_order_of_their_deadlines(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    workers = [ledger, ledger if ledgers.dialect == "sqlite" else await ledgers.open()]
    deadlines = random.Random(7).sample(range(1_000), 200)
    for deadline in deadlines:
        await given(ledger, prediction(f"p{deadline}"), [file()], expires_ms=NOW_MS + deadline)

    async def work(worker: Ledger) -> list[int]:
        taken: list[int] = []
        while claims := await worker.claim_outputs(1, lease_ms=600_000, spool="mine"):
            taken.append(claims[0].output.expires_ms - NOW_MS)
            await asyncio.sleep(0)
        return taken

    one, other = await asyncio.gather(*(work(worker) for worker in workers))
    assert (one, other) == (sorted(one), sorted(other))
    assert sorted(one + other) == sorted(deadlines)
    assert min(len(one), len(other)) > 20

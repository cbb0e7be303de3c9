"""Claims that are held while work goes on, however busy the event loop is."""

import asyncio
import time
from pathlib import Path

import pytest

from receiver.core.output import OutputState
from receiver.ledger import Ledger
from receiver.ledger.nouns import OutputClaim
from tests.contract.ledger_nouns import archive, file, given, prediction
from tests.servers.ledgers import Ledgers, make

LEASE_MS = 600


def stand_still(leases: int) -> None:
    """Hold up the event loop."""
    time.sleep(leases * LEASE_MS / 1000)


async def claimed(ledger: Ledger) -> OutputClaim:
    await given(ledger, prediction("p1"), [file()])
    (claim,) = await ledger.claim_outputs(1, lease_ms=LEASE_MS)
    return claim


@pytest.fixture
async def postgres_ledgers(tmp_path: Path) -> Ledgers:
    return await make("postgresql", tmp_path)


async def test_a_loop_that_is_busy_for_two_leases_keeps_its_claims(postgres_ledgers: Ledgers) -> None:
    ours, other = await postgres_ledgers.open(), await postgres_ledgers.open()
    claim = await claimed(ours)
    lost: list[str] = []
    async with ours.keeping(lambda: [claim.lease], lease_ms=LEASE_MS, lost=lost.extend):
        stand_still(leases=2)
        assert await other.claim_outputs(1, lease_ms=LEASE_MS) == []
        assert await archive(ours, claim) is True
    assert lost == []
    assert [output.state for output in await ours.outputs("p1")] == [OutputState.ARCHIVED]
    await postgres_ledgers.close()


async def test_a_manifest_is_held_as_well(postgres_ledgers: Ledgers) -> None:
    ours, other = await postgres_ledgers.open(), await postgres_ledgers.open()
    await given(ours, prediction("p1", status="succeeded"), [])
    async with ours.transaction() as tx:
        await tx.finish(["p1"])
    (claim,) = await ours.claim_manifests(1, lease_ms=LEASE_MS)
    async with ours.keeping(lambda: [claim.lease], lease_ms=LEASE_MS, lost=print):
        stand_still(leases=2)
        assert await other.claim_manifests(1, lease_ms=LEASE_MS) == []
    await asyncio.sleep(LEASE_MS / 1000 + 0.1)
    assert len(await other.claim_manifests(1, lease_ms=LEASE_MS)) == 1
    await postgres_ledgers.close()


async def test_who_has_lost_a_claim_is_told(postgres_ledgers: Ledgers) -> None:
    ours, other = await postgres_ledgers.open(), await postgres_ledgers.open()
    claim = await claimed(ours)
    lost: list[str] = []
    await asyncio.sleep(LEASE_MS / 1000 + 0.1)
    assert len(await other.claim_outputs(1, lease_ms=60_000)) == 1
    async with ours.keeping(lambda: [claim.lease], lease_ms=LEASE_MS, lost=lost.extend):
        for _ in range(100):
            if lost:
                break
            await asyncio.sleep(0.05)
    assert set(lost) == {claim.lease}
    await postgres_ledgers.close()


async def test_a_row_that_is_being_written_holds_up_the_renewal_of_no_other(postgres_ledgers: Ledgers) -> None:
    ours, other = await postgres_ledgers.open(), await postgres_ledgers.open()
    await given(ours, prediction("p1"), [file("output.0"), file("output.1")])
    first, second = await ours.claim_outputs(2, lease_ms=LEASE_MS)
    lost: list[str] = []
    async with ours.keeping(lambda: [first.lease, second.lease], lease_ms=LEASE_MS, lost=lost.extend):
        async with ours.transaction() as tx:
            assert await tx.settle_failed(first, "unavailable", 1, 60_000)
            stand_still(leases=2)
            assert await other.claim_outputs(2, lease_ms=LEASE_MS) == []
    assert lost == []
    await postgres_ledgers.close()


async def test_a_loop_that_is_dead_holds_its_claims_no_longer(
    postgres_ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.ledger.keeping.SILENT_TURNS_MAX", 2)
    ours, other = await postgres_ledgers.open(), await postgres_ledgers.open()
    claim = await claimed(ours)
    async with ours.keeping(lambda: [claim.lease], lease_ms=LEASE_MS, lost=print):
        stand_still(leases=3)
        assert len(await other.claim_outputs(1, lease_ms=LEASE_MS)) == 1
    await postgres_ledgers.close()


async def test_what_we_are_at_work_on_is_passed_by_when_we_claim_more(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction("p1"), [file("output.0"), file("output.1")])
    (claim,) = await ledger.claim_outputs(1, lease_ms=15_000)
    ledgers.forward(15_000)
    (more,) = await ledger.claim_outputs(2, lease_ms=15_000, besides=[claim.lease])
    assert (more.output.path, claim.output.path) == ("output.1", "output.0")


async def test_questions_that_are_handed_back_are_due_at_once(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction("p1", "processing", ask_due_ms=0), [])
    assert len(await ledger.claim_questions(5, lease_ms=15_000)) == 1
    assert await ledger.claim_questions(5, lease_ms=15_000) == []
    await ledger.hand_back_questions(["p1"])
    assert [each.id for each in await ledger.claim_questions(5, lease_ms=15_000)] == ["p1"]

"""A clock that was put back: what had been due soon is not left lying for as long as it was put back."""

from tests.contract.ledger_nouns import claim_one, file, given, prediction
from tests.servers.ledgers import Ledgers

LATER_MS = 900_000
HOUR_MS = 3_600_000


async def test_what_was_due_soon_is_due_again_after_the_clock_was_put_back(ledgers: Ledgers) -> None:
    ledgers.forward(HOUR_MS)
    ledger = await ledgers.open()
    await given(ledger, prediction("claimed"), [file()])
    claimed = await claim_one(ledger)
    await given(ledger, prediction("waiting"), [file()])
    await given(ledger, prediction("bare", status="succeeded"), [])
    async with ledger.transaction() as tx:
        await tx.finish(["bare"])
    ledgers.forward(-HOUR_MS)
    assert await ledger.claim_outputs(10, lease_ms=15_000, besides=[claimed.lease]) == []
    assert await ledger.claim_manifests(10, lease_ms=15_000) == []
    assert await ledger.hasten(later_ms=LATER_MS) == 3
    (waiting,) = await ledger.claim_outputs(10, lease_ms=15_000, besides=[claimed.lease])
    assert waiting.prediction.id == "waiting"
    (manifest,) = await ledger.claim_manifests(10, lease_ms=15_000)
    assert manifest.prediction.id == "bare"
    assert await ledger.hasten(later_ms=LATER_MS) == 0


async def test_what_is_late_on_purpose_stays_so(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction(), [file()])
    claim = await claim_one(ledger)
    async with ledger.transaction() as tx:
        await tx.settle_failed(claim, "unavailable: asked for patience", 1, 600_000)
    assert await ledger.hasten(later_ms=LATER_MS) == 0
    assert await ledger.claim_outputs(10, lease_ms=15_000) == []

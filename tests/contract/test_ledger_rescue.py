"""What a rescue, a sweep and an unanswered request want of the ledger, on both databases."""

from receiver.core.output import OutputState
from receiver.ledger import Ledger
from receiver.ledger.nouns import Intent, IntentState, UpdateRow
from tests.contract.ledger_nouns import NOW_MS, archive, claim_one, file, given, prediction
from tests.servers.ledgers import Ledgers


async def lose(ledger: Ledger, reason: str = "gone") -> None:
    """Settle the next output as lost, the way a worker does."""
    claim = await claim_one(ledger)
    async with ledger.transaction() as tx:
        await tx.lock([claim.prediction.id])
        assert await tx.settle_lost(claim, reason, NOW_MS)
        await tx.finish([claim.prediction.id], again=await tx.amended(claim.prediction.id))


async def conclude(ledger: Ledger) -> None:
    (claim,) = await ledger.claim_manifests(1, lease_ms=15_000)
    async with ledger.transaction() as tx:
        await tx.lock([claim.prediction.id])
        assert await tx.settle_manifest(claim, "x/manifest.json")


async def reopen_all(ledger: Ledger) -> int:
    lost = await ledger.lost_outputs(created_after_ms=0, after_id=0, limit=100)
    async with ledger.transaction() as tx:
        await tx.lock({each.prediction_id for each in lost})
        return await tx.reopen([each.id for each in lost])


async def archive_again(ledger: Ledger) -> None:
    claim = await claim_one(ledger)
    async with ledger.transaction() as tx:
        await tx.lock([claim.prediction.id])
    assert await archive(ledger, claim)
    async with ledger.transaction() as tx:
        await tx.amend(claim.prediction.id)
        await tx.finish([claim.prediction.id], again=True)


async def test_lost_outputs_are_listed_by_age_of_their_predictions_and_after_an_id(ledger: Ledger) -> None:
    await given(ledger, prediction("old", "succeeded", created_ms=NOW_MS - 9), [file()])
    await given(ledger, prediction("new", "succeeded"), [file("output.0"), file("output.1")])
    for _ in range(3):
        await lose(ledger)
    found = await ledger.lost_outputs(created_after_ms=NOW_MS, after_id=0, limit=1)
    assert [(each.prediction_id, each.path, each.reason) for each in found] == [("new", "output.0", "gone")]
    rest = await ledger.lost_outputs(created_after_ms=NOW_MS, after_id=found[0].id, limit=9)
    assert [each.path for each in rest] == ["output.1"]
    assert len(await ledger.lost_outputs(created_after_ms=0, after_id=0, limit=9)) == 3


async def test_a_lost_output_that_is_opened_again_is_due_with_its_history(ledger: Ledger) -> None:
    await given(ledger, prediction("p1", "succeeded"), [file()])
    await lose(ledger)
    await conclude(ledger)
    assert await reopen_all(ledger) == 1
    claim = await claim_one(ledger)
    assert (claim.output.attempts, len(claim.output.history), claim.output.reason) == (2, 1, None)
    assert await reopen_all(ledger) == 0
    known = await ledger.prediction("p1")
    assert known is not None
    assert known.archived_ms is not None


async def test_what_is_opened_again_may_have_to_wait(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction("p1", "succeeded"), [file()])
    await lose(ledger)
    (output,) = await ledger.outputs("p1")
    async with ledger.transaction() as tx:
        assert await tx.reopen([output.id], due_in_ms=60_000) == 1
    assert await ledger.claim_outputs(1, lease_ms=15_000) == []
    ledgers.forward(61_000)
    await claim_one(ledger)


async def test_what_is_not_lost_is_not_opened(ledger: Ledger) -> None:
    await given(ledger, prediction("p1", "succeeded"), [file()])
    assert await archive(ledger, await claim_one(ledger))
    (output,) = await ledger.outputs("p1")
    async with ledger.transaction() as tx:
        assert await tx.reopen([output.id]) == 0
        assert await tx.reopen([]) == 0
    assert [each.state for each in await ledger.outputs("p1")] == [OutputState.ARCHIVED]


async def test_a_manifest_is_written_again_only_for_what_was_saved(ledger: Ledger) -> None:
    await given(ledger, prediction("p1", "succeeded"), [file("output.0"), file("output.1")])
    await lose(ledger)
    await lose(ledger)
    await conclude(ledger)
    await reopen_all(ledger)
    await lose(ledger)
    await lose(ledger)
    assert await ledger.claim_manifests(1, lease_ms=1) == [], "nothing is new"
    await reopen_all(ledger)
    await archive_again(ledger)
    assert await ledger.claim_manifests(1, lease_ms=1) == [], "another one is tried still"
    await lose(ledger)
    await conclude(ledger)
    known = await ledger.prediction("p1")
    assert known is not None
    assert known.revision == 2
    await reopen_all(ledger)
    await lose(ledger)
    assert await ledger.claim_manifests(1, lease_ms=1) == [], "what was saved is told"


async def test_a_manifest_in_the_works_gives_way_to_what_is_opened_again(ledger: Ledger) -> None:
    await given(ledger, prediction("p1", "succeeded"), [file()])
    await lose(ledger)
    (claim,) = await ledger.claim_manifests(1, lease_ms=15_000)
    await reopen_all(ledger)
    async with ledger.transaction() as tx:
        assert await tx.settle_manifest(claim, "x/manifest.json") is False
    await lose(ledger)
    await conclude(ledger)
    known = await ledger.prediction("p1")
    assert known is not None
    assert known.revision == 1


async def test_only_questions_whose_time_has_come_are_called_due(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction("now", ask_due_ms=ledgers.now_ms() - 1))
    await given(ledger, prediction("later", ask_due_ms=ledgers.now_ms() + 60_000))
    await given(ledger, prediction("ended", "failed", ask_due_ms=1))
    assert await ledger.questions_due(["now", "later", "ended", "unknown"]) == {"now"}
    ledgers.forward(61_000)
    assert await ledger.questions_due(["now", "later", "ended", "unknown"]) == {"now", "later"}


async def test_how_often_something_was_told_counts_from_a_moment_on(ledger: Ledger) -> None:
    async with ledger.transaction() as tx:
        await tx.heard([UpdateRow("p1", NOW_MS + after, "poll", "absent") for after in range(4)])
        await tx.heard([UpdateRow("p1", NOW_MS, "poll", "starting"), UpdateRow("p2", NOW_MS, "poll", "absent")])
    assert await ledger.times_told("p1", "absent", after_ms=0) == 4
    assert await ledger.times_told("p1", "absent", after_ms=NOW_MS + 1) == 2
    assert await ledger.times_told("p3", "absent", after_ms=0) == 0


async def test_an_intent_is_explained_once_and_claims_its_prediction(ledger: Ledger) -> None:
    for number, state in enumerate((IntentState.ASKED, IntentState.UNCLEAR, IntentState.REJECTED)):
        await ledger.intend(Intent(f"tok{number}", NOW_MS + number, "alice", "/predictions", {}, state))
    async with ledger.transaction() as tx:
        await tx.explain({})
        await tx.explain({"tok0": "p0", "tok1": "p1", "tok2": "p2", "unknown": "p3"})
        await tx.explain({"tok0": "other"})
        assert await tx.explained(["p0", "p1", "p2", "other"], since_ms=NOW_MS) == {"p0", "p1"}
        assert await tx.explained(["p0", "p1"], since_ms=NOW_MS + 1) == {"p1"}
    assert await ledger.open_intents(2**40) == []
    intent = await ledger.intent("tok2")
    assert intent is not None
    assert intent.state == IntentState.REJECTED

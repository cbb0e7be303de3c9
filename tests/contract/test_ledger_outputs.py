import asyncio
from dataclasses import replace

from receiver.core.output import Attempt, OutputState
from receiver.ledger import Ledger
from receiver.ledger.settling import HISTORY_FIRST, HISTORY_LAST
from tests.contract.ledger_nouns import NOW_MS, archive, claim_one, file, given, prediction, stored
from tests.servers.ledgers import Ledgers

DATA = "data:image/png;base64," + "iVBORw0KGgo" * 1000


async def test_outputs_are_claimed_in_the_order_in_which_they_disappear(ledger: Ledger) -> None:
    await given(ledger, prediction("late"), [file()], expires_ms=NOW_MS + 2)
    await given(ledger, prediction("soon"), [file("output.0"), file("output.1")], expires_ms=NOW_MS)
    claims = await ledger.claim_outputs(10, lease_ms=15_000)
    assert [(each.prediction.id, each.output.path) for each in claims] == [
        ("soon", "output.0"),
        ("soon", "output.1"),
        ("late", "output"),
    ]
    assert len({each.lease for each in claims}) == 3
    assert [each.output.attempts for each in claims] == [1, 1, 1]
    assert await ledger.claim_outputs(10, lease_ms=15_000) == []


async def test_an_output_that_is_due_later_is_not_claimed(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction(), [file()], due_ms=ledgers.now_ms() + 60_000)
    assert await ledger.claim_outputs(10, lease_ms=15_000) == []
    due_ms = (await ledger.due_in_ms())["outputs"]
    assert due_ms is not None
    assert 50_000 < due_ms <= 60_000
    ledgers.forward(60_000)
    assert (await ledger.due_in_ms())["outputs"] == 0
    assert len(await ledger.claim_outputs(10, lease_ms=15_000)) == 1


async def test_when_a_lease_runs_out_another_may_and_the_first_may_not(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction(), [file()])
    slow = await claim_one(ledger)
    ledgers.forward(15_000)
    quick = await claim_one(ledger)
    assert (quick.output.attempts, quick.lease != slow.lease) == (2, True)
    async with ledger.transaction() as tx:
        assert await tx.settle_archived(slow, stored()) is False
        assert await tx.settle_failed(slow, "late", NOW_MS, 0) is False
        assert await tx.settle_lost(slow, "late", NOW_MS) is False
    assert await ledger.renew([slow.lease, quick.lease], lease_ms=15_000) == {quick.lease}
    await ledger.hand_back([slow.lease])
    assert await archive(ledger, quick) is True
    assert await archive(ledger, quick) is False
    assert [each.state for each in await ledger.outputs("p1")] == [OutputState.ARCHIVED]


async def test_a_renewed_lease_lasts_longer(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction(), [file()])
    claim = await claim_one(ledger)
    ledgers.forward(10_000)
    assert await ledger.renew([claim.lease], lease_ms=15_000) == {claim.lease}
    ledgers.forward(10_000)
    assert await ledger.claim_outputs(1, lease_ms=15_000) == []
    ledgers.forward(5_000)
    assert len(await ledger.claim_outputs(1, lease_ms=15_000)) == 1


async def test_a_lease_that_ran_out_unnoticed_can_be_renewed(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction(), [file()])
    claim = await claim_one(ledger)
    ledgers.forward(60_000)
    assert await ledger.renew([claim.lease], lease_ms=15_000) == {claim.lease}
    assert await ledger.claim_outputs(1, lease_ms=15_000) == []


async def test_what_is_handed_back_is_due_at_once_and_the_attempt_does_not_count(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file()])
    claim = await claim_one(ledger)
    await ledger.hand_back([claim.lease])
    again = await claim_one(ledger)
    assert again.output.attempts == 1
    assert await archive(ledger, claim) is False


async def test_no_leases_are_no_work(ledger: Ledger) -> None:
    assert await ledger.renew([], lease_ms=1) == set()
    await ledger.hand_back([])


async def test_a_failed_attempt_is_on_record_and_the_next_waits(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await given(ledger, prediction(), [file()])
    claim = await claim_one(ledger)
    async with ledger.transaction() as tx:
        assert await tx.settle_failed(claim, "HTTP 503", NOW_MS, 4_000) is True
    assert await ledger.claim_outputs(1, lease_ms=15_000) == []
    ledgers.forward(4_000)
    claim = await claim_one(ledger)
    assert claim.output.history == (Attempt(NOW_MS, "HTTP 503"),)
    async with ledger.transaction() as tx:
        await tx.lock(["p1"])
        assert await tx.settle_lost(claim, "gone: HTTP 404", NOW_MS + 1) is True
    (lost,) = await ledger.outputs("p1")
    assert (lost.state, lost.reason, lost.attempts) == (OutputState.LOST, "gone: HTTP 404", 2)
    assert lost.history == (Attempt(NOW_MS, "HTTP 503"), Attempt(NOW_MS + 1, "gone: HTTP 404"))


async def test_the_record_of_attempts_keeps_its_beginning_and_its_end(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file()])
    claim = await claim_one(ledger)
    long = tuple(Attempt(place, "again") for place in range(HISTORY_FIRST + HISTORY_LAST))
    claim = replace(claim, output=replace(claim.output, history=long))
    async with ledger.transaction() as tx:
        await tx.settle_failed(claim, "the last", 1_000, 0)
    (output,) = await ledger.outputs("p1")
    assert len(output.history) == HISTORY_FIRST + HISTORY_LAST
    assert (output.history[0].at_ms, output.history[-1].problem) == (0, "the last")


async def test_what_is_stored_of_an_output_comes_back_as_it_was(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file()])
    claim = await claim_one(ledger)
    proof = stored(headers={"etag": '"caf\xe9 \x00 \udc80"'}, duration_s=1.5, width=None)
    async with ledger.transaction() as tx:
        assert await tx.settle_archived(claim, proof)
    (output,) = await ledger.outputs("p1")
    assert output.stored == proof
    assert output == await ledger.output_by_link(output.link)
    assert await ledger.output_by_link("nothing \x00") is None


async def test_a_data_uri_is_whole_when_claimed_and_short_everywhere_else(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file("output.0", DATA), file("output.1")])
    assert (await ledger.outputs("p1"))[0].source == "data:image/png"
    assert {each.source for each in (await ledger.list_outputs()).items} == {
        "data:image/png",
        "https://replicate.delivery/a/out.png",
    }
    claims = await ledger.claim_outputs(2, lease_ms=15_000)
    assert [each.output.source for each in claims] == [DATA, "https://replicate.delivery/a/out.png"]
    assert await archive(ledger, claims[0])
    assert (await ledger.outputs("p1"))[0].source == "data:image/png"
    async with ledger.transaction() as tx:
        assert (await tx._connection.exec_driver_sql("SELECT count(*) FROM data_uris")).scalar() == 0


async def test_while_an_output_is_pending_its_source_and_deadline_are_renewed(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file("output.0", DATA), file("output.1"), file("output.2")], expires_ms=1)
    before = await ledger.outputs("p1")
    claims = {each.output.path: each for each in await ledger.claim_outputs(3, lease_ms=0)}
    assert await archive(ledger, claims["output.1"])
    again = [file(f"output.{place}", f"https://replicate.delivery/b/{place}.png") for place in range(4)]
    await given(ledger, prediction(), again, expires_ms=NOW_MS)
    after = await ledger.outputs("p1")
    assert [each.source[-7:] for each in after] == ["b/0.png", "out.png", "b/2.png", "b/3.png"]
    assert [each.expires_ms for each in after] == [NOW_MS, 1, NOW_MS, NOW_MS]
    assert after[1].source == before[1].source
    assert [each.link for each in after[:3]] == [each.link for each in before]
    (claim,) = [each for each in await ledger.claim_outputs(9, lease_ms=0) if each.output.path == "output.0"]
    assert claim.output.source == "https://replicate.delivery/b/0.png"


async def test_a_file_that_can_not_be_had_is_lost_from_the_start(ledger: Ledger) -> None:
    await given(ledger, prediction(status="succeeded"), [file("output.0", "https://evil.example/x", "refused: host")])
    await given(ledger, prediction(status="succeeded"), [file("output.0", "https://evil.example/x", "refused: again")])
    (lost,) = await ledger.outputs("p1")
    assert (lost.state, lost.reason) == (OutputState.LOST, "refused: host")
    assert await ledger.claim_outputs(1, lease_ms=1) == []


async def test_paths_of_any_length_are_told_apart(ledger: Ledger) -> None:
    deep = "output" + ".x123456789" * 500
    files = [file(deep), file(deep + ".a"), file(deep + ".b")]
    await given(ledger, prediction(), files)
    await given(ledger, prediction(), files)
    assert [each.path for each in await ledger.outputs("p1")] == [each.path for each in files]


async def test_thousands_of_files_keep_their_order(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file(f"output.{place}") for place in range(3_000)])
    assert [each.path for each in await ledger.outputs("p1")] == [f"output.{place}" for place in range(3_000)]


async def test_outputs_are_listed_newest_first_by_state_and_by_deadline(ledger: Ledger) -> None:
    await given(ledger, prediction("p1"), [file("output.0"), file("output.1")], expires_ms=10)
    await given(ledger, prediction("p2"), [file("output")], expires_ms=20)
    first = await ledger.list_outputs(limit=2)
    assert [(each.prediction_id, each.path) for each in first.items] == [("p2", "output"), ("p1", "output.1")]
    second = await ledger.list_outputs(limit=2, after=first.next)
    assert ([each.path for each in second.items], second.next) == (["output.0"], None)
    assert len((await ledger.list_outputs(state="pending", at_risk_before_ms=20)).items) == 2
    assert (await ledger.list_outputs(state="lost")).items == []
    assert len((await ledger.list_outputs(prediction_id="p2")).items) == 1
    both = await ledger.outputs_of(["p1", "p2", "p3"])
    assert {name: len(known) for name, known in both.items()} == {"p1": 2, "p2": 1, "p3": 0}
    assert await ledger.outputs_of([]) == {}


async def test_many_at_once_never_get_the_same_output(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file(f"output.{place}") for place in range(60)])
    claims = await asyncio.gather(*(ledger.claim_outputs(5, lease_ms=15_000) for _ in range(15)))
    numbers = [each.output.id for several in claims for each in several]
    assert len(numbers) == len(set(numbers))
    assert len(numbers) + len(await ledger.claim_outputs(100, lease_ms=15_000)) == 60

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa

from receiver.core.errors import LedgerRefused, LedgerUnavailable
from receiver.core.prediction import Source, Update
from receiver.ledger import Intent, IntentState, Ledger, UpdateRow, paging
from tests.contract.ledger_nouns import NOW_MS, archive, claim_one, file, given, prediction
from tests.servers.ledgers import Ledgers

ODD = "nul \x00, lone \ud800, emoji 🐈"


async def test_a_prediction_comes_back_as_it_was_kept(ledger: Ledger) -> None:
    told = {"input": {ODD: [ODD, 1e300, 2**70, None, True]}, "model": ODD * 100, "status": ODD, "logs": ODD}
    known = prediction(told=told, key_name=ODD, ask_due_ms=5, asks=3, has_files=True)
    await given(ledger, known)
    kept = await ledger.prediction("p1")
    assert kept is not None
    assert kept.told == known.told
    assert (kept.ask_due_ms, kept.asks, kept.has_files, kept.final) == (5, 3, True, False)
    assert kept.key_name == "nul \\u0000, lone \\ud800, emoji 🐈"
    for page in (
        await ledger.predictions(model=ODD * 100),
        await ledger.predictions(status=ODD),
        await ledger.predictions(key_name=ODD),
    ):
        assert [each.id for each in page.items] == ["p1"]
    assert await ledger.prediction(ODD) is None


async def test_saving_again_replaces_it_and_a_final_one_is_asked_about_no_more(ledger: Ledger) -> None:
    await given(ledger, prediction(ask_due_ms=5))
    final = prediction(status="succeeded", ask_due_ms=5, completed_ms=NOW_MS)
    await given(ledger, final)
    assert await ledger.prediction("p1") == replace(final, ask_due_ms=None)
    assert await ledger.claim_questions(1, lease_ms=1) == []
    assert await ledger.statuses(["p1", "p2"]) == {"p1": "succeeded"}


async def test_saving_none_and_looking_for_none_is_nothing(ledger: Ledger) -> None:
    async with ledger.transaction() as tx:
        await tx.save([])
        await tx.heard([])
        await tx.tell([])
        await tx.mark([])
        await tx.finish([])
        await tx.found("p1", [], expires_ms=1, link=lambda: "x")
        assert await tx.lock([]) == {}
        assert await tx.key_names([]) == {}


async def test_an_error_inside_undoes_the_whole_transaction(ledger: Ledger) -> None:
    async def fail() -> None:
        async with ledger.transaction() as tx:
            await tx.save([prediction()])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await fail()
    assert await ledger.prediction("p1") is None
    await given(ledger, prediction())


async def test_one_at_a_time_touches_a_prediction_even_before_it_exists(ledgers: Ledgers) -> None:
    first = await ledgers.open()
    second = first if ledgers.dialect == "sqlite" else await ledgers.open()
    order: list[str] = []

    async def hold(ledger: Ledger, name: str, wanted: list[str]) -> None:
        async with ledger.transaction() as tx:
            known = await tx.lock(wanted)
            order.append(f"{name} in, knows {sorted(known)}")
            await asyncio.sleep(0.1)
            await tx.save([prediction(each) for each in wanted])
            order.append(f"{name} out")

    await asyncio.gather(hold(first, "a", ["p1", "p2"]), hold(second, "b", ["p2", "p1"]))
    one, other = order[0][0], order[2][0]
    assert order == [
        f"{one} in, knows []",
        f"{one} out",
        f"{other} in, knows ['p1', 'p2']",
        f"{other} out",
    ]


async def test_questions_come_longest_silent_first_and_wait_for_the_next_time(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    now_ms = ledgers.now_ms()
    for name, due_ms in (("b", now_ms - 20), ("a", now_ms - 10), ("c", now_ms + 60_000), ("d", None)):
        await given(ledger, prediction(name, ask_due_ms=due_ms, heard_ms=due_ms or 0))
    await given(ledger, prediction("e", "failed", ask_due_ms=now_ms - 30))
    asked = await ledger.claim_questions(10, lease_ms=30_000)
    assert [(each.id, each.asks) for each in asked] == [("b", 1), ("a", 1)]
    assert await ledger.claim_questions(10, lease_ms=30_000) == []
    due_ms = (await ledger.due_in_ms())["questions"]
    assert due_ms is not None
    assert 20_000 < due_ms <= 30_000
    ledgers.forward(30_000)
    assert [each.asks for each in await ledger.claim_questions(1, lease_ms=30_000)] == [2]


async def test_a_manifest_is_due_once_all_is_final_and_settled(ledger: Ledger) -> None:
    await given(ledger, prediction(), [file("output.0"), file("output.1", "x", "refused: no URL")])
    claim = await claim_one(ledger)
    async with ledger.transaction() as tx:
        await tx.finish(["p1"])
    assert await ledger.claim_manifests(10, lease_ms=1) == []
    assert await archive(ledger, claim)
    assert await ledger.claim_manifests(10, lease_ms=1) == []
    await given(ledger, prediction(status="succeeded"))
    async with ledger.transaction() as tx:
        await tx.lock(["p1"])
        await tx.finish(["p1", "unknown"])
    assert (await ledger.due_in_ms())["manifests"] == 0
    (manifest,) = await ledger.claim_manifests(10, lease_ms=15_000)
    assert manifest.prediction.status == "succeeded"
    assert [each.path for each in manifest.outputs] == ["output.0", "output.1"]
    assert await ledger.claim_manifests(10, lease_ms=15_000) == []


async def test_a_final_prediction_with_a_pending_output_waits_for_it(ledger: Ledger) -> None:
    await given(ledger, prediction(status="succeeded"), [file()])
    async with ledger.transaction() as tx:
        await tx.finish(["p1"])
    assert (await ledger.due_in_ms())["manifests"] is None


async def test_the_moment_of_a_manifest_is_fixed_at_the_first_claim(ledgers: Ledgers) -> None:
    ledger = await ledgers.open()
    await _finished(ledger)
    (first,) = await ledger.claim_manifests(1, lease_ms=15_000)
    ledgers.forward(15_000)
    (second,) = await ledger.claim_manifests(1, lease_ms=15_000)
    assert second.archived_ms == first.archived_ms
    assert await ledger.renew([first.lease, second.lease], lease_ms=15_000) == {second.lease}
    await ledger.hand_back([second.lease])
    (third,) = await ledger.claim_manifests(1, lease_ms=15_000)
    assert third.archived_ms == first.archived_ms
    async with ledger.transaction() as tx:
        assert await tx.settle_manifest(first, "late") is False
        assert await tx.settle_manifest(third, "x/manifest.json") is True
        assert await tx.settle_manifest(third, "x/manifest.json") is False
    known = await ledger.prediction("p1")
    assert known is not None
    assert (known.archived_ms, known.manifest_key, known.revision) == (first.archived_ms, "x/manifest.json", 1)


async def test_an_archived_prediction_is_finished_again_only_when_asked(ledger: Ledger) -> None:
    await _finished(ledger)
    (claim,) = await ledger.claim_manifests(1, lease_ms=15_000)
    async with ledger.transaction() as tx:
        await tx.settle_manifest(claim, "x/manifest.json")
        await tx.finish(["p1"])
    assert await ledger.claim_manifests(1, lease_ms=1) == []
    async with ledger.transaction() as tx:
        await tx.finish(["p1"], again=True)
    (again,) = await ledger.claim_manifests(1, lease_ms=15_000)
    assert again.prediction.revision == 1


async def test_predictions_are_listed_newest_created_first(ledger: Ledger) -> None:
    for place, name in enumerate("abcde"):
        await given(ledger, prediction(name, created_ms=NOW_MS + place // 2))
    await given(ledger, prediction("c", "failed", created_ms=NOW_MS + 1, key_name="k", archived_ms=7))
    first = await ledger.predictions(limit=2)
    second = await ledger.predictions(limit=9, after=first.next)
    assert [each.id for each in (*first.items, *second.items)] == ["e", "d", "c", "b", "a"]
    assert [each.id for each in (await ledger.predictions(archived=True)).items] == ["c"]
    assert len((await ledger.predictions(archived=False, key_name="k")).items) == 0
    between = await ledger.predictions(created_after_ms=NOW_MS + 1, created_before_ms=NOW_MS + 2)
    assert [each.id for each in between.items] == ["d", "c"]
    with pytest.raises(ValueError, match="cursor"):
        await ledger.predictions(after=(await ledger.deliveries()).next or "WzFd")


async def test_a_page_of_heavy_predictions_ends_early_and_the_next_goes_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "BYTES_MAX", 2500)
    for number, size in enumerate((10, 1000, 1000, 1000, 9000, 10), start=1):
        told = {"status": "starting", "logs": "x" * size}
        await given(ledger, prediction(f"p{number}", told=told, created_ms=NOW_MS + number))
    pages: list[list[str]] = []
    after = None
    while not pages or after:
        page = await ledger.predictions(after=after, limit=5)
        pages.append([each.id for each in page.items])
        after = page.next
    assert pages == [["p6"], ["p5"], ["p4", "p3"], ["p2", "p1"]]


async def test_what_was_heard_is_kept_in_order(ledger: Ledger) -> None:
    update = Update("p1", Source.WEBHOOK, NOW_MS, {"id": "p1", "status": ODD}, delivery_id="msg_1")
    row = UpdateRow("p1", NOW_MS + 1, Source.POLL, "succeeded")
    async with ledger.transaction() as tx:
        await tx.heard([update, row])
    first, second = await ledger.updates("p1")
    assert (first.source, first.status, first.delivery_id) == (
        "webhook",
        "nul \\u0000, lone \\ud800, emoji 🐈",
        "msg_1",
    )
    assert second == UpdateRow("p1", NOW_MS + 1, "poll", "succeeded")


async def test_what_became_of_a_request_is_kept(ledger: Ledger) -> None:
    asked = Intent("tok", 10, "alice", "/predictions", {"input": {"prompt": ODD}})
    await ledger.intend(asked)
    async with ledger.transaction() as tx:
        await tx.intend(Intent("tok2", 20, None, "/predictions", None))
        assert await tx.intended("tok") == asked
        assert await tx.key_names(["tok", "tok2", "tok3"]) == {"tok": "alice", "tok2": None}
    assert [each.token for each in await ledger.open_intents(20)] == ["tok"]
    await ledger.resolve_intent("tok", state=IntentState.KNOWN, prediction_id="p1")
    await ledger.resolve_intent("tok", state=IntentState.UNCLEAR, prediction_id=None)
    assert await ledger.intent("tok") == replace(asked, state="known", prediction_id="p1")
    assert await ledger.intent("nothing") is None
    assert [each.token for each in await ledger.open_intents(2**40)] == ["tok2"]
    assert await ledger.prune(events_before_ms=0, deliveries_before_ms=15, limit=10) == 1
    assert await ledger.intent("tok") is None


async def _finished(ledger: Ledger) -> None:
    await given(ledger, prediction(status="succeeded"))
    async with ledger.transaction() as tx:
        await tx.lock(["p1"])
        await tx.finish(["p1"])


async def test_a_manifest_is_taken_back_from_whoever_writes_it_when_more_was_heard(ledger: Ledger) -> None:
    await given(ledger, prediction(status="succeeded"))
    async with ledger.transaction() as tx:
        await tx.lock(["p1"])
        assert await tx.finish(["p1"]) == 1
        assert await tx.finish(["p1"]) == 0
    (claim,) = await ledger.claim_manifests(1, lease_ms=15_000)
    async with ledger.transaction() as tx:
        await tx.lock(["p1"])
        await tx.found("p1", [file()], expires_ms=NOW_MS, link=lambda: "late")
        await tx.unfinish(["p1"])
        assert await tx.finish(["p1"]) == 0
    async with ledger.transaction() as tx:
        assert await tx.settle_manifest(claim, "x/manifest.json") is False
    assert await archive(ledger, await claim_one(ledger))
    (again,) = await ledger.claim_manifests(1, lease_ms=15_000)
    assert [each.path for each in again.outputs] == ["output"]
    async with ledger.transaction() as tx:
        assert await tx.settle_manifest(again, "x/manifest.json") is True
        await tx.unfinish(["p1"])
    known = await ledger.prediction("p1")
    assert known is not None
    assert known.archived_ms == again.archived_ms


async def test_what_the_ledger_cannot_hold_is_told_apart_from_trouble(ledger: Ledger) -> None:
    with pytest.raises(LedgerRefused):
        await given(ledger, prediction(heard_ms=None))
    await given(ledger, prediction())
    async with ledger._database.write() as connection:
        await connection.execute(sa.text("ALTER TABLE predictions RENAME TO elsewhere"))
    with pytest.raises(LedgerUnavailable) as trouble:
        await given(ledger, prediction())
    assert not isinstance(trouble.value, LedgerRefused)

import asyncio
import hashlib
import json
import shutil
from typing import Any

import httpx
import pytest

from receiver.core.output import OutputState
from receiver.core.ring import Ring
from storage.errors import BucketUnavailable


async def truth(home, prediction_id: str) -> dict[str, str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        told = (await client.get(f"{home.sandbox.url}/_sandbox/predictions", params={"id": prediction_id})).json()
    return {file["path"]: file["sha256"] for file in told["predictions"][0]["truth"]}


async def types(home, prediction_id: str) -> list[str]:
    return [event.type.removeprefix("outkeep.") for event in await home.house.ledger.events(prediction_id)]


async def test_every_output_lies_in_the_folder_byte_for_byte_with_its_manifest(home):
    known = await home.finish((await home.create("sandbox/frames")).id)
    manifest = json.loads((home.folder / "objects" / known.manifest_key).read_bytes())
    stored = {
        output["path"]: hashlib.sha256((home.folder / "objects" / output["key"]).read_bytes()).hexdigest()
        for output in manifest["outputs"]
    }
    served = await truth(home, known.id)
    assert stored == {path: served[path] for path in stored}
    assert set(stored) == set(served)
    assert all(output["sha256"] == stored[output["path"]] for output in manifest["outputs"])
    assert (await types(home, known.id))[-1] == "prediction.archived"
    assert "replicate" not in json.dumps([output["key"] for output in manifest["outputs"]])


async def test_a_prediction_without_files_has_a_manifest_all_the_same(home):
    known = await home.finish((await home.create("sandbox/numbers")).id)
    assert json.loads((home.folder / "objects" / known.manifest_key).read_bytes())["outputs"] == []


@pytest.mark.parametrize("prank", ["once:500", "once:404", "once:truncated", "once:reset", "once:429:1"])
async def test_trouble_that_passes_costs_an_attempt_and_no_file(home, prank):
    known = await home.create(sandbox={"files": [prank]})
    await _until_final(home, known.id)
    await home.house.archive.step(8)
    home.clock.ahead_ms += 5_000
    known = await home.finish(known.id)
    (output,) = await home.house.ledger.outputs(known.id)
    assert output.state is OutputState.ARCHIVED
    assert output.stored is not None
    assert output.stored.sha256 == (await truth(home, known.id))["output"]


async def test_the_log_tells_each_trouble_once_and_every_loss(home, caplog):
    known = await home.create(sandbox={"files": ["404"]})
    await _until_final(home, known.id)
    for _ in range(8):
        await home.house.archive.step(8)
        home.clock.ahead_ms += 60_000
    lines = [(line.levelname, line.getMessage()) for line in caplog.records if line.name == "outkeep.archive"]
    assert [level for level, _ in lines] == ["WARNING", "ERROR"]
    assert lines[0][1].startswith(f"output of {known.id} is not archived yet: gone: ")
    assert lines[1][1].startswith(f"output of {known.id} is lost: gone: ")


async def test_a_file_that_stays_away_is_lost_with_every_attempt_on_record(home):
    known = await home.create(sandbox={"files": ["404"]})
    await _until_final(home, known.id)
    for _ in range(8):
        await home.house.archive.step(8)
        home.clock.ahead_ms += 61_000
    known = await home.finish(known.id)
    (output,) = await home.house.ledger.outputs(known.id)
    assert output.state is OutputState.LOST
    assert output.reason is not None
    assert output.reason == "gone"
    assert output.attempts == 6
    assert len(output.history) == 6
    assert (await types(home, known.id))[-2:] == ["output.lost", "prediction.archived"]


async def test_other_trouble_does_not_use_up_the_patience_with_a_file_that_is_not_there_yet(home):
    known = await home.create(sandbox={"files": [["7x:500", "once:404"]]})
    await _until_final(home, known.id)
    for _ in range(8):
        await home.house.archive.step(8)
        home.clock.ahead_ms += 61_000
    (output,) = await home.house.ledger.outputs(known.id)
    assert (output.state, len(output.history)) == (OutputState.PENDING, 8)
    assert [attempt.problem.partition(":")[0] for attempt in output.history][-2:] == ["unavailable", "gone"]
    await home.finish(known.id)
    (output,) = await home.house.ledger.outputs(known.id)
    assert output.state is OutputState.ARCHIVED


async def test_the_wait_that_a_server_asks_for_is_kept_but_never_beyond_the_deadline(home):
    known = await home.create(sandbox={"files": ["429:300"]})
    await _until_final(home, known.id)
    asked: list[int] = []
    for left_ms in (3_500_000, 1_500_000, 240_000):
        (output,) = await home.house.ledger.outputs(known.id)
        home.clock.ahead_ms += output.expires_ms - home.clock() - left_ms
        assert await home.house.archive.step(8) == 1
        asked.append((await home.house.ledger.due_in_ms())["outputs"])
    assert [round(ms, -4) for ms in asked] == [300_000, 300_000, 120_000]


async def test_a_server_in_trouble_is_asked_once_an_attempt_and_by_nobody_else(home):
    known = await home.create(sandbox={"files": ["500"]})
    await _until_final(home, known.id)
    until = home.clock() + 30_000
    while home.clock() < until:
        await home.house.archive.step(8)
        home.clock.ahead_ms += 250
    (output,) = await home.house.ledger.outputs(known.id)
    async with httpx.AsyncClient(trust_env=False) as client:
        told = (await client.get(f"{home.sandbox.url}/_sandbox/predictions", params={"id": known.id})).json()
    (file,) = told["predictions"][0]["truth"]
    assert output.attempts == len(output.history) == file["served"]
    assert 5 <= output.attempts <= 30


async def test_nothing_is_lost_by_the_clock_alone(home):
    known = await home.create(sandbox={"files": ["500"]})
    await _until_final(home, known.id)
    await home.house.archive.step(8)
    home.clock.ahead_ms += 2 * 3_600_000
    (output,) = await home.house.ledger.outputs(known.id)
    assert output.state is OutputState.PENDING
    await home.house.archive.step(8)
    (output,) = await home.house.ledger.outputs(known.id)
    assert output.state is OutputState.LOST
    assert output.reason is not None
    assert output.reason == "unavailable"


async def test_a_redirect_to_a_private_address_is_refused_at_once(home):
    known = await home.create(sandbox={"files": ["redirect_private"]})
    known = await home.finish(known.id)
    (output,) = await home.house.ledger.outputs(known.id)
    assert (output.state, output.attempts) == (OutputState.LOST, 1)
    assert output.reason is not None
    assert output.reason == "refused"


async def test_a_bucket_that_is_down_loses_nothing_and_fetches_nothing_twice(home):
    known = await home.create()
    await _until_final(home, known.id)
    objects = home.folder / "objects"
    shutil.rmtree(objects)
    objects.write_text("no folder")
    await home.house.archive.step(8)
    (output,) = await home.house.ledger.outputs(known.id)
    assert (output.state, output.reason, len(output.history)) == (OutputState.PENDING, None, 1)
    objects.unlink()
    objects.mkdir()
    home.clock.ahead_ms += 2 * 3_600_000  # long after Replicate has removed it
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(f"{home.sandbox.url}/_sandbox/expire", json={"prediction": known.id})).raise_for_status()
    known = await home.finish(known.id)
    (output,) = await home.house.ledger.outputs(known.id)
    assert output.state is OutputState.ARCHIVED


async def test_a_manifest_waits_for_its_bucket(home, monkeypatch):
    known = await home.create("sandbox/numbers")
    await _until_final(home, known.id)

    async def down(*_: object, **__: object) -> None:
        raise BucketUnavailable("The bucket is down.")

    with monkeypatch.context() as patched:
        patched.setattr(type(home.house.bucket), "put", down)
        assert await home.house.conclude.step() == 1
    assert await home.house.conclude.step() == 0
    home.clock.ahead_ms += 16_000
    assert (await home.finish(known.id)).revision == 1


async def test_a_manifest_that_an_earlier_program_left_is_replaced(home):
    known = await home.create("sandbox/numbers")
    await _until_final(home, known.id)
    from receiver.core.telling import folder

    left = home.folder / "objects" / folder(known) / "manifest.json"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"{}")
    await home.finish(known.id)
    assert json.loads(left.read_bytes())["schema"] == "outkeep.manifest/1"


async def test_whoever_wakes_after_losing_its_lease_settles_nothing(home):
    known = await home.create(sandbox={"files": ["slow:1"]})
    await _until_final(home, known.id)
    (late,) = await home.house.archive.start(8)
    home.clock.ahead_ms += 16_000
    (taken,) = await home.house.ledger.claim_outputs(8, lease_ms=15_000)
    await asyncio.wait([late])
    (output,) = await home.house.ledger.outputs(known.id)
    assert output.state is OutputState.PENDING
    assert await types(home, known.id) == ["prediction.created", "prediction.completed"]
    await home.house.ledger.hand_back([taken.lease])
    await home.finish(known.id)
    assert (await types(home, known.id)).count("output.archived") == 1


async def test_work_that_another_worker_has_claimed_is_stopped(home):
    known = await home.create(sandbox={"files": ["slow:5"]})
    await _until_final(home, known.id)
    (task,) = await home.house.archive.start(8)
    home.house.archive.drop(["of another", *home.house.archive.leases])
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_a_process_that_stood_still_does_not_take_its_own_work_from_itself(home):
    known = await home.create("sandbox/four-images", sandbox={"files": ["slow:1"] * 4})
    await _until_final(home, known.id)
    tasks = await home.house.archive.start(3)
    home.clock.ahead_ms += 31_000  # two leases in which nothing was renewed
    more = await home.house.archive.start(8)
    assert (len(tasks), len(more)) == (3, 1)
    await asyncio.wait([*tasks, *more])
    assert [output.attempts for output in await home.house.ledger.outputs(known.id)] == [1] * 4
    await home.finish(known.id)
    assert (await types(home, known.id)).count("output.archived") == 4


async def test_work_that_is_broken_off_is_handed_back_at_once(home):
    known = await home.create(sandbox={"files": ["slow:5"]})
    await _until_final(home, known.id)
    (task,) = await home.house.archive.start(8)
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    (claim,) = await home.house.ledger.claim_outputs(8, lease_ms=15_000)
    assert claim.output.attempts == 1


async def _until_final(home, prediction_id: str) -> None:
    for _ in range(400):
        known = await home.house.ask(prediction_id)
        if known is not None and known.final:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not end")


async def test_a_path_too_long_for_a_file_system_is_archived_under_a_shorter_name(home):
    deep = {"a" * 64: {"b" * 64: {"c" * 64: {"d" * 64: "file:png"}}}}
    known = await home.finish((await home.create(sandbox={"output": deep})).id)
    (output,) = await home.house.ledger.outputs(known.id)
    assert (output.state, len(output.path)) == (OutputState.ARCHIVED, 266)
    assert output.stored is not None
    assert output.stored.key.endswith("/" + output.stored.name)
    assert len(output.stored.name) <= 255


async def test_a_success_that_came_without_its_output_is_asked_about_before_its_manifest(home):
    known = await home.create(sandbox={"webhook": "never"})
    truth_of = await _ended(home, known.id)
    bare = {**truth_of, "output": None}
    await home.webhook(json.dumps(bare).encode())
    await home.house.observe.step()
    assert (await home.house.ledger.prediction(known.id)).final
    known = await home.finish(known.id)
    (output,) = await home.house.ledger.outputs(known.id)
    assert output.state is OutputState.ARCHIVED
    assert (await types(home, known.id)) == [
        "prediction.created", "prediction.completed", "output.archived", "prediction.archived",
    ]  # fmt: skip


async def test_a_success_told_without_output_after_a_part_of_it_is_asked_about_before_its_manifest(home):
    known = await home.create("sandbox/four-images", sandbox={"webhook": "never"})
    whole = await _ended(home, known.id)
    part = {**whole, "status": "processing", "output": whole["output"][:1], "completed_at": None}
    for number, said in enumerate([part, {**whole, "output": None}]):
        await home.webhook(json.dumps(said).encode(), f"msg_{number}")
        await home.house.observe.step()
        await home.house.archive.step(8)
    known = await home.finish(known.id)
    assert [output.state for output in await home.house.ledger.outputs(known.id)] == [OutputState.ARCHIVED] * 4
    assert (await types(home, known.id)).count("prediction.archived") == 1
    assert known.told["output"] == [None] * 4


async def test_while_replicate_does_not_say_that_there_was_no_output_the_manifest_waits(home):
    known = await home.create(sandbox={"webhook": "never", "output": None, "api": ["5x:503"]})
    await home.webhook(json.dumps({**known.told, "id": known.id, "status": "succeeded", "output": None}).encode())
    await home.house.observe.step()
    assert await home.house.conclude.step() == 1
    assert (await home.house.ledger.prediction(known.id)).archived_ms is None
    home.clock.ahead_ms += 2 * 3_600_000  # by now it would be gone anyway
    assert await home.house.conclude.step() == 1
    assert (await home.house.ledger.prediction(known.id)).archived_ms is not None


async def test_files_told_after_the_end_take_back_a_manifest_that_is_being_written(home):
    known = await home.create(sandbox={"webhook": "never"})
    ended = await _ended(home, known.id)
    await home.webhook(json.dumps({**ended, "output": None}).encode(), "msg_1")
    await home.house.observe.step()
    (claim,) = await home.house.ledger.claim_manifests(1, lease_ms=15_000)
    await home.webhook(json.dumps(ended).encode(), "msg_2")
    await home.house.observe.step()
    async with home.house.ledger.transaction() as tx:
        assert not await tx.settle_manifest(claim, "too early")
    assert await home.house.ledger.claim_manifests(1, lease_ms=15_000) == []
    known = await home.finish(known.id)
    assert (await types(home, known.id))[-2:] == ["output.archived", "prediction.archived"]


async def test_the_manifest_is_rung_for_when_all_files_were_archived_before_the_end(home):
    known = await home.create(sandbox={"webhook": "never"})
    ended = await _ended(home, known.id)
    await home.webhook(json.dumps({**ended, "status": "processing", "completed_at": None}).encode(), "msg_1")
    await home.house.observe.step()
    await home.house.archive.step(8)
    seen = home.house.bell.count(Ring.MANIFESTS)
    await home.webhook(json.dumps(ended).encode(), "msg_2")
    await home.house.observe.step()
    assert home.house.bell.count(Ring.MANIFESTS) == seen + 1
    assert await home.house.conclude.step() == 1


async def _ended(home, prediction_id: str) -> dict[str, Any]:
    """What Replicate says of it at its end, without our having heard."""
    replicate = home.house.ask.replicate
    for _ in range(400):
        told = await replicate.get(prediction_id)
        if told["status"] == "succeeded":
            return dict(told)
        await asyncio.sleep(0.02)
    raise AssertionError("it does not end")


async def test_without_a_token_there_is_nobody_to_ask_whether_there_was_output(build):
    home = await build(REPLICATE_API_TOKEN="", OUTKEEP_WEBHOOK_SECRETS="whsec_" + "A" * 32)
    headers = home.signed(b'{"id": "p1", "status": "succeeded"}', "msg_1", "whsec_" + "A" * 32)
    await home.house.accept(b'{"id": "p1", "status": "succeeded"}', headers, None)
    await home.house.observe.step()
    assert await home.house.conclude.step() == 1
    known = await home.house.ledger.prediction("p1")
    assert known is not None
    assert known.archived_ms is not None

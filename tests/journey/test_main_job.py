"""The main job, end to end: a real service in a process of its own, a sandbox that is a stranger to it."""

import asyncio
import hashlib
import json
import signal

import httpx
import pytest

from receiver.sandbox.options import Options
from tests.journey.world import World, until

SHAPES = ("image", "four-images", "layers", "frames", "video", "audio", "solid", "drawing", "data-uri", "duplicate")
WITHOUT_FILES = ("numbers", "linked-text", "empty", "fails")


async def test_every_shape_of_output_is_archived_byte_for_byte(anywhere):
    world: World = await anywhere()
    await world.serve()
    ids = [await world.create(f"sandbox/{name}", prompt=f"a {name}") for name in (*SHAPES, *WITHOUT_FILES)]
    for prediction_id, name in zip(ids, (*SHAPES, *WITHOUT_FILES), strict=True):
        known = await world.archived(prediction_id)
        assert bool(known["outputs"]) == (name in SHAPES), name
        assert all(output["state"] == "archived" for output in known["outputs"])
        await world.assert_kept(known)
        assert "webhook" in {update["source"] for update in known["updates"]}
    told = await world.events()
    assert [event["sequence"] for event in told] == [f"{number:016d}" for number in range(1, len(told) + 1)]
    assert len({event["id"] for event in told}) == len(told)
    files = [event for event in told if event["subject"] in ids[: len(SHAPES)]]
    assert "/pbxt/" not in json.dumps(files)


async def test_what_lies_in_the_folder_is_what_was_served(start):
    world: World = await start()
    await world.serve()
    known = await world.archived(await world.create("sandbox/four-images", prompt="folders"))
    truth = await world.truth(known["id"])
    folder = world.folder / "objects"
    manifest = json.loads((folder / known["manifest_key"]).read_bytes())
    assert [output["path"] for output in manifest["outputs"]] == [f"output.{place}" for place in range(4)]
    for output in manifest["outputs"]:
        assert hashlib.sha256((folder / output["key"]).read_bytes()).hexdigest() == truth[output["path"]]
    assert not list((folder / ".tmp").iterdir())


async def test_a_kill_right_after_the_answer_loses_nothing_and_tells_nothing_twice(anywhere):
    world: World = await anywhere()
    process = await world.serve()
    known = await world.create("sandbox/four-images", sandbox={"duration_s": 20, "files": ["slow:1"] * 4})
    await until(lambda: _delivered(world, known))
    await world.kill(process, signal.SIGKILL)
    await world.serve()
    archived = await world.archived(known)
    await world.assert_kept(archived)
    told = await world.events(known)
    archived_events = [event for event in told if event["type"] == "outkeep.output.archived"]
    assert sorted(event["data"]["output"]["path"] for event in archived_events) == [f"output.{n}" for n in range(4)]
    assert len({event["id"] for event in told}) == len(told)
    assert told[-1]["type"] == "outkeep.prediction.archived"


async def _delivered(world: World, prediction_id: str) -> bool:
    """Whether the sandbox got 2xx for the final webhook."""
    async with httpx.AsyncClient(trust_env=False) as client:
        told = (await client.get(f"{world.sandbox.url}/_sandbox/predictions", params={"id": prediction_id})).json()
    prediction = told["predictions"][0]
    final = [attempt for attempt in prediction["webhooks"] if attempt["status"] and 200 <= attempt["status"] < 300]
    return prediction["status"] == "succeeded" and len(final) >= 2


async def test_without_any_webhook_everything_is_archived_by_asking(anywhere):
    world: World = await anywhere(
        Options(seed=7, speed=0.05, mischief={"webhook": ["never"]}), OUTKEEP_RECONCILE_AFTER_S="0.5"
    )
    await world.serve()
    known = await world.archived(await world.create("sandbox/layers", prompt="silence"))
    await world.assert_kept(known)
    assert {update["source"] for update in known["updates"]} <= {"create", "poll", "sweep"}


async def test_what_others_made_with_the_same_token_is_found_and_kept(start):
    world: World = await start(OUTKEEP_SWEEP_EVERY_S="1")
    await world.serve()
    known = await world.archived(await world.create_elsewhere("sandbox/image", prompt="elsewhere"))
    await world.assert_kept(known)
    assert known["key_name"] is None


async def test_forged_and_mangled_webhooks_change_nothing_and_the_rest_arrives(start):
    world: World = await start(Options(seed=7, speed=0.05, mischief={"webhook": ["forge", "repeat:3", "reorder"]}))
    await world.serve()
    known = await world.archived(await world.create("sandbox/image", prompt="trouble"))
    await world.assert_kept(known)
    states = {delivery["state"] for delivery in known["deliveries"]}
    assert states <= {"applied", "repeated", "stale"}


async def test_a_termination_hands_back_what_it_cannot_finish(start):
    world: World = await start()
    process = await world.serve()
    known = await world.create("sandbox/image", sandbox={"files": ["stall:30"]})
    await until(lambda: _pending(world, known))
    assert await world.kill(process, signal.SIGTERM) == 0
    await world.misbehave({})
    await world.serve()
    assert (await world.prediction(known))["outputs"][0]["state"] in ("pending", "archived")


async def _pending(world: World, prediction_id: str) -> bool:
    outputs = (await world.prediction(prediction_id)).get("outputs") or []
    return bool(outputs) and outputs[0]["attempts"] == 1


async def test_web_and_worker_run_apart_on_postgres(anywhere, request):
    if "sqlite" in request.node.name:
        world: World = await anywhere()
        process = await world.serve(command="work")
        assert await asyncio.wait_for(process.wait(), 20) == 1
        assert "OUTKEEP_DATABASE_URL to postgresql://" in world.log()
        return
    world = await anywhere()
    await world.serve("--no-worker")
    known = await world.create("sandbox/image", prompt="apart")
    await asyncio.sleep(0.5)
    assert (await world.prediction(known))["archived_at"] is None
    await world.serve(command="work")
    await world.assert_kept(await world.archived(known))


@pytest.mark.parametrize("size", [1_000_000_000])
async def test_a_gigabyte_passes_through_in_flat_memory(start, size):
    world: World = await start()
    process = await world.serve()
    await world.archived(await world.create("sandbox/image", prompt="warm up"))
    before = _peak_kib(process.pid)
    known = await world.archived(await world.create("sandbox/big", bytes=size), patience_s=100)
    assert known["outputs"][0]["size"] == size
    assert known["outputs"][0]["sha256"] == (await world.truth(known["id"]))["output"]
    assert _peak_kib(process.pid) - before < 32 * 1024


def _peak_kib(pid: int) -> int:
    from pathlib import Path

    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

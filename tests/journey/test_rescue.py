"""`outkeep rescue` against a real service: what was missed is found, what was lost and is back is kept."""

import asyncio
import json
import signal
from functools import partial
from typing import Any

import httpx

from receiver.sandbox.options import Options
from tests.journey.world import OUTKEEP, World, until

# Neither a webhook nor the sweep brings anything here: what is kept afterwards was kept by the rescue.
QUIET = {"OUTKEEP_SWEEP_EVERY_S": "0", "OUTKEEP_RECONCILE_AFTER_S": "86400"}


async def rescue(world: World, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    process = await asyncio.create_subprocess_exec(
        OUTKEEP, "rescue", *arguments,
        env=world.environ, cwd=world.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def believed(world: World, prediction_id: str) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        told = (await client.get(f"{world.sandbox.url}/_sandbox/predictions", params={"id": prediction_id})).json()
    return dict(told["predictions"][0])


async def ended(world: World, prediction_id: str) -> bool:
    return (await believed(world, prediction_id))["status"] == "succeeded"


async def test_after_too_long_an_outage_a_rescue_saves_what_is_left_and_names_what_is_gone(anywhere):
    world: World = await anywhere(Options(seed=7, speed=0.05, mischief={"webhook": ["never"]}), **QUIET)
    process = await world.serve()
    ours = await world.create("sandbox/four-images", prompt="made through us")
    await world.kill(process)
    theirs = await world.create_elsewhere("sandbox/image", prompt="made by others")
    gone = await world.create_elsewhere("sandbox/image", prompt="removed meanwhile")
    for number in (ours, theirs, gone):
        await until(partial(ended, world, number))
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"{world.sandbox.url}/_sandbox/expire", json={"prediction": gone})
    await world.serve()
    status, out, err = await rescue(world, "--json")
    told = json.loads(out)
    assert (status, told["complete"], told["pending"]) == (0, True, []), err
    assert sorted(told["found"]) == sorted([theirs, gone])
    assert told["updated"] == [ours]
    assert sorted(each["prediction"] for each in told["saved"]) == sorted([ours] * 4 + [theirs])
    assert told["gone"] == [{"prediction": gone, "path": "output", "reason": "removed"}]
    for number in (ours, theirs):
        await world.assert_kept(await world.prediction(number))
    status, out, err = await rescue(world)
    assert status == 0, err
    assert "0  files saved" in out
    assert "3  predictions whose end was known already" in out
    assert f"{gone} output: removed" in out


async def test_a_lost_output_that_is_back_is_kept_by_a_rescue(anywhere):
    world: World = await anywhere(
        Options(seed=7, speed=0.05, mischief={"files": "500"}), OUTKEEP_OUTPUT_TTL_S="1", OUTKEEP_SWEEP_EVERY_S="0"
    )
    await world.serve()
    known = await world.archived(await world.create("sandbox/image", prompt="away and back"))
    assert known["outputs"][0]["reason"] == "unavailable"
    status, out, _ = await rescue(world, "--since", "10m")
    assert status == 1, "it is unavailable still, so another rescue may save it"
    assert f"{known['id']} output: unavailable" in out
    await world.misbehave({"list": ["401"]})
    status, out, err = await rescue(world, "--since", "10m")
    assert "1  files saved" in out, err
    assert (status, "REPLICATE_API_TOKEN" in err) == (1, True), "the list has not been read"
    await until(lambda: _revisions(world, known["id"]))
    kept = await world.prediction(known["id"])
    await world.assert_kept(kept)
    types = [event["type"] for event in await world.events(known["id"])]
    assert types.count("outkeep.output.lost") == 1
    assert types[-2:] == ["outkeep.output.archived", "outkeep.prediction.archived"]


async def _revisions(world: World, prediction_id: str) -> bool:
    told = [event for event in await world.events(prediction_id) if event["type"] == "outkeep.prediction.archived"]
    return [event["data"].get("revision") for event in told] == [None, 2]


async def test_a_rescue_needs_a_service_a_known_span_and_the_scope_to_do_so(start):
    key = "a-key-of-twenty-characters"
    world: World = await start(OUTKEEP_API_KEYS=f"app={key}")
    status, _, err = await rescue(world)
    assert (status, "No service answers" in err) == (1, True)
    await world.serve()
    status, _, err = await rescue(world)
    assert (status, "OUTKEEP_KEY" in err) == (1, True)
    world.environ["OUTKEEP_KEY"] = key
    status, _, err = await rescue(world, "--since", "yesterday")
    assert (status, "90m, 6h, 2d" in err) == (2, True)
    assert (await rescue(world))[0] == 0


async def test_a_start_looks_back_as_far_as_it_is_told(anywhere):
    world: World = await anywhere(OUTKEEP_OUTPUT_TTL_S="1", OUTKEEP_SWEEP_EVERY_S="3600")
    missed = await world.create_elsewhere("sandbox/numbers")
    await until(partial(ended, world, missed))
    await asyncio.sleep(1.5)
    process = await world.serve()
    found = await world.create_elsewhere("sandbox/numbers")
    await world.kill(process, signal.SIGTERM)
    await world.serve("--sweep-since", "1h")
    for number in (missed, found):
        known = await world.archived(number)
        assert {update["source"] for update in known["updates"]} <= {"sweep", "poll"}

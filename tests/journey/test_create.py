"""Creating without a hole: whatever dies, and whenever, there is one prediction and we know whose it is."""

import asyncio
import signal
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from receiver.sandbox.options import Options
from tests.journey.world import World, until

KEY = "a-key-of-twenty-characters"
HEADERS = {"Authorization": f"Bearer {KEY}"}


async def listed(world: World) -> list[dict[str, Any]]:
    """All that the sandbox has made."""
    async with httpx.AsyncClient(trust_env=False) as client:
        told = (await client.get(f"{world.sandbox.url}/_sandbox/predictions")).json()
    return list(told["predictions"])


async def create(world: World, sandbox: Mapping[str, Any]) -> httpx.Response:
    body = {"input": {"prompt": "once", "sandbox": dict(sandbox)}}
    return await world.http.post("/v1/models/sandbox/image/predictions", json=body)


async def kept_and_owned(world: World) -> None:
    """One prediction, archived whole, and it is known which key asked for it."""
    (made,) = await listed(world)
    known = await world.archived(made["id"])
    assert known["key_name"] == "app"
    await world.assert_kept(known)
    assert len(await listed(world)) == 1


async def test_a_create_whose_answer_is_lost_is_kept_and_made_once(anywhere):
    world: World = await anywhere(
        OUTKEEP_API_KEYS=f"app={KEY}", OUTKEEP_SWEEP_EVERY_S="0", OUTKEEP_RECONCILE_AFTER_S="1"
    )
    world.http.headers.update(HEADERS)
    await world.serve()
    answer = await create(world, {"create": "lost", "webhook": "never"})
    assert answer.status_code == 502
    assert "may have made the prediction" in answer.json()["detail"]
    await until(lambda: _known(world))
    await kept_and_owned(world)


async def _known(world: World) -> bool:
    return bool((await world.http.get("/api/predictions")).json()["items"])


@pytest.mark.parametrize("webhook", ["heard", "never"])
async def test_a_kill_between_the_request_and_its_answer_leaves_one_prediction_with_its_maker(anywhere, webhook):
    """`heard`: its webhook comes back with the token. `never`: the list alone tells, and it echoes our address."""
    world: World = await anywhere(
        Options(seed=7, speed=0.5), OUTKEEP_API_KEYS=f"app={KEY}", OUTKEEP_RECONCILE_AFTER_S="1"
    )
    world.http.headers.update(HEADERS)
    process = await world.serve()
    mischief = {"create": "late:3600"} | ({"webhook": "never"} if webhook == "never" else {})
    asking = asyncio.create_task(create(world, mischief))
    await until(lambda: listed(world))
    await world.kill(process, signal.SIGKILL)
    with pytest.raises(httpx.TransportError):
        await asking
    await world.serve()
    await kept_and_owned(world)


async def test_a_kill_before_replicate_is_asked_leaves_nothing_behind(start):
    """The request is on disk, and that is all there is of it."""
    world: World = await start(Options(seed=7, mischief={"create": ["hang:3600"]}), OUTKEEP_API_KEYS=f"app={KEY}")
    world.http.headers.update(HEADERS)
    process = await world.serve()
    asking = asyncio.create_task(create(world, {}))
    await asyncio.sleep(0.5)
    await world.kill(process, signal.SIGKILL)
    with pytest.raises(httpx.TransportError):
        await asking
    await world.misbehave({})
    await world.serve()
    assert (await create(world, {})).status_code == 201
    await kept_and_owned(world)

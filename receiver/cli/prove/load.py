"""Predictions of every shape, half of them asked for through the service, and a kill while their webhooks come in."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from receiver.cli.prove.process import Process
from receiver.sandbox.predictions import Prediction
from receiver.sandbox.server import Running

KILLS = 5
PREDICTIONS = 40  # between two kills
ACKNOWLEDGED = 12  # webhooks after which the first kill comes; each further one comes that many later
KILL_S_MAX = 4.0  # it comes by then, whatever was acknowledged
QUIET_S_MAX = 60.0  # after the last start, until everything is archived
LOOK_EVERY_S = 0.01
MODEL = "models/sandbox/image/predictions"
SHAPES: tuple[Any, ...] = (
    "file:png",
    ["file:png", "file:webp"],
    {"image": "file:png", "sound": [{"file": "file:wav"}]},
    "inline:png",
    "only a few words",
)


def acknowledged(sandbox: Running) -> set[str]:
    """The ids of the webhooks that were answered 2xx: from then on they are promised."""
    return {
        attempt.webhook_id
        for story in stories(sandbox)
        for attempt in story.attempts
        if attempt.status is not None and 200 <= attempt.status < 300
    }


def stories(sandbox: Running) -> list[Prediction]:
    """Every prediction that the stand-in has made, with its truth."""
    return list(sandbox.sandbox.predictions.values())


async def rounds(process: Process, sandbox: Running, say: Callable[[str], None]) -> None:
    """Load, kill, start again, as often as `KILLS`; then wait until it is quiet. Raises Failure."""
    await process.start()
    for number in range(KILLS):
        load = asyncio.ensure_future(_load(process, sandbox))
        try:
            await _until(_taken(sandbox, ACKNOWLEDGED * (number + 1)), KILL_S_MAX)
            await process.kill()
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        say(f"Killed {number + 1} of {KILLS} times, {len(acknowledged(sandbox))} webhooks acknowledged so far …")
        await process.start()
    async with httpx.AsyncClient(trust_env=False) as client:
        await _until(lambda: _quiet(process, sandbox, client), QUIET_S_MAX)


def _taken(sandbox: Running, wanted: int) -> Callable[[], Any]:
    before = len(acknowledged(sandbox))

    async def enough() -> bool:
        return len(acknowledged(sandbox)) - before >= wanted

    return enough


async def _load(process: Process, sandbox: Running) -> None:
    """Some are asked for through the service, some by others who name our webhook."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        await asyncio.gather(*(_create(client, process, sandbox, number) for number in range(PREDICTIONS)))


async def _create(client: httpx.AsyncClient, process: Process, sandbox: Running, number: int) -> None:
    mischief = {"output": SHAPES[number % len(SHAPES)], "webhook": "repeat:2", "duration_s": number}
    asked: dict[str, Any] = {"input": {"sandbox": mischief}}
    try:
        if number % 2:
            await client.post(f"{process.url}/v1/{MODEL}", json=asked)
        else:
            asked |= {"webhook": f"{process.url}/webhooks/replicate", "webhook_events_filter": ["start", "completed"]}
            headers = {"Authorization": f"Bearer {sandbox.token}"}
            await client.post(f"{sandbox.api_url}/{MODEL}", json=asked, headers=headers)
    except httpx.TransportError:
        return  # it was killed meanwhile; what the stand-in has heard of counts all the same


async def _quiet(process: Process, sandbox: Running, client: httpx.AsyncClient) -> bool:
    if not all(story.final for story in stories(sandbox)):
        return False
    try:
        page = (await client.get(f"{process.url}/api/predictions", params={"archived": "true", "limit": 1000})).json()
    except (httpx.TransportError, ValueError):
        return False
    return {story.id for story in stories(sandbox)} <= {item["id"] for item in page.get("items", ())}


async def _until(question: Callable[[], Any], seconds: float) -> None:
    """Until the answer is yes, or the time is over."""
    ends_s = asyncio.get_running_loop().time() + seconds
    while True:
        if await question() or asyncio.get_running_loop().time() > ends_s:
            return
        await asyncio.sleep(LOOK_EVERY_S)

"""Several workers on one ledger: each output is archived once, whatever becomes of the worker that began with it."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from receiver.flows.archive import LEASE_MS
from receiver.ledger import Ledger
from tests.journey.proof import Bucket
from tests.journey.world import World, until
from tests.servers import postgres
from tests.servers.seaweedfs import SeaweedFS

ENDS_S_MAX = 10.0


async def working(world: World, *ids: str) -> bool:
    """Whether every one of these predictions has a file that is being fetched."""
    known = [await world.prediction(each) for each in ids]
    return all(each.get("outputs") and each["outputs"][0]["attempts"] >= 1 for each in known)


async def test_a_worker_that_stood_still_for_two_leases_settles_nothing(
    start: Any, seaweedfs: SeaweedFS, request: pytest.FixtureRequest
) -> None:
    world: World = await start(
        OUTKEEP_DATABASE_URL=await postgres.server().database(),
        OUTKEEP_BUCKET_URL=seaweedfs.url("stopped"),
        **seaweedfs.environ,
    )
    await world.serve("--no-worker")
    still = await world.serve(command="work")
    left = await world.create("sandbox/image", sandbox={"files": ["once:slow:6"]})
    await until(lambda: working(world, left))
    still.send_signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    for _ in range(2):
        await world.serve(command="work")
    slow = await world.create("sandbox/image", sandbox={"files": [f"slow:{LEASE_MS / 1000 + 6:.0f}"]})
    taken_over = await world.archived(left)
    assert taken_over["outputs"][0]["attempts"] == 2
    held = await world.archived(slow)
    assert held["outputs"][0]["attempts"] == 1, "the other worker did not take what was being worked on"
    await asyncio.sleep(max(0.0, 2 * LEASE_MS / 1000 - (time.monotonic() - stopped_s)))
    still.send_signal(signal.SIGCONT)
    await asyncio.sleep(5)  # it goes on with its fetch, and finds that nobody waits for it
    assert still.returncode is None
    for known in (taken_over, held):
        await world.assert_kept(known)
        assert await world.prediction(known["id"]) == known
        told = [event["type"] for event in await world.events(known["id"])]
        assert told.count("outkeep.output.archived") == told.count("outkeep.prediction.archived") == 1
    keys = {known["outputs"][0]["key"] for known in (taken_over, held)}
    assert Bucket(world).keys() == keys | {known["manifest_key"] for known in (taken_over, held)}


@dataclass
class Hanging:
    """Stands before a server, takes connections and says nothing, until it is told to pass on."""

    to: str
    port: int = 0
    passing: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await self.passing.wait()
            parts = urlsplit(self.to)
            there, back = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def hanging(to: str) -> AsyncIterator[Hanging]:
    made = Hanging(to)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.passing.set()
        server.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_termination_amid_everything_that_hangs_hands_the_work_back_at_once(
    kind: str, start: Any, seaweedfs: SeaweedFS
) -> None:
    async with hanging(seaweedfs.environ["AWS_ENDPOINT_URL_S3"]) as bucket:
        environ = {
            **seaweedfs.environ,
            "OUTKEEP_BUCKET_URL": seaweedfs.url(f"ended-{kind}"),
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket.port}",
            "OUTKEEP_RECONCILE_AFTER_S": "0.5",
        }
        if kind == "postgresql":
            environ["OUTKEEP_DATABASE_URL"] = await postgres.server().database()
        world: World = await start(**environ)
        if kind == "postgresql":
            await world.serve("--no-worker")
        process = await world.serve(command="work" if kind == "postgresql" else "serve")
        waiting = [
            await world.create("sandbox/image", prompt="its bucket hangs"),
            await world.create("sandbox/image", sandbox={"files": ["slow:8"]}),
        ]
        bare = await world.create("sandbox/numbers", prompt="its manifest hangs")
        await until(lambda: working(world, *waiting))
        await until(lambda: _final(world, bare))
        asked = await world.create("sandbox/image", sandbox={"status": "never", "webhook": "never"})
        await world.misbehave({"api": ["hang:60"], "list": ["hang:60"]})
        await asyncio.sleep(1.5)  # it asks about the one that does not end
        began_s = time.monotonic()
        assert await world.kill(process, signal.SIGTERM) == 0, world.log()
        assert time.monotonic() - began_s < ENDS_S_MAX
        if kind == "postgresql":
            await _everything_is_due(environ["OUTKEEP_DATABASE_URL"], files=2, manifests={bare}, questions={asked})
        await world.misbehave({})
        bucket.passing.set()
        await world.serve(command="work" if kind == "postgresql" else "serve")
        for each in (*waiting, bare):
            known = await world.archived(each, patience_s=25)
            await world.assert_kept(known)
            assert all(output["attempts"] <= 2 for output in known["outputs"])


async def _final(world: World, prediction_id: str) -> bool:
    return bool((await world.prediction(prediction_id)).get("completed_at"))


async def _everything_is_due(url: str, *, files: int, manifests: set[str], questions: set[str]) -> None:
    """Claim it all, and hand it back."""
    ledger = await Ledger.open(url, now_ms=lambda: time.time_ns() // 1_000_000)
    outputs = await ledger.claim_outputs(10, lease_ms=60_000)
    concluded = await ledger.claim_manifests(10, lease_ms=60_000)
    asked = await ledger.claim_questions(10, lease_ms=60_000)
    assert (len(outputs), {each.prediction.id for each in concluded}) == (files, manifests)
    assert {each.id for each in asked} >= questions
    await ledger.hand_back([claim.lease for claim in outputs] + [claim.lease for claim in concluded])
    await ledger.hand_back_questions([each.id for each in asked])
    await ledger.close()

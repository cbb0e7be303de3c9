"""The bucket is down for longer than Replicate keeps its files: every one of them is kept all the same."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.journey.world import World, until
from tests.servers import postgres
from tests.servers.gate import OPEN, SHUT, gate
from tests.servers.seaweedfs import SeaweedFS

SIZES = [6_000_000, 6_000_000, 20_000_000]  # through the spool in any case, and in parts where the bucket has them
SMALL = 9  # more predictions than a worker has places


@contextlib.contextmanager
def blocked(folder: Path) -> Iterator[None]:
    """While this lasts, nothing can be put where objects of this year stand."""
    place = folder / "objects" / f"{datetime.now(UTC):%Y}"
    place.parent.mkdir(exist_ok=True)
    place.write_text("no folder")
    yield
    place.unlink()


@contextlib.contextmanager
def shut(door) -> Iterator[None]:
    door.turn(SHUT)
    yield
    door.turn(OPEN)


@pytest.fixture(params=["sqlite and folder", "postgres and s3"])
async def outage(
    request: pytest.FixtureRequest, start: Callable[..., Any], tmp_path: Path
) -> AsyncIterator[tuple[World, AbstractContextManager[None]]]:
    """A world, and an outage of its bucket."""
    if request.param == "sqlite and folder":
        yield await start(), blocked(tmp_path)
        return
    seaweedfs: SeaweedFS = request.getfixturevalue("seaweedfs")
    with gate(urlsplit(seaweedfs.endpoint).port or 0) as door:
        environ = seaweedfs.environ | {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{door.port}",
            "OUTKEEP_DATABASE_URL": await postgres.server().database(),
            "OUTKEEP_BUCKET_URL": seaweedfs.url(),
        }
        yield await start(**environ), shut(door)


async def test_a_bucket_that_is_down_for_longer_than_files_live_costs_none_of_them(outage, tmp_path):
    world, down = outage
    with down:
        process = await world.serve()
        made = [await world.create("sandbox/image", prompt=str(place)) for place in range(SMALL)]
        made += [await world.create("sandbox/big", bytes=size) for size in SIZES]
        await until(lambda: _in_spool(world, made))
        assert (await world.http.get("/api/outputs?at_risk=true")).json()["items"] == []
        cut = await world.create("sandbox/big", bytes=20_000_001, sandbox={"files": ["once:stall:60"]})
        await until(lambda: _begun(tmp_path / "spool"))
        await world.kill(process)
        await _expire(world, made)
        await world.serve()
        await asyncio.sleep(1)
        assert {(await world.prediction(each))["archived_at"] for each in made} == {None}
    for each in (*made, cut):
        await world.assert_kept(await world.archived(each))
        told = [event["type"] for event in await world.events(each)]
        assert told.count("outkeep.output.archived") == 1
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [".id"]


async def _in_spool(world: World, made: list[str]) -> bool:
    """All outputs are known, and none of them can vanish any more."""
    told = (await world.http.get("/metrics")).text.splitlines()
    return (
        f'outkeep_known{{kind="outputs",state="pending"}} {len(made)}.0' in told
        and "outkeep_next_deadline_seconds +Inf" in told
    )


def _begun(spool: Path) -> bool:
    """A large file is on its way into the spool, not whole."""
    whole = {path.stem for path in spool.glob("*.json")}
    return any(path.stem not in whole and path.stat().st_size > 1_000_000 for path in spool.glob("*.data"))


async def _expire(world: World, made: list[str]) -> None:
    """Replicate removes the files."""
    async with httpx.AsyncClient(trust_env=False) as client:
        for each in made:
            answer = await client.post(f"{world.sandbox.url}/_sandbox/expire", json={"prediction": each})
            answer.raise_for_status()

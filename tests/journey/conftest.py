"""The two ways to run the service: everything in files, or on the servers that people have."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from receiver.sandbox.options import Options
from tests.journey.world import World, world
from tests.servers import postgres
from tests.servers.seaweedfs import SeaweedFS

Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Makes worlds on SQLite and a folder; keyword arguments are settings."""
    async with AsyncExitStack() as stack:

        async def make(options: Options | None = None, **environ: str) -> World:
            return await stack.enter_async_context(world(tmp_path, options=options, **environ))

        yield make


@pytest.fixture(params=["sqlite and folder", "postgres and s3"])
async def anywhere(request: pytest.FixtureRequest, start: Start) -> Start:
    """Likewise, once in files and once on Postgres and S3."""
    if request.param == "sqlite and folder":
        return start
    seaweedfs: SeaweedFS = request.getfixturevalue("seaweedfs")
    environ = seaweedfs.environ | {
        "OUTKEEP_DATABASE_URL": await postgres.server().database(),
        "OUTKEEP_BUCKET_URL": seaweedfs.url("kept"),
    }

    async def make(options: Options | None = None, **more: str) -> World:
        made: World = await start(options, **(environ | more))
        return made

    return make

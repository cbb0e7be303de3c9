"""A ledger or a bucket that goes away and comes back: no false promise, readiness says so, and no restart is needed."""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from tests.journey.traced import Service, service
from tests.journey.world import free_port, until, world
from tests.servers.cutting import Proxy
from tests.servers.postgres import PostgresServer
from tests.servers.postgres import server as shared_postgres
from tests.servers.seaweedfs import SeaweedFS


@contextlib.asynccontextmanager
async def under_load(served: Service) -> AsyncIterator[None]:
    """Webhooks go on coming, whatever is answered."""

    async def call() -> None:
        async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30) as client:
            for number in range(100_000):
                await served.post(client, number)
                await asyncio.sleep(0.02)

    calling = asyncio.ensure_future(call())
    try:
        yield
    finally:
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling


async def ready(served: Service) -> int:
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30) as client:
        return (await client.get("/readyz")).status_code


def says(served: Service, status: int) -> Callable[[], Any]:
    async def look() -> bool:
        return await ready(served) == status

    return look


def more_of(served: Service, status: int, count: int = 10) -> Callable[[], bool]:
    enough = served.answers[status] + count
    return lambda: served.answers[status] >= enough


async def test_postgres_may_stop_and_start_and_cut_every_connection_under_load(tmp_path: Path) -> None:
    server = await asyncio.to_thread(PostgresServer, fsync=True)
    served = Service(tmp_path, free_port(), await server.database())
    try:
        await served.start()
        async with under_load(served):
            await until(more_of(served, 200))
            await asyncio.to_thread(server.stop)
            await until(says(served, 503))
            await until(more_of(served, 503, 3))
            await asyncio.to_thread(server.start)
            await until(says(served, 200))
            await until(more_of(served, 200))
            for _ in range(3):
                await asyncio.to_thread(_end_all, server)
                await until(more_of(served, 200))
            await until(lambda: _listeners(server) == 1)
        assert await served.stop() == 0
        assert "Traceback" not in served.said()
        await served.assert_kept()
    finally:
        await served.stop()
        server.remove()


def _end_all(server: PostgresServer) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outkeep'")


def _listeners(server: PostgresServer) -> int:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'").fetchone()
    assert found is not None
    return int(found[0])


async def test_a_sqlite_file_locked_by_another_process_is_waited_out_without_a_false_answer(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.start()
        async with under_load(served):
            await until(more_of(served, 200))
            other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            try:
                await until(says(served, 503))
                await until(more_of(served, 503, 1))
            finally:
                other.execute("ROLLBACK")
                other.close()
            await until(says(served, 200))
            await until(more_of(served, 200))
        assert await served.stop() == 0
        await served.assert_kept()


async def test_a_second_service_on_the_same_file_is_refused_and_has_it_at_once_when_the_first_is_killed(
    tmp_path: Path,
) -> None:
    async with service(tmp_path) as first:
        assert await first.start()
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / "other.db").symlink_to(tmp_path / "ledger.db")
        second = Service(tmp_path / "second", free_port(), f"sqlite:///{tmp_path}/second/other.db")
        assert not await second.start()
        assert await second.ended() == 1
        assert second.said().startswith("outkeep: The ledger ")
        assert "in use by another process" in second.said()
        assert second.said().count("\n") == 1
        await first.load(20)
        await first.stop(signal.SIGKILL)
        second.taken.update(first.taken)
        try:
            assert await second.start()
            await second.load(40)
            assert second.answers == {200: 40}
        finally:
            await second.stop()
        await second.assert_kept()


async def test_a_file_that_was_fetched_while_postgres_was_away_is_not_fetched_again(tmp_path: Path) -> None:
    url = urlsplit(await shared_postgres().database())
    way = Proxy("127.0.0.1", url.port or 0)
    await way.start()
    through = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{way.listens}")).geturl()
    async with world(tmp_path, OUTKEEP_DATABASE_URL=through) as up:
        process = await up.serve()

        async def begun(number: int) -> str:
            made = await up.create("sandbox/image", sandbox={"files": ["slow:3"]}, prompt=str(number))

            async def fetches() -> bool:
                return [each["attempts"] for each in (await up.prediction(made)).get("outputs", ())] == [1]

            await until(fetches)
            return made

        made = await begun(1)
        await way.close()
        await until(lambda: len(list((tmp_path / "objects").rglob("output.*"))) == 1)
        await asyncio.sleep(1)
        await way.start()
        known = await up.archived(made)
        await up.assert_kept(known)
        assert known["outputs"][0]["attempts"] == 1
        await begun(2)
        await way.close()
        assert await up.kill(process, signal.SIGTERM) == 0
        assert "Traceback" not in up.log()


@pytest.fixture
async def s3(seaweedfs: SeaweedFS) -> AsyncIterator[Proxy]:
    """The way to the S3 server: closed, the server is gone."""
    proxy = Proxy("127.0.0.1", urlsplit(seaweedfs.endpoint).port or 0)
    await proxy.start()
    yield proxy
    await proxy.close()


async def test_while_s3_is_gone_webhooks_are_taken_and_afterwards_all_is_archived_without_a_restart(
    tmp_path: Path, seaweedfs: SeaweedFS, s3: Proxy
) -> None:
    environ = seaweedfs.environ | {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3.listens}",
        "OUTKEEP_BUCKET_URL": seaweedfs.url(),
    }
    async with world(tmp_path, options=None, **environ) as up:
        await up.serve()

        async def told() -> tuple[int, Any]:
            answer = await up.http.get("/readyz")
            return answer.status_code, answer.json()

        async def told_as(expected: tuple[int, Any]) -> bool:
            return await told() == expected

        await until(lambda: told_as((200, {"status": "ok"})))
        await s3.close()
        made = [await up.create("sandbox/four-images", prompt="x") for _ in range(3)]
        await until(lambda: told_as((200, {"status": "degraded", "failing": ["bucket"]})))
        assert not any([(await up.prediction(each)).get("archived_at") for each in made])
        await s3.start()
        for each in made:
            await up.assert_kept(await up.archived(each))
        await until(lambda: told_as((200, {"status": "ok"})))

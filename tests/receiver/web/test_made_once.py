"""What Replicate has made is never answered in a way that has a client ask for it again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from receiver.flows.explain import UNDER_WAY_MS
from tests.journey.world import until
from tests.receiver.web.conftest import Site
from tests.servers import postgres
from tests.servers.cutting import Proxy

IMAGE = "/v1/models/sandbox/image/predictions"


async def made(site: Site) -> list[dict[str, Any]]:
    """All that the sandbox has made, once it has made something."""
    assert site.sandbox is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            told = (await client.get(f"{site.sandbox.url}/_sandbox/predictions")).json()["predictions"]
            if told:
                return list(told)
            await asyncio.sleep(0.01)


@pytest.fixture
async def way() -> AsyncIterator[Proxy]:
    """The way to the database, which a test may close."""
    there = urlsplit(postgres.server().url("postgres"))
    proxy = Proxy(there.hostname or "", there.port or 0)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
async def far(build: Any, way: Proxy) -> Site:
    """A service with a sandbox, and a database at the end of the way."""
    url = urlsplit(await postgres.server().database())
    netloc = f"{url.netloc.rpartition(':')[0]}:{way.listens}"
    site: Site = await build(sandbox=True, OUTKEEP_DATABASE_URL=urlunsplit(url._replace(netloc=netloc)))
    return site


async def test_with_the_ledger_gone_after_replicate_was_asked_nobody_is_told_to_ask_again(far, way):
    asking = asyncio.create_task(far.post(IMAGE, json={"input": {"sandbox": {"create": "late:0.3"}}}))
    (one,) = await made(far)
    await way.close()
    answer = await asking
    assert answer.status_code == 502
    assert f"has made prediction {one['id']}" in answer.json()["detail"]
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    await way.start()
    far.clock.ahead_ms = UNDER_WAY_MS + 1000
    await far.house.explain.step()
    assert (await far.finish(one["id"]))["key_name"] == "app"


async def test_with_the_ledger_gone_while_a_client_waits_it_gets_the_prediction_that_was_made(far, way):
    body = {"input": {"sandbox": {"duration_s": 3000}}}
    asking = asyncio.create_task(far.post(IMAGE, json=body, headers={"Prefer": "wait=60"}))
    (one,) = await made(far)
    await until(lambda: far.house.ledger.prediction(one["id"]))
    await way.close()
    answer = await asyncio.wait_for(asking, 10)
    told = answer.json()
    assert (answer.status_code, told["id"], told["status"], told["output"]) == (201, one["id"], "starting", None)


async def test_a_create_without_a_proper_answer_is_not_to_be_asked_for_again(stage):
    answer = await stage.post(IMAGE, json={"input": {"sandbox": {"create": "lost"}}})
    assert answer.status_code == 502
    assert answer.headers["x-should-retry"] == "false"
    assert len(await made(stage)) == 1


async def test_a_create_that_was_never_sent_may_be_asked_for_again(site):
    answer = await site.post(IMAGE, json={"input": {}})
    assert answer.status_code == 502
    assert "x-should-retry" not in answer.headers

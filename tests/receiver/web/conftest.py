"""A service of its own for each test: real ledger, folder, sandbox and port; a worker where the test wants one."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.runtime import settings as settings_of
from receiver.runtime.house import House
from receiver.runtime.wiring import clock_ms, open_house
from receiver.runtime.worker import Worker
from receiver.sandbox.options import Options
from receiver.sandbox.server import Running, running
from receiver.web.app import Application, create_app
from receiver.web.server import serve
from tests.journey.wire import prediction, signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "test-key-of-twenty-six-char"


@dataclass
class Clock:
    """The real time, put ahead by a test."""

    ahead_ms: int = 0

    def __call__(self) -> int:
        return clock_ms() + self.ahead_ms


@dataclass
class Site:
    """A running service: `client` speaks to it with the key where there is one."""

    house: House
    app: Application
    port: int
    client: httpx.AsyncClient
    clock: Clock
    sandbox: Running | None
    folder: Path
    stack: AsyncExitStack = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return await self.client.get(path, **kwargs)

    async def post(self, path: str, **kwargs: Any) -> httpx.Response:
        return await self.client.post(path, **kwargs)

    def signed(self, body: bytes, webhook_id: str = "msg_1", secret: str = SECRET) -> dict[str, str]:
        return signed(body, webhook_id, secret)

    async def hear(self, told: Any, webhook_id: str) -> None:
        """Take a webhook and read it, as the worker would."""
        body = json.dumps(told).encode()
        answer = await self.post("/webhooks/replicate", content=body, headers=signed(body, webhook_id))
        assert answer.status_code == 200
        await self.house.observe.step()
        await self.house.relay.step()

    async def steps(self) -> None:
        """One round of everything that a worker does."""
        await self.house.observe.step()
        await self.house.archive.step(8)
        await self.house.conclude.step()
        await self.house.relay.step()

    async def finish(self, prediction_id: str) -> dict[str, Any]:
        """Take every step until the prediction is archived, and give it as the API tells it."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            await self.steps()
            known = await self.house.ledger.prediction(prediction_id)
            if known is not None and known.archived_ms is not None:
                await self.house.relay.step()
                return (await self.get(f"/api/predictions/{prediction_id}")).json()
            await self.house.ask(prediction_id)
            await asyncio.sleep(0.02)
        raise AssertionError(f"{prediction_id} is not archived")

    async def made(self, model: str = "sandbox/image", **given: Any) -> dict[str, Any]:
        """A prediction created through the gateway and archived."""
        answer = await self.post(f"/v1/models/{model}/predictions", json={"input": given})
        assert answer.status_code == 201, answer.text
        return await self.finish(answer.json()["id"])


def signed(body: bytes, webhook_id: str = "msg_1", secret: str = SECRET) -> dict[str, str]:
    """The headers of a webhook."""
    return signature(body, webhook_id, key=base64.b64decode(secret.removeprefix("whsec_")))


def told(prediction_id: str = "p1", **fields: Any) -> dict[str, Any]:
    """A prediction as a webhook tells it."""
    return prediction(prediction_id, **({"model": "sandbox/image"} | fields))


async def until(condition: Any) -> None:
    """Wait until a condition holds, a few seconds at most."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true")


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """The application on a free port; gives the port."""
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        serve(app, host="127.0.0.1", port=0, stop=stop, on_listening=lambda _, port: listening.set_result(port))
    )
    await asyncio.wait([serving, listening], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    try:
        yield await listening
    finally:
        stop.set()
        await serving


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Any]:
    """Builds sites; keyword arguments are settings by their names in the environment."""
    async with AsyncExitStack() as stack:

        async def make(*, sandbox: bool = False, keyless: bool = False, **environ: str) -> Site:
            stand_in = None
            values = {
                "OUTKEEP_DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db",
                "OUTKEEP_BUCKET_URL": f"file:{tmp_path}/objects",
                "OUTKEEP_SPOOL_DIR": f"{tmp_path}/spool",
                "OUTKEEP_WEBHOOK_SECRETS": SECRET,
                "OUTKEEP_REPLICATE_URL": "http://127.0.0.1:9/v1",
            }
            if not keyless:
                values["OUTKEEP_API_KEYS"] = f"app={KEY}"
            if sandbox:
                stand_in = await stack.enter_async_context(running(Options(seed=3, speed=0.02, variation=False)))
                values |= {
                    "REPLICATE_API_TOKEN": stand_in.token,
                    "OUTKEEP_REPLICATE_URL": stand_in.api_url,
                    "OUTKEEP_OUTPUT_HOSTS": stand_in.url,
                    "OUTKEEP_PUBLIC_URL": "http://127.0.0.1:9",
                }
            clock = Clock()
            house = await stack.enter_async_context(open_house(settings_of.read(values | environ), now_ms=clock))
            app = create_app(house)
            port = await stack.enter_async_context(served(app))
            headers = {} if keyless else {"Authorization": f"Bearer {KEY}"}
            client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=20
            )
            await stack.enter_async_context(client)
            return Site(house, app, port, client, clock, stand_in, tmp_path, stack)

        yield make


@pytest.fixture
async def site(build: Any) -> Site:
    """A service with one key, without a worker, Replicate out of reach."""
    made: Site = await build()
    return made


@pytest.fixture
async def stage(build: Any) -> Site:
    """The same with a sandbox behind it."""
    made: Site = await build(sandbox=True)
    return made


@pytest.fixture
async def worker(build: Any) -> AsyncIterator[Site]:
    """The same with a worker, which asks Replicate by itself since no webhook gets through."""
    stop = asyncio.Event()
    made: Site = await build(sandbox=True, OUTKEEP_RECONCILE_AFTER_S="0.1")
    working = asyncio.ensure_future(Worker(made.house).run(stop))
    yield made
    stop.set()
    await working

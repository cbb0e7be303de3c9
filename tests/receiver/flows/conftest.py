"""A house of its own for each test: real ledger, folder and sandbox; the test itself takes the steps."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from svix.webhooks import Webhook

from receiver.core.prediction import Prediction
from receiver.runtime import settings as settings_of
from receiver.runtime.house import House
from receiver.runtime.wiring import clock_ms, open_house
from receiver.sandbox.options import Options
from receiver.sandbox.server import Running, running


@dataclass
class Clock:
    """The real time, put ahead by a test."""

    ahead_ms: int = 0

    def __call__(self) -> int:
        return clock_ms() + self.ahead_ms


@dataclass
class Home:
    house: House
    sandbox: Running
    clock: Clock
    folder: Path
    stack: AsyncExitStack = field(repr=False)

    async def create(self, model: str = "sandbox/image", **given: Any) -> Prediction:
        return await self.house.create(f"/models/{model}/predictions", {"input": given}, key_name="app")

    async def finish(self, prediction_id: str) -> Prediction:
        """Take every step until the prediction is archived, asking Replicate instead of waiting for its webhook."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            await self.steps()
            known = await self.house.ledger.prediction(prediction_id)
            if known is not None and known.archived_ms is not None:
                await self.house.relay.step()
                return known
            if known is not None and not known.final:
                await self.house.ask(prediction_id)
            await asyncio.sleep(0.02)
        raise AssertionError(f"not archived: {known}, {await self.house.ledger.outputs(prediction_id)}")

    async def steps(self) -> None:
        await self.house.observe.step()
        await self.house.archive.step(8)
        await self.house.conclude.step()
        await self.house.relay.step()

    def signed(self, body: bytes, webhook_id: str, secret: str | None = None) -> list[tuple[bytes, bytes]]:
        """The headers of a webhook, signed by svix."""
        from datetime import UTC, datetime

        now = datetime.now(UTC)
        signature = Webhook(secret or self.sandbox.secret).sign(webhook_id, now, body.decode("latin-1"))
        named = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature,
        }
        return [(name.encode(), value.encode()) for name, value in named.items()]

    async def webhook(self, body: bytes, webhook_id: str = "msg_1", token: str | None = None) -> None:
        await self.house.accept(body, self.signed(body, webhook_id), token)


Build = Callable[..., Any]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Builds homes; keyword arguments are settings by their names in the environment."""
    async with AsyncExitStack() as stack:

        async def make(options: Options | None = None, **environ: str) -> Home:
            sandbox = await stack.enter_async_context(running(options or Options(seed=3, speed=0.02, variation=False)))
            values = {
                "REPLICATE_API_TOKEN": sandbox.token,
                "OUTKEEP_REPLICATE_URL": sandbox.api_url,
                "OUTKEEP_PUBLIC_URL": "http://127.0.0.1:9",
                "OUTKEEP_OUTPUT_HOSTS": sandbox.url,
                "OUTKEEP_DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db",
                "OUTKEEP_BUCKET_URL": f"file:{tmp_path}/objects",
                "OUTKEEP_SPOOL_DIR": f"{tmp_path}/spool",
            }
            clock = Clock()
            settings = settings_of.read(values | environ)
            house = await stack.enter_async_context(open_house(settings, now_ms=clock))
            return Home(house, sandbox, clock, tmp_path, stack)

        yield make


@pytest.fixture
async def home(build: Build) -> Home:
    made: Home = await build()
    return made

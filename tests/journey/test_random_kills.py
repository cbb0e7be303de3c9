"""Killed at random under load, over and over, with a Replicate that misbehaves: afterwards nothing is missing.

`OUTKEEP_KILLS=2000` kills more often; `OUTKEEP_SEED=…` draws the same again (what runs side by side is up to the system).
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from receiver.sandbox.options import Options
from tests.journey.proof import Proof, Reader
from tests.journey.world import Process, World, until
from tests.journey.world import world as new_world
from tests.servers import postgres
from tests.servers.nursery import Nursery
from tests.servers.seaweedfs import SeaweedFS

KILLS = int(os.environ.get("OUTKEEP_KILLS", "200")) // 2  # on each of the two places
GAP_S_MAX = 0.6  # from when it answers to its death
EARLY = 0.2  # so many of all deaths come while it starts
EARLY_S_MAX = 0.5
BUSY = 0.6  # of them wait until a webhook was taken: a busy machine needs longer than the gap for its first one
BUSY_S_MAX = 3.0
TAKEN_MIN = 0.25  # webhooks answered 2xx by the end, for each kill: with fewer there was nothing to lose
CREATORS, READERS = 2, 1
PAUSE_S = (0.1, 0.5)  # between two creations of one creator
QUIET_S = 90.0
SETTINGS = {
    "OUTKEEP_RECONCILE_AFTER_S": "2",
    "OUTKEEP_SWEEP_EVERY_S": "10",
    "COVERAGE_PROCESS_CONFIG": "",
    "COVERAGE_PROCESS_START": "",
    "PYTHONDONTWRITEBYTECODE": "1",
}
MODELS = ("image", "four-images", "layers", "data-uri", "numbers", "fails", "drawing", "audio", "big")
WEBHOOKS = (
    "ok",
    "ok",
    "drop",
    "never",
    "repeat:3",
    "repeat_new:2",
    "reorder",
    "delay:0.3",
    "twin",
    "forge",
    "slow:0.3",
)
FILES = (
    "ok",
    "ok",
    "once:truncated",
    "once:reset",
    "once:500",
    "slow:0.3",
    "once:closed_early",
    "no_length",
    "once:404",
)

pytestmark = pytest.mark.timeout(120 + 6 * KILLS)


@dataclass
class Storm:
    """Everything that goes on at once. `kinds` are the commands that run, each of which may be killed."""

    world: World
    proof: Proof
    rng: random.Random
    kinds: tuple[tuple[str, ...], ...]
    words: int = 0

    async def rage(self, kills: int) -> None:
        """Kill so often, then leave everything running."""
        running = [await self._start(kind) for kind in self.kinds]
        load = [asyncio.create_task(self._create()) for _ in range(CREATORS)]
        load += [asyncio.create_task(self._look()) for _ in range(READERS)]
        for _ in range(kills):
            place = self.rng.randrange(len(running))
            early = self.rng.random() < EARLY
            if self.rng.random() < BUSY:
                await self._busy()
            await asyncio.sleep(self.rng.uniform(0, GAP_S_MAX))
            await self.world.kill(running[place], signal.SIGKILL)
            if early:
                running[place] = await self._start(self.kinds[place], patient=False)
                await asyncio.sleep(self.rng.uniform(0, EARLY_S_MAX))
                await self.world.kill(running[place], signal.SIGKILL)
            running[place] = await self._start(self.kinds[place])
        for task in load:
            task.cancel()
        for outcome in await asyncio.gather(*load, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome
        await self.world.misbehave({})
        assert self._taken() >= TAKEN_MIN * kills, f"only {self._taken()} webhooks were taken, so nothing is proved"

    async def _busy(self) -> None:
        """Until one more webhook is taken, or for a while."""
        before = self._taken()
        with contextlib.suppress(TimeoutError):
            await until(lambda: self._taken() > before, patience_s=BUSY_S_MAX)

    def _taken(self) -> int:
        """Webhooks that were answered 2xx."""
        made = self.world.sandbox.sandbox.predictions.values()
        return sum((attempt.status or 500) < 300 for one in made for attempt in one.attempts)

    async def _start(self, kind: tuple[str, ...], *, patient: bool = True) -> Process:
        before = len(self.world.processes)
        starting = asyncio.create_task(self.world.serve(*kind[1:], command=kind[0]))
        if patient:
            return await starting
        await until(lambda: len(self.world.processes) > before)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return self.world.processes[-1]

    async def _create(self) -> None:
        while True:
            self.words += 1
            model, given = self.rng.choice(MODELS), self._given(f"word {self.words}")
            elsewhere = self.rng.random() < 0.1
            with contextlib.suppress(httpx.TransportError):
                if elsewhere:
                    self.proof.acknowledged.add(await self.world.create_elsewhere(f"sandbox/{model}", **given))
                else:
                    await self._create_here(model, given)
            await asyncio.sleep(self.rng.uniform(*PAUSE_S))

    async def _create_here(self, model: str, given: dict[str, Any]) -> None:
        answer = await self.world.http.post(f"/v1/models/sandbox/{model}/predictions", json={"input": given})
        assert answer.status_code in (201, 502, 503), answer.text
        if answer.status_code == 201:
            self.proof.acknowledged.add(answer.json()["id"])

    def _given(self, word: str) -> dict[str, Any]:
        files = [self.rng.choice(FILES) for _ in range(4)]
        return {"prompt": word, "sandbox": {"webhook": self.rng.choice(WEBHOOKS), "files": files}}

    async def _look(self) -> None:
        """Somebody leafs through the ledger."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                page = await self.world.http.get("/api/predictions", params={"limit": "20"})
                for one in page.json().get("items", ())[:3]:
                    await self.world.http.get(f"/api/predictions/{one['id']}")
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def storm(folder: Any, kinds: tuple[tuple[str, ...], ...], **environ: str) -> AsyncIterator[Storm]:
    seed = int(os.environ.get("OUTKEEP_SEED") or random.randrange(2**32))
    print(f"OUTKEEP_SEED={seed} draws the same again")
    options = Options(seed=seed, speed=0.02)
    async with new_world(folder, options=options, **(SETTINGS | environ)) as world:
        async with Nursery(world.environ, folder) as world.nursery, Reader.of(world) as reader:
            yield Storm(world, Proof(world, reader, patience_s=QUIET_S), random.Random(seed), kinds)


async def test_killed_at_random_under_load_the_service_in_files_loses_nothing(tmp_path):
    async with storm(tmp_path, (("serve",),)) as raging:
        await raging.rage(KILLS)
        await raging.proof.whole()


async def test_killed_at_random_under_load_service_and_workers_on_servers_lose_nothing(tmp_path, seaweedfs: SeaweedFS):
    servers = {
        "OUTKEEP_DATABASE_URL": await postgres.server().database(),
        "OUTKEEP_BUCKET_URL": seaweedfs.url(),
    }
    kinds = (("serve", "--no-worker"), ("work",), ("work",))
    async with storm(tmp_path, kinds, **seaweedfs.environ, **servers) as raging:
        await raging.rage(KILLS)
        await raging.proof.whole()

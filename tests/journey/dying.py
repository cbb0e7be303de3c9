"""A service that dies at a chosen moment and is started again, as often as one of its ways has effects."""

import asyncio
import contextlib
import gc
import os
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from receiver.sandbox.options import Options
from tests.journey.proof import Proof, Reader
from tests.journey.world import Process, World, world
from tests.servers.mortal import Mortal
from tests.servers.nursery import Nursery

EVERY_WRITE = os.environ.get("OUTKEEP_PROOF") == "full"  # those into files and into transactions, too: far more deaths
QUIET_S = 0.1  # without any effect: then a way is at its end
AGAIN_MAX = 2  # tries to die before an effect whose number has changed meanwhile
LEASES_MS = 15_000  # what a dead process leaves claimed on Postgres
SETTINGS: dict[str, str] = {
    "OUTKEEP_RECONCILE_AFTER_S": "1",
    "COVERAGE_PROCESS_CONFIG": "",  # who is killed has nothing to tell, and starts sooner
    "COVERAGE_PROCESS_START": "",
}

# A way through the house: given the place and a word that nobody used before, it calls `place.arm()` where the deaths
# shall begin and returns when all is done.
Way = Callable[["Dying", str], Awaitable[None]]


@dataclass
class Dying:
    world: World
    mortal: Mortal
    proof: Proof
    ports: dict[str, str]
    died_before: list[str] = field(default_factory=list)
    _at: int = 0
    words: int = 0

    @property
    def process(self) -> Process:
        return self.world.processes[-1]

    @property
    def reader(self) -> Reader:
        return self.proof.reader

    def arm(self, *, writes: bool = EVERY_WRITE) -> None:
        """From now on effects count."""
        self.mortal.arm(self._at, writes=writes)

    async def die_everywhere(self, way: Way, *, upto: int | None = None) -> None:
        """Die before each effect of the way in turn (or of the first `upto`), and at least once before each kind."""
        await self._die_before(way, 0)
        effects = self._effects()[:upto]
        at, survived = 0, 0
        while at < len(effects) or not (survived or upto):
            at += 1
            survived += not await self._die_before(way, at)
        # Each place up to the length of the shortest run was died at: what one does apart, a busy machine does together.
        assert survived <= 1 + len(effects) // 2, f"{survived} of {at} survived: {self.died_before}"
        for kind in dict.fromkeys(effects):
            await self._die_before_kind(way, kind, effects.index(kind) + 1)
        await self.proof.whole()

    async def serve(self) -> None:
        """Start the service, as if the leases of a dead one had run out."""
        await lapse(self.world)
        await self.world.serve()

    async def _die_before_kind(self, way: Way, kind: str, at: int) -> None:
        """For effects that others have overtaken each time their number came."""
        for _ in range(AGAIN_MAX):
            if kind in self.died_before:
                return
            await self._die_before(way, at)
            with contextlib.suppress(ValueError):
                at = self._effects().index(kind) + 1

    async def _die_before(self, way: Way, at: int) -> bool:
        """Go the way and die before effect number `at`, start again, see that nothing is lost; whether it died."""
        self._at, self.words = at, self.words + 1
        died = await self._go(way, f"word {self.words}")
        if died:
            self.died_before += self._effects()[at - 1 : at]
        if self.process.returncode is not None:
            await self.serve()
        try:
            await self.proof.settled()
        except AssertionError as error:
            effects = "\n".join(self.mortal.effects())
            raise AssertionError(
                f"{error}\nIt died before effect {at} of\n{effects}\n{self.world.log()[-6000:]}"
            ) from None
        return died

    async def _go(self, way: Way, word: str) -> bool:
        self.mortal.forget()
        going = asyncio.create_task(self._to_the_end(way, word))
        while not going.done() and not self.mortal.died:
            await asyncio.wait({going}, timeout=0.01)
        self.mortal.disarm()
        if not self.mortal.died:
            going.result()
            return False
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        with warnings.catch_warnings():  # anyio forgets a connection that was being made when its user was cancelled
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect(1)
        await self.process.wait()
        return True

    async def _to_the_end(self, way: Way, word: str) -> None:
        await way(self, word)
        counted = -1
        while counted != self.mortal.count:  # what the process does after the last thing that can be seen
            counted = self.mortal.count
            await asyncio.sleep(QUIET_S)

    def _effects(self) -> list[str]:
        """What was counted, without what is another each time."""
        return [self._kind(effect) for effect in self.mortal.effects()]

    def _kind(self, effect: str) -> str:
        what, _, on = effect.partition(" ")
        if what == "send":
            return f"send to {self.ports.get(on.partition(':')[2], 'a caller')}"
        name = on.removeprefix(f"{self.world.folder}/")
        return (
            f"{what} {re.sub(r'[0-9a-f]{32}|(?<=/)[0-9a-z]{26}|[A-Za-z0-9_-]{22}(?=[.])|[0-9]+(?=[./]|$)', '*', name)}"
        )


async def lapse(place: World) -> None:
    """Let the leases on Postgres run out, as 15 s would; on SQLite the start frees them."""
    url = place.environ["OUTKEEP_DATABASE_URL"]
    if url.startswith("postgresql"):
        async with await psycopg.AsyncConnection.connect(url) as connection:
            for table, prefix in (("outputs", ""), ("predictions", "manifest_")):
                changed = f"{prefix}due_ms = {prefix}due_ms - {LEASES_MS} WHERE {prefix}lease IS NOT NULL"
                await connection.execute(f"UPDATE {table} SET {changed}".encode())


@contextlib.asynccontextmanager
async def dying(folder: Path, **environ: str) -> AsyncIterator[Dying]:
    """A world with a mortal service, which runs, and a reader of its feed."""
    url = environ.get("OUTKEEP_DATABASE_URL", "")
    database = (urlsplit(url).port or 0) if url.startswith("postgresql") else 0
    mortal = Mortal(folder, database=0 if EVERY_WRITE else database)
    async with world(
        folder, options=Options(seed=7, speed=0.01), **(SETTINGS | environ | dict(mortal.environ))
    ) as made:
        ports = {
            str(urlsplit(made.sandbox.url).port): "Replicate",
            str(database): "Postgres",
            str(urlsplit(environ.get("AWS_ENDPOINT_URL_S3", "")).port): "S3",
        }
        async with Nursery(made.environ, folder) as made.nursery, Reader.of(made) as reader:
            await made.serve()
            yield Dying(made, mortal, Proof(made, reader), ports)

"""Random histories of the whole house: webhooks, polls, lists, creates, steps, deaths and time, against the invariants.

Real flows, ledger and bucket; a Replicate over real HTTP whose every answer the machine chooses. `OUTKEEP_PROOF=full`
plays many more. A failure prints its seed: `OUTKEEP_SEED=… pytest tests/contract/test_flows_machine.py` plays it again.
"""

import asyncio
import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.pool import QueuePool
from svix.webhooks import Webhook

from receiver.core.errors import OutkeepError
from receiver.replicate.signature import Unverified
from receiver.runtime import settings as settings_of
from receiver.runtime.house import House
from receiver.runtime.wiring import clock_ms, open_house
from tests.contract.flows_oracle import Oracle, predictions
from tests.contract.flows_script import SHAPES, Script
from tests.journey.world import until
from tests.servers import postgres
from tests.servers.seaweedfs import SeaweedFS

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
FLOWS = ("observe", "archive", "conclude", "relay", "reconcile", "sweep")
SHAPE = strategies.integers(0, len(SHAPES) - 1)
PLACE = strategies.integers(0, 40)
PLACES = strategies.lists(PLACE, min_size=1, max_size=4)
SOURCE = strategies.sampled_from(["ok", "ok", "404", "500", "cut"])
LIFE = strategies.lists(strategies.sampled_from([*FLOWS, "go on", "go on", "hear", "hear"]), max_size=6)
LET_GO_S_MAX = 5.0
REST_ROUNDS = 60  # of all flows, a minute apart: an hour after the last trouble everything has come to rest
FULL = os.environ.get("OUTKEEP_PROOF") == "full"
pytestmark = pytest.mark.timeout(7200 if FULL else 300)


class Histories(RuleBasedStateMachine):
    """One house, one Replicate; `ahead_ms` is how far the clock was put ahead of the real one."""

    database: ClassVar[str]
    s3: ClassVar[SeaweedFS | None]  # none: a folder

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.ahead_ms = 0
        self.up = True
        self.script = Script(self.now_ms)
        self.oracle = Oracle(self.script)
        self.runner.run(self._open(first=True))

    def now_ms(self) -> int:
        return clock_ms() + self.ahead_ms

    async def _open(self, *, first: bool = False) -> None:
        if first:
            await self.script.start()
            url = await postgres.server().database() if self.database == "postgresql" else None
            self.url = url or f"sqlite:///{self.folder.name}/ledger.db"
        self.stack = AsyncExitStack()
        self.house: House = await self.stack.enter_async_context(open_house(self._settings(), now_ms=self.now_ms))
        self.house.ledger._database.clock.skew_ms = self.ahead_ms

    def _settings(self, spool: str = "spool") -> settings_of.Settings:
        folder = self.folder.name
        return settings_of.read(
            {
                "REPLICATE_API_TOKEN": "r8_script",
                "OUTKEEP_REPLICATE_URL": f"{self.script.origin}/v1",
                "OUTKEEP_PUBLIC_URL": "http://127.0.0.1:9",
                "OUTKEEP_OUTPUT_HOSTS": self.script.origin,
                "OUTKEEP_WEBHOOK_SECRETS": SECRET,
                "OUTKEEP_DATABASE_URL": self.url,
                "OUTKEEP_BUCKET_URL": f"file:{folder}/objects" if self.s3 is None else self.s3.url(Path(folder).name),
                "OUTKEEP_SPOOL_DIR": f"{folder}/{spool}",
                "OUTKEEP_WORKERS": "2",
            }
        )

    @initialize(shapes=strategies.lists(SHAPE, min_size=2, max_size=5))
    def begin(self, shapes: list[int]) -> None:
        """Sweep as a worker does at its start: from here on the list is read without a gap."""
        self.runner.run(self.house.sweep.step())
        for shape in shapes:
            self.script.begin(shape)

    @rule(shapes=strategies.lists(SHAPE, min_size=1, max_size=3), then=LIFE)
    def others_create(self, shapes: list[int], then: list[str]) -> None:
        for shape in shapes:
            self.script.begin(shape)
        self._live(then)

    @rule(shape=SHAPE, how=strategies.sampled_from(["ok", "ok", "lost", "refused"]), then=LIFE)
    def create(self, shape: int, how: str, then: list[str]) -> None:
        async def create() -> None:
            self.script.creating = how
            with contextlib.suppress(OutkeepError):
                await self.house.create("/models/script/model/predictions", {"input": {"shape": shape}}, key_name="app")
            self.script.creating = "ok"

        self.runner.run(create())
        self._live(then)

    @precondition(lambda self: self.script.stories)
    @rule(places=PLACES, ends=strategies.sampled_from(["processing", "succeeded", "succeeded", "failed", "canceled"]))
    def go_on(self, places: list[int], ends: str) -> None:
        stories = list(self.script.stories.values())
        for place in places:
            self.script.go_on(stories[-1 - place % len(stories)], ends=ends)

    @precondition(lambda self: self.script.words)
    @rule(places=PLACES, again=strategies.booleans(), dies_after=strategies.sampled_from([None, None, None, 0, 1, 3]))
    def webhooks(self, places: list[int], *, again: bool, dies_after: int | None) -> None:
        """Any words that were ever said, late or twice, under their own ids or new ones, all at once."""
        words = [self.script.words[-1 - place % len(self.script.words)] for place in places]
        names = [each.id if again else f"{each.id}_{at}_{len(self.oracle.accepted)}" for at, each in enumerate(words)]

        async def calls() -> list[bool]:
            each = (self._call(word.body, name) for word, name in zip(words, names, strict=True))
            return list(await asyncio.gather(*(self._dying(call, dies_after) for call in each)))

        outcomes = self.runner.run(calls())
        self.oracle.accepted |= {name for name, promised in zip(names, outcomes, strict=True) if promised}

    @rule(body=strategies.sampled_from([b"{", b"[]", b'{"id": 7}', b'\xff{"id":"x"}', b"[" * 9000]), then=LIFE)
    def garbage(self, body: bytes, then: list[str]) -> None:
        name = f"garbage_{len(self.oracle.accepted)}"
        self.runner.run(self._call(body, name))
        self.oracle.accepted.add(name)
        self._live(then)

    @precondition(lambda self: self.script.words)
    @rule(place=PLACE, old=strategies.booleans(), then=LIFE)
    def forgery(self, place: int, then: list[str], *, old: bool) -> None:
        """Signed with a secret that nobody knows, or too old: no effect."""
        body = self.script.words[place % len(self.script.words)].body.replace(b"starting", b"succeeded")

        async def call() -> None:
            known = len(await predictions(self.house))
            with pytest.raises(Unverified):
                await self._call(body, "forged", secret=SECRET if old else OTHER_SECRET, late_s=600 if old else 0)
            await self.house.observe.step()
            assert len(await predictions(self.house)) >= known

        self.runner.run(call())
        self._live(then)

    async def _call(self, body: bytes, name: str, *, secret: str = SECRET, late_s: int = 0) -> None:
        from datetime import UTC, datetime

        at_s = self.now_ms() // 1000 - late_s
        signature = Webhook(secret).sign(name, datetime.fromtimestamp(at_s, UTC), body.decode("latin-1"))
        if not body.isascii():
            signature = _signed(secret, name, at_s, body)
        named = {"webhook-id": name, "webhook-timestamp": str(at_s), "webhook-signature": signature}
        await self.house.accept(body, [(key.encode(), value.encode()) for key, value in named.items()], None)

    @precondition(lambda self: self.script.stories)
    @rule(place=PLACE, how=strategies.sampled_from(["ok", "ok", "501", "404", "nonsense"]))
    def ask(self, place: int, how: str) -> None:
        async def ask() -> None:
            self.script.asking = how
            with contextlib.suppress(OutkeepError):
                await self.house.ask(list(self.script.stories)[place % len(self.script.stories)])
            self.script.asking = "ok"

        self.runner.run(ask())

    @rule(how=strategies.sampled_from(["ok", "ok", "501", "nonsense"]), hidden=strategies.booleans(), then=LIFE)
    def sweep(self, how: str, then: list[str], *, hidden: bool) -> None:
        self.script.listing, self.script.hidden = how, hidden
        self.runner.run(self.house.sweep.step())
        self.script.listing, self.script.hidden = "ok", False
        self._live(then)

    @rule(source=SOURCE, then=LIFE)
    def serve(self, source: str, then: list[str]) -> None:
        self.script.serving = source
        self._live(then)

    @rule(source=SOURCE)
    def all_at_once(self, source: str) -> None:
        self.script.serving = source

        async def steps() -> None:
            await asyncio.gather(*map(self._step, FLOWS))

        self.runner.run(steps())

    @rule(flow=strategies.sampled_from(FLOWS), after=strategies.integers(0, 12), then=LIFE)
    def die(self, flow: str, after: int, then: list[str]) -> None:
        """Break off in the midst of a step, then start again: what was begun is taken up."""
        self.script.serving = "ok"

        async def die() -> None:
            await self._dying(self._step(flow), after)
            await self._restart()

        self.runner.run(die())
        self._live(then)

    @rule(by_s=strategies.sampled_from([16, 16, 4000]), then=LIFE)
    def sleep_over_the_lease(self, by_s: int, then: list[str]) -> None:
        """A worker stands still until its leases are over; another one (on Postgres) takes its outputs; it goes on."""
        self.script.serving = "ok"

        async def sleep() -> None:
            self.script.held = held = asyncio.Event()
            sleeping = await self.house.archive.start(8)
            await asyncio.sleep(0.05 if sleeping else 0)
            self.script.held = None
            self._forward(by_s)
            await self._another_works()
            held.set()
            if sleeping:
                await asyncio.wait(sleeping)

        self.runner.run(sleep())
        self._live(then)

    async def _another_works(self) -> None:
        if self.database == "sqlite":
            await self.house.archive.step(8)
            return
        async with open_house(self._settings(spool="other"), now_ms=self.now_ms) as other:
            other.ledger._database.clock.skew_ms = self.ahead_ms
            await other.archive.step(8)
            await other.conclude.step()

    @rule(by_s=strategies.sampled_from([1, 16, 61, 301, 1800]), then=LIFE)
    def wait(self, by_s: int, then: list[str]) -> None:
        self._forward(by_s)
        self._live(then)

    @precondition(lambda self: self.s3 is None)
    @rule(then=LIFE)
    def bucket_goes_or_comes(self, then: list[str]) -> None:
        self._bucket(up=not self.up)
        self._live(then)

    @invariant()
    def what_was_promised_holds(self) -> None:
        self.runner.run(self.oracle.look(self.house, bucket_up=self.up))

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else the history has failed already, and that is what is told
                self.runner.run(self._rest())
        finally:
            self.runner.run(self._close())
            self.runner.close()
            self.folder.cleanup()

    async def _rest(self) -> None:
        """No more trouble: take steps until nothing moves, then judge the whole."""
        self.script.heal()
        self._bucket(up=True)
        for story in self.script.stories.values():
            self.script.go_on(story, ends="succeeded")
        for _ in range(REST_ROUNDS):
            for flow in ("sweep", *FLOWS, "observe", "archive", "conclude", "relay"):
                await self._step(flow)
            await self.oracle.look(self.house, bucket_up=True)
            if len(self.oracle.archived) == len(self.script.stories):
                break
            self._forward(61)
        await self.oracle.rest(self.house, self._objects())
        assert self._spooled() == [], "bytes lie in the spool that nobody will fetch"

    def _objects(self) -> list[str]:
        """The keys in the bucket, drafts left out."""
        if self.s3 is None:
            objects = Path(self.folder.name, "objects")
            found = [path.relative_to(objects) for path in objects.rglob("*") if path.is_file()]
            return [path.as_posix() for path in found if path.parts[0] != ".tmp"]
        prefix = self.house.bucket.key("")
        listed = self.s3.client().list_objects_v2(Bucket=self.s3.bucket, Prefix=prefix)
        return [each["Key"] for each in listed.get("Contents", ())]

    def _spooled(self) -> list[str]:
        return [path.name for path in Path(self.folder.name, "spool").glob("[!.]*")]

    def _live(self, acts: list[str]) -> None:
        """What goes on between the troubles: predictions go on, webhooks come, steps are taken."""
        for act in acts:
            if act == "go on":
                story = next((each for each in self.script.stories.values() if not each.final), None)
                if story is not None:
                    self.script.go_on(story, ends="processing" if story.status == "starting" else "succeeded")
            elif act == "hear":
                word = next((each for each in self.script.words if each.id not in self.oracle.accepted), None)
                if word is not None:
                    self.runner.run(self._call(word.body, word.id))
                    self.oracle.accepted.add(word.id)
            else:
                self.runner.run(self._step(act))

    async def _step(self, flow: str) -> None:
        if flow == "archive":
            await self.house.archive.step(8)
        else:
            await getattr(self.house, flow).step()

    async def _dying(self, work: Coroutine[Any, Any, None], after: int | None) -> bool:
        """Whether it came to its end before it was broken off, after so many turns of the loop."""
        task = asyncio.ensure_future(work)
        if after is not None:
            for _ in range(after * after):
                await asyncio.sleep(0)
            if after > 3:
                await asyncio.sleep(0.001 * after)
            task.cancel()
        await asyncio.wait([task])
        return not task.cancelled() and task.exception() is None

    async def _restart(self) -> None:
        others = list(self.house.archive.leases.values())
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._let_go()
        await self.stack.aclose()
        self._bucket(up=True)  # a bucket's folder that is none is a wrong setting: no service starts with it
        await self._open()

    async def _close(self) -> None:
        await self._let_go()
        await self.stack.aclose()
        await self.script.stop()

    async def _let_go(self) -> None:
        """Until what was broken off has given its connections back, which SQLAlchemy does beside whoever had them."""
        pool = self.house.ledger._database.writing.pool
        assert isinstance(pool, QueuePool)
        with contextlib.suppress(TimeoutError):
            await until(lambda: not pool.checkedout(), patience_s=LET_GO_S_MAX)

    def _forward(self, by_s: int) -> None:
        self.ahead_ms += by_s * 1000
        self.house.ledger._database.clock.skew_ms = self.ahead_ms

    def _bucket(self, *, up: bool) -> None:
        objects, aside = Path(self.folder.name, "objects"), Path(self.folder.name, "aside")
        if up and not self.up:
            objects.unlink()
            aside.rename(objects)
        elif not up and self.up:
            objects.rename(aside)
            objects.write_text("no folder")
        self.up = up


def _signed(secret: str, name: str, at_s: int, body: bytes) -> str:
    """As `Webhook.sign`, of bytes that are no text."""
    import base64
    import hashlib
    import hmac

    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{name}.{at_s}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def play(database: str, s3: SeaweedFS | None, histories: int) -> None:
    number = int(os.environ.get("OUTKEEP_SEED") or random.SystemRandom().getrandbits(32))
    print(f"to play this again: OUTKEEP_SEED={number}")  # pytest shows it with a failure
    machine = type(f"Histories on {database}", (Histories,), {"database": database, "s3": s3})
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=histories * (40 if FULL else 1),
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            phases=[Phase.generate],  # the first failure is told as it is: shrinking takes minutes on real databases
            database=None,
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large),
        ),
    )


def test_any_history_of_the_house_keeps_the_promises_on_sqlite_and_a_folder() -> None:
    play("sqlite", None, 12)


def test_any_history_of_the_house_keeps_the_promises_on_postgres_and_s3(s3_environment: SeaweedFS) -> None:
    play("postgresql", s3_environment, 4)

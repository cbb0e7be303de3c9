"""The sandbox itself: what it remembers, its clock, its ids, and who is at work in it."""

import asyncio
import hashlib
import random
import time
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

import httpx
from starlette.requests import Request

from receiver.sandbox import mischief
from receiver.sandbox.mischief import Mischief, Prank
from receiver.sandbox.models import Model
from receiver.sandbox.options import Options, checked_secret, new_secret
from receiver.sandbox.predictions import Artifact, Prediction
from receiver.sandbox.recipes import Pantry

COUNTS_MAX = 200_000  # counters of "once" and "3x", the oldest go first
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_LENGTH = 26
ACCOUNT = "sandbox"
OLD_SECRETS_MAX = 10


class Sandbox:
    """One stand-in for Replicate: an account with its predictions, files, models and secret."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.seed = random.SystemRandom().getrandbits(63) if options.seed is None else options.seed
        self.origin = options.public_url.rstrip("/")
        self.api_url = f"{self.origin}/v1"
        self.secret = checked_secret(options.secret) if options.secret else new_secret(self.rng("secret"))
        self.old_secrets: list[str] = []
        self.general: Mischief = mischief.read(options.mischief)
        self.predictions: OrderedDict[str, Prediction] = OrderedDict()
        self.files: dict[str, Artifact] = {}
        self.models: dict[str, Model] = {}
        self.versions: dict[str, Model] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.examples: dict[str, Prediction] = {}
        self.uploads: OrderedDict[str, Any] = OrderedDict()
        self.streams: dict[str, Prediction] = {}
        self.pantry = Pantry()
        self.aged_s = 0.0
        self.stopped = asyncio.Event()
        self.client: httpx.AsyncClient  # set while the app runs
        self._made: dict[str, int] = {}
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def now_ns(self) -> int:
        return time.time_ns()

    def rng(self, *what: object) -> random.Random:
        """Randomness that follows from the seed and what it is for."""
        told = ":".join(str(part) for part in (self.seed, *what))
        return random.Random(int.from_bytes(hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()[:8], "big"))

    def number(self, kind: str) -> int:
        """1, 2, 3 … for each kind of thing."""
        self._made[kind] = self._made.get(kind, 0) + 1
        return self._made[kind]

    def name(self, kind: str, number: int, length: int = ID_LENGTH) -> str:
        """An id as Replicate makes them: lower-case letters and digits."""
        return "".join(self.rng(kind, number).choices(ALPHABET, k=length))

    def add_model(self, model: Model) -> None:
        self.models[model.full_name] = model
        if model.has_version:
            self.versions[model.version] = model

    def forget_counts(self) -> None:
        """Every "once" counts anew."""
        self._counts.clear()

    def add(self, prediction: Prediction) -> None:
        self.predictions[prediction.id] = prediction
        if prediction.stream_key is not None:
            self.streams[prediction.stream_key] = prediction
        while len(self.predictions) > self.options.predictions_max:
            oldest = next((known for known in self.predictions.values() if known.final), None)
            if oldest is None:
                break
            self.remove(oldest)
            self.streams.pop(oldest.stream_key or "", None)
            del self.predictions[oldest.id]

    def current(self, prediction: Prediction) -> Prediction:
        """The same prediction, its data removed if its time is over."""
        if prediction.completed_ns is not None and not prediction.removed:
            aged_s = self.aged_s - prediction.aged_at_end_s
            if (self.now_ns() - prediction.completed_ns) / 1e9 + aged_s >= self.options.retention_s:
                self.remove(prediction)
        return prediction

    def owner(self, artifact: Artifact) -> Prediction:
        """The prediction that a file belongs to, an example's own one too."""
        return self.predictions.get(artifact.prediction) or self.examples[artifact.prediction]

    def remove(self, prediction: Prediction) -> None:
        """Input, output, files and logs go; the prediction itself stays to be asked for."""
        prediction.removed = True
        prediction.input, prediction.output, prediction.logs = {}, None, None
        for artifact in prediction.artifacts:
            artifact.removed = True
            self.files.pop(artifact.path, None)
        prediction.artifacts = []

    def strike(self, scope: str, pranks: tuple[Prank, ...]) -> Prank | None:
        """The first misbehaviour that is not used up, counted; None when all is well."""
        struck = next((prank for prank in pranks if self._left(scope, prank)), None)
        return None if struck is None or struck.kind == "ok" else struck

    def strikes(self, scope: str, pranks: tuple[Prank, ...]) -> dict[str, Prank]:
        """Every misbehaviour that is not used up, counted."""
        return {prank.kind: prank for prank in pranks if self._left(scope, prank)}

    async def nap(self, seconds: float) -> None:
        """Sleeps real seconds; ends at once when the sandbox is stopped."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self.stopped.wait(), seconds)
            except TimeoutError:
                return

    async def doze(self, told_s: float) -> None:
        """Sleeps seconds as Replicate tells them, scaled by the speed."""
        await self.nap(told_s * self.options.speed)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Ends all that is at work, and waits until it has ended."""
        self.stopped.set()
        self.pantry.stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def rotate(self) -> str:
        """A new signing secret; the one before stays known as `old_secrets[-1]`."""
        self.old_secrets = [*self.old_secrets, self.secret][-OLD_SECRETS_MAX:]
        self.secret = new_secret(self.rng("secret", self.number("secret")))
        return self.secret

    def _left(self, scope: str, prank: Prank) -> bool:
        if prank.times is None:
            return True
        key = f"{scope} {prank.kind} {prank.value}"
        used = self._counts.get(key, 0)
        if used >= prank.times:
            return False
        self._counts[key] = used + 1
        while len(self._counts) > COUNTS_MAX:
            self._counts.popitem(last=False)
        return True


def of(request: Request) -> Sandbox:
    """The sandbox that a request came to."""
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def seed_of(sandbox: Sandbox, model: Model, told: dict[str, Any], number: int) -> int:
    """The seed of a run: the one in the input, or one of its own."""
    seed = told.get("seed")
    if isinstance(seed, int) and not isinstance(seed, bool):
        return sandbox.rng("seeded", model.full_name, seed, told.get("prompt")).getrandbits(32)
    return sandbox.rng("run", number).getrandbits(32)

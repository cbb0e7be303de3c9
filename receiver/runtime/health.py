"""What is down though webhooks still come in, looked at rarely and remembered between looks."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from receiver.replicate.client import Replicate
from receiver.replicate.errors import ReplicateError
from storage.bucket import Bucket
from storage.errors import ObjectMissing, StorageError

log = logging.getLogger("outkeep.health")

LOOK_EVERY_S = 5.0  # readiness is asked for every few seconds, by several; the bucket and Replicate hear once
LOOK_S_MAX = 3.0
ABSENT_KEY = "outkeep-readiness"  # never written: asking for it costs one request and proves that the bucket answers


@dataclass(slots=True)
class Health:
    """`clock` gives seconds that never go back."""

    bucket: Bucket
    replicate: Replicate
    clock: Callable[[], float]
    _failing: list[str] = field(default_factory=list)
    _looked_s: float = -float("inf")
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def failing(self) -> list[str]:
        """Names of what did not answer properly at the last look, which is at most `LOOK_EVERY_S` old."""
        async with self._looking:
            if self.clock() - self._looked_s >= LOOK_EVERY_S:
                looks = await asyncio.gather(_answers(self._ask_bucket()), _answers(self._ask_replicate()))
                self._failing = [name for name, well in zip(("bucket", "replicate"), looks, strict=True) if not well]
                self._looked_s = self.clock()
        return list(self._failing)

    async def _ask_bucket(self) -> None:
        with suppress(ObjectMissing):  # reading it: asked with HEAD, S3 does not tell a missing object from no bucket
            async for _ in self.bucket.read(self.bucket.key(ABSENT_KEY), length=1):
                pass

    async def _ask_replicate(self) -> None:
        await self.replicate.account()


async def _answers(question: Awaitable[None]) -> bool:
    try:
        await asyncio.wait_for(question, LOOK_S_MAX)
    except (StorageError, ReplicateError, TimeoutError):
        return False
    except Exception:
        log.exception("a look at what we depend on failed in a way that should not be")
        return False
    return True

"""Spool and bucket in order: what the spool holds is known to the ledger, what nobody needs is removed."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from receiver.core.output import OutputState
from receiver.core.ring import Ring
from receiver.core.telling import is_ours
from receiver.ledger.ledger import Ledger
from storage.bucket import Bucket
from storage.errors import StorageError
from storage.spool import Spool

log = logging.getLogger("outkeep.tidy")

LINKS_MAX = 500  # asked about in one small transaction
LATER_MS_MAX = 900_000  # nothing waits so long on purpose (see archive.ASKED_S_MAX), only after a clock was put back
STRANGE_MS_MAX = 86_400_000  # a file of which the ledger knows nothing may be another ledger's, wrongly put here


@dataclass(frozen=True, slots=True)
class Tidy:
    """Files in use, by us or by another process, are left alone."""

    ledger: Ledger
    spool: Spool
    bucket: Bucket
    now_ms: Callable[[], int]
    ring: Callable[..., None]

    async def step(self) -> int:
        """Look through the spool; gives how many files were removed."""
        if hastened := await self.ledger.hasten(later_ms=LATER_MS_MAX):
            log.warning("the clock was put back: %d outputs and manifests are due now, not in hours", hastened)
        await self.ledger.tend_spool(self.spool.identity(), self.now_ms())
        removed = await asyncio.to_thread(self.spool.sweep)
        links = await asyncio.to_thread(self.spool.kept)
        for start in range(0, len(links), LINKS_MAX):
            removed += await self._part(links[start : start + LINKS_MAX])
        return removed

    async def sweep_bucket(self) -> int:
        """Remove what died half-way into the bucket, so that nobody pays for it for ever; gives how much."""
        try:
            removed = await self.bucket.sweep(is_ours)
        except StorageError as error:
            log.info("what is half-written in the bucket can't be looked for now: %s", error)
            return 0
        if removed:
            log.info("removed %d half-written objects that processes left in the bucket", removed)
        return removed

    async def _part(self, links: list[str]) -> int:
        known = await self.ledger.in_spool(self.spool.identity(), links)
        useless = [link for link in links if known.get(link) is OutputState.ARCHIVED]
        strange_before_ms = self.now_ms() - STRANGE_MS_MAX
        useless += [link for link in links if link not in known and self.spool.kept_ms(link) < strange_before_ms]
        for link in useless:
            await asyncio.to_thread(self.spool.remove, link)
        for link in links:
            if known.get(link) is OutputState.LOST:
                await self._reopen(link)
        return len(useless)

    async def _reopen(self, link: str) -> None:
        """Take back a loss: others could not fetch it while we were away with its bytes."""
        output = await self.ledger.output_by_link(link)
        if output is None:
            return
        async with self.ledger.transaction() as tx:
            await tx.lock([output.prediction_id])
            reopened = await tx.reopen([output.id], held_by=self.spool.identity())
        if reopened:
            log.warning("%s of %s is not lost: its bytes are in the spool", output.path, output.prediction_id)
        self.ring(Ring.OUTPUTS)

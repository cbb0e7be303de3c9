"""The manifest, written last: from then on a prediction counts as archived."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from receiver.core.links import Links
from receiver.core.ring import Ring
from receiver.core.telling import archived_event, folder, manifest
from receiver.ledger.ledger import Ledger
from receiver.ledger.nouns import ManifestClaim
from storage.bucket import Bucket
from storage.errors import Conflict, StorageError

MANIFESTS_MAX = 16  # written at once
LEASE_MS = 15_000


@dataclass(frozen=True, slots=True)
class Conclude:
    """Write manifests of predictions whose outputs are all settled, and tell that they are archived."""

    ledger: Ledger
    bucket: Bucket
    links: Links
    version: str
    ring: Callable[..., None]

    async def step(self, limit: int = MANIFESTS_MAX) -> int:
        """Gives how many were tried; one whose bucket is down becomes due again with its lease."""
        claims = await self.ledger.claim_manifests(limit, lease_ms=LEASE_MS)
        await asyncio.gather(*map(self._one, claims))
        return len(claims)

    async def _one(self, claim: ManifestClaim) -> None:
        key = self.bucket.key(f"{folder(claim.prediction)}/manifest.json")
        body = manifest(claim.prediction, claim.outputs, archived_ms=claim.archived_ms, version=self.version)
        try:
            await self._put(key, body, again=claim.prediction.revision > 0)
        except StorageError:
            return
        event = archived_event(
            claim.prediction,
            claim.outputs,
            manifest_key=key,
            archived_ms=claim.archived_ms,
            revision=claim.prediction.revision + 1,
            links=self.links,
        )
        async with self.ledger.transaction() as tx:
            await tx.lock([claim.prediction.id])
            if await tx.settle_manifest(claim, key):
                await tx.tell([event])
        self.ring(Ring.EVENTS, Ring.PREDICTIONS)

    async def _put(self, key: str, body: bytes, *, again: bool) -> None:
        digest = hashlib.sha256(body).hexdigest()
        try:
            await self.bucket.put(key, body, content_type="application/json", sha256=digest, replace=again)
        except (
            Conflict
        ):  # an earlier program wrote it, died before it could say so, and would have written it otherwise
            await self.bucket.put(key, body, content_type="application/json", sha256=digest, replace=True)

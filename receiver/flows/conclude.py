"""The manifest, written last: from then on a prediction counts as archived."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from receiver.core.errors import UpstreamError
from receiver.core.event import Event
from receiver.core.links import Links
from receiver.core.prediction import PARTIAL
from receiver.core.ring import Ring
from receiver.core.telling import archived_event, folder, manifest
from receiver.flows.reconcile import Ask
from receiver.ledger.ledger import Ledger
from receiver.ledger.nouns import ManifestClaim
from storage.bucket import Bucket
from storage.errors import Conflict, StorageError

MANIFESTS_MAX = 16  # written at once
LEASE_MS = 15_000
CONFIRM_S_MAX = 5.0  # for Replicate to say that there is no output: other manifests wait meanwhile


@dataclass(frozen=True, slots=True)
class Conclude:
    """Write manifests of predictions whose outputs are all settled, and tell that they are archived.

    `ask` is None without a token for Replicate: then what it told by webhook has to do.
    """

    ledger: Ledger
    bucket: Bucket
    links: Links
    ask: Ask | None
    output_ttl_ms: int
    now_ms: Callable[[], int]
    version: str
    ring: Callable[..., None]
    leases: set[str] = field(default_factory=set)

    async def step(self, limit: int = MANIFESTS_MAX) -> int:
        """Gives how many were tried; one whose bucket is down becomes due again with its lease."""
        claims = await self.ledger.claim_manifests(limit, lease_ms=LEASE_MS)
        self.leases.update(claim.lease for claim in claims)
        try:
            await asyncio.gather(*map(self._one, claims))
        except asyncio.CancelledError:
            await asyncio.shield(self.ledger.hand_back([claim.lease for claim in claims]))
            raise
        finally:
            self.leases.difference_update(claim.lease for claim in claims)
        return len(claims)

    async def _one(self, claim: ManifestClaim) -> None:
        if self.ask is not None and self._lacks_output(claim) and not await _confirmed(self.ask, claim):
            return
        key = self.bucket.key(f"{folder(claim.prediction)}/manifest.json")
        body, event = await asyncio.to_thread(self._told, claim, key)  # beside the event loop: it may be megabytes
        try:
            await self._put(key, body, again=claim.prediction.revision > 0)
        except StorageError:
            return
        async with self.ledger.transaction() as tx:
            await tx.lock([claim.prediction.id])
            if await tx.settle_manifest(claim, key):
                await tx.tell([event])
        self.ring(Ring.EVENTS, Ring.PREDICTIONS)

    def _told(self, claim: ManifestClaim, key: str) -> tuple[bytes, Event]:
        """The manifest, and the event that tells of it."""
        body = manifest(claim.prediction, claim.outputs, archived_ms=claim.archived_ms, version=self.version)
        event = archived_event(
            claim.prediction,
            claim.outputs,
            manifest_key=key,
            archived_ms=claim.archived_ms,
            revision=claim.prediction.revision + 1,
            links=self.links,
        )
        return body, event

    def _lacks_output(self, claim: ManifestClaim) -> bool:
        """Whether a success came without its output, or with a part of it, and Replicate may still have it."""
        known = claim.prediction
        ended_ms = known.heard_ms if known.completed_ms is None else known.completed_ms
        nothing = known.status == "succeeded" and known.told.get("output") is None and not claim.outputs
        lacks = nothing or PARTIAL in known.told
        return lacks and known.revision == 0 and self.now_ms() < ended_ms + self.output_ttl_ms

    async def _put(self, key: str, body: bytes, *, again: bool) -> None:
        digest = hashlib.sha256(body).hexdigest()
        try:
            await self.bucket.put(key, body, content_type="application/json", sha256=digest, replace=again)
        except (
            Conflict
        ):  # an earlier program wrote it, died before it could say so, and would have written it otherwise
            await self.bucket.put(key, body, content_type="application/json", sha256=digest, replace=True)


async def _confirmed(ask: Ask, claim: ManifestClaim) -> bool:
    """Ask Replicate once more; without an answer the claim becomes due again. An output takes the claim back."""
    try:
        async with asyncio.timeout(CONFIRM_S_MAX):
            known = await ask(claim.prediction.id)
    except (UpstreamError, TimeoutError):
        return False
    return known is None or PARTIAL in known.told or (known.told.get("output") is None and not known.has_files)

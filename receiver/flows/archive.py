"""Outputs into the bucket: earliest deadline first, whole or not at all, each told once it can be read."""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Protocol

from receiver.core.errors import LedgerBroken, LedgerRefused, LedgerUnavailable
from receiver.core.links import Links
from receiver.core.output import OutputState, Stored, object_name
from receiver.core.prediction import lost_event
from receiver.core.redact import redact_text
from receiver.core.retry import gap_ms
from receiver.core.ring import Ring
from receiver.core.telling import archived_output_event, folder
from receiver.flows.crowd import Crowd
from receiver.flows.outage import Outage
from receiver.ledger.ledger import Ledger
from receiver.ledger.nouns import OutputClaim
from storage.archive import Archived
from storage.bucket import Bucket
from storage.errors import (
    Cancelled,
    Conflict,
    Gone,
    Refused,
    SourceUnavailable,
    SpoolUnavailable,
    StorageError,
    Unavailable,
)
from storage.spool import Spool

LEASE_MS = 15_000  # a dead worker's outputs wait no longer than this
ABSENT_ATTEMPTS, ABSENT_MS_MIN = 6, 10_000  # a 404 may be a delivery host that is not ready yet
ASKED_S_MAX = 600.0  # a host may ask for that much patience, as far as the deadline allows
AGAIN_S = 1.0  # between two tries to tell a ledger that is away
AWAY_MS_MAX = 86_400_000  # a machine that is away with bytes in its spool is waited for that long
_PROBLEM_LENGTH_MAX = 300
_GONE = "gone"

log = logging.getLogger("outkeep.archive")


class Fetch(Protocol):
    """The library's verb with everything but the output's own facts filled in by the wiring."""

    async def __call__(
        self, source: str, *, stem: str, spool_name: str, store: bool, crowded: Callable[[], bool]
    ) -> Archived: ...


class Seen(Protocol):
    """Told of every attempt: `outcome` is archived, lost, retry or late."""

    def __call__(self, outcome: str, size: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Archive:
    """Fetch, store, confirm, settle. `chance` is uniform in [0, 1)."""

    ledger: Ledger
    bucket: Bucket
    fetch: Fetch
    spool: Spool
    links: Links
    now_ms: Callable[[], int]
    chance: Callable[[], float]
    ring: Callable[..., None]
    seen: Seen
    leases: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    outage: Outage = field(default_factory=Outage)
    crowd: Crowd = field(default_factory=Crowd)

    async def step(self, limit: int) -> int:
        """Archive up to `limit` outputs at once; gives how many were tried."""
        tasks = await self.start(limit)
        if tasks:
            await asyncio.wait(tasks)
        return len(tasks)

    async def start(self, limit: int) -> list[asyncio.Task[None]]:
        """Claim up to `limit` outputs and begin with them; gives a task for each. With no room it looks who waits."""
        self.crowd.waits = limit <= 0 and await self.ledger.waits()
        if limit <= 0:
            return []
        claims = await self.ledger.claim_outputs(
            limit,
            lease_ms=LEASE_MS,
            spool=self.spool.identity(),
            held_min=self.crowd.to_make_room(),
            held_max=self.outage.room(limit),
            besides=self.leases.keys(),
        )
        return [self._begin(claim) for claim in sorted(claims, key=lambda claim: not claim.output.held_by)]

    def _begin(self, claim: OutputClaim) -> asyncio.Task[None]:
        task = asyncio.create_task(self._one(claim))
        self.leases[claim.lease] = task
        task.add_done_callback(lambda _: self.leases.pop(claim.lease, None))
        return task

    def drop(self, leases: Collection[str]) -> None:
        """Stop working on what another worker has claimed meanwhile."""
        for lease in leases:
            if lease in self.leases:
                self.leases[lease].cancel()

    async def _one(self, claim: OutputClaim) -> None:
        started_ms = self.now_ms()
        try:
            archived = await self._fetched(claim)
        except Cancelled:
            await self.ledger.hand_back([claim.lease])
        except asyncio.CancelledError:
            await asyncio.shield(self.ledger.hand_back([claim.lease]))
            raise
        except StorageError as error:
            await self._failed(claim, error, started_ms)
        else:
            await self._kept(claim, _stored(archived, self.now_ms(), claim.output.path))

    async def _fetched(self, claim: OutputClaim) -> Archived:
        output, met, archived = claim.output, None, None
        stem = self.bucket.key(f"{folder(claim.prediction)}/{object_name(output.path)}")
        store, crowded = self.outage.begin(), self.crowd.enter(claim.lease, output.expires_ms)
        try:
            archived = await self.fetch(output.source, stem=stem, spool_name=output.link, store=store, crowded=crowded)
        except StorageError as error:
            met = error
            raise
        finally:
            self.crowd.leave(claim.lease)
            if store:
                self.outage.end(met, done=archived is not None)
        return archived

    async def _kept(self, claim: OutputClaim, stored: Stored) -> None:
        """Settle it, however long the ledger is away: what lies in the bucket need not be fetched again."""
        while True:
            try:
                return await self._archived(claim, stored)
            except LedgerUnavailable as error:
                if isinstance(error, LedgerRefused | LedgerBroken):
                    raise
            await asyncio.sleep(AGAIN_S)

    async def _archived(self, claim: OutputClaim, stored: Stored) -> None:
        async with self.ledger.transaction() as tx:
            prediction = (await tx.lock([claim.prediction.id])).get(claim.prediction.id, claim.prediction)
            ours = await tx.settle_archived(claim, stored)
            if ours:
                output = replace(claim.output, state=OutputState.ARCHIVED, stored=stored)
                event = archived_output_event(prediction, output, bucket=self.bucket.name, links=self.links)
                await tx.tell([event])
                if prediction.archived_ms is not None:  # it was lost before, and the manifest says so
                    await tx.amend(prediction.id)
                await tx.finish([prediction.id], again=prediction.archived_ms is not None)
        self.seen("archived" if ours else "late", stored.size)
        self.ring(Ring.EVENTS, Ring.MANIFESTS)

    async def _failed(self, claim: OutputClaim, error: StorageError, started_ms: int) -> None:
        self.crowd.lacks_room |= isinstance(error, SpoolUnavailable)
        problem = f"{_kind(error)}: {redact_text(str(error))[:_PROBLEM_LENGTH_MAX]}"
        if self._is_lost(claim, error, started_ms):
            await self._lost(claim, _kind(error), problem)
            return
        asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
        retry_in_ms = gap_ms(claim.output.attempts, self.chance(), asked_s=asked_s, asked_s_max=ASKED_S_MAX)
        left_ms = claim.output.expires_ms - self.now_ms()
        held_by = self._held_by(claim)
        if 0 < left_ms < retry_in_ms and not held_by:
            retry_in_ms = left_ms // 2  # whoever asks for patience can't have more of it than there is
        told = bool(held_by) or [attempt.problem for attempt in claim.output.history][-1:] == [problem]
        if not told:  # each trouble once, not each try; of the bucket's all at once
            log.warning("%s of %s is not archived yet: %s", claim.output.path, claim.prediction.id, problem)
        async with self.ledger.transaction() as tx:
            await tx.settle_failed(claim, problem, self.now_ms(), retry_in_ms, held_by=held_by)
        self.seen("retry", 0)
        self.ring(Ring.OUTPUTS)

    def _held_by(self, claim: OutputClaim) -> str:
        """The spool that has the bytes: ours, or still another's."""
        mine = self.spool.identity()
        if self.spool.has_kept(claim.output.link):
            return mine
        return "" if claim.output.held_by == mine else claim.output.held_by

    def _is_lost(self, claim: OutputClaim, error: StorageError, started_ms: int) -> bool:
        """Never by the clock alone: after the deadline one fetch that began after it must have failed, too."""
        late = started_ms > claim.output.expires_ms
        if claim.output.held_by not in {"", self.spool.identity()}:
            # The bytes lie in the spool of a worker that is away. It may come back.
            return started_ms > claim.output.expires_ms + AWAY_MS_MAX
        if isinstance(error, Refused):
            return True
        if isinstance(error, Gone):
            absences = [attempt.at_ms for attempt in claim.output.history if attempt.problem.startswith(_GONE)]
            patient = len(absences) + 1 >= ABSENT_ATTEMPTS and self.now_ms() - absences[0] >= ABSENT_MS_MIN
            return late or patient or claim.output.source.startswith("data:")
        return late and isinstance(error, SourceUnavailable | Conflict)

    async def _lost(self, claim: OutputClaim, reason: str, problem: str) -> None:
        now_ms = self.now_ms()
        async with self.ledger.transaction() as tx:
            prediction = (await tx.lock([claim.prediction.id])).get(claim.prediction.id, claim.prediction)
            ours = await tx.settle_lost(claim, reason, now_ms, problem)
            if ours:
                event = lost_event(prediction, claim.output.path, reason, claim.output.attempts, now_ms, self.links)
                await tx.tell([event])
                again = prediction.archived_ms is not None and await tx.amended(prediction.id)
                await tx.finish([prediction.id], again=again)
        if ours:
            log.error("%s of %s is lost: %s", claim.output.path, claim.prediction.id, problem)
        self.seen("lost" if ours else "late", 0)
        self.ring(Ring.EVENTS, Ring.MANIFESTS)


def _kind(error: StorageError) -> str:
    if isinstance(error, Gone):
        return _GONE
    if isinstance(error, Refused):
        return "refused"
    return "conflict" if isinstance(error, Conflict) else "unavailable"


def _stored(archived: Archived, now_ms: int, path: str) -> Stored:
    media = archived.media
    return Stored(
        key=archived.key,
        name=f"{object_name(path)}.{media.ending}",
        size=archived.size,
        sha256=archived.sha256,
        content_type=media.content_type,
        header_type=media.header_type,
        bytes_type=media.bytes_type,
        url_ending=media.url_ending,
        width=archived.width,
        height=archived.height,
        duration_s=archived.duration_s,
        headers=archived.headers,
        verified=archived.verified,
        archived_ms=now_ms,
    )

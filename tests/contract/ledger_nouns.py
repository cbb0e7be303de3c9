"""Deliveries, predictions, files and events to fill ledgers with."""

import itertools
from collections.abc import Sequence
from typing import Any

from receiver.core.delivery import Delivery
from receiver.core.event import Event
from receiver.core.output import Found, Stored
from receiver.core.prediction import Prediction
from receiver.ledger import Ledger, OutputClaim

NOW_MS = 1_800_000_000_000
SHA = "9f2c" * 16
_links = itertools.count()


def delivery(name: str = "msg_1", body: bytes = b'{"id":"p1"}', **values: Any) -> Delivery:
    return Delivery(id=name, received_ms=values.pop("received_ms", NOW_MS), body=body, **values)


def prediction(name: str = "p1", status: str = "processing", **values: Any) -> Prediction:
    told = {"status": status, "model": "black-forest-labs/flux-schnell", "input": {"prompt": "a cat"}}
    told |= values.pop("told", {})
    return Prediction(name, told, values.pop("created_ms", NOW_MS), values.pop("heard_ms", NOW_MS), **values)


def event(name: str, about: str = "p1", kind: str = "outkeep.prediction.created") -> Event:
    return Event(id=name, type=kind, prediction_id=about, time_ms=NOW_MS, body={"id": name, "data": {"n": 1}})


def stored(key: str = "2027/01/15/p1/output.png", **values: Any) -> Stored:
    known: dict[str, Any] = {
        "key": key, "name": key.rsplit("/", 1)[-1], "size": 48_120, "sha256": SHA, "content_type": "image/png",
        "header_type": "image/png", "bytes_type": "image/png", "url_ending": "png", "width": 64, "height": 48,
        "duration_s": None, "headers": {"etag": '"abc"'}, "verified": True, "archived_ms": NOW_MS,
    }  # fmt: skip
    return Stored(**{**known, **values})


def link() -> str:
    return f"link{next(_links):018d}"


def file(path: str = "output", source: str = "https://replicate.delivery/a/out.png", lost: str | None = None) -> Found:
    return Found(path, source, lost)


async def given(
    ledger: Ledger, known: Prediction, files: Sequence[Found] = (), *, expires_ms: int = NOW_MS, **due: int
) -> None:
    """A prediction with files that are due at once."""
    async with ledger.transaction() as tx:
        await tx.lock([known.id])
        await tx.save([known])
        await tx.found(known.id, files, expires_ms=expires_ms, link=link, **due)


async def claim_one(ledger: Ledger, lease_ms: int = 15_000) -> OutputClaim:
    (claim,) = await ledger.claim_outputs(1, lease_ms=lease_ms)
    return claim


async def archive(ledger: Ledger, claim: OutputClaim) -> bool:
    """Settle an output the way a worker does."""
    async with ledger.transaction() as tx:
        await tx.lock([claim.prediction.id])
        ours = await tx.settle_archived(claim, stored(f"x/{claim.output.path}.png"))
        await tx.finish([claim.prediction.id])
        return ours

"""Predictions: what we know of one, what Replicate says, and how the one follows from the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from receiver.core import event as events
from receiver.core import output as outputs
from receiver.core.clock import timestamp_ms
from receiver.core.delivery import DeliveryState
from receiver.core.event import Event, event
from receiver.core.links import Links
from receiver.core.output import Found
from receiver.core.redact import redact, redact_presigned

_OPEN = frozenset(("starting", "processing"))
FINAL = frozenset(("succeeded", "failed", "canceled", "aborted"))

# From each status, where Replicate's word may take us. What is not here does not happen. A status that nobody
# documented is kept as told and counts as open: it may follow any open one and be followed by any.
MOVES: Mapping[str, frozenset[str]] = {
    "starting": _OPEN | FINAL,
    "processing": frozenset(("processing",)) | FINAL,
    **{status: frozenset((status,)) for status in FINAL},
}

# In `told` of one that succeeded: the last word held no output, so what we have may be a part of it. Never told.
PARTIAL = "output_may_be_partial"
REMOVED = "removed"  # Replicate had deleted the data before we could ask for it
# Echoes of our own request, and the id that every row has anyway.
_NOT_KEPT = frozenset(("id", "webhook", "webhook_completed", "webhook_events_filter"))
_EVENT_FIELDS = ("model", "version", "status", "created_at", "completed_at", "metrics")


class Source(StrEnum):
    """Who brought an update."""

    CREATE = "create"
    WEBHOOK = "webhook"
    POLL = "poll"
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True)
class Update:
    """One word from Replicate about a prediction: its JSON object, normalised, `id` and `status` being text."""

    prediction_id: str
    source: Source
    received_ms: int
    told: Mapping[str, Any]
    delivery_id: str | None = None

    @property
    def status(self) -> str:
        return str(self.told["status"])


@dataclass(frozen=True, slots=True)
class Sifted:
    """An update with all done to it that takes long when it is large, and needs no knowledge of the prediction.

    `told` is what may be kept of it, secrets redacted and every file in its output None; `found` are those files.
    """

    update: Update
    told: Mapping[str, Any]
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What we know.

    `told` holds Replicate's fields under its names, secrets redacted; in its `output` every file is None.
    `created_ms` is the first `created_at` that we heard (or when we heard), and fixed: it dates the keys.
    `archived_ms` is set once it is final, every output is settled and the manifest is written (`revision` times).
    `ask_due_ms` is when we ask Replicate ourselves unless it speaks first; `asks` counts how often we did in vain.
    """

    id: str
    told: Mapping[str, Any]
    created_ms: int
    heard_ms: int
    completed_ms: int | None = None
    has_files: bool = False
    key_name: str | None = None
    archived_ms: int | None = None
    manifest_key: str | None = None
    revision: int = 0
    ask_due_ms: int | None = None
    asks: int = 0

    @property
    def status(self) -> str:
        return str(self.told["status"])

    @property
    def final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class Decision:
    """What an update makes of a prediction: the new state, the files to see to, the facts to tell."""

    verdict: DeliveryState  # APPLIED, REPEATED or STALE
    prediction: Prediction
    reason: str | None = None
    found: tuple[Found, ...] = ()
    events: tuple[Event, ...] = field(default=())


def sift(update: Update, is_file: Callable[[str, str], Found | None]) -> Sifted:
    """Find the files, and redact the rest. Takes a second for a body of the largest size that is taken."""
    found = outputs.files(update.told.get("output"), is_file)
    told = {
        name: redact_presigned(outputs.without_files(value, is_file)) if name == "output" else redact(value)
        for name, value in update.told.items()
        if name not in _NOT_KEPT
    }
    return Sifted(update, told, found)


def decide(known: Prediction | None, sifted: Sifted, *, links: Links, key_name: str | None = None) -> Decision:
    """Merge what was said into what is known. Never goes back, never shortens, never turns one end into another."""
    if known is None:
        return _first(sifted, links=links, key_name=key_name)
    if not _may_follow(known.status, sifted.update.status):
        return Decision(DeliveryState.STALE, known, f"told {sifted.update.status} after {known.status}")
    return _next(known, sifted, links=links, key_name=key_name)


def _may_follow(status: str, following: str) -> bool:
    allowed = MOVES.get(status)
    if allowed is None or following in allowed:
        return True
    return status not in FINAL and following not in MOVES


def _first(sifted: Sifted, *, links: Links, key_name: str | None) -> Decision:
    update = sifted.update
    created_ms = timestamp_ms(update.told.get("created_at"))
    blank = Prediction(
        id=update.prediction_id,
        told={"status": update.status},
        created_ms=update.received_ms if created_ms is None else created_ms,
        heard_ms=update.received_ms,
        key_name=key_name,
    )
    decision = _next(blank, sifted, links=links, key_name=key_name, first=True)
    created = event(
        events.CREATED,
        blank.id,
        time_ms=update.received_ms,
        links=links,
        data={"prediction": summary(decision.prediction), "input": decision.prediction.told.get("input")},
    )
    return replace(decision, verdict=DeliveryState.APPLIED, events=(created, *decision.events))


def _next(known: Prediction, sifted: Sifted, *, links: Links, key_name: str | None, first: bool = False) -> Decision:
    update = sifted.update
    ends = update.status in FINAL and (first or not known.final)
    found = _found(known, sifted) if known.archived_ms is None else ()
    told = _merged(known, sifted, ends=ends)
    now_known = replace(
        known,
        told=told,
        heard_ms=update.received_ms,
        completed_ms=_completed_ms(update) if ends else known.completed_ms,
        has_files=known.has_files or bool(found),
        key_name=known.key_name or key_name,
    )
    told_events = [_completed(now_known, update, links)] if ends else []
    told_events += [
        lost_event(now_known, item.path, item.lost, 0, update.received_ms, links) for item in found if item.lost
    ]
    merely = replace(now_known, heard_ms=known.heard_ms)  # what it would be had we only heard the same again
    changed = ends or merely != known
    verdict = DeliveryState.APPLIED if changed or first else DeliveryState.REPEATED
    return Decision(verdict, now_known, found=found, events=tuple(told_events))


def _found(known: Prediction, sifted: Sifted) -> tuple[Found, ...]:
    update = sifted.update
    output = update.told.get("output")
    if known.final and known.told.get("output") is not None and PARTIAL not in known.told:
        return ()  # the end was told with its output: that is what we keep
    removed = update.told.get("data_removed") is True and output is None and update.status == "succeeded"
    if removed and (known.told.get("output") is not None or not known.has_files):
        return (Found(outputs.ROOT, "", REMOVED),)  # beside what we have of it: nobody knows whether that was all
    return sifted.found


def _completed_ms(update: Update) -> int:
    """When Replicate's hour began: as told, though never later than we heard of it."""
    told = timestamp_ms(update.told.get("completed_at"))
    return update.received_ms if told is None else min(told, update.received_ms)


def _merged(known: Prediction, sifted: Sifted, *, ends: bool) -> dict[str, Any]:
    merged = dict(known.told)
    if known.archived_ms is not None:  # the manifest is written: what it says stays
        return merged | ({"data_removed": True} if sifted.update.told.get("data_removed") is True else {})
    settled = known.final and not ends
    partial = merged.pop(PARTIAL, False)
    for name, value in sifted.told.items():
        if name == "output":
            merged[name] = _longer(merged.get(name), value, ends=ends or partial, settled=settled and not partial)
        elif _tells_more(name, merged.get(name), value, settled=settled):
            merged[name] = value
    merged["status"] = sifted.update.status
    silent = sifted.told.get("output") is None and merged.get("output") is not None
    if silent and (partial or (ends and sifted.update.status == "succeeded")):
        merged[PARTIAL] = True
    return merged


def _longer(known: Any, told: Any, *, ends: bool, settled: bool) -> Any:
    """The output with more in it; the first final word counts unless it says nothing."""
    if settled and known is not None:
        return known
    if told is None or known is None:
        return known if told is None else told
    if ends or not isinstance(known, list | str | dict) or not isinstance(told, type(known)):
        return told
    return told if len(told) >= len(known) else known


def _tells_more(name: str, known: Any, told: Any, *, settled: bool) -> bool:
    if told in (None, "", [], {}):
        return known is None
    if settled:
        return known in (None, "", [], {}, False)
    return not (name == "logs" and isinstance(known, str) and isinstance(told, str) and len(told) < len(known))


def summary(prediction: Prediction) -> dict[str, Any]:
    """What every event says of its prediction."""
    return {"id": prediction.id, **{name: prediction.told.get(name) for name in _EVENT_FIELDS}}


def _completed(prediction: Prediction, update: Update, links: Links) -> Event:
    return event(
        events.COMPLETED,
        prediction.id,
        time_ms=update.received_ms,
        links=links,
        data={"prediction": summary(prediction), "error": prediction.told.get("error")},
    )


def lost_event(
    prediction: Prediction, path: str, reason: str, attempts: int, time_ms: int, links: Links, *, revision: int = 1
) -> Event:
    """One file can't be had any more."""
    return event(
        events.OUTPUT_LOST,
        prediction.id,
        time_ms=time_ms,
        links=links,
        path=path,
        revision=revision,
        data={"prediction": summary(prediction), "output": {"path": path, "reason": reason, "attempts": attempts}},
    )

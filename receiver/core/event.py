"""Events: facts told outward, as CloudEvents 1.0."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from receiver.core.clock import iso
from receiver.core.links import Links

CREATED = "outkeep.prediction.created"
COMPLETED = "outkeep.prediction.completed"
OUTPUT_ARCHIVED = "outkeep.output.archived"
OUTPUT_LOST = "outkeep.output.lost"
ARCHIVED = "outkeep.prediction.archived"
TYPES = (CREATED, COMPLETED, OUTPUT_ARCHIVED, OUTPUT_LOST, ARCHIVED)

_FACTS = uuid.UUID("6d1f3f0e-8f0c-5a0e-9d52-0b8b6e6c2f11")  # the namespace of our events' ids; never change it


@dataclass(frozen=True, slots=True)
class Event:
    """A fact about one prediction. `body` is the CloudEvent without its `sequence`, which the relay gives."""

    id: str
    type: str
    prediction_id: str
    time_ms: int
    body: Mapping[str, Any]
    sequence: int | None = None


def event(
    kind: str,
    prediction_id: str,
    *,
    time_ms: int,
    data: Mapping[str, Any],
    links: Links,
    path: str = "",
    revision: int = 1,
) -> Event:
    """An event whose id follows from the fact alone: the same fact told twice has the same id."""
    fact = "\n".join((prediction_id, kind, path, str(revision)))
    number = str(uuid.uuid5(_FACTS, fact))
    body = {
        "specversion": "1.0",
        "id": number,
        "source": links.public_url,
        "type": kind,
        "subject": prediction_id,
        "time": iso(time_ms),
        "datacontenttype": "application/json",
        "dataschema": links.schema(kind),
        "data": data,
    }
    return Event(id=number, type=kind, prediction_id=prediction_id, time_ms=time_ms, body=body)


def cursor(sequence: int) -> str:
    """A place in the feed: 16 digits, so that cursors sort as text."""
    return f"{sequence:016d}"


def told(known: Event) -> dict[str, Any]:
    """The CloudEvent as consumers see it, with its place in the feed."""
    return {**known.body, "sequence": cursor(known.sequence or 0)}

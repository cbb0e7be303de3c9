"""What the ledger hands out and takes besides the nouns of the core: claims, intents, rows of updates, pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from receiver.core.output import Output
from receiver.core.prediction import Prediction

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class OutputClaim:
    """An output to be fetched, whole source included, ours until the lease runs out. `attempts` counts this one."""

    output: Output
    prediction: Prediction
    lease: str


@dataclass(frozen=True, slots=True)
class ManifestClaim:
    """A prediction whose manifest is to be written: final, every output settled.

    `archived_ms` is fixed at the first claim, so that writing again gives the same bytes. `outputs` by their ids,
    which follow the output JSON.
    """

    prediction: Prediction
    outputs: tuple[Output, ...]
    lease: str
    archived_ms: int


class IntentState(StrEnum):
    """What became of a request to create a prediction."""

    ASKED = "asked"  # on its way, or we died before the answer
    KNOWN = "known"  # there is a prediction
    REJECTED = "rejected"  # Replicate refused
    UNCLEAR = "unclear"  # no answer: it may or may not exist


@dataclass(frozen=True, slots=True)
class Intent:
    """A request to create a prediction, kept before it is sent. `token` is in the webhook's URL; `request` redacted."""

    token: str
    made_ms: int
    key_name: str | None
    path: str
    request: Mapping[str, Any] | None
    state: str = IntentState.ASKED
    prediction_id: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """That Replicate said something about a prediction; `delivery_id` when it was a webhook."""

    prediction_id: str
    received_ms: int
    source: str
    status: str
    delivery_id: str | None = None


class Heard(Protocol):
    """What is kept of an update: `core.prediction.Update` and `UpdateRow` both have it."""

    @property
    def prediction_id(self) -> str: ...
    @property
    def received_ms(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def delivery_id(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list; `next` is the cursor of what follows, None at the end."""

    items: Sequence[Item]
    next: str | None

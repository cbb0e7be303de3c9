"""A prediction (or a training, which is alike) as the sandbox remembers it, and the shapes in which it is told.

The shapes follow recorded traffic: a create answer lacks keys, the webhook is not the same as the answer to GET, and
two backends answer GET with other key orders and other fractions of the same second.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from receiver.sandbox.mischief import Mischief
from receiver.sandbox.models import Model
from receiver.sandbox.recipes import Facts, Recipe
from receiver.sandbox.wire import stamp

FINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
ATTEMPTS_MAX = 100  # webhook attempts kept for one prediction


@dataclass(slots=True, eq=False)
class Artifact:
    """A file under a path of its own, the `index`-th of its prediction; `removed` says that it is served no more."""

    path: str
    index: int
    recipe: Recipe
    facts: Facts
    prediction: str
    made_ns: int
    served: int = 0
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """One file of the output, wherever it is told: `path` as `output.0`, `facts` None for a file we do not serve."""

    path: str
    url: str
    content_type: str | None
    facts: Facts | None


@dataclass(frozen=True, slots=True)
class Message:
    """One webhook: the same `id` and `body` at every attempt."""

    id: str
    event: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a webhook. `status` is the receiver's, None when none came; `error` says why."""

    webhook_id: str
    event: str
    at_ns: int
    took_ms: int
    status: int | None
    error: str | None
    body_sha256: str
    body_bytes: int
    mischief: tuple[str, ...] = ()


@dataclass(slots=True, eq=False, kw_only=True)
class Prediction:
    id: str
    number: int
    model: Model
    version: str
    input: dict[str, Any]
    created_ns: int
    mischief: Mischief
    seed: int = 0
    kind: str = "predictions"
    webhook: str | None = None
    events: tuple[str, ...] | None = None
    deployment: str | None = None
    destination: str | None = None
    source: str = "api"
    deadline_ns: int | None = None
    status: str = "starting"
    output: Any = None
    ready: bool = False
    error: str | None = None
    logs: str | None = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    started_ns: int | None = None
    completed_ns: int | None = None
    aged_at_end_s: float = 0.0
    removed: bool = False
    stream_key: str | None = None
    asked: int = 0
    truth: list[Truth] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    last: Message | None = None
    held: list[Message] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    chat: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None
    timer: asyncio.Task[None] | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL

    def changed(self) -> None:
        """Wakes everybody who waits for this prediction."""
        old, self.news = self.news, asyncio.Event()
        old.set()

    def note(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        del self.attempts[:-ATTEMPTS_MAX]


def whole(prediction: Prediction, origin: str, digits: int = 6) -> dict[str, Any]:
    """All that the published schema knows, and no key left out."""
    p = prediction
    told: dict[str, Any] = {
        "id": p.id,
        "model": p.model.full_name,
        "version": p.version,
        "input": p.input,
        "logs": p.logs,
        "output": p.output,
        "data_removed": p.removed,
        "error": p.error,
        "source": p.source,
        "status": p.status,
        "created_at": stamp(p.created_ns, digits),
        "started_at": None if p.started_ns is None else stamp(p.started_ns, digits),
        "completed_at": None if p.completed_ns is None else stamp(p.completed_ns, digits),
        "metrics": p.metrics,
        "urls": urls(p, origin),
    }
    if p.deadline_ns is not None:
        told["deadline"] = stamp(p.deadline_ns, digits)
    if p.deployment is not None:
        told["deployment"] = p.deployment
    if p.webhook is not None:
        told["webhook"] = p.webhook
    if p.events is not None:
        told["webhook_events_filter"] = list(p.events)
    return told


def urls(prediction: Prediction, origin: str) -> dict[str, str]:
    own = f"{origin}/v1/{prediction.kind}/{prediction.id}"
    told = {"cancel": f"{own}/cancel", "get": own, "web": f"{origin}/p/{prediction.id}"}
    if prediction.stream_key is not None:
        told["stream"] = f"{origin}/stream/{prediction.stream_key}"
    return told


def as_created(prediction: Prediction, origin: str, *, variation: bool) -> dict[str, Any]:
    """The answer to a create: recorded ones lack what is not known yet."""
    told = whole(prediction, origin, 3)
    if variation and not prediction.final:
        absent = {"metrics", "started_at", "completed_at", "source"}
        if prediction.number % 2 and prediction.output is None:
            absent |= {"output", "data_removed"}
        told = {key: value for key, value in told.items() if key not in absent}
    return told


def as_starting(prediction: Prediction, origin: str, *, variation: bool) -> dict[str, Any]:
    """What `Prefer: wait` gives when the wait is over: `starting`, whatever the model does."""
    told = as_created(prediction, origin, variation=variation)
    shown: dict[str, Any] = {"status": "starting", "output": None, "logs": "", "started_at": None, "metrics": {}}
    return told | {key: value for key, value in shown.items() if key in told}


def as_asked(prediction: Prediction, origin: str, *, variation: bool) -> dict[str, Any]:
    """The answer to GET and the items of the list. Every second one is the other backend's."""
    prediction.asked += 1
    if not variation or prediction.asked % 2:
        return whole(prediction, origin, 6)
    told = whole(prediction, origin, 9)
    if prediction.number % 3 == 0 and prediction.status != "aborted":
        told["webhook_completed"] = None
    return dict(sorted(told.items()))


def as_canceled(prediction: Prediction, origin: str) -> dict[str, Any]:
    """The recorded answer to a cancel: sorted keys, `logs` null when there are none."""
    told = whole(prediction, origin, 6) | {"webhook_completed": None, "logs": prediction.logs or None}
    return dict(sorted(told.items()))


def as_webhook(prediction: Prediction, origin: str, event: str, *, variation: bool) -> dict[str, Any]:
    """The body of a webhook. That of a start has neither `model` nor `urls` in the documents."""
    told = whole(prediction, origin, 9 if variation and prediction.number % 2 else 6)
    del told["data_removed"]
    if event == "start":
        told["logs"] = None
        if variation and prediction.number % 2:
            del told["model"], told["urls"]
    return told

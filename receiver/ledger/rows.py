"""Rows of the tables as the nouns of the core, and back."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from receiver.core.delivery import Delivery, DeliveryState
from receiver.core.event import Event
from receiver.core.output import Attempt, Output, OutputState, Stored
from receiver.core.prediction import Prediction
from receiver.ledger.tables import deliveries, events, outputs, predictions

Row = sa.Row[*tuple[Any, ...]]

DELIVERY_COLUMNS = tuple(column for column in deliveries.c if column.name != "body")  # lists do without the bodies
PREDICTION_COLUMNS = tuple(
    predictions.c[name]
    for name in (
        "id", "told", "created_ms", "heard_ms", "completed_ms", "has_files", "key_name", "archived_ms",
        "manifest_key", "revision", "ask_due_ms", "asks",
    )
)  # fmt: skip
OUTPUT_COLUMNS = tuple(
    outputs.c[name]
    for name in (
        "id", "prediction_id", "path", "source", "state", "link", "expires_ms", "attempts", "reason", "stored",
        "history", "held_by",
    )
)  # fmt: skip
EVENT_COLUMNS = tuple(events.c[name] for name in ("id", "type", "prediction_id", "time_ms", "body", "sequence"))


def delivery(row: Row, body: bytes = b"") -> Delivery:
    """From a row with `DELIVERY_COLUMNS`."""
    return Delivery(
        id=row.id,
        received_ms=row.received_ms,
        body=body,
        headers=_headers(bytes(row.headers)),
        token=row.token,
        state=DeliveryState(row.state),
        reason=row.reason,
        prediction_id=row.prediction_id,
        repeats=row.repeats,
        sequence=row.sequence,
    )


def headers_value(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """As in `deliveries.headers`: the lines of the header block, which hold no line ends by themselves."""
    return b"\r\n".join([name + b": " + value for name, value in headers])


def _headers(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    lines = (line.partition(b": ") for line in block.split(b"\r\n") if line)
    return tuple((name, value) for name, _, value in lines)


def prediction(row: Row) -> Prediction:
    """From a row with `PREDICTION_COLUMNS`."""
    return Prediction(*row[: len(PREDICTION_COLUMNS)])  # in the order of its fields


def prediction_values(known: Prediction) -> dict[str, Any]:
    """As a row of `predictions`, without what only the writing of the manifest needs."""
    model = known.told.get("model")
    return {
        "id": known.id,
        "told": dict(known.told),
        "status": known.status,
        "final": known.final,
        "model": model if isinstance(model, str) else None,
        "key_name": known.key_name,
        "created_ms": known.created_ms,
        "heard_ms": known.heard_ms,
        "completed_ms": known.completed_ms,
        "has_files": known.has_files,
        "ask_due_ms": None if known.final else known.ask_due_ms,
        "asks": known.asks,
        "archived_ms": known.archived_ms,
        "manifest_key": known.manifest_key,
        "revision": known.revision,
    }


def output(row: Row, uri: str | None = None) -> Output:
    """From a row with `OUTPUT_COLUMNS`; `uri` is the whole of a `data:` source."""
    return Output(
        id=row.id,
        prediction_id=row.prediction_id,
        path=row.path,
        source=row.source if uri is None else uri,
        state=OutputState(row.state),
        link=row.link,
        expires_ms=row.expires_ms,
        attempts=row.attempts,
        reason=row.reason,
        stored=None if row.stored is None else Stored(**row.stored),
        history=tuple(Attempt(at_ms, problem) for at_ms, problem in row.history),
        held_by=row.held_by,
    )


def stored_values(stored: Stored) -> dict[str, Any]:
    """As the JSON in `outputs.stored`."""
    values = {field.name: getattr(stored, field.name) for field in fields(stored)}
    return values | {"headers": dict(stored.headers)}


def history_values(history: Sequence[Attempt]) -> list[list[Any]]:
    """As the JSON in `outputs.history`."""
    return [[attempt.at_ms, attempt.problem] for attempt in history]


def event(row: Row) -> Event:
    """From a row with `EVENT_COLUMNS`."""
    return Event(*row)  # in the order of its fields


def event_values(told: Event) -> dict[str, Any]:
    """As a row of `events`, without its place in the feed."""
    return {
        "id": told.id,
        "type": told.type,
        "prediction_id": told.prediction_id,
        "time_ms": told.time_ms,
        "body": dict(told.body),
    }

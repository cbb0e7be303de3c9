"""JSON Schemas of what our events say in `data`: version 1, only ever widened."""

from collections.abc import Mapping
from typing import Any

from receiver.core import event as events
from receiver.core.links import Links
from receiver.core.output import OutputState

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
_LINK: Schema = {"type": "string", "format": "uri"}
_SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_MOMENT_OR_NULL: Schema = {"type": ["string", "null"], "description": "ISO 8601, as Replicate told it."}
_PATH: Schema = {"type": "string", "pattern": "^output", "description": "The place in the output JSON: output.0"}


def _object(description: str, **members: Schema) -> dict[str, Any]:
    """An object that has all of these members, and may have more."""
    return {"type": "object", "description": description, "properties": members, "required": list(members)}


_PREDICTION = _object(
    "The prediction as Replicate told it.",
    id=_TEXT,
    model=_TEXT_OR_NULL,
    version=_TEXT_OR_NULL,
    status={"type": "string", "description": "Replicate's own word."},
    created_at=_MOMENT_OR_NULL,
    completed_at=_MOMENT_OR_NULL,
    metrics={"type": ["object", "null"]},
)
_ARCHIVED_OUTPUT = _object(
    "A file that is safe in the bucket.",
    path=_PATH,
    url={**_LINK, "description": "The permanent link."},
    key={"type": "string", "description": "Where it lies in the bucket, prefix included."},
    bucket={"type": "string", "description": "The bucket's name, or the file: URL of a folder."},
    size=_COUNT,
    sha256=_SHA256,
    content_type=_TEXT,
)
_LOST_OUTPUT = _object("A file that can't be had any more.", path=_PATH, reason=_TEXT, attempts=_COUNT)
_SETTLED_OUTPUT = _object(
    "A file of the prediction, archived or lost.",
    path=_PATH,
    state={"enum": [state.value for state in OutputState]},
    url={"type": ["string", "null"], "format": "uri"},
    key=_TEXT_OR_NULL,
    size=_COUNT_OR_NULL,
    sha256={**_SHA256, "type": ["string", "null"]},
    content_type=_TEXT_OR_NULL,
    width=_COUNT_OR_NULL,
    height=_COUNT_OR_NULL,
    duration_s=_NUMBER_OR_NULL,
    attempts=_COUNT,
    reason=_TEXT_OR_NULL,
)
_ERROR: Schema = {"description": "What Replicate says went wrong; null when nothing did."}
_INPUT: Schema = {"type": ["object", "null"], "description": "Secrets are redacted."}
_OUTPUT: Schema = {"description": "Replicate's shape, each file its permanent link, null where it was lost."}

_DATA: Mapping[str, Schema] = {
    events.CREATED: _object("We know of a prediction.", prediction=_PREDICTION, input=_INPUT),
    events.COMPLETED: _object("Replicate says it is final.", prediction=_PREDICTION, error=_ERROR),
    events.OUTPUT_ARCHIVED: _object("One file is safe.", prediction=_PREDICTION, output=_ARCHIVED_OUTPUT),
    events.OUTPUT_LOST: _object("One file can't be had.", prediction=_PREDICTION, output=_LOST_OUTPUT),
    events.ARCHIVED: _object(
        "Final, every output settled, the manifest written; with `revision` 2 and up when it was written again.",
        prediction=_PREDICTION,
        output=_OUTPUT,
        outputs={"type": "array", "items": _SETTLED_OUTPUT},
        manifest_key=_TEXT,
    ),
}
_NAMES = {kind.removeprefix("outkeep."): kind for kind in events.TYPES}


def schema(name: str, links: Links) -> dict[str, Any] | None:
    """The schema of a type by its short name (`output.archived`); None when there is no such type."""
    kind = _NAMES.get(name)
    return None if kind is None else {"$schema": DIALECT, "$id": links.schema(kind), "title": kind, **_DATA[kind]}

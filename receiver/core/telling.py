"""How predictions and outputs are told: to our own users, to Replicate's clients, in events and in the manifest."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from receiver.core import event as events
from receiver.core import output as outputs
from receiver.core.clock import day, iso, iso_or_none
from receiver.core.event import Event, event
from receiver.core.links import Links
from receiver.core.output import Output, OutputState
from receiver.core.prediction import FINAL, PARTIAL, Prediction, summary

_OUR_KEY = re.compile(r"(?:^|/)\d{4}/\d\d/\d\d/[A-Za-z0-9_-]{1,64}/(?:output[^/]*|manifest\.json)$")
MANIFEST_SCHEMA = "outkeep.manifest/1"
ALL_LOST = "Every output of this prediction was lost before it could be archived: {reasons}"

_MANIFEST_FIELDS = (
    "model", "version", "input", "status", "error", "logs", "metrics", "created_at", "started_at", "completed_at",
)  # fmt: skip
_API_FIELDS = (
    "model", "version", "input", "output", "logs", "error", "status", "metrics", "created_at", "started_at",
    "completed_at",
)  # fmt: skip

# What a client takes for granted: one null in a list, where a webhook told no model, and a whole `list()` fails.
_NEVER_NULL: Mapping[str, Any] = {"model": "", "version": "", "input": {}, "logs": "", "metrics": {}, "source": "api"}


def folder(prediction: Prediction) -> str:
    """Where a prediction's objects lie under the bucket's prefix: `2026/11/22/{id}`."""
    return f"{day(prediction.created_ms)}/{prediction.id}"


def is_ours(key: str) -> bool:
    """Whether a key, with or without a prefix, is one that we would write: a bucket may be shared with others."""
    return _OUR_KEY.search(key) is not None


def url(output: Output, links: Links) -> str | None:
    """The permanent link of an archived output; None for any other."""
    return None if output.stored is None else links.file(output.link, output.stored.name)


def linked(prediction: Prediction, known: Sequence[Output], links: Links) -> Any:
    """The output JSON in Replicate's shape, each archived file as its permanent link, any other file as None."""
    return outputs.replace(prediction.told.get("output"), {output.path: url(output, links) for output in known})


def api_output(output: Output, links: Links) -> dict[str, Any]:
    """An output as `/api` tells it."""
    stored = output.stored
    return {
        "path": output.path,
        "state": output.state,
        "url": url(output, links),
        "key": stored and stored.key,
        "size": stored and stored.size,
        "sha256": stored and stored.sha256,
        "content_type": stored and stored.content_type,
        "width": stored and stored.width,
        "height": stored and stored.height,
        "duration_s": stored and stored.duration_s,
        "attempts": output.attempts,
        "reason": output.reason,
        "expires_at": iso(output.expires_ms),
        "archived_at": stored and iso(stored.archived_ms),
        "prediction": output.prediction_id,
        "problems": [{"at": iso(attempt.at_ms), "problem": attempt.problem} for attempt in output.history],
    }


def api_prediction(prediction: Prediction, known: Sequence[Output], links: Links) -> dict[str, Any]:
    """A prediction as `/api` tells it, with its outputs."""
    told = {**prediction.told, "output": linked(prediction, known, links)}
    return {
        "id": prediction.id,
        **{name: told.get(name) for name in _API_FIELDS},
        "archived_at": iso_or_none(prediction.archived_ms),
        "key_name": prediction.key_name,
        "manifest_key": prediction.manifest_key,
        "outputs": [api_output(output, links) for output in known],
    }


def replicate_prediction(
    prediction: Prediction, known: Sequence[Output], links: Links, *, waiting: bool = False
) -> dict[str, Any]:
    """A prediction as Replicate's clients expect it; it has succeeded only once everything is archived.

    Until then it is told as `processing` (`waiting`: as `starting`, the only status after `Prefer: wait` that the
    clients do not take for the end) without output. Lost outputs are None in their places; when all are lost it failed.
    """
    told: dict[str, Any] = {"error": None, **prediction.told}
    told.pop(PARTIAL, None)
    told |= {"id": prediction.id, "data_removed": False, "urls": urls(prediction.id, links)}
    for name in ("started_at", "completed_at"):
        told.setdefault(name, None)
    for name, blank in _NEVER_NULL.items():
        told[name] = told.get(name) or blank
    told["error"] = told["error"] or None
    told["created_at"] = told.get("created_at") or iso(prediction.created_ms)
    if prediction.status == "succeeded" and prediction.archived_ms is None:
        return told | {"status": "starting" if waiting else "processing", "output": None, "completed_at": None}
    if prediction.status not in FINAL:
        text_so_far = None if waiting or prediction.has_files else prediction.told.get("output")
        return told | {"output": text_so_far, "completed_at": None} | ({"status": "starting"} if waiting else {})
    told["output"] = linked(prediction, known, links)
    if prediction.status == "succeeded" and known and all(output.state == OutputState.LOST for output in known):
        reasons = "; ".join(sorted({output.reason or "unknown" for output in known}))
        told |= {"status": "failed", "error": ALL_LOST.format(reasons=reasons)}
    return told


def urls(prediction_id: str, links: Links) -> dict[str, str]:
    """The `urls` of a prediction, all of them ours."""
    get = links.api(f"/predictions/{prediction_id}")
    return {"get": get, "cancel": f"{get}/cancel", "web": f"{links.public_url}/ui/predictions/{prediction_id}"}


def archived_output_event(
    prediction: Prediction, output: Output, *, bucket: str, links: Links, revision: int = 1
) -> Event:
    """One file is safe. `output` is archived."""
    stored = output.stored
    if stored is None:
        raise ValueError("only an archived output can be told as archived")
    told = {
        "path": output.path,
        "url": url(output, links),
        "key": stored.key,
        "bucket": bucket,
        "size": stored.size,
        "sha256": stored.sha256,
        "content_type": stored.content_type,
    }
    return event(
        events.OUTPUT_ARCHIVED,
        prediction.id,
        time_ms=stored.archived_ms,
        links=links,
        path=output.path,
        revision=revision,
        data={"prediction": summary(prediction), "output": told},
    )


def archived_event(
    prediction: Prediction, known: Sequence[Output], *, manifest_key: str, archived_ms: int, revision: int, links: Links
) -> Event:
    """The prediction is final, all its outputs are settled and the manifest is written."""
    data: dict[str, Any] = {
        "prediction": summary(prediction),
        "output": linked(prediction, known, links),
        "outputs": [api_output(output, links) for output in known],
        "manifest_key": manifest_key,
    }
    if revision > 1:
        data["revision"] = revision
    return event(events.ARCHIVED, prediction.id, time_ms=archived_ms, links=links, revision=revision, data=data)


def manifest(prediction: Prediction, known: Sequence[Output], *, archived_ms: int, version: str) -> bytes:
    """`manifest.json`: the prediction as Replicate told it and what proves each output. ASCII, the same every time."""
    told = {
        "schema": MANIFEST_SCHEMA,
        "prediction": {"id": prediction.id, **{name: prediction.told.get(name) for name in _MANIFEST_FIELDS}},
        "outputs": [_manifest_output(output) for output in known],
        "archived_at": iso(archived_ms),
        "outkeep_version": version,
    }
    return json.dumps(told, indent=1).encode("ascii")


def _manifest_output(output: Output) -> dict[str, Any]:
    stored = output.stored
    entry: dict[str, Any] = {"path": output.path, "state": output.state}
    if stored is None:
        return entry | {
            "reason": output.reason,
            "source": {"url": shown_source(output.source), "headers": {}},
            "attempts": output.attempts,
            "problems": [{"at": iso(attempt.at_ms), "problem": attempt.problem} for attempt in output.history],
        }
    return entry | {
        "key": stored.key,
        "size": stored.size,
        "sha256": stored.sha256,
        "verified": stored.verified,
        "content_type": stored.content_type,
        "types": _types(stored.header_type, stored.bytes_type, stored.url_ending),
        "width": stored.width,
        "height": stored.height,
        "duration_s": stored.duration_s,
        "source": {"url": shown_source(output.source), "headers": dict(stored.headers)},
        "attempts": output.attempts,
        "archived_at": iso(stored.archived_ms),
    }


def _types(header: str | None, content: str | None, ending: str | None) -> Mapping[str, str | None]:
    return {"header": header, "bytes": content, "ending": ending}


def shown_source(source: str) -> str:
    """A source as it is recorded: a `data:` URI as `data:<type>`, any other URL as it is."""
    if not source.startswith("data:"):
        return source
    return "data:" + source[5:].split(",", 1)[0].split(";", 1)[0]

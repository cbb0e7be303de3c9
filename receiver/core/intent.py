"""Whether a prediction is what a request asked for: all that is left to go by when its answer was never received."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from receiver.core.prediction import Prediction


class Likeness(IntEnum):
    NONE = 0
    INPUT_WITHIN = 1  # what was asked for, and more: Replicate may tell the defaults, too
    SAME_INPUT = 2


def likeness(path: str, request: Mapping[str, Any], made: Prediction) -> Likeness:
    """How well a prediction fits a request to create one (secrets redacted in both alike)."""
    asked, told = request.get("input"), made.told.get("input")
    if not isinstance(asked, dict) or not isinstance(told, dict) or not _same_model(path, request, made.told):
        return Likeness.NONE
    if made.told.get("data_removed") is True and not told:
        return Likeness.NONE  # the input is gone, and cannot be compared
    if asked == told:
        return Likeness.SAME_INPUT
    within = all(name in told and told[name] == value for name, value in asked.items())
    return Likeness.INPUT_WITHIN if within else Likeness.NONE


def model_of(path: str, request: Mapping[str, Any]) -> str | None:
    """`owner/name` of the model that a request names; None when it names a version or a deployment alone."""
    kind, _, rest = path.strip("/").partition("/")
    if kind == "models":
        return "/".join(rest.split("/")[:2])
    name = str(request.get("version") or "").partition(":")[0]
    return name if kind == "predictions" and "/" in name else None


def _same_model(path: str, request: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    kind, _, rest = path.strip("/").partition("/")
    if kind == "deployments":
        return told.get("deployment") in (None, "/".join(rest.split("/")[:2]))
    model, version = model_of(path, request), str(request.get("version") or "")
    pinned = version.rpartition(":")[2]
    if kind == "predictions" and "/" not in pinned and told.get("version") != pinned:
        return False
    return model is None or told.get("model") in (None, "", model)

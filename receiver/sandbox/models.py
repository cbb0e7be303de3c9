"""What a model is, and how its input is checked: schemas in Replicate's style, errors in its words."""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from receiver.sandbox.errors import Problem, invalid
from receiver.sandbox.recipes import Recipe

JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


@dataclass(frozen=True, slots=True)
class Inline:
    """A file that is told as a `data:` URI."""

    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Ask:
    """What a model gets: the input with its defaults, a seed that follows from it, and randomness of that seed."""

    input: Mapping[str, Any]
    seed: int
    rng: random.Random
    origin: str
    destination: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What a model makes. `output` is JSON in which a `Recipe` or an `Inline` stands for a file."""

    output: Any = None
    logs: Sequence[str] = ()
    error: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model. `queue_s` and `predict_s` are told seconds, scaled by the speed.

    `grows`: the output is a list that is told as it becomes longer. `official`: the version is hidden, and with
    `hides_schema` the schema too.
    """

    owner: str
    name: str
    description: str
    make: Callable[[Ask], Made]
    output: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    required: Sequence[str] = ()
    official: bool = False
    grows: bool = False
    streams: bool = False
    hides_schema: bool = False
    has_version: bool = True
    visibility: str = "public"
    links: Mapping[str, str] = field(default_factory=dict)
    queue_s: float = 0.2
    predict_s: float = 1.0
    run_count: int = 0
    sample: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def version(self) -> str:
        """64 hex digits, the same for ever."""
        return hashlib.sha256(f"version of {self.full_name}".encode()).hexdigest()

    @property
    def shown_version(self) -> str:
        return "hidden" if self.official else self.version


def filled(model: Model, told: Mapping[str, Any]) -> dict[str, Any]:
    """The input with the defaults of the schema; `Problem` 422 when the schema does not allow it."""
    wrong = [("input", "required", f"{name} is required") for name in model.required if told.get(name) is None]
    for name, value in told.items():
        if name in model.inputs and value is not None:
            complaint = _complaint(value, model.inputs[name])
            if complaint:
                wrong.append((f"input.{name}", *complaint))
    if wrong:
        raise invalid(*wrong)
    given = {name: value for name, value in told.items() if value is not None or name not in model.inputs}
    return {name: schema["default"] for name, schema in model.inputs.items() if "default" in schema} | given


def _complaint(value: Any, schema: Mapping[str, Any]) -> tuple[str, str] | None:
    kind = schema["type"]
    if not isinstance(value, JSON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return "invalid_type", f"Invalid type. Expected: {kind}, given: {_kind_of(value)}"
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(f'"{item}"' for item in schema["enum"])
        return "enum", f"must be one of the following: {allowed}"
    if "minimum" in schema and value < schema["minimum"]:
        return "number_gte", f"Must be greater than or equal to {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        return "number_lte", f"Must be less than or equal to {schema['maximum']}"
    return None


def _kind_of(value: Any) -> str:
    return next((name for name, types in JSON_TYPES.items() if type(value) in types), "number")


def wrong_input(message: str) -> Problem:
    return invalid(("input.sandbox", "sandbox", message))


def openapi_schema(model: Model) -> dict[str, Any]:
    """The schema of a version as cog writes it, down to what clients read: `components.schemas.Input`, `.Output`."""
    properties = {
        name: {"title": name.replace("_", " ").title(), "x-order": order, **schema}
        for order, (name, schema) in enumerate(model.inputs.items())
    }
    inputs: dict[str, Any] = {"type": "object", "title": "Input", "properties": properties}
    if model.required:
        inputs["required"] = list(model.required)
    schemas = {"Input": inputs, "Output": {"title": "Output", **model.output}}
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {"/predictions": {"post": {"summary": "Predict", "operationId": "predict_predictions_post"}}},
        "components": {"schemas": schemas},
    }

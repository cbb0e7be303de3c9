"""Which strings of an output JSON are files: by address, as `data:` URIs, or because the model's schema says so."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from receiver.core.output import ROOT, Found, segment

REFUSED = "refused"  # it is on a host that outputs are not fetched from
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w.+-]+=[^;,\s]*)*(;base64)?,", re.IGNORECASE)
_WEB_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_REPLICATES = re.compile(
    r"https?://(?:[^/?#\\\s]*@)?(?:[\w-]+\.)*replicate\.delivery\.?(?::\d*)?(?:[/?#\\]\S*)?", re.IGNORECASE | re.ASCII
)
_DEPTH_MAX = 100  # levels of a schema's references: a schema may point at itself


@dataclass(frozen=True, slots=True)
class FileRule:
    """Judges the strings of an output JSON: `allows` says whether a URL may be fetched; `by_schema` are paths."""

    allows: Callable[[str], bool]
    by_schema: frozenset[str] = frozenset()

    def __call__(self, path: str, text: str) -> Found | None:
        if is_data_uri(text) or (_WEB_URL.match(text) and self.allows(text)):
            return Found(path, text)
        # A link of Replicate's own that may not be fetched is no text, whatever the schema says: it will soon be dead.
        if _REPLICATES.fullmatch(text) or (path in self.by_schema and _WEB_URL.fullmatch(text)):
            return Found(path, text, REFUSED)
        return None

    def is_foreign(self, text: str) -> bool:
        """A whole URL that may not be fetched: a lost file or mere text, which only the model's schema can tell."""
        return _WEB_URL.fullmatch(text) is not None and not (self.allows(text) or _REPLICATES.fullmatch(text))


def is_data_uri(text: str) -> bool:
    return _DATA_URI.match(text[:512]) is not None


def schema_files(output: Any, openapi: Mapping[str, Any]) -> frozenset[str]:
    """The paths of an output JSON that the model's OpenAPI schema declares as files (`"format": "uri"`).

    The schema is `components.schemas.Output` of a version's `openapi_schema`, as cog writes it.
    """
    schema = _pick(openapi, "components", "schemas", "Output")
    return frozenset(_walk(output, schema, openapi, ROOT, _DEPTH_MAX))


def _walk(output: Any, schema: Any, openapi: Mapping[str, Any], path: str, depth: int) -> Iterator[str]:
    if depth == 0 or not isinstance(schema, Mapping):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        yield from _walk(output, _pick(openapi, *reference[2:].split("/")), openapi, path, depth - 1)
    for choice in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(choice) or ():
            yield from _walk(output, part, openapi, path, depth - 1)
    if isinstance(output, str) and schema.get("format") == "uri":
        yield path
    elif isinstance(output, list):
        for index, item in enumerate(output):
            yield from _walk(item, schema.get("items"), openapi, f"{path}.{index}", depth - 1)
    elif isinstance(output, dict):
        for key, item in output.items():
            member = _pick(schema, "properties", key) or schema.get("additionalProperties")
            yield from _walk(item, member, openapi, f"{path}.{segment(key)}", depth - 1)


def _pick(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value

"""Outputs: the files a prediction made, found in its output JSON, each at its path."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

ROOT = "output"
OUTPUTS_MAX = 10_000  # files in one prediction; more is a mistake or an attack, and none is fetched beyond it
TOO_MANY = "too_many"  # why the first file beyond that is lost, and with it all that come after
NAME_LENGTH_MAX = 240  # of an object's name, without its ending: file systems take 255 bytes, and paths may nest deeply
RISKY_ATTEMPTS = 8  # more than a minute of trouble: most files take one attempt
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


class OutputState(StrEnum):
    PENDING = "pending"  # to be fetched
    ARCHIVED = "archived"  # in the bucket, confirmed
    LOST = "lost"  # it can't be had any more; `reason` says why


@dataclass(frozen=True, slots=True)
class Found:
    """A file named in an output JSON: its path there and the URL (or `data:` URI) that Replicate gave.

    `lost` is the reason when it is clear at once that it can't be had.
    """

    path: str
    source: str
    lost: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to archive an output that did not succeed."""

    at_ms: int
    problem: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What the bucket holds of an output. `headers` are those of the source that prove it, names in lower case."""

    key: str
    name: str
    size: int
    sha256: str
    content_type: str
    header_type: str | None
    bytes_type: str | None
    url_ending: str | None
    width: int | None
    height: int | None
    duration_s: float | None
    headers: Mapping[str, str]
    verified: bool
    archived_ms: int


@dataclass(frozen=True, slots=True)
class Output:
    """One file of one prediction. `link` is the capability in its permanent link; `stored` is set when archived.

    `attempts` counts tries to archive it, each of them whole: what is resumed or fetched twice to be sure is one try.
    `held_by` names the spool that has the bytes whole while the bucket does not take them, "" while none has.
    """

    id: int
    prediction_id: str
    path: str
    source: str
    state: OutputState
    link: str
    expires_ms: int
    attempts: int = 0
    reason: str | None = None
    stored: Stored | None = None
    history: tuple[Attempt, ...] = field(default=())
    held_by: str = ""


def risky_before_ms(now_ms: int, output_ttl_ms: int) -> int:
    """A pending output whose bytes no spool has is at risk once it vanishes before this: half of its life is over.

    It is at risk, too, from RISKY_ATTEMPTS on.
    """
    return now_ms + output_ttl_ms // 2


def leaves(output: Any, path: str = ROOT) -> Iterator[tuple[str, Any]]:
    """Every leaf of an output JSON with its path, in order: `output`, `output.0`, `output.frames.3.image`."""
    stack = [(path, output)]
    while stack:
        place, value = stack.pop()
        if isinstance(value, dict):
            stack.extend((f"{place}.{segment(key)}", item) for key, item in reversed(value.items()))
        elif isinstance(value, list):
            stack.extend((f"{place}.{index}", value[index]) for index in reversed(range(len(value))))
        else:
            yield place, value


def segment(key: str) -> str:
    """A dict key as part of a path: itself, or `~` and 16 hex digits of its SHA-256 when it is not plain."""
    if _PLAIN_KEY.fullmatch(key):
        return key
    return "~" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def object_name(path: str) -> str:
    """The path as the name of an object: itself, or its start and 16 hex digits of its SHA-256 when it is too long."""
    if len(path) <= NAME_LENGTH_MAX:
        return path
    return f"{path[: NAME_LENGTH_MAX - 17]}~{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def files(output: Any, is_file: Callable[[str, str], Found | None]) -> tuple[Found, ...]:
    """The files in an output JSON; `is_file(path, text)` judges each string. Beyond OUTPUTS_MAX one stands for all."""
    every = filter(None, (is_file(path, leaf) for path, leaf in leaves(output) if isinstance(leaf, str)))
    found = tuple(islice(every, OUTPUTS_MAX))
    return (*found, *(Found(item.path, item.source, TOO_MANY) for item in islice(every, 1)))


def without_files(output: Any, is_file: Callable[[str, str], Found | None], path: str = ROOT) -> Any:
    """The same JSON with None in the place of every file, however many they are."""
    if isinstance(output, dict):
        return {key: without_files(item, is_file, f"{path}.{segment(key)}") for key, item in output.items()}
    if isinstance(output, list):
        return [without_files(item, is_file, f"{path}.{index}") for index, item in enumerate(output)]
    return None if isinstance(output, str) and is_file(path, output) else output


def replace(output: Any, values: Mapping[str, Any], path: str = ROOT) -> Any:
    """The same JSON with the leaves at some paths replaced: by None to forget a URL, by a permanent link to tell it."""
    if isinstance(output, dict):
        return {key: replace(item, values, f"{path}.{segment(key)}") for key, item in output.items()}
    if isinstance(output, list):
        return [replace(item, values, f"{path}.{index}") for index, item in enumerate(output)]
    return values.get(path, output)

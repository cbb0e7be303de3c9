"""What was stored, or is whole and waits to be: a value, and its form on disk."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from storage.media import Media

_WHOLE = (int,)
_TEXT = (str,)
_MAYBE_WHOLE = (int, type(None))
_RECORD: dict[str, tuple[type, ...]] = {
    "key": _TEXT,
    "size": _WHOLE,
    "sha256": _TEXT,
    "media": (dict,),
    "width": _MAYBE_WHOLE,
    "height": _MAYBE_WHOLE,
    "duration_s": (float, int, type(None)),
    "source": _TEXT,
    "headers": (dict,),
    "verified": (bool,),
}


@dataclass(frozen=True, slots=True)
class Archived:
    """What was stored. `size` is in bytes, `sha256` 64 hex digits, `key` has the bucket's prefix and the ending.

    `source` is the URL, or `data:<type>`. `headers` are the few that prove the file (lower-case names). `verified` is
    False where the server contradicted itself, announced no end or sent words under the ending of a picture, and two
    complete fetches gave equal bytes.
    `width` and `height` are in pixels.
    """

    key: str
    size: int
    sha256: str
    media: Media
    width: int | None
    height: int | None
    duration_s: float | None
    source: str
    headers: dict[str, str]
    verified: bool

    def under(self, stem: str) -> "Archived":
        """The same under another key: `stem` and the ending."""
        return replace(self, key=f"{stem}.{self.media.ending}")

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Archived | None":
        """From JSON; None where it is not what `record` wrote."""
        if set(record) != set(_RECORD) or not all(isinstance(record[name], _RECORD[name]) for name in _RECORD):
            return None
        texts = [*record["media"].values(), *record["headers"].values()]
        if set(record["media"]) != {field.name for field in fields(Media)} or not all(
            isinstance(text, str) for text in texts
        ):
            return None
        return cls(**record | {"media": Media(**record["media"])})

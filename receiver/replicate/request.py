"""What goes to Replicate's API and what comes back, free of any HTTP library."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from receiver.replicate.errors import Unavailable
from receiver.replicate.payload import Unreadable, read_json


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """What to send: `path` below the base URL, already checked; `query` unencoded; `content` whole or in pieces."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | AsyncIterator[bytes] | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """What came back: `headers` with names in lower case, repeated ones joined by commas; `body` as it was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, escaped as `payload.read_json` says; `Unavailable` when it is none."""
        try:
            return read_json(self.body)
        except Unreadable as error:
            raise Unavailable(status=self.status, title=error.reason, maybe_done=True) from None

    def object(self) -> dict[str, Any]:
        """The body as a JSON object; `Unavailable` when it is none."""
        told = self.json()
        if not isinstance(told, dict):
            raise Unavailable(status=self.status, title="The body is no JSON object", maybe_done=True)
        return told

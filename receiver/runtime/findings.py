"""What a look at the set-up finds: how it stands with one thing, in one sentence."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How it stands."""

    OK = "ok"
    WARNING = "warning"  # it works, though not as well as it could, or it could not be looked at
    FAILURE = "failure"  # it can't work: somebody must mend it


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `says` is a plain sentence, with the mend where one is needed."""

    level: Level
    about: str
    says: str


def failed(about: str, says: str) -> Finding:
    return Finding(Level.FAILURE, about, says)

"""Parameters of a query: each known, each at most once, each checked; a wrong one is named in the answer."""

import re
from collections.abc import Collection
from urllib.parse import parse_qsl

from starlette.types import Scope

from receiver.core.clock import timestamp_ms
from receiver.core.event import TYPES
from receiver.web.problems import Problem, WrongParameter

LIMIT, LIMIT_MAX = 100, 1000  # items of a list or events of the feed in one answer
WAIT_S_MAX = 60  # proxies between us and the reader give up soon after
TEXT_LENGTH_MAX = 512
PARAMETERS_MAX = 32
ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)  # of a prediction: no other is in the ledger
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_CURSOR = re.compile(r"\d{1,16}", re.ASCII)


class Parameters:
    """What stands behind the `?` of one request."""

    def __init__(self, scope: Scope, known: Collection[str]) -> None:
        """WrongParameter for a name that is not known or comes twice."""
        self._told: dict[str, str] = {}
        try:
            pairs = parse_qsl(
                scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX
            )
        except ValueError:
            raise Problem(400, "Wrong parameter", f"There are more than {PARAMETERS_MAX} parameters.") from None
        for name, value in pairs:
            if name not in known:
                right = f"one of {', '.join(sorted(known))}" if known else "left out: there are none here"
                raise WrongParameter(name[:64], right)
            if name in self._told:
                raise WrongParameter(name, "there once")
            self._told[name] = value

    def text(self, name: str) -> str | None:
        value = self._told.get(name)
        if value is not None and not 1 <= len(value) <= TEXT_LENGTH_MAX:
            raise WrongParameter(name, f"a text of 1 to {TEXT_LENGTH_MAX} characters")
        return value

    def one_of(self, name: str, choices: Collection[str]) -> str | None:
        value = self._told.get(name)
        if value is not None and value not in choices:
            raise WrongParameter(name, f"one of {', '.join(choices)}")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.one_of(name, ("true", "false"))
        return None if value is None else value == "true"

    def whole(self, name: str, default: int, *, least: int, most: int) -> int:
        value = self._told.get(name)
        if value is None:
            return default
        if not _WHOLE.fullmatch(value) or not least <= int(value) <= most:
            raise WrongParameter(name, f"a whole number from {least} to {most}")
        return int(value)

    def limit(self) -> int:
        return self.whole("limit", LIMIT, least=1, most=LIMIT_MAX)

    def moment_ms(self, name: str) -> int | None:
        value = self._told.get(name)
        # A plus sign in a query means a blank: the zone of a moment that nobody escaped is read as it was meant.
        moment = None if value is None else timestamp_ms(re.sub(r" (?=\d\d:?\d\d$)", "+", value))
        if value is not None and moment is None:
            raise WrongParameter(name, "a moment like 2026-11-22T08:00:00Z")
        return moment

    def event_types(self) -> tuple[str, ...] | None:
        value = self._told.get("type")
        if value is None:
            return None
        types = tuple(value.split(","))
        if not set(types) <= set(TYPES):
            raise WrongParameter("type", f"event types separated by commas: {', '.join(TYPES)}")
        return types


def sequence(name: str, text: str) -> int:
    """The place in the feed that a cursor means; WrongParameter when it is none."""
    if not _CURSOR.fullmatch(text):
        raise WrongParameter(name, "a cursor: the sequence of an event, up to 16 digits")
    return int(text)

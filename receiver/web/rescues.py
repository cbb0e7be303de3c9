"""`POST /api/rescue`: the account's list is read back to a moment, and lost outputs are tried again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.core.clock import iso, iso_or_none, since_ms, timestamp_ms
from receiver.flows.rescue import Rescued
from receiver.runtime.house import House
from receiver.web.bodies import Bodies
from receiver.web.parameters import TEXT_LENGTH_MAX, Parameters
from receiver.web.problems import Problem, json_answer
from receiver.web.requested import json_object

SINCE = "1h"  # as long as Replicate keeps what it made

_KNOWN = frozenset(("since", "before"))


@dataclass(frozen=True, slots=True)
class Rescues:
    """The endpoint; it gives JSON or raises a Problem or an UpstreamError."""

    house: House
    bodies: Bodies

    def routes(self) -> list[Route]:
        return [Route("/api/rescue", self.rescue, methods=["POST"])]

    async def rescue(self, request: Request) -> Response:
        """`since` is a moment or a duration; with `before` on from a `next`. Archiving goes on after the answer."""
        Parameters(request.scope, ())
        told = await json_object(request, self.bodies)
        for name in told:
            if name not in _KNOWN:
                raise _wrong(name[:64], f"one of {', '.join(sorted(_KNOWN))}")
        moment_ms = since_ms(_text(told, "since") or SINCE, now_ms=self.house.now_ms())
        before = _text(told, "before")
        before_ms = timestamp_ms(before)
        if moment_ms is None:
            raise _wrong("since", "a moment like 2026-11-22T08:00:00Z, or a duration like 90m, 6h or 2d")
        if before is not None and before_ms is None:
            raise _wrong("before", "the `next` of the answer before")
        if self.house.rescue.under_way:
            raise Problem(409, "Conflict", "Another rescue is under way; wait until it has ended.")
        return json_answer(_told(await self.house.rescue(moment_ms, before_ms=before_ms)))


def _told(rescued: Rescued) -> dict[str, Any]:
    again: Sequence[Mapping[str, Any]] = [
        {"prediction": each.prediction_id, "path": each.path} for each in rescued.tried_again
    ]
    gone = [{"prediction": each.prediction_id, "path": each.path, "reason": each.reason} for each in rescued.gone]
    return {
        "since": iso(rescued.since_ms),
        "found": rescued.found,
        "updated": rescued.updated,
        "running": rescued.running,
        "settled": rescued.settled,
        "tried_again": again,
        "gone": gone,
        "next": iso_or_none(rescued.next_ms),
        "trouble": rescued.trouble,
    }


def _text(told: Mapping[str, Any], name: str) -> str | None:
    value = told.get(name)
    if value is not None and not (isinstance(value, str) and 1 <= len(value) <= TEXT_LENGTH_MAX):
        raise _wrong(name, f"a text of 1 to {TEXT_LENGTH_MAX} characters")
    return value


def _wrong(name: str, right: str) -> Problem:
    detail = f"The field {name!r} has to be {right}."
    return Problem(422, "Unprocessable entity", detail, body={"parameter": name})

"""`POST /api/deliveries/replay`: verify or read deliveries once more, by id, state or time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.core.clock import since_ms
from receiver.core.delivery import TOLD_STATES
from receiver.core.errors import SecretUnknown
from receiver.flows.replay import Replayed, Selection
from receiver.runtime.house import House
from receiver.web.bodies import Bodies
from receiver.web.parameters import TEXT_LENGTH_MAX, Parameters
from receiver.web.problems import Problem, json_answer, unavailable
from receiver.web.requested import json_object

IDS_MAX = 1_000  # named in one request
_SELECTING = ("state", "received_after", "received_before")
_KNOWN = frozenset(("ids", *_SELECTING, "after", "dry_run"))


@dataclass(frozen=True, slots=True)
class Replays:
    """The endpoint; it gives JSON or raises a Problem."""

    house: House
    bodies: Bodies

    def routes(self) -> list[Route]:
        return [Route("/api/deliveries/replay", self.replay, methods=["POST"])]

    async def replay(self, request: Request) -> Response:
        """Either `ids`, or `state`, `received_after`, `received_before` (moments or durations); with `after` on from a
        `next`."""
        Parameters(request.scope, ())
        told = await json_object(request, self.bodies)
        for name in told:
            if name not in _KNOWN:
                raise _wrong(name[:64], f"one of {', '.join(sorted(_KNOWN))}")
        dry_run = told.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise _wrong("dry_run", "true or false")
        replayed = self._named if "ids" in told else self._selected
        try:
            return _answer(await replayed(told, dry_run=dry_run), dry_run=dry_run)
        except SecretUnknown as error:
            raise unavailable(f"{error} Try again in a moment, or set OUTKEEP_WEBHOOK_SECRETS.") from error

    async def _named(self, told: Mapping[str, Any], *, dry_run: bool) -> Replayed:
        if set(told) - {"ids", "dry_run"}:
            raise _wrong("ids", "without anything else that chooses")
        ids = told["ids"]
        if not isinstance(ids, list) or not 1 <= len(ids) <= IDS_MAX or not all(map(_is_text, ids)):
            raise _wrong("ids", f"a list of 1 to {IDS_MAX} ids of deliveries")
        return await self.house.replay.named(ids, dry_run=dry_run)

    async def _selected(self, told: Mapping[str, Any], *, dry_run: bool) -> Replayed:
        if not any(told.get(name) is not None for name in _SELECTING):
            raise _wrong("ids", f"there, or one of {', '.join(_SELECTING)}: nothing says which deliveries are meant")
        state, after = told.get("state"), told.get("after")
        if state is not None and state not in TOLD_STATES:
            raise _wrong("state", f"one of {', '.join(TOLD_STATES)}")
        if after is not None and not _is_text(after):
            raise _wrong("after", "the `next` of the answer before")
        selection = Selection(state, self._moment_ms(told, "received_after"), self._moment_ms(told, "received_before"))
        try:
            return await self.house.replay.selected(selection, dry_run=dry_run, after=after)
        except ValueError:
            raise _wrong("after", "the `next` of the answer before") from None

    def _moment_ms(self, told: Mapping[str, Any], name: str) -> int | None:
        value = told.get(name)
        moment = since_ms(value, now_ms=self.house.now_ms()) if isinstance(value, str) else None
        if moment is None and value is not None:
            raise _wrong(name, "a moment like 2026-11-22T08:00:00Z, or how long ago it was, like 90m, 6h or 2d")
        return moment


def _answer(replayed: Replayed, *, dry_run: bool) -> Response:
    unknown: Sequence[str] = replayed.unknown
    return json_answer(
        {
            "dry_run": dry_run,
            "let_in": replayed.let_in,
            "read_again": replayed.read_again,
            "still_refused": replayed.still_refused,
            "already_here": replayed.already_here,
            "unknown": unknown,
            "next": replayed.next,
        }
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= TEXT_LENGTH_MAX


def _wrong(name: str, right: str) -> Problem:
    detail = f"The field {name!r} has to be {right}."
    return Problem(422, "Unprocessable entity", detail, body={"parameter": name})

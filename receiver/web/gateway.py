"""Replicate's own API, spoken by us: a prediction has succeeded there only once everything of it is archived.

Paths, headers and bodies follow Replicate's OpenAPI file (operations predictions.*, models.predictions.create,
deployments.predictions.create) and what the official clients make of the answers.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.core.errors import LedgerUnavailable
from receiver.core.prediction import FINAL, Prediction
from receiver.core.telling import replicate_prediction
from receiver.runtime.bell import Ring
from receiver.runtime.house import House
from receiver.runtime.keys import Key
from receiver.web.api import paged
from receiver.web.bodies import Bodies
from receiver.web.parameters import ID, Parameters
from receiver.web.problems import Problem, json_answer, not_found
from receiver.web.requested import json_object

WAIT_S_MAX = 60
"""Of `Prefer: wait`, and what it means without a number (OpenAPI file)."""

LOOK_S = 2.0  # a waiting request looks at least this often, should a ring from another process be lost
WAITS_MAX = 512  # at once; whoever comes then is answered as if its time was over, and there is room for other requests
PAUSE_S = 0.02  # after a ring: changes come in bursts, and one look is enough for a burst
PAGE = 100  # predictions on a page, as Replicate has them

# Ends that are told at once. `succeeded` is told when it is archived; any other word is no end to Replicate's clients.
_ENDED = FINAL - {"succeeded"}
_PATH = re.compile(r"(?:/v1){0,2}((?:/[A-Za-z0-9_][A-Za-z0-9._~-]*)+)", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_WAIT = re.compile(r"wait(?: *= *\"?0*([1-9]\d{0,8})\"?)?", re.ASCII | re.IGNORECASE)
_CANCEL_AFTER = re.compile(r"[0-9hms]{1,16}", re.ASCII)
_LISTED = ("cursor", "created_after", "created_before", "source")


def canonical(path: str, raw_path: bytes) -> str:
    """A path of Replicate's API with exactly one `/v1`; Problem for one that is not plain names and slashes.

    The clients disagree on whether their base URL holds the `/v1`, so none, one and two mean the same. Nothing is
    percent-encoded in Replicate's paths, and what is cannot mean different things to us and to others.
    """
    match = _PATH.fullmatch(path)
    if match is None or not raw_path.endswith(path.encode("ascii")):
        raise Problem(400, "Bad request", "The path is malformed.")
    return "/v1" + match[1]


@dataclass(slots=True)
class Gateway:
    """The endpoints; each gives JSON or raises a Problem or an UpstreamError."""

    house: House
    bodies: Bodies
    _waits: int = 0

    def routes(self) -> list[Route]:
        return [
            Route("/v1/predictions", self.create, methods=["POST"]),
            Route("/v1/predictions", self.predictions, methods=["GET"]),
            Route("/v1/predictions/{id}", self.prediction, methods=["GET"]),
            Route("/v1/predictions/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/models/{owner}/{name}/predictions", self.create, methods=["POST"]),
            Route("/v1/deployments/{owner}/{name}/predictions", self.create, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        names = request.path_params.values()
        if not all(_NAME.fullmatch(name) for name in names):
            raise not_found("There is no model or deployment of this name.")
        preference, cancel_after = _preference(request), request.headers.get("cancel-after")
        if cancel_after is not None and not _CANCEL_AFTER.fullmatch(cancel_after):
            raise Problem(400, "Bad request", "The header Cancel-After has to be a duration like 30s, 5m or 1h30m.")
        body = await json_object(request, self.bodies)
        key: Key | None = request.scope["outkeep.key"]
        path = request.scope["path"].removeprefix("/v1")
        prediction = await self.house.create(
            path, body, key_name=None if key is None else key.name, cancel_after=cancel_after
        )
        headers = {"Location": self.house.links.api(f"/predictions/{prediction.id}")}
        if preference is not None:
            headers["Preference-Applied"] = preference[1]
        try:
            told = await self._made(prediction, None if preference is None else preference[0], request)
        except LedgerUnavailable:  # what is made must not be asked for again, as some clients would after an error
            told = replicate_prediction(replace(prediction, archived_ms=None), (), self.house.links, waiting=True)
        return json_answer(told, 201, headers)

    async def _made(self, prediction: Prediction, wait_s: int | None, request: Request) -> dict[str, Any]:
        """The new prediction, at once or after `wait_s`."""
        if wait_s is None:
            return await self._told(prediction)
        if self._waits < WAITS_MAX:
            self._waits += 1
            try:
                prediction = await self._settled(prediction, wait_s, request)
            finally:
                self._waits -= 1
        return await self._told(prediction, waiting=not _has_ended(prediction))

    async def prediction(self, request: Request) -> Response:
        """Whatever stands behind a `?` is ignored: some add the time, so that nobody caches."""
        prediction_id = _prediction_id(request)
        known = await self.house.ledger.prediction(prediction_id) or await self.house.ask(prediction_id)
        if known is None:
            raise not_found("There is no prediction of this id.")
        return json_answer(await self._told(known))

    async def cancel(self, request: Request) -> Response:
        return json_answer(await self._told(await self.house.cancel(_prediction_id(request))))

    async def predictions(self, request: Request) -> Response:
        """A page of what the ledger knows, whoever created it. `source=web` leaves out what came by the API."""
        asked = Parameters(request.scope, _LISTED)
        source = asked.one_of("source", ("web",))
        wanted = self.house.ledger.predictions(
            created_after_ms=asked.moment_ms("created_after"),
            created_before_ms=asked.moment_ms("created_before"),
            after=asked.text("cursor"),
            limit=PAGE,
        )
        page = await paged(wanted, "cursor")
        shown = [item for item in page.items if source is None or item.told.get("source") == source]
        outputs = await self.house.ledger.outputs_of([item.id for item in shown])
        told = [replicate_prediction(item, outputs.get(item.id, []), self.house.links) for item in shown]
        return json_answer({"next": self._page_url(request, page.next), "previous": None, "results": told})

    def _page_url(self, request: Request, following: str | None) -> str | None:
        """Absolute, since two of the official clients make a wrong address of a relative one."""
        if following is None:
            return None
        query: Mapping[str, str] = {**request.query_params, "cursor": following}
        return f"{self.house.links.api('/predictions')}?{urlencode(query)}"

    async def _told(self, prediction: Prediction, *, waiting: bool = False) -> dict[str, Any]:
        outputs = await self.house.ledger.outputs(prediction.id)
        return replicate_prediction(prediction, outputs, self.house.links, waiting=waiting)

    async def _settled(self, prediction: Prediction, wait_s: int, request: Request) -> Prediction:
        """The prediction once it has ended for its client, or as it is when the time is up or the client has left."""
        bell, clock = self.house.bell, asyncio.get_running_loop().time
        until_s = clock() + wait_s
        closing: asyncio.Event = request.scope["outkeep.closing"]
        while True:
            seen = bell.count(Ring.PREDICTIONS)
            prediction = await self.house.ledger.prediction(prediction.id) or prediction
            left_s = until_s - clock()
            if _has_ended(prediction) or left_s <= 0 or closing.is_set() or await request.is_disconnected():
                return prediction
            await bell.wait(Ring.PREDICTIONS, seen=seen, timeout_s=min(left_s, LOOK_S))
            await asyncio.sleep(min(PAUSE_S, left_s))


def _has_ended(prediction: Prediction) -> bool:
    return prediction.archived_ms is not None or prediction.status in _ENDED


def _prediction_id(request: Request) -> str:
    prediction_id: str = request.path_params["id"]
    if not ID.fullmatch(prediction_id):
        raise not_found("There is no prediction of this id.")
    return prediction_id


def _preference(request: Request) -> tuple[int, str] | None:
    """What `Prefer: wait` asks for: seconds, 1 to 60, and the words that say it was heard. None without it.

    What can't be honoured is ignored (RFC 7240, which leaves cases and blanks open, too).
    """
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        match = _WAIT.fullmatch(preference.strip())
        if match:
            wait_s = min(int(match[1] or WAIT_S_MAX), WAIT_S_MAX)
            return wait_s, f"wait={wait_s}" if match[1] else "wait"
    return None

"""`/api`: the ledger as JSON, newest first, a page at a time."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.core.clock import iso
from receiver.core.delivery import TOLD_STATES, Delivery
from receiver.core.output import Output, OutputState
from receiver.core.redact import REDACTED, redact, redact_text, redact_unread
from receiver.core.telling import api_output, api_prediction
from receiver.runtime.house import House
from receiver.web.parameters import ID, Parameters
from receiver.web.problems import WrongParameter, json_answer, not_found

PARTS_MAX = 1000  # deliveries shown with one prediction; Replicate sends two for each

SHOWN_BYTES_MAX = 1024 * 1024
"""Of a delivery's body. The rest is in the ledger; a longer body would hold up everybody while it is redacted."""

STATUSES = ("starting", "processing", "succeeded", "failed", "canceled", "aborted")  # in the order of a life

_SECRET_HEADERS = ("auth", "cookie", "signature", "token", "secret", "key", "jwt", "session", "credential", "passw")
_PAGING = ("after", "limit")
_WEBHOOK_ID = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Api:
    """The endpoints; each gives JSON or raises a Problem."""

    house: House

    def routes(self) -> list[Route]:
        endpoints: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
            "/api/predictions": self.predictions,
            "/api/predictions/{id}": self.prediction,
            "/api/deliveries": self.deliveries,
            "/api/deliveries/{id:path}": self.delivery,
            "/api/outputs": self.outputs,
        }
        return [Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]

    async def predictions(self, request: Request) -> Response:
        known = (*_PAGING, "status", "model", "key", "archived", "created_after", "created_before")
        asked = Parameters(request.scope, known)
        after = asked.text("after")
        wanted = self.house.ledger.predictions(
            status=asked.one_of("status", STATUSES),
            model=asked.text("model"),
            key_name=asked.text("key"),
            archived=asked.flag("archived"),
            created_after_ms=asked.moment_ms("created_after"),
            created_before_ms=asked.moment_ms("created_before"),
            after=after,
            limit=asked.limit(),
        )
        page = await paged(wanted, "after")
        outputs = await self.house.ledger.outputs_of([prediction.id for prediction in page.items])
        links = self.house.links
        return listed([api_prediction(item, outputs.get(item.id, []), links) for item in page.items], page.next)

    async def prediction(self, request: Request) -> Response:
        Parameters(request.scope, ())
        ledger, prediction_id = self.house.ledger, request.path_params["id"]
        prediction = await ledger.prediction(prediction_id) if ID.fullmatch(prediction_id) else None
        if prediction is None:
            raise not_found("There is no prediction of this id in the ledger.")
        outputs, updates, events, deliveries = await asyncio.gather(
            ledger.outputs(prediction_id),
            ledger.updates(prediction_id),
            ledger.events(prediction_id),
            ledger.deliveries(prediction_id=prediction_id, limit=PARTS_MAX),
        )
        told = api_prediction(prediction, outputs, self.house.links)
        told["updates"] = [
            {
                "received_at": iso(update.received_ms),
                "source": update.source,
                "status": update.status,
                "delivery": update.delivery_id,
            }
            for update in updates
        ]
        told["deliveries"] = [told_delivery(delivery) for delivery in deliveries.items]
        told["events"] = [{"id": event.id, "type": event.type} for event in events]
        return json_answer(told)

    async def deliveries(self, request: Request) -> Response:
        asked = Parameters(request.scope, (*_PAGING, "state", "prediction"))
        wanted = self.house.ledger.deliveries(
            state=asked.one_of("state", TOLD_STATES),
            prediction_id=asked.text("prediction"),
            after=asked.text("after"),
            limit=asked.limit(),
        )
        page = await paged(wanted, "after")
        return listed([told_delivery(delivery) for delivery in page.items], page.next)

    async def delivery(self, request: Request) -> Response:
        Parameters(request.scope, ())
        webhook_id = request.path_params["id"]
        delivery = await self.house.ledger.delivery(webhook_id) if _WEBHOOK_ID.fullmatch(webhook_id) else None
        if delivery is None:
            raise not_found("There is no delivery of this id in the ledger; old ones are removed after a while.")
        named = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in delivery.headers)
        headers = [[name, _shown_header(name, value)] for name, value in named]
        shown = await asyncio.to_thread(_shown_body, delivery.body)
        return json_answer({**told_delivery(delivery), "headers": headers, "size": len(delivery.body), **shown})

    async def outputs(self, request: Request) -> Response:
        asked = Parameters(request.scope, (*_PAGING, "state", "prediction", "at_risk"))
        state, at_risk = asked.one_of("state", tuple(OutputState)), asked.flag("at_risk")
        if at_risk and state not in (None, OutputState.PENDING):
            raise WrongParameter("at_risk", "without a state, or with state=pending: nothing else can be at risk")
        wanted = self.house.ledger.list_outputs(
            state=OutputState.PENDING if at_risk else state,
            prediction_id=asked.text("prediction"),
            at_risk_before_ms=self.house.risky_before_ms() if at_risk else None,
            after=asked.text("after"),
            limit=asked.limit(),
        )
        page = await paged(wanted, "after")
        items: Sequence[Output] = page.items
        return listed([api_output(output, self.house.links) for output in items], page.next)


async def paged(wanted: Awaitable[Any], name: str) -> Any:
    """A page of the ledger; WrongParameter when the cursor in the parameter `name` is not one of ours."""
    try:
        return await wanted
    except ValueError:
        raise WrongParameter(name, "the `next` of the page before") from None


def listed(items: list[dict[str, Any]], following: str | None) -> Response:
    return json_answer({"items": items, "next": following})


def told_delivery(delivery: Delivery) -> dict[str, Any]:
    """A delivery without what it carried."""
    return {
        "id": delivery.id,
        "received_at": iso(delivery.received_ms),
        "state": delivery.state.told,
        "reason": delivery.reason,
        "prediction": delivery.prediction_id,
        "repeats": delivery.repeats,
    }


def _shown_header(name: str, value: str) -> str:
    return REDACTED if any(part in name.lower() for part in _SECRET_HEADERS) else redact_text(value)


def _shown_body(body: bytes) -> dict[str, Any]:
    """The body with its secrets redacted: as `body` when it is JSON, else its beginning as `text`."""
    if len(body) <= SHOWN_BYTES_MAX:
        try:
            told = redact(json.loads(body))
            json.dumps(told, allow_nan=False)
        except (ValueError, RecursionError):
            pass
        else:
            return {"body": told}
    return {"text": redact_unread(body[:SHOWN_BYTES_MAX].decode("utf-8", "replace"))}

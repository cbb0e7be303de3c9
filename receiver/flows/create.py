"""Creating: an intent on disk, then Replicate with our webhook, then what it said."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from receiver.core.errors import LedgerUnavailable, MaybeMade, UpstreamError
from receiver.core.links import Links
from receiver.core.prediction import Prediction, Source, Update
from receiver.core.redact import redact
from receiver.flows.observe import Observe
from receiver.flows.upstream import bad_gateway, problem
from receiver.ledger.ledger import Ledger
from receiver.ledger.nouns import Intent, IntentState
from receiver.replicate.client import Replicate
from receiver.replicate.errors import ReplicateError
from receiver.replicate.payload import Unreadable, read_update

# We need to know that it began and how it ended; everything between is noise that Replicate never retries.
WEBHOOK_EVENTS = ("start", "completed")

# Replicate has room for one webhook, and that is ours. To drop the caller's without a word would lose what it was for.
_WEBHOOK_FIELDS = ("webhook", "webhook_completed", "webhook_events_filter")
NO_WEBHOOK = "Outkeep does not call webhooks of your own yet: leave `webhook` out and read GET /events instead."

# Whoever asks again on its own would have, and pay for, two of them.
MAYBE_MADE = (
    "Replicate did not answer properly, and may have made the prediction all the same. If it has, it is kept and shows"
    " up in the list of predictions: look there before you ask for another one."
)
MADE = (
    "Replicate has made prediction {id}, but the ledger could not take that in. It is kept, and shows up in the list of"
    " predictions, once the ledger can be written: look there before you ask for another one."
)

log = logging.getLogger("outkeep.create")


@dataclass(frozen=True, slots=True)
class Create:
    """Have Replicate make a prediction, and know it from then on."""

    ledger: Ledger
    replicate: Replicate
    observe: Observe
    links: Links
    token: Callable[[], str]
    now_ms: Callable[[], int]
    asks_for_webhook: bool
    _under_way: set[asyncio.Task[Prediction]] = field(default_factory=set)

    async def __call__(
        self, path: str, body: Mapping[str, Any], *, key_name: str | None, cancel_after: str | None = None
    ) -> Prediction:
        """`path` is one of Replicate's creating routes (`/predictions`, `/models/{owner}/{name}/predictions` …).

        Raises UpstreamError with what Replicate said, MaybeMade where asking again would be wrong, LedgerUnavailable
        when nothing was asked of it. A caller that leaves stops nothing: what Replicate was asked for is paid for, and
        recorded.
        """
        if any(body.get(name) is not None for name in _WEBHOOK_FIELDS):
            raise UpstreamError(422, {"title": "Unprocessable entity", "detail": NO_WEBHOOK, "status": 422})
        task = asyncio.create_task(self._made(path, body, key_name, cancel_after))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Prediction]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: whoever left does not hear of it

    async def _made(
        self, path: str, body: Mapping[str, Any], key_name: str | None, cancel_after: str | None
    ) -> Prediction:
        token = self.token()
        await self.ledger.intend(
            Intent(token=token, made_ms=self.now_ms(), key_name=key_name, path=path, request=redact({**body}))
        )
        try:
            told = await self._ask(path, self._with_webhook(body, token), cancel_after)
            update = read_update(told, source=Source.CREATE, received_ms=self.now_ms())
        except ReplicateError as error:
            await self._resolved(token, IntentState.UNCLEAR if error.maybe_done else IntentState.REJECTED)
            raise (_maybe_made(MAYBE_MADE) if error.maybe_done else problem(error)) from error
        except Unreadable as error:
            await self._resolved(token, IntentState.UNCLEAR)
            raise _maybe_made(MAYBE_MADE) from error
        prediction = await self._recorded(update, key_name)
        await self._resolved(token, IntentState.KNOWN, prediction.id)
        return prediction

    async def _recorded(self, update: Update, key_name: str | None) -> Prediction:
        """Whatever keeps us from it: the prediction is made, and must not be asked for again."""
        try:
            (prediction,) = await self.observe([update], key_name=key_name)
        except Exception as error:
            foreseen = isinstance(error, LedgerUnavailable)
            told = "prediction %s is made, but not recorded yet: %s"
            log.warning(told, update.prediction_id, error, exc_info=not foreseen)
            raise _maybe_made(MADE.format(id=update.prediction_id)) from error
        return prediction

    async def _resolved(self, token: str, state: str, prediction_id: str | None = None) -> None:
        """Keep what became of the request. What can't be kept now is found out again from the list."""
        try:
            await self.ledger.resolve_intent(token, state=state, prediction_id=prediction_id)
        except LedgerUnavailable as error:
            log.warning("what became of a request is not recorded: %s", error)

    async def _ask(self, path: str, body: Mapping[str, Any], cancel_after: str | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | ({"Cancel-After": cancel_after} if cancel_after else {})
        content = json.dumps(body).encode("ascii")
        answer = await self.replicate.request("POST", path, headers=headers, content=content, creating=True)
        return answer.object()

    def _with_webhook(self, body: Mapping[str, Any], token: str) -> dict[str, Any]:
        if not self.asks_for_webhook:
            return dict(body)
        return {**body, "webhook": self.links.webhook(token), "webhook_events_filter": list(WEBHOOK_EVENTS)}


def _maybe_made(sentence: str) -> MaybeMade:
    return MaybeMade(502, {"title": "Bad gateway", "detail": sentence, "status": 502})


@dataclass(frozen=True, slots=True)
class Cancel:
    """Have Replicate stop a prediction."""

    replicate: Replicate
    observe: Observe
    now_ms: Callable[[], int]

    async def __call__(self, prediction_id: str) -> Prediction:
        """The prediction as known afterwards. Raises UpstreamError."""
        try:
            told = await self.replicate.cancel(prediction_id)
            update = read_update(told, source=Source.POLL, received_ms=self.now_ms())
        except ReplicateError as error:
            raise problem(error) from error
        except Unreadable as error:
            raise bad_gateway(error.reason) from error
        (prediction,) = await self.observe([update])
        return prediction

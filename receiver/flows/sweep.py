"""The account's own list against the ledger: predictions that nobody told us about are found and kept, too."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from receiver.core.clock import iso, since_ms, timestamp_ms
from receiver.core.errors import LedgerRefused, LedgerUnavailable, UpstreamError
from receiver.core.prediction import FINAL, Source, Update
from receiver.flows.reconcile import QUESTIONS_MAX, Ask
from receiver.ledger.ledger import Ledger
from receiver.replicate.client import Page
from receiver.replicate.errors import ReplicateError
from receiver.replicate.payload import Unreadable, read_update

log = logging.getLogger("outkeep.sweep")

# Facts in the ledger. Where a sweep broke off, what is newer has been read; the next one sees to the rest, too.
WATERMARK = "swept_ms"  # when the last sweep began that read the list, but for the rest
REST = "unswept_ms"  # `from-to`: created in between, not read yet


@dataclass(slots=True)
class Walk:
    """What a walk down the list brought: ids that were new to us, that we knew less of, that are not final yet.

    `settled` counts those whose end we knew; `down_to_ms` is when the oldest of those read was created; `error` what
    ended the walk too early, if anything did.
    """

    found: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    settled: int = 0
    down_to_ms: int | None = None
    whole: bool = False
    error: ReplicateError | None = None

    @property
    def news(self) -> int:
        return len(self.found) + len(self.updated)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Read the list newest first, back to an output's life before the last complete sweep."""

    ledger: Ledger
    ask: Ask
    output_ttl_ms: int
    now_ms: Callable[[], int]

    async def step(self) -> int:
        """Gives how many predictions told us something."""
        return (await self.run()).news

    async def run(self) -> Walk:
        """Sweep once. One that breaks off is taken up by the next: the newest first, then what was left.

        Several processes that sweep at once do no harm: what they read is merged, and the facts stay true.
        """
        began_ms = self.now_ms()
        swept_ms = await self.ledger.fact(WATERMARK)
        rest = _span(await self.ledger.fact(REST))
        # The earlier of both: a clock that was put back must not have a sweep look at the future alone.
        back_to_ms = min(began_ms, began_ms if swept_ms is None else int(swept_ms)) - self.output_ttl_ms
        walk = await self.walk(back_to_ms)
        if walk.error is not None:
            log.warning("the account's list could not be read to its end; the next sweep goes on: %s", walk.error)
        if not walk.whole and walk.down_to_ms is None:
            return walk
        if not walk.whole and walk.down_to_ms is not None:
            rest = _joined((back_to_ms, walk.down_to_ms), rest)
        elif rest is not None:
            below = await self.walk(rest[0], before_ms=rest[1] + 1)
            rest = None if below.whole else (rest[0], min(rest[1], below.down_to_ms or rest[1]))
            walk.found += below.found
            walk.updated += below.updated
            walk.running |= below.running
            walk.whole, walk.error = below.whole, below.error
        await self.ledger.set_fact(REST, "" if rest is None else f"{rest[0]}-{rest[1]}")
        await self.ledger.set_fact(WATERMARK, str(began_ms))
        return walk

    async def look_back(self, told: str) -> None:
        """Have the next sweep look back at least to a moment or by a duration, as `since_ms` reads it."""
        moment_ms = since_ms(told, now_ms=self.now_ms())
        if moment_ms is None:
            raise ValueError("neither a moment nor a duration")
        swept_ms = await self.ledger.fact(WATERMARK)
        enough_ms = moment_ms + self.output_ttl_ms
        await self.ledger.set_fact(WATERMARK, str(enough_ms if swept_ms is None else min(enough_ms, int(swept_ms))))

    async def walk(self, back_to_ms: int, *, before_ms: int | None = None, until_ms: int | None = None) -> Walk:
        """Merge what the list says of predictions created in [back_to, before), newest first.

        Ends early when it is `until_ms`, and where Replicate gives no further page.
        """
        walk = Walk()
        before = None if before_ms is None else iso(before_ms)
        try:
            async for page in self.ask.replicate.pages(created_after=iso(max(0, back_to_ms)), created_before=before):
                await self._page(page, walk)
                created = list(_created(page))
                walk.down_to_ms = min([*created, *([] if walk.down_to_ms is None else [walk.down_to_ms])], default=None)
                if page.next is None or (len(created) == len(page.results) > 0 and max(created) < back_to_ms):
                    break
                if until_ms is not None and self.now_ms() >= until_ms:
                    return walk
        except ReplicateError as error:
            walk.error = error
            return walk
        walk.whole = True
        return walk

    async def _page(self, page: Page, walk: Walk) -> None:
        updates = [update for told in page.results if (update := self._read(told)) is not None]
        known = await self.ledger.statuses([update.prediction_id for update in updates])
        same = [each.prediction_id for each in updates if each.status == known.get(each.prediction_id) not in FINAL]
        due = await self.ledger.questions_due(same) if same else set()
        fresh = [each for each in updates if known.get(each.prediction_id) not in {*FINAL, each.status}]
        heard = [each for each in updates if each.prediction_id in due]  # nothing new, but they need not be asked about
        if fresh or heard:
            await self._observed([*await self._completed(fresh), *heard])
        walk.found += [each.prediction_id for each in fresh if each.prediction_id not in known]
        walk.updated += [each.prediction_id for each in fresh if each.prediction_id in known]
        walk.settled += sum(status in FINAL for status in known.values())
        walk.running |= {each.prediction_id for each in fresh if each.status not in FINAL}

    async def _completed(self, updates: Sequence[Update]) -> list[Update]:
        """Those whose item was all there is. Where it ends a prediction without a word on its output, we ask for it."""
        lean = [each for each in updates if _lacks_output(each)]
        asked: dict[str, bool] = {}
        for start in range(0, len(lean), QUESTIONS_MAX):
            some = [each.prediction_id for each in lean[start : start + QUESTIONS_MAX]]
            asked |= zip(some, await asyncio.gather(*map(self._asked, some)), strict=True)
        return [each for each in updates if not asked.get(each.prediction_id)]

    async def _asked(self, prediction_id: str) -> bool:
        try:
            return await self.ask(prediction_id) is not None
        except UpstreamError:
            return False

    async def _observed(self, fresh: Sequence[Update]) -> None:
        """Merge them, one by one where they can't be together: one that is not to be had must not hide the others."""
        if not fresh:
            return
        try:
            await self.ask.observe(fresh)
        except Exception as error:
            if isinstance(error, LedgerUnavailable) and not isinstance(error, LedgerRefused):
                raise
            if len(fresh) == 1:
                log.exception("prediction %s of the account's list could not be processed", fresh[0].prediction_id)
            else:
                for update in fresh:
                    await self._observed([update])

    def _read(self, told: object) -> Update | None:
        if not isinstance(told, dict):
            return None
        try:
            return read_update(told, source=Source.SWEEP, received_ms=self.now_ms())
        except Unreadable:
            return None


def _lacks_output(update: Update) -> bool:
    ended = update.status in FINAL and update.status != "failed"
    return ended and "output" not in update.told and update.told.get("data_removed") is not True


def _created(page: Page) -> Iterator[int]:
    return (ms for told in page.results if (ms := timestamp_ms(told.get("created_at"))) is not None)


def _span(told: str | None) -> tuple[int, int] | None:
    begin, dash, end = (told or "").partition("-")
    return (int(begin), int(end)) if dash else None


def _joined(span: tuple[int, int], other: tuple[int, int] | None) -> tuple[int, int]:
    return span if other is None else (min(span[0], other[0]), max(span[1], other[1]))

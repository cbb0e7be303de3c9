"""The account's own list against the ledger: predictions that nobody told us about are found and kept, too."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from receiver.core.clock import iso, timestamp_ms
from receiver.core.errors import LedgerRefused, LedgerUnavailable
from receiver.core.prediction import FINAL, Source, Update
from receiver.flows.observe import Observe
from receiver.ledger.ledger import Ledger
from receiver.replicate.client import Page, Replicate
from receiver.replicate.errors import ReplicateError
from receiver.replicate.payload import Unreadable, read_update

log = logging.getLogger("outkeep.sweep")

WATERMARK = "swept_ms"  # the fact in the ledger: when the last complete sweep began


@dataclass(frozen=True, slots=True)
class Sweep:
    """Read the list newest first, back to an output's life before the last complete sweep."""

    ledger: Ledger
    replicate: Replicate
    observe: Observe
    output_ttl_ms: int
    now_ms: Callable[[], int]

    async def step(self) -> int:
        """Gives how many predictions told us something; a sweep that broke off is begun again by the next one."""
        began_ms = self.now_ms()
        swept_ms = await self.ledger.fact(WATERMARK)
        back_to_ms = (began_ms if swept_ms is None else int(swept_ms)) - self.output_ttl_ms
        news = 0
        try:
            async for page in self.replicate.pages(created_after=iso(max(0, back_to_ms))):
                news += await self._page(page)
                if _older(page, back_to_ms):
                    break
        except ReplicateError:
            return news
        await self.ledger.set_fact(WATERMARK, str(began_ms))
        return news

    async def _page(self, page: Page) -> int:
        updates = [update for told in page.results if (update := self._read(told)) is not None]
        known = await self.ledger.statuses([update.prediction_id for update in updates])
        fresh = [update for update in updates if known.get(update.prediction_id) not in {*FINAL, update.status}]
        if fresh:
            await self._observed(fresh)
        return len(fresh)

    async def _observed(self, fresh: Sequence[Update]) -> None:
        """Merge them, one by one where they can't be together: one that is not to be had must not hide the others."""
        try:
            await self.observe(fresh)
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


def _older(page: Page, moment_ms: int) -> bool:
    created = [timestamp_ms(told.get("created_at")) for told in page.results]
    return bool(created) and all(ms is not None and ms < moment_ms for ms in created)

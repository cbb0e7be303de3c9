"""Once more: what was not verified is verified again over its own bytes, what was signed is read again."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from receiver.core.delivery import Delivery, DeliveryState
from receiver.core.errors import SecretUnknown
from receiver.core.ring import Ring
from receiver.ledger.ledger import Ledger
from receiver.replicate.secrets import SigningSecrets
from receiver.replicate.signature import Secret, Unverified, verify

PAGE = 100  # deliveries in one small transaction; with the bodies of unverified calls 26 MB at most
PAGES_MAX = 60
"""In one call: more than the quarantine holds, so that a dry run sees all of it."""

BUSY_S_MAX = 5.0
"""After so long a run says where to go on: nobody waits in vain for an answer, and a stop not for more than a page."""

_PLACE = re.compile(r"(\d{1,18})\.(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Selection:
    """Deliveries told as being in this state, received in [after, before); None does not choose."""

    state: DeliveryState | str | None = None
    received_after_ms: int | None = None
    received_before_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of how many, or in a dry run would: `let_in` were verified after all, `already_here` likewise but
    their webhook's id is there, `read_again` were signed, `still_refused` were not. `next` is where to go on."""

    let_in: int
    read_again: int
    still_refused: int
    already_here: int
    unknown: Sequence[str] = ()
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """Replaying twice changes nothing more: webhooks are let in under their own ids, and events keep theirs."""

    ledger: Ledger
    secrets: SigningSecrets
    ring: Callable[..., None]
    clock: Callable[[], float]  # seconds that never go back

    async def named(self, ids: Collection[str], *, dry_run: bool) -> Replayed:
        """Replay the deliveries with these ids. SecretUnknown as long as there is none to verify a call with."""
        wanted = list(dict.fromkeys(ids))
        seen: set[str] = set()
        tally, claimed = Counter[str](), set[str]()
        for start in range(0, len(wanted), PAGE):
            page = await self.ledger.replayable_by_id(wanted[start : start + PAGE])
            seen.update(delivery.id for delivery in page)
            tally += await self._page(page, claimed, dry_run=dry_run)
        return _replayed(tally, unknown=[each for each in wanted if each not in seen])

    async def selected(self, selection: Selection, *, dry_run: bool, after: str | None = None) -> Replayed:
        """Replay what is there now, oldest first; as much as one call may, `after` is the `next` of the one before.

        ValueError when `after` is none; SecretUnknown as in `named`.
        """
        began_s = self.clock()
        place, until = (0, await self.ledger.newest_delivery()) if after is None else _place(after)
        tally, claimed = Counter[str](), set[str]()
        for _ in range(PAGES_MAX):
            page = await self.ledger.replayable(
                state=selection.state,
                received_after_ms=selection.received_after_ms,
                received_before_ms=selection.received_before_ms,
                after=place,
                until=until,
                limit=PAGE,
            )
            tally += await self._page(page, claimed, dry_run=dry_run)
            if len(page) < PAGE:
                return _replayed(tally)
            place = page[-1].sequence
            if not dry_run and self.clock() - began_s >= BUSY_S_MAX:
                break
        return _replayed(tally, following=f"{place}.{until}")

    async def _page(self, page: Sequence[Delivery], claimed: set[str], *, dry_run: bool) -> Counter[str]:
        """One page, counted by what became of it; `claimed` are the ids that a dry run would have let in so far."""
        refused = [delivery for delivery in page if delivery.state is DeliveryState.UNVERIFIED]
        signed = [delivery.sequence for delivery in page if delivery.state is not DeliveryState.UNVERIFIED]
        verified = await self._verified(refused) if refused else {}
        if dry_run:
            new = set(verified.values()) - claimed
            new -= await self.ledger.known_deliveries(new)
            claimed |= new
        else:
            new = await self.ledger.let_in(verified) if verified else set()
            if signed:
                await self.ledger.read_again(signed)
            if new or signed:
                self.ring(Ring.DELIVERIES)
        return Counter(
            let_in=len(new),
            read_again=len(signed),
            still_refused=len(refused) - len(verified),
            already_here=len(verified) - len(new),
        )

    async def _verified(self, refused: Sequence[Delivery]) -> dict[int, str]:
        """By `sequence` the webhook's own id of each call that a secret of today explains."""
        known = await self.secrets.known()
        if not known:
            raise SecretUnknown("No signing secret is known: Replicate could not be asked for it.")
        found = await asyncio.to_thread(_explained, refused, known)
        if len(found) < len(refused) and await self.secrets.refetched():
            found = await asyncio.to_thread(_explained, refused, await self.secrets.known())
        return found


def _explained(refused: Sequence[Delivery], secrets: Sequence[Secret]) -> dict[int, str]:
    """Each is judged as of the moment when it was received: one that was sent too late then, is too late for ever."""
    found: dict[int, str] = {}
    for call in refused:
        try:
            verdict = verify(body=call.body, headers=call.headers, secrets=secrets, now_s=call.received_ms // 1000)
        except Unverified:
            continue
        found[call.sequence] = verdict.webhook_id
    return found


def _place(after: str) -> tuple[int, int]:
    match = _PLACE.fullmatch(after)
    if match is None:
        raise ValueError("This is not where a replay ended.")
    return int(match[1]), int(match[2])


def _replayed(tally: Counter[str], *, unknown: Sequence[str] = (), following: str | None = None) -> Replayed:
    return Replayed(
        let_in=tally["let_in"],
        read_again=tally["read_again"],
        still_refused=tally["still_refused"],
        already_here=tally["already_here"],
        unknown=unknown,
        next=following,
    )

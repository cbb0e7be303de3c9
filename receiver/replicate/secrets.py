"""The secrets that webhooks may be signed with: configured, or fetched from Replicate, again and with restraint."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from receiver.replicate.errors import ReplicateError
from receiver.replicate.signature import Secret

REFETCH_EVERY_S = 10.0
"""At most one request in so many seconds, however many forged webhooks come in: 6 a minute of Replicate's 3,000."""

FETCH_S_MAX = 4.0
"""A webhook waits for a fetch, and Replicate wants its answer "within a few seconds"."""

KEPT_S = 24 * 3600.0
"""How long a replaced secret still verifies. Replicate documents no rotation; a day is what others overlap."""

PREVIOUS_MAX = 3
"""Replaced secrets kept: each costs an HMAC for every forged webhook."""


@dataclass(frozen=True, slots=True)
class _Previous:
    secret: Secret
    until_s: float


class SigningSecrets:
    """Either the `configured` ones and no others, or what `fetch` gives. `clock` gives seconds that never go back."""

    def __init__(
        self,
        *,
        configured: Sequence[Secret] = (),
        fetch: Callable[[], Awaitable[Secret]],
        clock: Callable[[], float],
    ) -> None:
        self._configured = tuple(configured)
        self._fetch = fetch
        self._clock = clock
        self._current: Secret | None = None
        self._previous: tuple[_Previous, ...] = ()
        self._fetching: asyncio.Task[None] | None = None
        self._fetched_s = -float("inf")
        self._learnt = False  # whether the last fetch brought a secret that we did not have
        self.problem: str | None = None

    def at_hand(self) -> Sequence[Secret]:
        """What `known` would give without asking anybody."""
        return self._configured or self._usable()

    async def known(self) -> Sequence[Secret]:
        """The secrets to try, newest first. While there is none they are fetched here; empty when that failed."""
        if self._configured:
            return self._configured
        if self._current is None:
            await self._refresh()
        return self._usable()

    async def refetched(self) -> bool:
        """After a signature that no known secret explains: is there one now that may not have been tried?

        Shares one fetch with everybody who asks meanwhile, and asks Replicate at most once in `REFETCH_EVERY_S`; those
        who come later in that time hear what the last one brought, for they may have verified before it ended.
        """
        if self._configured:
            return False
        await self._refresh()
        return self._learnt

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next fetch may be tried: what to tell a webhook while no secret is known."""
        return max(1.0, self._fetched_s + REFETCH_EVERY_S - self._clock())

    async def aclose(self) -> None:
        """Give up a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def _refresh(self) -> None:
        if self._fetching is None:
            if self._clock() - self._fetched_s < REFETCH_EVERY_S:
                return
            self._fetched_s = self._clock()
            self._fetching = asyncio.create_task(self._learn())
        # A caller who goes away must not take the fetch from the others.
        await asyncio.shield(self._fetching)

    async def _learn(self) -> None:
        self._learnt = False
        try:
            async with asyncio.timeout(FETCH_S_MAX):
                secret = await self._fetch()
        except (ReplicateError, TimeoutError) as error:
            self.problem = str(error) or f"Replicate gave no webhook secret within {FETCH_S_MAX:g} s."
        else:
            self._learnt = secret not in self._usable()
            self._take(secret)
            self.problem = None
        finally:
            self._fetching = None

    def _take(self, secret: Secret) -> None:
        replaced = self._previous
        if self._current is not None and self._current != secret:
            replaced = (_Previous(self._current, self._clock() + KEPT_S), *replaced)
        self._previous = tuple(item for item in replaced if item.secret != secret)[:PREVIOUS_MAX]
        self._current = secret

    def _usable(self) -> tuple[Secret, ...]:
        if self._current is None:
            return ()
        now_s = self._clock()
        return (self._current, *(item.secret for item in self._previous if item.until_s > now_s))

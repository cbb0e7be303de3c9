"""A signed call from Replicate: verified over its bytes, on disk, and only then acknowledged."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from receiver.core.delivery import Delivery
from receiver.core.errors import LedgerFull, LedgerUnavailable, SecretUnknown
from receiver.core.ring import Ring
from receiver.flows.quarantine import Quarantine
from receiver.ledger.ledger import Ledger
from receiver.replicate.secrets import SigningSecrets
from receiver.replicate.signature import Reason, Secret, Unverified, Verified, verify

Headers = Sequence[tuple[bytes, bytes]]

_LARGE_BODY_BYTES = 256 * 1024  # to hash more than this would hold up everybody on the event loop


@dataclass(frozen=True, slots=True)
class Accept:
    """Take one webhook. When this returns, the delivery is durable: answer 2xx, and not before."""

    ledger: Ledger
    secrets: SigningSecrets
    quarantine: Quarantine
    now_ms: Callable[[], int]
    ring: Callable[..., None]

    async def __call__(self, body: bytes, headers: Headers, token: str | None = None) -> None:
        """Raises Unverified, SecretUnknown (the quarantine may have room for it); LedgerFull, LedgerUnavailable.

        Nothing was promised then.
        """
        received_ms = self.now_ms()
        try:
            verified = await self._verified(body, headers, received_ms // 1000)
        except (Unverified, SecretUnknown) as verdict:
            reason = verdict.reason if isinstance(verdict, Unverified) else None
            self.quarantine.keep(body, headers, token=token, received_ms=received_ms, reason=reason)
            raise
        delivery = Delivery(
            id=verified.webhook_id,
            received_ms=received_ms,
            body=body,
            headers=headers,
            token=token,
        )
        if await self.ledger.accept(delivery):
            self.ring(Ring.DELIVERIES)

    def begin(self, body: bytes, headers: Headers, token: str | None) -> "asyncio.Future[bool] | None":
        """The short way, for who can't await and a call that is in order: done once the delivery is durable.

        None for any other call, about which nothing was done: only the long way tells what is wrong with it. LedgerFull
        is told at once, here or as the outcome: trying again would make it worse.
        """
        received_ms = self.now_ms()
        try:
            verified = verify(body=body, headers=headers, secrets=self.secrets.at_hand(), now_s=received_ms // 1000)
            kept = self.ledger.begin(
                Delivery(id=verified.webhook_id, received_ms=received_ms, body=body, headers=headers, token=token)
            )
        except LedgerFull:
            raise
        except (Unverified, LedgerUnavailable):
            return None
        kept.add_done_callback(self._arrived)
        return kept

    def _arrived(self, kept: "asyncio.Future[bool]") -> None:
        if not kept.cancelled() and kept.exception() is None and kept.result():
            self.ring(Ring.DELIVERIES)

    async def _verified(self, body: bytes, headers: Headers, now_s: int) -> Verified:
        """Check against every secret; a signature that none explains is worth asking Replicate for its secret again."""
        known = await self.secrets.known()
        try:
            return await _check(body, headers, known, now_s)
        except Unverified as verdict:
            if verdict.reason is not Reason.UNEXPLAINED:
                raise
            if not await self.secrets.refetched():
                if not known:
                    raise SecretUnknown(
                        "No signing secret is known yet: Replicate could not be asked for it."
                    ) from None
                raise
        return await _check(body, headers, await self.secrets.known(), now_s)


async def _check(body: bytes, headers: Headers, secrets: Sequence[Secret], now_s: int) -> Verified:
    """`verify`, in a thread where it would take long."""
    if len(body) <= _LARGE_BODY_BYTES:
        return verify(body=body, headers=headers, secrets=secrets, now_s=now_s)
    return await asyncio.to_thread(verify, body=body, headers=headers, secrets=secrets, now_s=now_s)

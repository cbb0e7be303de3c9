"""One signed call, kept word for word: the source of an update."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class DeliveryState(StrEnum):
    ACCEPTED = "accepted"  # on disk, not read yet
    APPLIED = "applied"  # it told us something
    REPEATED = "repeated"  # it told nothing that we did not know
    STALE = "stale"  # it came after something newer and changed nothing
    QUARANTINED = "quarantined"  # signed, but it can't be understood
    UNVERIFIED = "unverified"  # no signature covers it: kept to be looked at, read by nobody

    @property
    def told(self) -> "DeliveryState":
        """As people hear of it: whatever nobody can vouch for or understand is quarantined."""
        return DeliveryState.QUARANTINED if self is DeliveryState.UNVERIFIED else self


TOLD_STATES = tuple(state for state in DeliveryState if state.told is state)
UNVERIFIED_PREFIX = "unverified."
"""Of the ids of calls that were not verified: a webhook's own id never holds a dot, so none can be occupied."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """`id` is the webhook's own id, that of an unverified call one of ours; `token` the last part of the URL it was
    sent to; `sequence` our order of arrival.

    `headers` are name and value as they came, as bytes. `repeats` counts calls with the same id after
    the first; they are answered 2xx and tell nothing, since Replicate uses one id for one message.
    """

    id: str
    received_ms: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    token: str | None = None
    state: DeliveryState = DeliveryState.ACCEPTED
    reason: str | None = None
    prediction_id: str | None = None
    repeats: int = 0
    sequence: int = field(default=0, compare=False)

"""How a sandbox is set up."""

import base64
import binascii
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RETENTION_S = 3600.0  # "automatically removed after an hour, by default": docs, topics/predictions/data-retention
WEBHOOK_TIMEOUT_S = 5.0  # "within a few seconds": docs, topics/webhooks; the exact figure is not published
PREDICTIONS_MAX = 20_000  # records kept, each a few kB; the oldest finished ones go first


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the stand-in shall be like.

    `public_url` is its own origin, as others reach it, without a slash at the end; `running` fills it in.
    `token` None takes any token. `secret` is the signing secret (`whsec_` + base64), made from the seed when empty.
    `seed` None draws one: the same seed and the same calls give the same ids, secrets and files.
    `speed` scales all that Replicate and its models take their time for (1.0 as told, 0.1 ten times faster): queue,
    run, retries of webhooks, deadlines. It does not scale `retention_s`, `Prefer: wait`, the webhook's time-out, nor
    seconds in `mischief`. `mischief` is general misbehaviour in the words of `mischief.py`.
    `rate_limits` makes Replicate's published limits bite; the headers are there anyway.
    `variation` lets answers vary as real ones do: absent keys, other key order, timestamps of 3, 6 or 9 digits.
    """

    public_url: str = ""
    token: str | None = None
    secret: str = ""
    seed: int | None = None
    speed: float = 1.0
    retention_s: float = RETENTION_S
    webhook_timeout_s: float = WEBHOOK_TIMEOUT_S
    rate_limits: bool = False
    variation: bool = True
    predictions_max: int = PREDICTIONS_MAX
    mischief: Mapping[str, Any] = field(default_factory=dict)


def checked_secret(secret: str) -> str:
    """The secret itself, or ValueError when nothing could be signed with it."""
    prefix, _, key = secret.partition("_")
    try:
        whole = prefix == "whsec" and bool(base64.b64decode(key, validate=True))
    except binascii.Error:
        whole = False
    if not whole:
        raise ValueError("The signing secret must be whsec_ and base64")
    return secret


def new_secret(rng: random.Random) -> str:
    """`whsec_` and 24 bytes of base64, the size of Replicate's own."""
    return "whsec_" + base64.b64encode(rng.randbytes(24)).decode("ascii")

"""Was this webhook signed with one of our secrets? Pure: bytes in, a verdict out.

The scheme is Standard Webhooks, as Replicate documents it (docs topics/webhooks/verify-webhook): HMAC-SHA256 over
`{webhook-id}.{webhook-timestamp}.{raw body}`, base64, told as `v1,<base64>` in a list separated by spaces. The
grammar here is stricter than that of the official libraries, which take the last of two ids, stumble over one malformed
entry before they reach the good one, and decode base64 that nobody wrote.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

TOLERANCE_S = 300
"""How far a timestamp may lie before or after our clock: Replicate's documents and the libraries say five minutes."""

ENTRIES_MAX = 16
"""Entries of one `webhook-signature` that are looked at: rotation needs two, a stranger's list of thousands nothing."""

ID_LENGTH_MAX = 256
"""Characters of a `webhook-id`: Replicate's have 31, the rest is room. It becomes a key in the ledger."""

KEY_BYTES_MIN, KEY_BYTES_MAX = 24, 64
"""Sizes of a signing key that Standard Webhooks allows."""

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of every secret, not one of them

_ID, _TIMESTAMP, _SIGNATURE = b"webhook-id", b"webhook-timestamp", b"webhook-signature"
_NAMES = frozenset({_ID, _TIMESTAMP, _SIGNATURE})
_ID_ALPHABET = bytes(code for code in range(0x21, 0x7F) if code != ord("."))
_VERSION = b"v1,"
_ENTRY_LENGTH = len(_VERSION) + 44  # 32 bytes are 44 characters of base64
_TIMESTAMP_DIGITS = 10


class Reason(StrEnum):
    """Why a call was not verified: few and fixed, so that they can be counted. Never shown to the caller."""

    HEADER_MISSING = "header_missing"
    HEADER_REPEATED = "header_repeated"
    ID_MALFORMED = "id_malformed"
    TIMESTAMP_MALFORMED = "timestamp_malformed"
    TIMESTAMP_OUTSIDE = "timestamp_outside"
    SIGNATURE_MALFORMED = "signature_malformed"
    UNEXPLAINED = "unexplained"
    """Well-formed, but made by no secret that we know: forged, or the secret was rotated (alone worth a refetch)."""


class Unverified(Exception):
    """The call is not covered by a signature of ours: answer 401 and do nothing."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"The webhook is not verified: {reason.value}.")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Verified:
    """What the signature covers: the message's id (the same when it is sent again) and the time of this attempt."""

    webhook_id: str
    timestamp_s: int


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """One signing key; equal when the key is. Its text form and its repr never hold the key."""

    key: bytes
    _keyed: hmac.HMAC = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keyed", hmac.new(self.key, digestmod=hashlib.sha256))

    @classmethod
    def parse(cls, text: str) -> Self:
        """`whsec_` and the standard, padded base64 of 24 to 64 bytes; ValueError (without the secret) for else."""
        if not text.startswith(SECRET_PREFIX):
            raise ValueError(f"A signing secret starts with {SECRET_PREFIX}.")
        encoded = text.removeprefix(SECRET_PREFIX)
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(
                f"What follows {SECRET_PREFIX} in a signing secret is padded base64; this is not."
            ) from None
        if base64.b64encode(key).decode() != encoded:
            raise ValueError(f"What follows {SECRET_PREFIX} in a signing secret is canonical base64; this is not.")
        if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
            raise ValueError(f"A signing secret holds {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes; this one {len(key)}.")
        return cls(key)

    def entry(self, prefix: bytes, body: bytes) -> bytes:
        """The `v1,…` entry that this key gives to `prefix + body`; the body is read once and not copied."""
        code = self._keyed.copy()
        code.update(prefix)
        code.update(body)
        return _VERSION + binascii.b2a_base64(code.digest(), newline=False)

    def __repr__(self) -> str:
        return "Secret(redacted)"


def verify(*, body: bytes, headers: Iterable[tuple[bytes, bytes]], secrets: Sequence[Secret], now_s: int) -> Verified:
    """Check one call, or raise `Unverified`; nothing else is ever raised, whatever a stranger sends.

    `body` is the raw body, `headers` the raw list as it came (names in any case, each of the three exactly once),
    `now_s` whole seconds since 1970. At 32 MiB hashing takes tens of milliseconds and lets other threads run.
    """
    webhook_id, timestamp, signature = _three(headers)
    if not 1 <= len(webhook_id) <= ID_LENGTH_MAX or webhook_id.translate(None, _ID_ALPHABET):
        raise Unverified(Reason.ID_MALFORMED)
    if len(timestamp) != _TIMESTAMP_DIGITS or not timestamp.isdigit():
        raise Unverified(Reason.TIMESTAMP_MALFORMED)
    timestamp_s = int(timestamp)
    if abs(now_s - timestamp_s) > TOLERANCE_S:
        raise Unverified(Reason.TIMESTAMP_OUTSIDE)
    entries = _entries(signature)
    if not entries:
        raise Unverified(Reason.SIGNATURE_MALFORMED)
    if not _explained(entries, secrets, prefix=b"%b.%b." % (webhook_id, timestamp), body=body):
        raise Unverified(Reason.UNEXPLAINED)
    return Verified(webhook_id.decode("ascii"), timestamp_s)


def _three(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        lowered = name.lower()
        if lowered in _NAMES:
            if lowered in found:
                raise Unverified(Reason.HEADER_REPEATED)
            found[lowered] = value
    if len(found) != 3:
        raise Unverified(Reason.HEADER_MISSING)
    return found[_ID], found[_TIMESTAMP], found[_SIGNATURE]


def _entries(signature: bytes) -> list[bytes]:
    """What could be a `v1` entry, by its shape, among the first `ENTRIES_MAX`; anything else is skipped."""
    split = signature.split(b" ", ENTRIES_MAX)[:ENTRIES_MAX]
    return [entry for entry in split if len(entry) == _ENTRY_LENGTH and entry.startswith(_VERSION)]


def _explained(entries: Sequence[bytes], secrets: Sequence[Secret], *, prefix: bytes, body: bytes) -> bool:
    """Comparing the encoded forms is strict by itself: exactly one text is the canonical base64 of a digest.

    Stopping after the secret that fits tells a forger nothing, since every failure has tried all of them.
    """
    for secret in secrets:
        expected = secret.entry(prefix, body)
        matches = [hmac.compare_digest(expected, entry) for entry in entries]
        if any(matches):
            return True
    return False

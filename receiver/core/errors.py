"""Errors that more than one layer speaks of. `str(error)` is one plain sentence without secrets."""

from collections.abc import Mapping
from typing import Any


class OutkeepError(Exception):
    """Base of what we raise on purpose."""


class Misconfigured(OutkeepError):
    """A setting, or what it points to, is wrong: the sentence names it and says what would be right."""


class LedgerUnavailable(OutkeepError):
    """The ledger can't be read or written now; nothing was promised."""


class LedgerRefused(LedgerUnavailable):
    """The ledger works, but does not take this: the same again is no use."""


class LedgerFull(LedgerUnavailable):
    """More deliveries wait for the disk than we hold in memory: come back in a moment."""


class LedgerBroken(LedgerUnavailable):
    """The disk under the ledger failed: this process takes nothing more, and ends so that a new one can begin."""


class LedgerDamaged(LedgerBroken):
    """The ledger's file is no longer what was written: no new process mends that, people have to."""


class LedgerOutdated(Misconfigured):
    """The schema of a Postgres ledger is older than this program: `outkeep migrate` brings it up to date."""


class UpstreamError(OutkeepError):
    """Replicate said no, or nothing: what its clients are told in its stead.

    `status` is an HTTP status, `problem` a JSON object in Replicate's shape (`title`, `detail`, `status` …).
    """

    def __init__(self, status: int, problem: Mapping[str, Any], *, retry_after_s: float | None = None) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"Replicate answered {status}"))
        self.status = status
        self.problem = dict(problem)
        self.retry_after_s = retry_after_s


class MaybeMade(UpstreamError):
    """Replicate may have made what was asked for: whoever asks again has, and pays for, a second one."""


class SecretUnknown(OutkeepError):
    """No signing secret is known yet, so no webhook can be verified: come back in a moment."""

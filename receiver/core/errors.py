"""Errors that more than one layer speaks of. `str(error)` is one plain sentence without secrets."""


class OutkeepError(Exception):
    """Base of what we raise on purpose."""


class Misconfigured(OutkeepError):
    """A setting, or what it points to, is wrong: the sentence names it and says what would be right."""


class LedgerUnavailable(OutkeepError):
    """The ledger can't be read or written now; nothing was promised."""


class LedgerFull(LedgerUnavailable):
    """More deliveries wait for the disk than we hold in memory: come back in a moment."""


class LedgerOutdated(Misconfigured):
    """The schema of a Postgres ledger is older than this program: `outkeep migrate` brings it up to date."""

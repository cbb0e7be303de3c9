"""Whether this process may go on writing: after a disk has failed, what is on it is known to a new process only.

A sync that fails tells of the failure once. The system then calls the pages written, though they are not, and the next
sync succeeds (Linux drops what it could not write). So nothing is asked of that disk again by who heard it fail.
"""

import asyncio
import sqlite3
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from receiver.core.errors import LedgerBroken, LedgerDamaged

_PRIMARY = 0xFF  # the part of an SQLite error code that says what kind it is; the rest says where
_UNKNOWN = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_DATA,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
}
"""Writing that failed. A full disk is another error (SQLITE_FULL), and so is one that can't be read: both may pass."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Trust:
    """Lost once and for ever. `judge` and `check` may be called from any thread."""

    def __init__(self) -> None:
        self._lost: Future[LedgerBroken] = Future()

    def judge(self, error: BaseException) -> None:
        """Hear what came of writing."""
        lost = verdict(error)
        if lost is not None:
            with suppress(InvalidStateError):  # the first failure is the one that is told
                self._lost.set_result(lost)

    def check(self) -> None:
        """Raises LedgerBroken once trust is lost."""
        if self.is_lost():
            raise _again(self._lost.result())

    def is_lost(self) -> bool:
        return self._lost.done()

    async def lost(self) -> LedgerBroken:
        """Returns when trust is lost, with the error that says why."""
        return _again(await asyncio.shield(asyncio.wrap_future(self._lost)))


def verdict(error: BaseException) -> LedgerBroken | None:
    """What an error of writing means for all that comes after it; None when it means nothing."""
    if isinstance(error, LedgerBroken):
        return _again(error)
    driver = getattr(error, "orig", None) or error
    code = getattr(driver, "sqlite_errorcode", None)
    if not isinstance(code, int):
        return None
    if code in _UNKNOWN:
        return LedgerBroken(
            f"The disk under the ledger failed ({driver}): what is on it is known again only to a new process, which"
            " reads it anew. Start Outkeep again, and look at the disk."
        )
    if code & _PRIMARY in _DAMAGED:
        return LedgerDamaged(
            f"The ledger's file is damaged ({driver}), and nothing more is written to it. Stop Outkeep, then put back a"
            " backup, or have `sqlite3 FILE .recover` make a new one of it."
        )
    return None


def is_busy(error: BaseException) -> bool:
    """Whether another program has the file."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & _PRIMARY in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _again(error: LedgerBroken) -> LedgerBroken:
    """A new one for every caller: a raised error grows a traceback."""
    return type(error)(str(error))

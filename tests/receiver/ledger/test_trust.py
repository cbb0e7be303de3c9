"""Which errors end a process, which pass, and that trust once lost is never given back."""

import asyncio
import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from receiver.core.errors import LedgerBroken, LedgerDamaged
from receiver.ledger.trust import Trust, verdict


def failed(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("name", ["IOERR_FSYNC", "IOERR_WRITE", "IOERR_DIR_FSYNC", "IOERR_TRUNCATE", "IOERR"])
def test_writing_that_failed_leaves_unknown_what_is_on_the_disk(name: str) -> None:
    error = failed(getattr(sqlite3, f"SQLITE_{name}"))
    for seen in (error, OperationalError("COMMIT", None, error)):
        found = verdict(seen)
        assert type(found) is LedgerBroken
        assert str(found).startswith("The disk under the ledger failed (disk I/O error): ")


@pytest.mark.parametrize("name", ["CORRUPT", "NOTADB", "CORRUPT_INDEX"])
def test_a_damaged_file_is_told_apart_since_no_new_process_mends_it(name: str) -> None:
    assert type(verdict(failed(getattr(sqlite3, f"SQLITE_{name}")))) is LedgerDamaged


@pytest.mark.parametrize("name", ["FULL", "BUSY", "IOERR_READ", "IOERR_SHMSIZE", "READONLY", "CONSTRAINT", "NOMEM"])
def test_what_may_pass_ends_nothing(name: str) -> None:
    trust = Trust()
    trust.judge(failed(getattr(sqlite3, f"SQLITE_{name}")))
    trust.judge(OSError("the network is unreachable"))
    trust.check()
    assert not trust.is_lost()


async def test_the_first_failure_is_told_to_everybody_and_for_ever() -> None:
    trust = Trust()
    waiting = [asyncio.ensure_future(trust.lost()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    await asyncio.to_thread(trust.judge, failed(sqlite3.SQLITE_IOERR_FSYNC))
    trust.judge(failed(sqlite3.SQLITE_CORRUPT))
    assert type(await waiting[0]) is LedgerBroken
    for _ in range(2):
        with pytest.raises(LedgerBroken, match="The disk"):
            trust.check()

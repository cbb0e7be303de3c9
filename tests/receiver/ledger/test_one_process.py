"""A ledger on SQLite has one process, and in it one connection that writes, by whatever name the file is called."""

import asyncio
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from receiver.core.errors import LedgerDamaged, LedgerUnavailable, Misconfigured
from receiver.ledger import Ledger, sqlite
from receiver.ledger.sqlite import LOG_BYTES_MAX
from tests.contract.ledger_nouns import delivery, given, prediction


async def open_at(path: object) -> Ledger:
    return await Ledger.open(f"sqlite:///{path}", now_ms=lambda: 0)


async def test_another_name_by_symbolic_link_is_the_same_ledger(tmp_path: Path) -> None:
    ledger = await open_at(tmp_path / "real" / "ledger.db")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "file.db").symlink_to(tmp_path / "real" / "ledger.db")
    for name in ("folder/ledger.db", "file.db", "real/../folder/./ledger.db"):
        with pytest.raises(Misconfigured, match="in use by another process"):
            await open_at(tmp_path / name)
    await ledger.accept(delivery())
    await ledger.close()
    ledger = await open_at(tmp_path / "file.db")
    assert await ledger.delivery("msg_1") is not None
    await ledger.close()


async def test_another_name_by_hard_link_is_refused_since_sqlite_would_not_see_the_log(tmp_path: Path) -> None:
    ledger = await open_at(tmp_path / "ledger.db")
    os.link(tmp_path / "ledger.db", tmp_path / "other.db")
    with pytest.raises(Misconfigured, match=r"second name \(a hard link\).*Remove one"):
        await open_at(tmp_path / "other.db")
    await ledger.accept(delivery())
    await ledger.close()
    (tmp_path / "other.db").unlink()
    await (await open_at(tmp_path / "ledger.db")).close()


async def test_one_connection_writes_and_readers_can_neither_write_nor_write_the_log_back(tmp_path: Path) -> None:
    ledger = await open_at(tmp_path / "ledger.db")
    await asyncio.gather(*(ledger.accept(delivery(f"msg_{number}")) for number in range(100)))
    await asyncio.gather(*(given(ledger, prediction(f"p{number}"), []) for number in range(20)))
    await asyncio.gather(*(ledger.counts() for _ in range(20)), *(ledger.predictions() for _ in range(20)))
    modes = _open_modes(tmp_path / "ledger.db")
    assert modes.count(os.O_RDWR) == 1
    assert modes.count(os.O_RDONLY) >= 2
    assert len(modes) == 1 + modes.count(os.O_RDONLY)
    async with ledger._database.read() as connection:
        with pytest.raises(Exception, match=r"readonly|disk I/O|unable"):
            await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    await ledger.close()
    assert not (tmp_path / "ledger.db-wal").exists(), "the one that writes was the last to close"


async def test_the_log_does_not_grow_beyond_its_limit_and_what_it_grew_by(tmp_path: Path) -> None:
    ledger = await open_at(tmp_path / "ledger.db")
    sizes = []
    for number in range(60):
        await ledger.accept(delivery(f"msg_{number}", body=b"x" * 2**20))
        sizes.append((tmp_path / "ledger.db-wal").stat().st_size)
    assert max(sizes) < LOG_BYTES_MAX + 3 * 2**20
    assert (tmp_path / "ledger.db").stat().st_size > 2 * LOG_BYTES_MAX
    await ledger.close()


async def test_the_log_of_a_process_that_died_is_written_back_before_anything_is_added_to_it(tmp_path: Path) -> None:
    ledger = await open_at(tmp_path / "ledger.db")
    await ledger.accept(delivery())
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("ledger.db", "ledger.db-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    await ledger.close()
    again = await open_at(copy / "ledger.db")
    assert (copy / "ledger.db-wal").stat().st_size == 0
    assert await again.delivery("msg_1") is not None
    await again.close()


async def test_a_file_that_another_program_locks_refuses_deliveries_until_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.ledger.sqlite._WRITING", (*sqlite._WRITING, "PRAGMA busy_timeout=100"))
    ledger = await open_at(tmp_path / "ledger.db")
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(
        *(ledger.accept(delivery(f"msg_{number}")) for number in range(50)), return_exceptions=True
    )
    assert {type(each) for each in outcomes} == {LedgerUnavailable}
    assert "Another program has locked" in str(outcomes[0])
    other.execute("ROLLBACK")
    other.close()
    assert await ledger.accept(delivery()) is True
    assert not ledger.is_broken()
    await ledger.close()


async def test_a_table_found_damaged_while_writing_is_written_to_no_more(tmp_path: Path) -> None:
    await (await open_at(tmp_path / "ledger.db")).close()
    _spoil(tmp_path / "ledger.db", "deliveries")
    ledger = await open_at(tmp_path / "ledger.db")
    for _ in range(2):
        with pytest.raises(LedgerDamaged, match=r"damaged \(database disk image is malformed\).*a backup"):
            await ledger.accept(delivery())
    assert isinstance(await ledger.broken(), LedgerDamaged)
    with pytest.raises(LedgerDamaged):
        await given(ledger, prediction(), [])
    assert await ledger.prediction("p1") is None, "what can be read may be read"
    await ledger.close()


def _spoil(file: Path, table: str) -> None:
    with sqlite3.connect(file) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
    connection.close()
    with file.open("r+b") as opened:
        opened.seek((page - 1) * 4096)
        opened.write(b"\xff" * 4096)


def _open_modes(file: Path) -> list[int]:
    """How this process has a file open, once for each time."""
    names = [each for each in Path("/proc/self/fd").iterdir() if each.exists()]
    opened = [int(each.name) for each in names if str(each.readlink()) == str(file)]
    return [fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE for number in opened]

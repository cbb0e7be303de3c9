import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest

from receiver.core.errors import LedgerUnavailable, Misconfigured
from receiver.ledger import Ledger, migrate
from tests.contract.ledger_nouns import archive, claim_one, delivery, file, given, prediction
from tests.servers import postgres
from tests.servers.ledgers import make


async def open_at(url: str) -> Ledger:
    return await Ledger.open(url, now_ms=lambda: 0)


async def test_sqlite_makes_its_folder_and_takes_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "a b" / "100%?#" / "ü"
    ledger = await open_at(f"sqlite:///{str(folder).replace('%', '%25').replace('?', '%3F')}/ledger.db")
    assert await ledger.accept(delivery())
    assert await ledger.delivery("msg_1") is not None
    assert ledger.dialect == "sqlite"
    await ledger.close()


async def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await (await open_at("sqlite:///data/ledger.db")).close()
    assert (tmp_path / "data" / "ledger.db").exists()


async def test_sqlite_takes_one_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = await open_at(url)
    opening = textwrap.dedent(f"""
        import asyncio
        from receiver.ledger import Ledger
        asyncio.run(Ledger.open({url!r}, now_ms=lambda: 0))
    """)
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", opening, stderr=subprocess.PIPE)
    _, said = await other.communicate()
    assert other.returncode == 1
    assert b"in use by another process" in said
    with pytest.raises(Misconfigured, match="in use by another process"):
        await migrate(url)
    await ledger.close()
    await (await open_at(url)).close()


async def test_sqlite_frees_all_leases_at_the_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = await open_at(url)
    await given(ledger, prediction(status="succeeded"), [file()])
    claim = await claim_one(ledger)
    assert await archive(ledger, claim)
    await given(ledger, prediction("p2"), [file()])
    await claim_one(ledger)
    (manifest,) = await ledger.claim_manifests(1, lease_ms=15_000)
    await ledger.close()
    ledger = await open_at(url)
    again = await claim_one(ledger)
    assert again.output.attempts == 2
    (manifest_again,) = await ledger.claim_manifests(1, lease_ms=15_000)
    assert manifest_again.archived_ms == manifest.archived_ms
    async with ledger.transaction() as tx:
        assert await tx.settle_manifest(manifest, "x") is False
    await ledger.close()


@pytest.mark.parametrize("where", ["/proc/nothing/ledger.db", "{folder}/file/ledger.db"])
async def test_a_folder_that_can_not_be_made_is_told(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnavailable, match="can't be opened"):
        await open_at(f"sqlite:///{where.format(folder=tmp_path)}")


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is not a database, it is a text of some length " * 50)
    with pytest.raises(LedgerUnavailable, match="not a database"):
        await open_at(f"sqlite:///{tmp_path}/ledger.db")


@pytest.mark.parametrize(
    "url",
    ["", "ledger.db", "mysql://x/y", "postgresql://x:port/y", "sqlite+aiosqlite:///x", "postgresql+psycopg://x/y"],
)
async def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="neither"):
        await open_at(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_sqlite_wants_a_file(url: str) -> None:
    with pytest.raises(Misconfigured, match="is a file"):
        await open_at(url)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("correct-horse-battery", "wrong-secret"), Misconfigured),
        (("/test_", "/missing_"), Misconfigured),
        (("postgres:correct", "nobody:correct"), Misconfigured),
    ],
)
async def test_a_wrong_postgres_url_is_told_in_one_sentence_without_the_password(
    change: tuple[str, str], error: type[Exception]
) -> None:
    url = postgres.server().empty_database().replace(*change)
    with pytest.raises(error) as caught:
        await open_at(url)
    said = str(caught.value)
    assert "OUTKEEP_DATABASE_URL" in said
    assert "127.0.0.1" in said
    assert "\n" not in said
    assert "horse" not in said
    assert "wrong-secret" not in said


async def test_a_postgres_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:1 "):
        await open_at("postgresql://postgres:secret@127.0.0.1:1/x")


async def test_a_postgres_ledger_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    server = postgres.PostgresServer(fsync=True)
    ledger = await open_at(await server.database())
    try:
        assert await ledger.accept(delivery("before"))
        await ledger.counts()
        server.stop()
        with pytest.raises(LedgerUnavailable):
            await ledger.accept(delivery("during"))
        with pytest.raises(LedgerUnavailable):
            await ledger.counts()
        with pytest.raises(LedgerUnavailable):
            await ledger.ready()
        server.start()
        assert await ledger.accept(delivery("after"))
        assert await ledger.accept(delivery("before")) is False
    finally:
        await ledger.close()
        server.remove()


async def test_a_listener_is_told_when_the_server_goes_away() -> None:
    server = postgres.PostgresServer()
    ledger = await open_at(await server.database())

    async def listen() -> None:
        async for _ in ledger.listen():
            pass

    try:
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.5)
        server.stop()
        with pytest.raises(LedgerUnavailable):
            await listening
        with pytest.raises(LedgerUnavailable):
            await listen()
    finally:
        await ledger.close()
        server.remove()


async def test_without_the_driver_postgres_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=r"OUTKEEP_DATABASE_URL: .*'\.\[postgres\]'.*uv run --extra postgres"):
        await open_at("postgresql://x/y")


async def test_a_start_on_sqlite_imports_neither_alembic_nor_psycopg(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, sys
        from receiver.ledger import Ledger
        async def main():
            await (await Ledger.open("sqlite:///{tmp_path}/ledger.db", now_ms=lambda: 0)).close()
        asyncio.run(main())
        assert not {{"alembic", "psycopg", "mako"}} & set(sys.modules)
    """)
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await done.wait() == 0


async def test_a_commit_on_sqlite_is_synced_to_the_disk(tmp_path: Path) -> None:
    ledgers = await make("sqlite", tmp_path)
    ledger = await ledgers.open()
    async with ledger._database.writing.connect() as connection:
        values = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")
        ]
    assert values == ["wal", 2]
    await ledgers.close()


async def test_a_commit_on_postgres_is_on_the_disk_where_the_server_would_not_wait_for_it(tmp_path: Path) -> None:
    ledgers = await make("postgresql", tmp_path)
    with psycopg.connect(ledgers.url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {ledgers.url.rsplit('/', 1)[1]} SET synchronous_commit = off".encode())
    database = (await ledgers.open())._database

    def committers() -> object:
        with database.lend() as connection:
            return connection.cursor().execute("SHOW synchronous_commit").fetchone()

    assert await asyncio.to_thread(committers) == ("on",)
    async with database.writing.connect() as connection:
        assert (await connection.exec_driver_sql("SHOW synchronous_commit")).scalar() == "on"
    await ledgers.close()


async def test_a_reader_on_sqlite_can_not_write(tmp_path: Path) -> None:
    ledgers = await make("sqlite", tmp_path)
    ledger = await ledgers.open()

    async def write() -> None:
        async with ledger._database.read() as connection:
            await connection.exec_driver_sql("DELETE FROM facts")

    with pytest.raises(LedgerUnavailable, match="readonly"):
        await write()
    await ledgers.close()


async def test_deliveries_wait_for_one_transaction_at_most(tmp_path: Path) -> None:
    """On SQLite, where all share one writer: however many queue, the committer has every second turn."""
    ledgers = await make("sqlite", tmp_path)
    ledger = await ledgers.open()
    done: list[int] = []

    async def work(number: int) -> None:
        async with ledger.transaction():
            await asyncio.sleep(0.02)
        done.append(number)

    working = [asyncio.create_task(work(number)) for number in range(10)]
    await asyncio.sleep(0.01)
    await ledger.accept(delivery())
    assert len(done) <= 2
    await asyncio.gather(*working)
    assert done == list(range(10))
    await ledgers.close()

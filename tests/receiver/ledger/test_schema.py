import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from receiver.core.errors import LedgerOutdated, Misconfigured
from receiver.ledger import Ledger, migrate, schema
from receiver.ledger.schema import Standing, standing
from receiver.ledger.tables import metadata
from tests.contract.ledger_nouns import delivery
from tests.servers import postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table."""
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else postgres.server().empty_database()


def run(url: str, *statements: str) -> None:
    if url.startswith("sqlite"):
        file = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        for statement in statements:
            file.execute(statement)
        file.close()
        return
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def differences(connection: sa.Connection) -> Any:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": schema.VERSION_TABLE})
    return compare_metadata(context, metadata)


def _options(index: Any) -> list[str]:
    return sorted(f"{name}={value}" for name, value in index.get("dialect_options", {}).items())


def described(connection: sa.Connection) -> dict[str, Any]:
    """Tables with all that can be seen of them; also what the comparison above does not look at."""
    looked = sa.inspect(connection)
    options: dict[str, Any] = {}
    if connection.dialect.name == "postgresql":
        options |= {row[0]: row[1] for row in connection.exec_driver_sql("SELECT relname, reloptions FROM pg_class")}
    return {
        name: (
            options.get(name),
            {column["name"]: (str(column["type"]), column["nullable"]) for column in looked.get_columns(name)},
            looked.get_pk_constraint(name)["constrained_columns"],
            sorted(
                (str(each["name"]), tuple(each["column_names"]), _options(each)) for each in looked.get_indexes(name)
            ),
            sorted((str(each["name"]), tuple(each["column_names"])) for each in looked.get_unique_constraints(name)),
        )
        for name in looked.get_table_names()
    }


async def state_of(url: str) -> tuple[Any, dict[str, Any]]:
    ledger = await Ledger.open(url, now_ms=lambda: 0)
    async with ledger._database.writing.begin() as connection:
        found = await connection.run_sync(differences), await connection.run_sync(described)
    await ledger.close()
    return found


async def test_migrations_from_zero_give_what_the_tables_say(empty: str, tmp_path: Path) -> None:
    run(empty, f"CREATE TABLE {schema.VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    assert await migrate(empty) is True
    assert await migrate(empty) is False
    fresh = f"sqlite:///{tmp_path}/fresh.db" if empty.startswith("sqlite") else postgres.server().empty_database()
    (migrated_differs, migrated), (_, made) = await state_of(empty), await state_of(fresh)
    assert migrated_differs == []
    for several in (made, migrated):
        several.pop(schema.VERSION_TABLE)
    assert migrated == made


async def test_an_empty_database_is_migrated_by_making_the_newest_tables(empty: str) -> None:
    assert await migrate(empty) is True
    assert await migrate(empty) is False


def test_the_revisions_that_we_know_are_those_on_disk() -> None:
    script = ScriptDirectory(str(schema.MIGRATIONS))
    assert [each.revision for each in reversed(list(script.walk_revisions()))] == list(schema.REVISIONS)


async def test_an_outdated_ledger_is_migrated_on_sqlite_and_refused_on_postgres(empty: str) -> None:
    run(empty, f"CREATE TABLE {schema.VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    if empty.startswith("postgresql"):
        with pytest.raises(LedgerOutdated, match="outkeep migrate"):
            await Ledger.open(empty, now_ms=lambda: 0)
        await migrate(empty)
    ledger = await Ledger.open(empty, now_ms=lambda: 0)
    assert await ledger.accept(delivery())
    await ledger.close()


async def test_a_ledger_of_a_newer_version_is_left_alone(empty: str) -> None:
    await migrate(empty)
    run(empty, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(Misconfigured, match="newer version") as caught:
        await Ledger.open(empty, now_ms=lambda: 0)
    assert not isinstance(caught.value, LedgerOutdated)
    with pytest.raises(Misconfigured, match="newer version"):
        await migrate(empty)


async def test_the_tables_of_another_program_are_left_alone(empty: str) -> None:
    run(empty, "CREATE TABLE predictions (id INTEGER)")
    with pytest.raises(Misconfigured, match="not Outkeep's"):
        await Ledger.open(empty, now_ms=lambda: 0)
    run(empty, "SELECT id FROM predictions")


def test_standing_follows_the_order_of_the_revisions() -> None:
    known = ("0001", "0002", "0003")
    assert standing(None, empty=True, revisions=known) is Standing.EMPTY
    assert standing(None, empty=False, revisions=known) is Standing.OUTDATED
    assert standing("0002", empty=False, revisions=known) is Standing.OUTDATED
    assert standing("0003", empty=False, revisions=known) is Standing.CURRENT

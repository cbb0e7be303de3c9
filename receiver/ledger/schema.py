"""Which schema a database has, making it in an empty one, bringing it up to date."""

from enum import Enum
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from receiver.core.errors import LedgerOutdated, Misconfigured
from receiver.ledger.database import Database
from receiver.ledger.tables import metadata

REVISIONS = ("0001",)  # every schema there ever was, oldest first; the last is what `tables` says
VERSION_TABLE = "outkeep_version"  # not Alembic's usual name: another program may live in the same database
MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x6F75746B_00000001  # advisory lock: one process at a time looks at the schema and changes it

_version = sa.table(VERSION_TABLE, sa.column("version_num"))


class Standing(Enum):
    """How a database stands to this program."""

    EMPTY = "empty"
    OUTDATED = "outdated"
    CURRENT = "current"


def standing(revision: str | None, *, empty: bool, revisions: tuple[str, ...] = REVISIONS) -> Standing:
    """`revision` is what the database says of itself, None if it says nothing. Misconfigured if it is newer than us."""
    if empty:
        return Standing.EMPTY
    if revision is not None and revision not in revisions:
        raise Misconfigured(
            f"The ledger's schema is {revision}; this version knows {revisions[-1]}. A newer version wrote it:"
            " use that one, or another database."
        )
    return Standing.CURRENT if revision == revisions[-1] else Standing.OUTDATED


async def prepare(database: Database) -> None:
    """Make the tables in an empty database; on SQLite bring older ones up to date; otherwise LedgerOutdated."""
    async with database.write() as connection:
        await database.one_at_a_time(connection, _LOCK)
        found = await _look(connection)
        if found is Standing.EMPTY:
            await _create(connection)
        elif found is Standing.OUTDATED and database.dialect == "sqlite":
            await connection.run_sync(_upgrade)
        elif found is Standing.OUTDATED:
            raise LedgerOutdated(
                "The ledger's schema is older than this version of Outkeep. Run `outkeep migrate`, then start again."
            )


async def upgrade(database: Database) -> bool:
    """Bring the schema up to date, in one transaction; False if it was already."""
    async with database.write() as connection:
        await database.one_at_a_time(connection, _LOCK)
        found = await _look(connection)
        if found is Standing.EMPTY:
            await _create(connection)
        elif found is Standing.OUTDATED:
            await connection.run_sync(_upgrade)
        return found is not Standing.CURRENT


async def _look(connection: AsyncConnection) -> Standing:
    if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table(VERSION_TABLE)):
        return standing(None, empty=True)
    return standing(await connection.scalar(sa.select(_version.c.version_num)), empty=False)


async def _create(connection: AsyncConnection) -> None:
    """The newest tables at once: Alembic takes most of a second to import, and a first start has nothing to move."""
    if metadata.tables.keys() & set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())):
        raise Misconfigured(
            "OUTKEEP_DATABASE_URL: the database holds tables that are not Outkeep's. Give it a database of its own."
        )
    await connection.run_sync(metadata.create_all, checkfirst=False)
    await connection.run_sync(_stamp)


def _stamp(connection: sa.Connection) -> None:
    version = sa.Table(
        VERSION_TABLE,
        sa.MetaData(),
        sa.Column("version_num", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
    )
    version.create(connection)
    connection.execute(version.insert().values(version_num=REVISIONS[-1]))


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command  # noqa: PLC0415 - most of a second, for those who need it
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

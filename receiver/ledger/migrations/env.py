"""Alembic's entry: moves the schema over the connection, and in the transaction, that it is given."""

from alembic import context

from receiver.ledger.schema import VERSION_TABLE
from receiver.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite changes a table by copying it
    transactional_ddl=False,  # the transaction is the caller's, on both databases
)
context.run_migrations()

"""The first schema: deliveries, predictions, outputs, updates, events, intents, facts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _data_uris()
    _deliveries()
    _events()
    _facts()
    _intents()
    _outputs()
    _predictions()
    _updates()


def _data_uris() -> None:
    op.create_table(
        "data_uris",
        sa.Column("output_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("output_id", name=op.f("data_uris_pkey")),
    )


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("sequence", _number(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("prediction_id", sa.Text(), nullable=True),
        sa.Column("repeats", sa.BigInteger(), nullable=False),
        sa.Column("headers", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("deliveries_pkey")),
        sa.UniqueConstraint("id", name=op.f("deliveries_id_key")),
    )
    op.create_index("deliveries_by_prediction", "deliveries", ["prediction_id", "sequence"], unique=False)
    op.create_index("deliveries_by_state", "deliveries", ["state", "sequence"], unique=False)


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("number", _number(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("events_pkey")),
        sa.UniqueConstraint("id", name=op.f("events_id_key")),
        sa.UniqueConstraint("sequence", name=op.f("events_sequence_key")),
    )
    op.create_index("events_by_prediction", "events", ["prediction_id", "number"], unique=False)
    op.create_index(
        "events_to_number",
        "events",
        ["number"],
        unique=False,
        sqlite_where=sa.text("sequence IS NULL"),
        postgresql_where=sa.text("sequence IS NULL"),
    )


def _facts() -> None:
    op.create_table(
        "facts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("facts_pkey")),
    )


def _intents() -> None:
    op.create_table(
        "intents",
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("key_name", sa.Text(), nullable=True),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("prediction_id", sa.Text(), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("token", name=op.f("intents_pkey")),
    )
    op.create_index("intents_by_state", "intents", ["state", "made_ms"], unique=False)


def _outputs() -> None:
    op.create_table(
        "outputs",
        sa.Column("id", _number(), nullable=False),
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("path_key", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("link", sa.Text(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease", sa.Text(), nullable=True),
        sa.Column("held_by", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("stored", sa.Text(), nullable=True),
        sa.Column("history", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("outputs_pkey")),
        sa.UniqueConstraint("link", name=op.f("outputs_link_key")),
        sa.UniqueConstraint("prediction_id", "path_key", name="outputs_by_path"),
        postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.02},
    )
    op.create_index("outputs_by_deadline", "outputs", ["state", "held_by", "expires_ms", "id", "due_ms"], unique=False)
    op.create_index("outputs_by_state", "outputs", ["state", "id"], unique=False)
    op.create_index(
        "outputs_leased",
        "outputs",
        ["lease"],
        unique=False,
        sqlite_where=sa.text("lease IS NOT NULL"),
        postgresql_where=sa.text("lease IS NOT NULL"),
    )


def _predictions() -> None:
    op.create_table(
        "predictions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("key_name", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("heard_ms", sa.BigInteger(), nullable=False),
        sa.Column("completed_ms", sa.BigInteger(), nullable=True),
        sa.Column("has_files", sa.Boolean(), nullable=False),
        sa.Column("ask_due_ms", sa.BigInteger(), nullable=True),
        sa.Column("asks", sa.BigInteger(), nullable=False),
        sa.Column("archived_ms", sa.BigInteger(), nullable=True),
        sa.Column("manifest_key", sa.Text(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("manifest_due_ms", sa.BigInteger(), nullable=True),
        sa.Column("manifest_lease", sa.Text(), nullable=True),
        sa.Column("manifest_ms", sa.BigInteger(), nullable=True),
        sa.Column("told", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("predictions_pkey")),
        postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.02},
    )
    op.create_index("predictions_by_age", "predictions", ["created_ms", "id"], unique=False)
    op.create_index("predictions_by_model", "predictions", ["model", "created_ms", "id"], unique=False)
    op.create_index("predictions_by_status", "predictions", ["status", "created_ms", "id"], unique=False)
    op.create_index(
        "predictions_leased",
        "predictions",
        ["manifest_lease"],
        unique=False,
        sqlite_where=sa.text("manifest_lease IS NOT NULL"),
        postgresql_where=sa.text("manifest_lease IS NOT NULL"),
    )
    op.create_index("predictions_to_ask", "predictions", ["final", "ask_due_ms"], unique=False)
    op.create_index(
        "predictions_to_finish",
        "predictions",
        ["manifest_due_ms"],
        unique=False,
        sqlite_where=sa.text("manifest_due_ms IS NOT NULL"),
        postgresql_where=sa.text("manifest_due_ms IS NOT NULL"),
    )


def _updates() -> None:
    op.create_table(
        "updates",
        sa.Column("id", _number(), nullable=False),
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("delivery_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("updates_pkey")),
    )
    op.create_index("updates_by_prediction", "updates", ["prediction_id", "id"], unique=False)


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")

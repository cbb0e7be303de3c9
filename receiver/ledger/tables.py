"""The tables. What they hold follows the nouns of `receiver.core`; times are milliseconds since 1970.

No foreign keys: rows are pruned apart from one another, and one transaction may write them in any order.
"""

import sqlalchemy as sa

from receiver.ledger.columns import Json, Label, Moment, Number, Plain

# Names for all constraints: without one, SQLite could not change or drop it later.
metadata = sa.MetaData(
    naming_convention={"pk": "%(table_name)s_pkey", "uq": "%(table_name)s_%(column_0_name)s_key"},
)

# Rows that are claimed, renewed and settled: room on their page keeps PostgreSQL from moving them every time, and what
# is left of them is cleared away at 2 % of the table, not at 20 %.
_CHANGING = {"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.02}

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("sequence", Number, primary_key=True),  # order of arrival
    sa.Column("id", Plain, nullable=False, unique=True),
    sa.Column("received_ms", Moment, nullable=False),
    sa.Column("token", Plain),
    sa.Column("state", Plain, nullable=False),
    sa.Column("reason", Plain),
    sa.Column("prediction_id", Label),
    sa.Column("repeats", sa.BigInteger, nullable=False),
    sa.Column("headers", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),  # last: SQLite reads a row from its start
    sa.Index("deliveries_by_state", "state", "sequence"),
    sa.Index("deliveries_by_prediction", "prediction_id", "sequence"),
)

predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("id", Plain, primary_key=True),
    sa.Column("status", Label, nullable=False),  # status, final and model repeat what `told` says, to be looked for
    sa.Column("final", sa.Boolean, nullable=False),
    sa.Column("model", Label),
    sa.Column("key_name", Plain),
    sa.Column("created_ms", Moment, nullable=False),
    sa.Column("heard_ms", Moment, nullable=False),
    sa.Column("completed_ms", Moment),
    sa.Column("has_files", sa.Boolean, nullable=False),
    sa.Column("ask_due_ms", Moment),  # never set on a final one
    sa.Column("asks", sa.BigInteger, nullable=False),
    sa.Column("archived_ms", Moment),
    sa.Column("manifest_key", Plain),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("manifest_due_ms", Moment),  # set while a manifest wants to be written
    sa.Column("manifest_lease", Plain),
    sa.Column("manifest_ms", Moment),  # what it says of when: fixed at the first claim, so that its bytes repeat
    sa.Column("told", Json, nullable=False),
    sa.Index("predictions_by_age", "created_ms", "id"),
    sa.Index("predictions_by_status", "status", "created_ms", "id"),
    sa.Index("predictions_by_model", "model", "created_ms", "id"),
    sa.Index("predictions_to_ask", "final", "ask_due_ms"),
    postgresql_with=_CHANGING,
)
for _name, _column in (("predictions_to_finish", "manifest_due_ms"), ("predictions_leased", "manifest_lease")):
    sa.Index(
        _name,
        predictions.c[_column],
        sqlite_where=predictions.c[_column].is_not(None),
        postgresql_where=predictions.c[_column].is_not(None),
    )

outputs = sa.Table(
    "outputs",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("prediction_id", Plain, nullable=False),
    sa.Column("path", Plain, nullable=False),
    sa.Column("path_key", Label, nullable=False),  # the path, or what stands for one that is too long for an index
    sa.Column("source", Plain, nullable=False),  # of a `data:` URI only the start, the rest is in `data_uris`
    sa.Column("state", Plain, nullable=False),
    sa.Column("link", Plain, nullable=False, unique=True),
    sa.Column("expires_ms", Moment, nullable=False),
    sa.Column("due_ms", Moment, nullable=False),
    sa.Column("lease", Plain),
    sa.Column("held_by", Plain, nullable=False, default=""),  # the spool that has it whole, "" while none has
    sa.Column("attempts", sa.BigInteger, nullable=False),
    sa.Column("reason", Plain),
    sa.Column("stored", Json),
    sa.Column("history", Json, nullable=False),
    sa.UniqueConstraint("prediction_id", "path_key", name="outputs_by_path"),
    sa.Index("outputs_by_state", "state", "id"),
    sa.Index("outputs_by_deadline", "state", "held_by", "expires_ms", "id", "due_ms"),
    postgresql_with=_CHANGING,
)
sa.Index(
    "outputs_leased",
    outputs.c.lease,
    sqlite_where=outputs.c.lease.is_not(None),
    postgresql_where=outputs.c.lease.is_not(None),
)

# Apart from the outputs, whose rows are written again at every claim: these may be megabytes.
data_uris = sa.Table(
    "data_uris",
    metadata,
    sa.Column("output_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("uri", Plain, nullable=False),
)

updates = sa.Table(
    "updates",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("prediction_id", Plain, nullable=False),
    sa.Column("received_ms", Moment, nullable=False),
    sa.Column("source", Plain, nullable=False),
    sa.Column("status", Plain, nullable=False),
    sa.Column("delivery_id", Plain),
    sa.Index("updates_by_prediction", "prediction_id", "id"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("number", Number, primary_key=True),  # order of insertion; on PostgreSQL not that of commits
    sa.Column("id", Plain, nullable=False, unique=True),
    sa.Column("sequence", sa.BigInteger, unique=True),  # the cursor, given by `number_events`
    sa.Column("type", Plain, nullable=False),
    sa.Column("prediction_id", Plain, nullable=False),
    sa.Column("time_ms", Moment, nullable=False),
    sa.Column("body", Json, nullable=False),
    sa.Index("events_by_prediction", "prediction_id", "number"),
)
sa.Index(
    "events_to_number",
    events.c.number,
    sqlite_where=events.c.sequence.is_(None),
    postgresql_where=events.c.sequence.is_(None),
)

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("token", Plain, primary_key=True),
    sa.Column("made_ms", Moment, nullable=False),
    sa.Column("key_name", Plain),
    sa.Column("path", Plain, nullable=False),
    sa.Column("state", Plain, nullable=False),
    sa.Column("prediction_id", Plain),
    sa.Column("request", Json),
    sa.Index("intents_by_state", "state", "made_ms"),
)

facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", Plain, primary_key=True),
    sa.Column("value", Plain, nullable=False),
)

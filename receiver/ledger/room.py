"""What every part of the ledger stands on."""

from receiver.ledger.database import Database


class Room:
    """A part of the ledger: some verbs over the same database."""

    def __init__(self, database: Database) -> None:
        self._database = database

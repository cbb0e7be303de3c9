"""What we remember: deliveries, predictions, outputs, events, with due times and leases. Nobody else speaks SQL."""

from receiver.ledger.ledger import Ledger, migrate
from receiver.ledger.nouns import Intent, IntentState, ManifestClaim, OutputClaim, Page, UpdateRow
from receiver.ledger.transaction import Transaction

__all__ = [
    "Intent",
    "IntentState",
    "Ledger",
    "ManifestClaim",
    "OutputClaim",
    "Page",
    "Transaction",
    "UpdateRow",
    "migrate",
]

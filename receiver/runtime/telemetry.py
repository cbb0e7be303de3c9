"""Counting what happens, for Prometheus."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SIZE_BUCKETS = tuple(1024 * 8**power for power in range(9))  # 1 KiB to 16 GiB


@dataclass(frozen=True, slots=True)
class Metrics:
    """The meters of one process. Nothing in a label comes from outside."""

    registry: CollectorRegistry
    webhooks: Counter
    quarantine: Counter
    attempts: Counter
    sizes: Histogram
    known: Gauge
    at_risk: Gauge
    deadline: Gauge
    outcomes: dict[str, Counter] = field(default_factory=dict)

    @classmethod
    def fresh(cls) -> "Metrics":
        registry = CollectorRegistry()
        return cls(
            registry=registry,
            webhooks=Counter("outkeep_webhooks", "Webhooks by what became of them", ["outcome"], registry=registry),
            quarantine=Counter(
                "outkeep_quarantine", "Calls that were not verified, kept or dropped", ["outcome"], registry=registry
            ),
            attempts=Counter(
                "outkeep_archive_attempts", "Tries to archive an output by outcome", ["outcome"], registry=registry
            ),
            sizes=Histogram(
                "outkeep_output_bytes", "Sizes of archived outputs", registry=registry, buckets=_SIZE_BUCKETS
            ),
            known=Gauge(
                "outkeep_known", "What the ledger holds, by kind and state", ["kind", "state"], registry=registry
            ),
            at_risk=Gauge(
                "outkeep_outputs_at_risk",
                "Pending outputs, in no worker's spool either, whose time is half over or that keep failing",
                registry=registry,
            ),
            deadline=Gauge(
                "outkeep_next_deadline_seconds",
                "Seconds until the first output vanishes that is neither archived nor in a spool; +Inf for none",
                registry=registry,
            ),
        )

    def webhook(self, outcome: str) -> None:
        """Count one call: accepted, unverified, too_large, shed … (finding a label costs more than counting)."""
        counter = self.outcomes.get(outcome)
        if counter is None:
            counter = self.outcomes[outcome] = self.webhooks.labels(outcome)
        counter.inc()

    def quarantined(self, outcome: str) -> None:
        """Count one call that was not verified: kept or dropped."""
        self.quarantine.labels(outcome).inc()

    def attempt(self, outcome: str, size: int) -> None:
        """Count one try to archive: archived (with its size in bytes), lost, retry or late."""
        self.attempts.labels(outcome).inc()
        if outcome == "archived":
            self.sizes.observe(size)

    def render(self, counts: Mapping[str, Any], *, now_ms: int) -> bytes:
        """Prometheus text; `counts` are the ledger's."""
        self.known.clear()
        for kind in ("deliveries", "outputs"):
            for state, count in counts[kind].items():
                self.known.labels(kind, state).set(count)
        self.known.labels("predictions", "open").set(counts["predictions_open"])
        self.known.labels("events", "unnumbered").set(counts["events_unnumbered"])
        self.known.labels("events", "told").set(counts["last_sequence"])
        self.at_risk.set(counts["at_risk"])
        expires_ms = counts["pending_expires_ms"]
        self.deadline.set(float("inf") if expires_ms is None else (expires_ms - now_ms) / 1000)
        return generate_latest(self.registry)

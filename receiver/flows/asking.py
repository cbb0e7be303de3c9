"""How long we wait before we ask Replicate ourselves."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from receiver.core.prediction import Prediction, Source, Update

GAP_MS_MAX = 300_000  # of silence, ten questions fit into the half hour that a prediction may run
ABSENT_GAP_MS = 600_000  # Replicate does not know it (any more): it may still, as long as an output lives
ABSENT_GAPS_MIN = 6  # of which so many fit into an output's life
POLL_MS = 2_000  # when no webhook can reach us, questions are all there is


@dataclass(frozen=True, slots=True)
class Patience:
    """Says when an open prediction is to be asked about: after a silence that doubles, or steadily without webhooks."""

    now_ms: Callable[[], int]
    silence_ms: int
    polls_only: bool

    def after(self, prediction: Prediction, update: Update) -> Prediction:
        """The prediction with its next question: the silence began when this was heard, however late it was read."""
        if prediction.final:
            return replace(prediction, ask_due_ms=None, asks=0)
        asks = prediction.asks if update.source in (Source.POLL, Source.SWEEP) else 0
        return replace(prediction, ask_due_ms=update.received_ms + self._gap_ms(asks), asks=asks)

    def absent(self, prediction: Prediction, *, output_ttl_ms: int) -> Prediction:
        """The prediction with its next question, after Replicate said that it does not know it."""
        gap_ms = max(self.silence_ms, min(ABSENT_GAP_MS, output_ttl_ms // ABSENT_GAPS_MIN))
        return replace(prediction, ask_due_ms=self.now_ms() + gap_ms)

    def _gap_ms(self, asks: int) -> int:
        if self.polls_only:
            return min(POLL_MS, self.silence_ms)
        return max(self.silence_ms, min(GAP_MS_MAX, self.silence_ms << min(asks, 10)))

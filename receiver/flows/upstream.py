"""What Replicate's refusals become for those who asked through us."""

from receiver.core.errors import UpstreamError
from receiver.replicate.errors import ReplicateError, Unauthenticated, Unavailable


def problem(error: ReplicateError) -> UpstreamError:
    """Replicate's own status and body; what is our fault or its outage as a gateway's 502."""
    if isinstance(error, Unauthenticated):
        return bad_gateway("Replicate refused our own token: whoever runs this Outkeep must mend REPLICATE_API_TOKEN.")
    if isinstance(error, Unavailable):
        sentence = "Replicate could not be reached or did not answer properly; try again in a moment."
        return bad_gateway(sentence, retry_after_s=error.retry_after_s)
    said = {"title": error.title, "detail": error.detail, "status": error.status}
    return UpstreamError(
        error.status or 502,
        {name: value for name, value in said.items() if value} | dict(error.body or {}),
        retry_after_s=error.retry_after_s,
    )


def bad_gateway(sentence: str, *, retry_after_s: float | None = None) -> UpstreamError:
    """A 502 in Replicate's shape."""
    return UpstreamError(502, {"title": "Bad gateway", "detail": sentence, "status": 502}, retry_after_s=retry_after_s)

"""What Replicate's refusals become for those who asked through us."""

from receiver.core.errors import UpstreamError
from receiver.replicate.errors import ReplicateError, Unauthenticated, Unavailable


def problem(error: ReplicateError) -> UpstreamError:
    """Replicate's own status and body; what is our fault or its outage as a gateway's 502."""
    if isinstance(error, Unauthenticated):
        detail = "Replicate refused our own token: whoever runs this Outkeep must look at REPLICATE_API_TOKEN."
        return UpstreamError(502, {"title": "Bad gateway", "detail": detail, "status": 502})
    if isinstance(error, Unavailable):
        detail = "Replicate could not be reached or did not answer properly; try again in a moment."
        return UpstreamError(
            502, {"title": "Bad gateway", "detail": detail, "status": 502}, retry_after_s=error.retry_after_s
        )
    told = error.body if isinstance(error.body, dict) else {}
    shape = {"title": error.title, "detail": error.detail, "status": error.status}
    return UpstreamError(
        error.status or 502,
        {**{name: value for name, value in shape.items() if value is not None}, **told},
        retry_after_s=error.retry_after_s,
    )

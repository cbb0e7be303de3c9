"""Errors in Replicate's words: RFC 7807 bodies, in the shapes seen in production."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from receiver.sandbox.wire import dumped


class Problem(Exception):
    """An answer that is an error. `body` is sent as it stands, as `application/problem+json`."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(body.get("detail", status)))
        self.status = status
        self.body = dict(body)
        self.headers = dict(headers or {})

    def response(self) -> Response:
        return Response(
            dumped(self.body),
            status_code=self.status,
            headers=self.headers,
            media_type="application/problem+json",
        )


async def problem_response(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


def unauthenticated() -> Problem:
    detail = "You did not pass a valid authentication token"
    return Problem(401, {"title": "Unauthenticated", "detail": detail, "status": 401})


def insufficient_credit() -> Problem:
    detail = (
        "You have insufficient credit to run this model. Go to https://replicate.com/account/billing#billing "
        "to purchase credit. Once you purchase credit, please wait a few minutes before trying again."
    )
    return Problem(402, {"title": "Insufficient credit", "detail": detail, "status": 402})


def forbidden() -> Problem:
    return Problem(403, {"title": "Forbidden", "detail": "You do not have permission to do this.", "status": 403})


def not_found(what: str = "The requested resource could not be found.") -> Problem:
    return Problem(404, {"detail": what, "status": 404})


def too_large() -> Problem:
    return Problem(413, {"detail": "Files must be less than 100MB in size"})


def malformed(detail: str) -> Problem:
    return Problem(400, {"title": "Bad request", "detail": detail, "status": 400})


def no_such_version() -> Problem:
    detail = "The specified version does not exist (or perhaps you don't have permission to use it?)"
    return Problem(422, {"title": "Invalid version or not permitted", "detail": detail, "status": 422})


def invalid(*fields: tuple[str, str, str]) -> Problem:
    """422 for (field, kind, description) triples, in the words of production."""
    body = {
        "detail": "".join(f"- {field}: {description}\n" for field, _kind, description in fields),
        "status": 422,
        "title": "Input validation failed",
        "invalid_fields": [
            {"type": kind, "field": field, "description": description} for field, kind, description in fields
        ],
    }
    return Problem(422, body)


def throttled(reset_s: int = 5, *, retry_after: bool = True) -> Problem:
    """Seen in 2026. Whether the real one has a `Retry-After` header is not known; `retry_after` chooses."""
    detail = (
        "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per minute with a "
        f"burst of 1 requests while you have less than $5.0 in credit. Your rate limit resets in ~{reset_s}s."
    )
    headers = {"retry-after": str(reset_s)} if retry_after else {}
    return Problem(429, {"detail": detail, "status": 429, "retry_after": reset_s}, headers)


def broken(status: int) -> Problem:
    """A 4xx or 5xx that nobody explains."""
    return Problem(status, {"title": "Error", "detail": "Something went wrong on our side.", "status": status})


def of_status(status: int, value: float | None = None) -> Problem:
    """The body that belongs to a status; `value` is the seconds of a 429."""
    match status:
        case 401:
            return unauthenticated()
        case 402:
            return insufficient_credit()
        case 403:
            return forbidden()
        case 404:
            return not_found()
        case 429:
            return throttled(5 if value is None else int(value))
    return broken(status)

"""Errors as answers: `application/problem+json` (RFC 9457) on our own routes, and likewise on Replicate's."""

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

PROBLEM_TYPE = "application/problem+json"
NO_STORE = {"Cache-Control": "no-store"}
RETRY_S = 5  # when the ledger or the bucket is down: long enough to matter, short enough to be tried again

UNAUTHENTICATED = {
    "title": "Unauthenticated", "detail": "You did not pass a valid authentication token", "status": 401,
}  # fmt: skip
"""Replicate's own words (recorded by replicate-python, tests/cassettes/run__invalid-token)."""


class Problem(Exception):
    """An answer that is an error. `detail` is a sentence for the caller, without anything secret."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.body = {"title": title, "detail": detail, "status": status, **(body or {})}


class WrongParameter(Problem):
    """A parameter of the query is wrong: the answer names it."""

    def __init__(self, name: str, right: str) -> None:
        super().__init__(400, "Wrong parameter", f"The parameter {name!r} has to be {right}.", body={"parameter": name})


def not_found(detail: str = "There is nothing at this address.") -> Problem:
    return Problem(404, "Not found", detail)


def unavailable(detail: str, *, retry_s: float = RETRY_S) -> Problem:
    return Problem(503, "Service unavailable", detail, headers=retry_after(retry_s))


def retry_after(seconds: float) -> dict[str, str]:
    """The header; whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def problem_answer(problem: Problem) -> Response:
    headers = {**NO_STORE, **problem.headers}
    return Response(json_bytes(problem.body), problem.status, headers, media_type=PROBLEM_TYPE)


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON that nobody caches: what we tell changes."""
    return Response(json_bytes(content), status, {**NO_STORE, **(headers or {})}, media_type="application/json")


def json_bytes(content: Any) -> bytes:
    """ASCII, so that a lone surrogate in what Replicate told cannot break the answer; never NaN."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")

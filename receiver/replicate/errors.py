"""What Replicate refused or failed to do, sorted by what the caller must do about it."""

from collections.abc import Mapping
from typing import Any

from receiver.core.errors import OutkeepError

_SAID_LENGTH_MAX = 500  # of title and detail in a sentence for people; `body` has them whole


class ReplicateError(OutkeepError):
    """Base. `str(error)` is one plain sentence, safe to log and to show.

    `status` is the HTTP status, None when there was no answer; `title` and `detail` as in its problem body (RFC 7807),
    "" where it gave none; `body` that JSON object with secrets redacted, None when it was none; `retry_after_s` how
    long it asked us to wait; `maybe_done` whether the request may have been carried out nevertheless. `sent` false
    means that we said so ourselves, with the status that Replicate would have used.
    """

    def __init__(
        self,
        *,
        status: int | None = None,
        title: str = "",
        detail: str = "",
        retry_after_s: float | None = None,
        body: Mapping[str, Any] | None = None,
        maybe_done: bool = False,
        sent: bool = True,
    ) -> None:
        said = ": ".join(part.strip() for part in (title, detail) if part.strip())[:_SAID_LENGTH_MAX].rstrip(".")
        answered = "gave no answer" if status is None else f"answered {status}"
        super().__init__(f"Replicate {answered if sent else 'was not asked'}{f' ({said})' if said else ''}.")
        self.status = status
        self.title = title
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.body = body
        self.maybe_done = maybe_done


class Unauthenticated(ReplicateError):
    """The token is missing, wrong or not allowed to do this (401, 403): somebody must mend the settings."""


class NotFound(ReplicateError):
    """There is no such thing (404, 410), or not for this token."""


class Rejected(ReplicateError):
    """The request is wrong, unpaid or not possible (any other 3xx or 4xx): the same again is no use."""


class Throttled(ReplicateError):
    """Too many requests (429): nothing was done; come back after `retry_after_s`."""


class Unavailable(ReplicateError):
    """It may pass: 5xx, 408, time-out, connection lost, an answer that is no JSON. Ask again later.

    Where `maybe_done` is true a create must not be repeated: look for its prediction in the account's list instead.
    """

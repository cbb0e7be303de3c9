"""What went wrong, sorted by what the caller must do about it."""


class StorageError(Exception):
    """Base of everything that this library raises on purpose. `str(error)` is one plain sentence without secrets."""


class Gone(StorageError):
    """The source can't be had any more (404 or 410, or a `data:` URI that is no data): trying again is no use."""


class Refused(StorageError):
    """We will not fetch or store this (address, scheme, size cap, encoding, key): trying again is no use."""


class Unavailable(StorageError):
    """It may pass: time-out, connection lost, 5xx, 429, truncated body, bucket down. Try again later.

    `retry_after_s` is what the other side asked for, or None.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SourceUnavailable(Unavailable):
    """The source did not give the whole file this time."""


class GaveWay(Unavailable):
    """The source sends slowly, and others waited for its place."""


class BucketUnavailable(Unavailable):
    """The bucket did not take, confirm or give the object this time; bytes already fetched stay in the spool."""


class SpoolUnavailable(Unavailable):
    """There is no room in the spool just now, its disk fails, or another worker has this file."""


class BucketMisconfigured(StorageError):
    """The bucket can't work as configured (missing, forbidden, unwritable): somebody must mend the settings."""


class Conflict(StorageError):
    """Other bytes already stand under this key: nothing was overwritten."""


class ObjectMissing(StorageError):
    """No object stands under this key."""


class Cancelled(StorageError):
    """The caller asked us to stop; nothing half-written is visible."""

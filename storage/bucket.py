"""What a bucket is: objects under keys, created once, visible only when whole."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as its bucket confirmed it.

    `key` includes the configured prefix; `size` is in bytes; `sha256` is 64 hex digits, or "" where the bucket could
    not tell without reading the object (`stat` only, never after a write).
    """

    key: str
    size: int
    sha256: str
    content_type: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a bucket honours, as found by `probe`: tried out, not assumed."""

    conditional_writes: bool
    checksums: bool
    versioning: bool


class Upload(Protocol):
    """An object on its way out of a file that is still growing; nothing is visible under its key before `commit`.

    Methods are called from one thread at a time and may be called from a worker thread.
    """

    def advance(self, size: int) -> None:
        """The first `size` bytes of the file are final: parts of them may be sent. Returns at once, never raises."""
        ...

    def commit(self, *, size: int, sha256: str) -> StoredObject:
        """Send the rest, make the object visible, confirm it. Blocks.

        An object already there with equal bytes is a success. Raises Conflict, BucketUnavailable, BucketMisconfigured.
        """
        ...

    def abort(self) -> None:
        """Forget everything sent so far. Blocks briefly, never raises."""
        ...


class Bucket(Protocol):
    """Where objects are kept. Keys are given and returned with the prefix that `key` puts before a name."""

    @property
    def name(self) -> str:
        """What readers know the bucket by: the bucket's name, or the `file:` URL of a folder."""
        ...

    def key(self, name: str) -> str:
        """The full key of a name: the configured prefix and the name."""
        ...

    def begin(self, key: str, file: Path, *, content_type: str) -> Upload:
        """Start an upload of a file that is still growing. Does no I/O; raises nothing."""
        ...

    async def put(
        self, key: str, data: bytes, *, content_type: str, sha256: str, replace: bool = False
    ) -> StoredObject:
        """Store bytes that are whole, create-only unless `replace`; confirmed by checksum before this returns.

        An object already there with equal bytes is a success. Raises Conflict, BucketUnavailable, BucketMisconfigured.
        """
        ...

    def put_now(self, key: str, data: bytes, *, content_type: str, sha256: str) -> StoredObject:
        """`put` for worker threads: blocks."""
        ...

    async def put_file(self, key: str, file: Path, *, content_type: str, size: int, sha256: str) -> StoredObject:
        """Store a file that is whole; otherwise like `put`. Memory stays flat. The file is left where it is."""
        ...

    async def stat(self, key: str) -> StoredObject | None:
        """The object under a key, or None. Raises BucketUnavailable, BucketMisconfigured."""
        ...

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The object's bytes from `start`, in chunks of at most 256 KiB. Raises ObjectMissing, BucketUnavailable."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is a success. Raises BucketUnavailable, BucketMisconfigured."""
        ...

    async def probe(self) -> Capabilities:
        """Write, read back and remove a canary object. Raises BucketUnavailable, BucketMisconfigured."""
        ...

    async def sweep(self, is_ours: Callable[[str], bool] | None = None) -> int:
        """Remove what processes that died left half-written; gives how much. Raises as `delete` does.

        `is_ours` hears keys: where others write into the same bucket, what is theirs is left alone.
        """
        ...

    async def close(self) -> None:
        """Give up connections and threads."""
        ...

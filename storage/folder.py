"""A folder as a bucket."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from storage.bucket import Capabilities, StoredObject
from storage.errors import BucketUnavailable, Cancelled, Conflict, ObjectMissing, StorageError
from storage.folder_files import PIECE_BYTES, Draft, Tree, plainly

CHUNK_BYTES = 256 * 1024
THREADS = 8  # as many outputs as one worker archives at once by default

T = TypeVar("T")


class FolderBucket:
    """Objects as files under a folder; its name is the folder's `file:` URL and there is no key prefix.

    An object is written under `.tmp/`, synced, hashed from what the file gives back, and then named, create-only. The
    folder keeps no content types: `stat` says "" there. Raises BucketMisconfigured if the folder can't be made.
    """

    def __init__(self, root: Path) -> None:
        self._tree = Tree(root.absolute())
        self._tree.sweep()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="folder-bucket")

    @property
    def name(self) -> str:
        """The `file:` URL of the folder."""
        return self._tree.root.as_uri()

    def key(self, name: str) -> str:
        """The name itself: a folder has no prefix."""
        return name

    def begin(self, key: str, file: Path, *, content_type: str) -> "FolderUpload":
        """Start copying a file that is still growing."""
        return FolderUpload(self._tree, self._pool, key, file, content_type)

    async def put(
        self, key: str, data: bytes, *, content_type: str, sha256: str, replace: bool = False
    ) -> StoredObject:
        """Store bytes that are whole. Raises Refused for a key no bucket takes, and what the protocol says."""
        return await self._in_thread(lambda: self._put(key, data, content_type, sha256, replace=replace))

    def put_now(self, key: str, data: bytes, *, content_type: str, sha256: str) -> StoredObject:
        """`put` for worker threads: blocks."""
        return self._put(key, data, content_type, sha256, replace=False)

    async def put_file(self, key: str, file: Path, *, content_type: str, size: int, sha256: str) -> StoredObject:
        """Copy a file that is whole."""
        upload = self.begin(key, file, content_type=content_type)
        return await self._in_thread(lambda: upload.commit(size=size, sha256=sha256))

    async def stat(self, key: str) -> StoredObject | None:
        """The object under a key, or None; its hash and content type are not known here."""
        return await self._in_thread(lambda: self._stat(key))

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The object's bytes from `start`, in chunks of at most 256 KiB."""
        reading = _Reading(self._tree, key)
        try:
            while True:
                count = CHUNK_BYTES if length is None else min(CHUNK_BYTES, length)
                chunk = await self._in_thread(partial(reading.chunk, start, count))
                if not chunk:
                    break
                start, length = start + len(chunk), None if length is None else length - len(chunk)
                yield chunk
        finally:
            reading.close()

    async def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is a success."""
        await self._in_thread(lambda: self._tree.remove(key))

    async def probe(self) -> Capabilities:
        """Write, read back and remove a canary object, and try what must be refused."""
        return await self._in_thread(self._probe)

    async def sweep(self, is_ours: Callable[[str], bool] | None = None) -> int:  # noqa: ARG002 - all drafts are ours
        """Remove what processes that died left behind. Returns how many files."""
        return await self._in_thread(self._tree.sweep)

    async def close(self) -> None:
        """Give up the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, action)

    @plainly
    def _put(self, key: str, data: bytes, content_type: str, sha256: str, *, replace: bool) -> StoredObject:
        self._tree.path(key)
        draft = self._tree.draft()
        try:
            draft.write(data)
            _publish(self._tree, draft, key, size=len(data), sha256=sha256, replace=replace)
        finally:
            draft.close()
        return StoredObject(key, len(data), sha256, content_type)

    @plainly
    def _stat(self, key: str) -> StoredObject | None:
        path = self._tree.path(key)
        if not path.is_file():
            self._tree.check()
            return None
        return StoredObject(key, path.stat().st_size, "", "")

    def _probe(self) -> Capabilities:
        key = f".canary-{uuid4().hex}"
        self._tree.sweep()
        try:
            self._put(key, b"canary", "", _sha256(b"canary"), replace=False)
            if self._tree.path(key).read_bytes() != b"canary":
                raise BucketUnavailable("The bucket's folder did not give back what was written.")
            conditional = _refuses(lambda: self._put(key, b"other", "", _sha256(b"other"), replace=False), Conflict)
            checksums = _refuses(
                lambda: self._put(key, b"canary", "", _sha256(b"other"), replace=True), BucketUnavailable
            )
        finally:
            self._tree.remove(key)
        return Capabilities(conditional_writes=conditional, checksums=checksums, versioning=False)


class FolderUpload:
    """A file copied into the folder while it grows: when it is whole, little is left to do."""

    def __init__(self, tree: Tree, pool: ThreadPoolExecutor, key: str, file: Path, content_type: str) -> None:
        self._tree, self._pool, self._key, self._file, self._content_type = tree, pool, key, file, content_type
        self._lock = threading.Lock()
        self._final = 0
        self._ended = False
        self._working: Future[None] | None = None
        self._draft: Draft | None = None
        self._source: BinaryIO | None = None

    def advance(self, size: int) -> None:
        """The first `size` bytes of the file are final. Returns at once, never raises."""
        with self._lock:
            self._final = max(self._final, size)
            copied = self._draft.size if self._draft else 0
            if self._ended or self._working or self._final - copied < PIECE_BYTES:
                return
            with suppress(RuntimeError):  # the bucket was closed: `commit` will tell
                self._working = self._pool.submit(self._work)

    def commit(self, *, size: int, sha256: str) -> StoredObject:
        """Copy the rest, make the object visible, confirmed by reading it back."""
        self._tree.path(self._key)
        if self._ended:
            raise Cancelled("The upload was given up.")
        try:
            self._finish(size, sha256)
        finally:
            self.abort()
        return StoredObject(self._key, size, sha256, self._content_type)

    def abort(self) -> None:
        """Forget everything copied so far."""
        with suppress(StorageError, OSError):
            self._join()
        if self._source:
            self._source.close()
        if self._draft:
            with suppress(OSError):
                self._draft.close()

    @plainly
    def _finish(self, size: int, sha256: str) -> None:
        self._join()
        draft = self._opened()
        while draft.size < size:
            self._copy_piece(size)
        _publish(self._tree, draft, self._key, size=size, sha256=sha256, replace=False)

    def _join(self) -> None:
        """Stop the thread and hear what it met."""
        with self._lock:
            self._ended = True
            working, self._working = self._working, None
        if working and not working.cancel():
            working.result()

    def _work(self) -> None:
        self._opened()
        while end := self._next_end():
            self._copy_piece(end)

    def _next_end(self) -> int:
        with self._lock:
            if not self._ended and self._draft and self._draft.size < self._final:
                return self._final
            if not self._ended:
                self._working = None
            return 0

    def _copy_piece(self, end: int) -> None:
        self._opened().copy(self._source.fileno() if self._source else -1, end=end)

    def _opened(self) -> Draft:
        if self._draft is None:
            self._source = self._file.open("rb")
            self._draft = self._tree.draft()
        return self._draft


class _Reading:
    """A file on its way out. One thread reads; another may close meanwhile: the file is freed when the reading ends."""

    def __init__(self, tree: Tree, key: str) -> None:
        self._tree, self._path = tree, tree.path(key)
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._closed = False

    @plainly
    def chunk(self, start: int, count: int) -> bytes:
        """Up to `count` bytes from `start`, b"" at the end. Raises ObjectMissing."""
        with self._lock:
            if self._file is None and not self._path.is_file():
                self._tree.check()
                raise ObjectMissing("No object stands under this key.")
            self._file = self._file or self._path.open("rb", buffering=0)
            data = os.pread(self._file.fileno(), count, start)
        if self._closed:
            self.close()
        return data

    def close(self) -> None:
        """Close it now, or as soon as nobody reads. Waits for nobody."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            if self._file:
                self._file.close()
            self._lock.release()


def _publish(tree: Tree, draft: Draft, key: str, *, size: int, sha256: str, replace: bool) -> None:
    if (draft.size, draft.sha256()) != (size, sha256):
        raise BucketUnavailable("The bucket's copy differs from what was to be stored.")
    draft.sync()
    tree.publish(draft, key, replace=replace)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuses(action: Callable[[], object], refusal: type[StorageError]) -> bool:
    try:
        action()
    except refusal:
        return True
    return False

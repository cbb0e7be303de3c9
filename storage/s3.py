"""S3, and what speaks like it, as a bucket."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from storage.bucket import Capabilities, StoredObject
from storage.errors import BucketMisconfigured, BucketUnavailable, ObjectMissing, Refused
from storage.keys import check_key
from storage.s3_account import Account, connect
from storage.s3_body import CHUNK_BYTES, Data, WireError
from storage.s3_http import Answer
from storage.s3_objects import Objects
from storage.s3_probe import probe
from storage.s3_upload import S3Upload, forget_old_uploads

THREADS = 16  # twice as many as outputs are archived at once by default: readers come beside them
PART_THREADS = 3  # of all uploads together: more do not send faster on a near line, and suffice on a far one
READ_ATTEMPTS = 3  # a read that is cut short goes on from where it was
LEFTOVERS_AFTER = timedelta(days=1)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")

T = TypeVar("T")


class S3Bucket:
    """A bucket and the prefix under which its keys stand. `connect` is called in a thread, when first needed."""

    def __init__(self, bucket: str, prefix: str = "", connect: Callable[[str], Account] = connect) -> None:
        self._bucket, self._prefix = bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._objects = Objects(bucket, connect)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="s3-bucket")
        self._part_pool = ThreadPoolExecutor(PART_THREADS, thread_name_prefix="s3-part")

    @classmethod
    def open(cls, url: str) -> "S3Bucket":
        """The bucket of `s3://bucket[/prefix]`; the rest is boto3's own settings. Raises BucketMisconfigured."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not _NAME.fullmatch(bucket):
            raise BucketMisconfigured("An S3 bucket's URL must be s3://bucket or s3://bucket/prefix.")
        if bucket.endswith("--x-s3"):  # they are signed for by sessions of their own
            raise BucketMisconfigured("A directory bucket (--x-s3) can't be used; name a general purpose bucket.")
        prefix = unquote(prefix).strip("/")
        try:
            if prefix:
                check_key(prefix)
        except Refused as error:
            raise BucketMisconfigured(f"The prefix of the bucket's URL is of no use. {error}") from error
        return cls(bucket, prefix)

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self._bucket

    def key(self, name: str) -> str:
        """The prefix and the name."""
        return self._prefix + name

    def begin(self, key: str, file: Path, *, content_type: str) -> S3Upload:
        """Start an upload of a file that is still growing."""
        return S3Upload(self._objects, self._part_pool, key, file, _header(content_type))

    async def put(
        self, key: str, data: bytes, *, content_type: str, sha256: str, replace: bool = False
    ) -> StoredObject:
        """Store bytes that are whole. Raises Refused for a key no bucket takes, and what the protocol says."""
        if not replace:
            return await self._in_thread(partial(self.put_now, key, data, content_type=content_type, sha256=sha256))
        put = partial(self._objects.replace, check_key(key), Data(data))
        return await self._in_thread(partial(put, content_type=_header(content_type), sha256=sha256))

    def put_now(self, key: str, data: bytes, *, content_type: str, sha256: str) -> StoredObject:
        """`put` for worker threads: blocks."""
        return self._objects.put(check_key(key), Data(data), content_type=_header(content_type), sha256=sha256)

    async def put_file(self, key: str, file: Path, *, content_type: str, size: int, sha256: str) -> StoredObject:
        """Store a file that is whole, in parts if it is large."""
        upload = self.begin(key, file, content_type=content_type)
        return await self._in_thread(partial(upload.commit, size=size, sha256=sha256))

    async def stat(self, key: str) -> StoredObject | None:
        """The object under a key, or None."""
        there = await self._in_thread(partial(self._objects.head, check_key(key)))
        return StoredObject(key, there.size, there.sha256, there.content_type) if there else None

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The object's bytes from `start`, in chunks of at most 256 KiB; goes on where the connection was lost."""
        if length == 0:
            if await self.stat(key) is None:
                raise ObjectMissing("No object stands under this key.")
            return
        reading = _Reading(self._objects, check_key(key), start, None if length is None else start + length)
        try:
            while chunk := await self._in_thread(reading.chunk):
                yield chunk
        finally:
            reading.close()

    async def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is a success."""
        await self._in_thread(partial(self._objects.delete, check_key(key)))

    async def probe(self) -> Capabilities:
        """Write, read back and remove a canary object, and try what must be refused."""
        return await self._in_thread(partial(probe, self._objects, self._prefix))

    async def sweep(self, is_ours: Callable[[str], bool] | None = None) -> int:
        """Give up uploads that were begun under our prefix more than a day ago. Returns how many."""
        before = datetime.now(UTC) - LEFTOVERS_AFTER
        forget = partial(forget_old_uploads, self._objects, self._prefix, before=before, is_ours=is_ours)
        return await _unawaited(forget)

    async def close(self) -> None:
        """Give up connections and threads."""
        self._part_pool.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._objects.close()

    async def _in_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, action)


async def _unawaited(action: Callable[[], T]) -> T:
    """In a thread that the end of the program does not wait for: nobody can hang up for a client of boto3's."""
    done = Future[T]()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(action())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told to who waits
            done.set_exception(error)

    threading.Thread(target=run, name="storage-s3-sweep", daemon=True).start()
    return await asyncio.wrap_future(done)


class _Reading:
    """An object on its way out. One thread reads; another may close meanwhile, which ends the reading at once."""

    def __init__(self, objects: Objects, key: str, start: int, end: int | None) -> None:
        self._objects, self._key, self._at, self._end = objects, key, start, end
        self._etag = ""
        self._attempts = READ_ATTEMPTS
        self._answer: Answer | None = None
        self._lock = threading.Lock()
        self._closed = False

    def chunk(self) -> bytes:
        """The next bytes, b"" at the end. Raises ObjectMissing, BucketUnavailable, BucketMisconfigured."""
        while not self._closed and (self._end is None or self._at < self._end):
            answer = self._answer or self._opened()
            if answer is None:
                break
            try:
                piece = answer.read(CHUNK_BYTES)
            except WireError as error:
                self._let_go()
                self._attempts -= 1
                if not self._attempts:
                    raise BucketUnavailable(f"The bucket did not give the whole object ({error}).") from error
                continue
            self._at += len(piece)
            return piece
        return b""

    def close(self) -> None:
        """Let go of the connection. Waits for nobody."""
        self._closed = True
        self._let_go()

    def _opened(self) -> Answer | None:
        answer = self._objects.get(self._key, start=self._at, end=self._end, etag=self._etag)
        if answer:
            self._etag = self._etag or answer.headers.get("etag", "").strip('"')
            with self._lock:
                self._answer = answer
        if self._closed:  # while the request was under way: nobody else will let go
            self._let_go()
        return self._answer

    def _let_go(self) -> None:
        with self._lock:
            answer, self._answer = self._answer, None
        if answer:
            self._objects.wire.give_back(answer)


def _header(content_type: str) -> str:
    """A content type that can stand in a header."""
    return content_type if content_type.isascii() and content_type.isprintable() else "application/octet-stream"

"""A file on its way into S3 in parts, while it still grows."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from storage.bucket import StoredObject
from storage.errors import BucketUnavailable, Cancelled, StorageError
from storage.keys import check_key
from storage.s3_body import Slice, WireError
from storage.s3_errors import from_botocore, status_and_code
from storage.s3_objects import Found, Objects, Wanted
from storage.s3_parts import send_part, try_checksums

SINGLE_BYTES_MAX = 16 * 1024 * 1024  # larger objects go in parts
PART_BYTES = 16 * 1024 * 1024  # all parts alike, since R2 insists; S3 takes 10,000 of them
PLAIN_PARTS = 4000  # up to 62 GiB; only what is larger still gets unequal parts
LONG_PART_BYTES = 1024 * 1024 * 1024  # then up to S3's 5 TiB fit
PAUSES_S = (0.2, 0.8, 3.2)  # between attempts at one request: starting all over would cost every part sent
RETRY_AFTER_S_MAX = 10.0  # a longer wait is for the caller, who can do other things meanwhile
SIZE_UNKNOWN = -1
ABORT_S = 5.0  # how long giving up may block; what is left over is swept

T = TypeVar("T")


class S3Upload:
    """Parts are sent by the pool's threads as soon as they are final; `commit` sends the rest and joins them."""

    def __init__(self, objects: Objects, pool: ThreadPoolExecutor, key: str, file: Path, content_type: str) -> None:
        self._objects, self._pool, self._key, self._file, self._content_type = objects, pool, key, file, content_type
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._stop = threading.Event()
        self._planned = 0
        self._parts: list[Future[tuple[bytes, str]]] = []
        self._upload_id = ""
        self._error: StorageError | None = None

    def advance(self, size: int) -> None:
        """The first `size` bytes of the file are final: whole parts of them are sent. Returns at once, never raises."""
        if size <= SINGLE_BYTES_MAX:
            return
        with self._lock:
            while not self._stop.is_set() and self._planned + part_bytes(len(self._parts)) <= size:
                self._plan(part_bytes(len(self._parts)))

    def commit(self, *, size: int, sha256: str) -> StoredObject:
        """Send the rest, make the object visible unless another is there, confirm it."""
        check_key(self._key)
        if self._stop.is_set() and not self._error:
            raise Cancelled("The upload was given up.")
        if not self._parts and size <= SINGLE_BYTES_MAX:
            return self._put(size, sha256)
        try:
            return self._joined(size, sha256)
        finally:
            self.abort()

    def abort(self) -> None:
        """Forget everything sent so far."""
        self._stop.set()
        with self._lock:
            parts, self._parts = self._parts, []
        for part in parts:
            part.cancel()
        if parts:
            with suppress(RuntimeError):  # the pool is closed: sweeping will find what is left
                wait([self._pool.submit(self._forget, parts)], timeout=ABORT_S)

    def _put(self, size: int, sha256: str) -> StoredObject:
        try:
            return self._objects.put(
                self._key,
                Slice(self._file, 0, size),
                content_type=self._content_type,
                sha256=sha256,
                stop=self._stop.is_set,
            )
        except (WireError, OSError) as error:
            raise BucketUnavailable("The file to store can't be read.") from error

    def _joined(self, size: int, sha256: str) -> StoredObject:
        if not self._parts and (there := self._objects.head(self._key)):
            return self._objects.settled(self._wanted(size, sha256, _sums(self._file, size)), there)
        self.advance(size)
        with self._lock:
            if self._planned < size and not self._stop.is_set():
                self._plan(size - self._planned)
            parts = list(self._parts)
        try:
            sent = [part.result() for part in parts]
        except (CancelledError, Cancelled) as error:
            raise self._error or Cancelled("The upload was given up.") from error
        if self._error or self._planned != size:
            raise self._error or Cancelled("The upload was given up.")
        return self._completed(self._wanted(size, sha256, [md5 for md5, _ in sent]), [etag for _, etag in sent])

    def _wanted(self, size: int, sha256: str, sums: list[bytes]) -> Wanted:
        return Wanted(self._key, size, sha256, joint_etag(sums), self._content_type)

    def _plan(self, size: int) -> None:
        body = Slice(self._file, self._planned, size)
        try:
            self._parts.append(self._pool.submit(self._sent, len(self._parts) + 1, body))
            self._planned += size
        except RuntimeError:
            self._fail(BucketUnavailable("The bucket was closed meanwhile."))

    def _sent(self, number: int, body: Slice) -> tuple[bytes, str]:
        """Send a part; returns its MD5 and the ETag it got."""
        try:
            upload_id = self._started()
            return self._again(lambda: send_part(self._objects, self._key, upload_id, number, body, self._stop.is_set))
        except (WireError, OSError) as error:
            raise self._fail(BucketUnavailable("The file to store can't be read.")) from error
        except StorageError as error:
            raise self._fail(error) from error.__cause__

    def _started(self) -> str:
        with self._starting:
            if not self._upload_id:
                self._upload_id = self._again(self._start)
                try_checksums(self._objects, self._key, self._upload_id, self._stop.is_set)
            return self._upload_id

    def _start(self) -> str:
        objects = self._objects
        if self._stop.is_set():
            raise Cancelled("The upload was given up.")
        try:
            answer = objects.account.client.create_multipart_upload(
                Bucket=objects.bucket, Key=self._key, ContentType=self._content_type
            )
        except (ClientError, BotoCoreError) as error:
            raise from_botocore(error, objects.bucket) from error
        return answer["UploadId"]

    def _completed(self, wanted: Wanted, etags: list[str]) -> StoredObject:
        if not self._objects.conditional and (there := self._objects.head(self._key)):
            return self._objects.settled(wanted, there)
        for pause in (*PAUSES_S, 0.0):
            try:
                etag = self._complete(etags)
            except (ClientError, BotoCoreError) as error:
                if there := self._objects.head(self._key):  # ours, with the reply lost, or somebody else's
                    return self._objects.settled(wanted, there)
                self._consider(error, pause)
            else:
                self._upload_id = ""  # nothing is left to forget
                return self._objects.confirmed(wanted, Found(SIZE_UNKNOWN, etag, "", "", encrypted=False))
        raise BucketUnavailable(f"The bucket {self._objects.bucket} did not join the parts.")

    def _complete(self, etags: list[str]) -> str:
        objects = self._objects
        condition: Any = {} if objects.conditional is False else {"IfNoneMatch": "*"}
        answer = objects.account.client.complete_multipart_upload(
            Bucket=objects.bucket,
            Key=self._key,
            UploadId=self._upload_id,
            MultipartUpload={
                "Parts": [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in enumerate(etags, 1)]
            },
            **condition,
        )
        return answer.get("ETag", "").strip('"').lower()

    def _consider(self, error: Exception, pause: float) -> None:
        """Return where another attempt at joining the parts makes sense; raise what the error means otherwise."""
        meaning = from_botocore(error, self._objects.bucket)
        status, code = status_and_code(error)
        if status == 501 and self._objects.conditional is not False:
            self._objects.conditional = False
            return
        if not isinstance(meaning, BucketUnavailable) or code in {"NoSuchUpload", "InvalidPart"} or not pause:
            raise meaning from error
        if self._stop.wait(pause):
            raise Cancelled("The upload was given up.") from error

    def _again(self, action: Callable[[], T]) -> T:
        for pause in PAUSES_S:
            try:
                return action()
            except BucketUnavailable as error:
                if self._stop.wait(min(error.retry_after_s or pause, RETRY_AFTER_S_MAX)):
                    raise Cancelled("The upload was given up.") from error
        return action()

    def _fail(self, error: StorageError) -> StorageError:
        self._error = self._error or (None if isinstance(error, Cancelled) else error)
        self._stop.set()
        return error

    def _forget(self, parts: list[Future[tuple[bytes, str]]]) -> None:
        wait(parts)
        with self._starting:
            upload_id, self._upload_id = self._upload_id, ""
        if upload_id:
            forget_upload(self._objects, self._key, upload_id)


def part_bytes(index: int) -> int:
    """The size of the part at an index from 0, unless it is the last."""
    return PART_BYTES if index < PLAIN_PARTS else LONG_PART_BYTES


def joint_etag(sums: list[bytes]) -> str:
    """The ETag that S3 gives an object joined from parts with these MD5 sums."""
    return f"{hashlib.md5(b''.join(sums), usedforsecurity=False).hexdigest()}-{len(sums)}"


def forget_upload(objects: Objects, key: str, upload_id: str) -> None:
    """Give up an upload that was begun; what can't be given up now is swept later."""
    with suppress(ClientError, BotoCoreError, StorageError):
        objects.account.client.abort_multipart_upload(Bucket=objects.bucket, Key=key, UploadId=upload_id)


def forget_old_uploads(
    objects: Objects, prefix: str, *, before: datetime, is_ours: Callable[[str], bool] | None = None
) -> int:
    """Give up uploads under a prefix that were begun before a moment. Returns how many. Raises StorageError."""
    count = 0
    try:
        pages = objects.account.client.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=objects.bucket, Prefix=prefix):
            for upload in page.get("Uploads", []):
                if upload["Initiated"] < before and (is_ours is None or is_ours(upload["Key"])):
                    forget_upload(objects, upload["Key"], upload["UploadId"])
                    count += 1
    except (ClientError, BotoCoreError) as error:
        raise from_botocore(error, objects.bucket) from error
    return count


def _sums(file: Path, size: int) -> list[bytes]:
    sums, start = list[bytes](), 0
    while start < size:
        count = min(part_bytes(len(sums)), size - start)
        sums.append(Slice(file, start, count).md5())
        start += count
    return sums

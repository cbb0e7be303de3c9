"""Objects in one S3 bucket: created once, confirmed, compared. Everything here blocks."""

import hashlib
import re
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from storage.bucket import StoredObject
from storage.errors import BucketUnavailable, Conflict, ObjectMissing, StorageError
from storage.s3_account import Account
from storage.s3_body import CHUNK_BYTES, Body, WireError
from storage.s3_errors import code_of, from_answer
from storage.s3_http import Answer
from storage.s3_wire import Reply, Wire, never

PROOF_BYTES_MAX = 1024 * 1024  # objects up to here are sent twice once, to see whether conditions are honoured
CONFLICT_ATTEMPTS = 3  # 409 says that another request for the key is under way: short waits are enough
CONFLICT_PAUSE_S = 0.2

_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to stand under a key: `md5` is what the ETag will be, `sha256` is in hex."""

    key: str
    size: int
    sha256: str
    md5: str
    content_type: str

    def stored(self) -> StoredObject:
        """This, once it is there."""
        return StoredObject(self.key, self.size, self.sha256, self.content_type)


@dataclass(frozen=True, slots=True)
class Found:
    """What the bucket says about an object: its own checksums, "" where it has none."""

    size: int
    etag: str
    sha256: str
    content_type: str
    encrypted: bool


class Objects:
    """The objects of one bucket, connected to when they are first asked for."""

    def __init__(self, bucket: str, connect: Callable[[str], Account]) -> None:
        self.bucket = bucket
        # Whether If-None-Match is honoured: None until it was seen. Some servers refuse it, some quietly ignore it.
        self.conditional: bool | None = None
        # Whether a part's CRC-32 is looked at: None until it was seen.
        self.crc32: bool | None = None
        self._connect, self._lock = connect, threading.Lock()
        self._account: Account | None = None
        self._wire: Wire | None = None
        self._closed = False

    @property
    def account(self) -> Account:
        """Client and credentials. Raises BucketMisconfigured."""
        return self._connected()[0]

    @property
    def wire(self) -> Wire:
        """Where data goes. Raises BucketMisconfigured."""
        return self._connected()[1]

    def head(self, key: str) -> Found | None:
        """What stands under a key, or None."""
        reply = self.wire.ask("HEAD", key, {"x-amz-checksum-mode": "ENABLED"})
        if reply.status == 404:
            return None
        self._must(reply)
        return found(reply.headers)

    def put(
        self, key: str, body: Body, *, content_type: str, sha256: str, stop: Callable[[], bool] = never
    ) -> StoredObject:
        """Create an object of up to 5 GiB in one request and confirm it; equal bytes there already are a success."""
        wanted = Wanted(key, body.size, sha256, body.md5().hex(), content_type)
        if not self.conditional and (there := self.head(key)):
            return self.settled(wanted, there)
        reply = self._created(wanted, body, stop)
        if reply.status in {409, 412}:
            return self.settled(wanted, self.head(key))
        self._must(reply)
        stored = self.confirmed(wanted, found(reply.headers, size=body.size))
        if self.conditional is None and body.size <= PROOF_BYTES_MAX:
            with suppress(StorageError):  # the object is safe; the next one may show it
                self.conditional = self.honours(wanted, body)
        return stored

    def replace(self, key: str, body: Body, *, content_type: str, sha256: str) -> StoredObject:
        """Put an object in place of whatever is there and confirm it."""
        wanted = Wanted(key, body.size, sha256, body.md5().hex(), content_type)
        reply = self.send(wanted, body, condition=False)
        self._must(reply)
        return self.confirmed(wanted, found(reply.headers, size=body.size))

    def settled(self, wanted: Wanted, there: Found | None) -> StoredObject:
        """Somebody was there first: a success if with equal bytes. Raises Conflict, BucketUnavailable."""
        if there is None:
            raise BucketUnavailable(f"The bucket {self.bucket} is still busy with this key.")
        if there.size != wanted.size or not (proves(there, wanted) or self.read_back(wanted.key)[0] == wanted.sha256):
            raise Conflict("Other bytes already stand under this key.")
        return wanted.stored()

    def confirmed(self, wanted: Wanted, written: Found) -> StoredObject:
        """The object we just wrote, if what the bucket says or gives back proves it; otherwise it is removed again."""
        if written.size == wanted.size and proves(written, wanted):
            return wanted.stored()
        there = self.head(wanted.key)
        if there and there.size == wanted.size and proves(there, wanted):
            return wanted.stored()
        sha256, etag = self.read_back(wanted.key) if there else ("", "")
        if sha256 == wanted.sha256:
            return wanted.stored()
        if there and etag == written.etag:
            with suppress(StorageError):
                self.delete(wanted.key)
        raise BucketUnavailable(f"The bucket {self.bucket} stored other bytes than it was sent.")

    def get(self, key: str, *, start: int = 0, end: int | None = None, etag: str = "") -> Answer | None:
        """Bytes `start` to `end` (exclusive) of an object, or None where it has none so late. Raises ObjectMissing."""
        headers = {"range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        answer = self.wire.open("GET", key, headers | ({"if-match": f'"{etag}"'} if etag else {}))
        if answer.status == (206 if "range" in headers else 200):
            return answer
        reply = self._read_out(answer)
        if reply.status == 416:
            return None
        if reply.status == 200:
            raise BucketUnavailable(f"The bucket {self.bucket} does not give parts of objects.")
        raise from_answer(self.bucket, reply.status, reply.code, reply.headers)

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is a success."""
        reply = self.wire.ask("DELETE", key)
        if reply.status != 404 or reply.code == "NoSuchBucket":
            self._must(reply)

    def send(self, wanted: Wanted, body: Body, *, condition: bool, stop: Callable[[], bool] = never) -> Reply:
        """One request that writes, whatever comes of it."""
        headers = {"content-type": wanted.content_type, "x-amz-checksum-sha256": _base64(wanted.sha256)}
        if condition:
            headers["if-none-match"] = "*"
        return self.wire.ask("PUT", wanted.key, headers, body=body, payload=wanted.sha256, stop=stop)

    def honours(self, wanted: Wanted, body: Body) -> bool | None:
        """Whether creating once more what is there is refused as it should be; None where the answer does not tell."""
        reply = self.send(wanted, body, condition=True)
        if reply.status < 300 or reply.status == 412:
            return reply.status == 412
        meaning = from_answer(self.bucket, reply.status, reply.code, reply.headers)
        return None if isinstance(meaning, BucketUnavailable) else False

    def read_back(self, key: str) -> tuple[str, str]:
        """Hash and ETag of what the bucket gives back for a key; empty where it has nothing."""
        digest = hashlib.sha256()
        try:
            answer = self.get(key)
        except ObjectMissing:
            return "", ""
        try:
            while answer and (piece := answer.read(CHUNK_BYTES)):
                digest.update(piece)
        except WireError as error:
            raise BucketUnavailable(f"The bucket {self.bucket} did not give an object back ({error}).") from error
        finally:
            if answer:
                self.wire.give_back(answer)
        return digest.hexdigest(), found(answer.headers).etag if answer else ""

    def close(self) -> None:
        """Hang up, also on what is under way: it fails at once."""
        with self._lock:
            self._closed = True
        if self._account and self._wire:
            self._wire.close()
            self._account.client.close()

    def _connected(self) -> tuple[Account, Wire]:
        with self._lock:
            if self._closed:
                raise BucketUnavailable(f"The bucket {self.bucket} was closed.")
            if self._account is None or self._wire is None:
                self._account = self._connect(self.bucket)
                self._wire = Wire(self.bucket, self._account)
            return self._account, self._wire

    def _created(self, wanted: Wanted, body: Body, stop: Callable[[], bool]) -> Reply:
        condition = self.conditional is not False
        reply = self.send(wanted, body, condition=condition, stop=stop)
        for attempt in range(1, CONFLICT_ATTEMPTS):
            if reply.status == 501 and condition:
                self.conditional = condition = False
            elif reply.status == 409:
                time.sleep(CONFLICT_PAUSE_S * attempt)
            else:
                break
            reply = self.send(wanted, body, condition=condition, stop=stop)
        return reply

    def _read_out(self, answer: Answer) -> Reply:
        try:
            return Reply(answer.status, answer.headers, code_of(answer.text()) if answer.status >= 300 else "")
        except WireError as error:
            raise BucketUnavailable(f"The bucket {self.bucket} did not answer ({error}).") from error
        finally:
            self.wire.give_back(answer)

    def _must(self, reply: Reply) -> None:
        if not 200 <= reply.status < 300:
            raise from_answer(self.bucket, reply.status, reply.code, reply.headers)


def found(headers: Mapping[str, str], *, size: int | None = None) -> Found:
    """What the headers of an answer say about an object; `size` where they are those of a write."""
    length = headers.get("content-length", "")
    checksum = headers.get("x-amz-checksum-sha256", "")
    composite = "-" in checksum or headers.get("x-amz-checksum-type", "") == "COMPOSITE"
    keyed = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return Found(
        size=size if size is not None else int(length) if length.isdigit() else 0,
        etag=headers.get("etag", "").removeprefix("W/").strip('"').lower(),
        sha256="" if composite else _hex(checksum),
        content_type=headers.get("content-type", ""),
        encrypted=keyed or "x-amz-server-side-encryption-customer-algorithm" in headers,
    )


def proves(there: Found, wanted: Wanted) -> bool:
    """Whether the bucket's own checksums say that the bytes are the wanted ones.

    An ETag is the MD5 of the bytes unless keys of KMS or of the customer are in play:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html. One that should be the MD5 and is not outweighs the
    other checksum, which a server may merely have repeated.
    """
    if there.etag == wanted.md5:
        return True
    return there.sha256 == wanted.sha256 and (there.encrypted or not _MD5.fullmatch(there.etag))


def _base64(digest_hex: str) -> str:
    return b64encode(bytes.fromhex(digest_hex)).decode()


def _hex(digest_base64: str) -> str:
    try:
        return b64decode(digest_base64, validate=True).hex()
    except ValueError:
        return ""

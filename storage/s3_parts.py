"""One part of an upload: sent, and confirmed by the cheapest checksum that the bucket is known to look at."""

import re
from base64 import b64encode
from collections.abc import Callable

from storage.errors import BucketUnavailable, StorageError
from storage.s3_body import Data, Slice
from storage.s3_errors import from_answer
from storage.s3_objects import Objects, found
from storage.s3_wire import Reply
from storage.sigv4 import quoted_query

CRC32 = "x-amz-checksum-crc32"
TRIAL_PART = 10_000  # S3's last one: what is not named when the parts are joined is dropped
TRIAL, WRONG_CRC32 = Data(b"?"), "AAAAAA=="
REFUSALS = {"BadDigest", "XAmzContentChecksumMismatch"}

_MD5 = re.compile(r"[0-9a-f]{32}")


def try_checksums(objects: Objects, key: str, upload_id: str, stop: Callable[[], bool]) -> None:
    """Find out once whether a part with a wrong CRC-32 is refused: an MD5 costs eight times as much.

    Amazon's own S3 refuses it for another reason (the upload was begun without it) and gets MD5 sums.
    """
    if objects.crc32 is None:
        try:
            reply = _put(objects, key, upload_id, TRIAL_PART, TRIAL, {CRC32: WRONG_CRC32}, stop)
        except StorageError:
            return  # the parts themselves will tell what is wrong
        if reply.status < 500:
            objects.crc32 = reply.status == 400 and reply.code in REFUSALS


def send_part(
    objects: Objects, key: str, upload_id: str, number: int, body: Slice, stop: Callable[[], bool]
) -> tuple[bytes, str]:
    """Send a part; returns its MD5, which may be the bucket's own word, and its ETag.

    Raises StorageError, and WireError or OSError where the file can't be read.
    """
    if objects.crc32:
        crc32 = b64encode(body.crc32()).decode()
        reply = _put(objects, key, upload_id, number, body, {CRC32: crc32}, stop)
        etag = _etag(objects, reply)
        right = reply.headers.get(CRC32, crc32) == crc32
        md5 = bytes.fromhex(etag) if _MD5.fullmatch(etag) else b""
    else:
        md5 = body.md5()  # the server refuses other bytes, and repeats it as the ETag
        reply = _put(objects, key, upload_id, number, body, {"content-md5": b64encode(md5).decode()}, stop)
        etag = _etag(objects, reply)
        right = etag == md5.hex() or found(reply.headers).encrypted
    if not right:
        raise BucketUnavailable(f"The bucket {objects.bucket} stored other bytes than it was sent.")
    return md5, etag


def _put(
    objects: Objects,
    key: str,
    upload_id: str,
    number: int,
    body: Data | Slice,
    checksum: dict[str, str],
    stop: Callable[[], bool],
) -> Reply:
    query = quoted_query({"partNumber": str(number), "uploadId": upload_id})
    return objects.wire.ask("PUT", key, checksum, query=query, body=body, stop=stop)


def _etag(objects: Objects, reply: Reply) -> str:
    if reply.status != 200:
        raise from_answer(objects.bucket, reply.status, reply.code, reply.headers)
    return found(reply.headers).etag

"""S3 where it fails: on a server that does so on demand, and on a real one that is asked wrongly."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage import s3_http, s3_upload
from storage.buckets import open_bucket
from storage.errors import BucketMisconfigured, BucketUnavailable, Cancelled, Conflict, ObjectMissing
from storage.s3 import S3Bucket
from storage.s3_upload import PART_BYTES
from tests.servers.faulty_s3 import (
    CORRUPT,
    CUT,
    DROP,
    HANG,
    LOSE,
    NONSENSE,
    SHORT_CHUNKS,
    STALL,
    WRONG_ETAG,
    FaultyS3,
    Say,
    Thing,
    running_faulty_s3,
)
from tests.servers.seaweedfs import SeaweedFS

BUSY = Say(503, "SlowDown")
TYPE = "image/png"
LARGE = bytes(range(251)) * ((2 * PART_BYTES + 100) // 251)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with running_faulty_s3() as server:
        environment(monkeypatch, server.endpoint)
        yield server


def environment(monkeypatch: pytest.MonkeyPatch, endpoint: str, *, access="AKIA", secret="hush-hush") -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")


@pytest.fixture
async def bucket(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Bucket]:
    monkeypatch.setattr(s3_upload, "PAUSES_S", (0.01, 0.01, 0.01))
    bucket = S3Bucket.open("s3://bucket/p")
    yield bucket
    await bucket.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def put(bucket: S3Bucket, data: bytes, key: str = "p/k"):
    return await bucket.put(key, data, content_type=TYPE, sha256=sha256(data))


async def put_large(bucket: S3Bucket, tmp_path: Path, data: bytes = LARGE, key: str = "p/k"):
    file = tmp_path / "file"
    await asyncio.to_thread(file.write_bytes, data)
    return await bucket.put_file(key, file, content_type=TYPE, size=len(data), sha256=sha256(data))


async def read(bucket: S3Bucket, **span: int) -> bytes:
    return b"".join([chunk async for chunk in bucket.read("p/k", **span)])


async def test_a_bucket_that_is_busy_says_when_to_come_again(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("put", Say(503, "SlowDown", {"Retry-After": "7"}))

    with pytest.raises(BucketUnavailable) as caught:
        await put(bucket, b"x")

    assert caught.value.retry_after_s == 7
    assert str(caught.value) == "The bucket bucket did not do it this time (503 SlowDown)."
    assert server.things == {}


@pytest.mark.parametrize("fault", [LOSE, DROP])
async def test_a_lost_connection_is_made_up_for_once(bucket: S3Bucket, server: FaultyS3, fault: str) -> None:
    await put(bucket, b"before", key="p/before")  # so that a kept connection is the one that is lost
    server.fail("put", fault)

    stored = await put(bucket, b"x")

    assert stored.sha256 == sha256(b"x")
    assert server.things["p/k"].data == b"x"


async def test_a_connection_that_keeps_being_lost_is_told(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("put", DROP, DROP)

    with pytest.raises(BucketUnavailable, match="connection was lost"):
        await put(bucket, b"x")


async def test_connections_that_the_server_ends_are_not_used_again(bucket: S3Bucket, server: FaultyS3) -> None:
    server.keep_alive = False

    for n in range(3):
        await put(bucket, b"x", key=f"p/{n}")

    assert len(server.things) == 3


async def test_an_answer_that_is_no_http_is_an_outage(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("head", NONSENSE)

    with pytest.raises(BucketUnavailable, match="no HTTP"):
        await put(bucket, b"x")


async def test_an_answer_without_end_is_an_outage(
    bucket: S3Bucket, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail("head", Say(200, headers={f"x-{n}": "y" for n in range(200)}), Say(200, headers={"x": "y" * 20_000}))
    for _ in range(2):
        with pytest.raises(BucketUnavailable):
            await put(bucket, b"x")

    monkeypatch.setattr(s3_http, "SILENCE_S", 0.1)
    await bucket.close()
    quick = S3Bucket.open("s3://bucket/p")
    server.fail("head", Say(200, after=lambda: time.sleep(0.5)))
    with pytest.raises(BucketUnavailable, match="time-out"):
        await put(quick, b"x")
    await quick.close()


async def test_an_error_whose_body_is_cut_short_is_an_outage(bucket: S3Bucket, server: FaultyS3) -> None:
    server.keep_alive = False
    server.fail("put", Say(503, headers={"content-length": "999", "connection": "close"}))
    with pytest.raises(BucketUnavailable):
        await put(bucket, b"x")
    server.fail("get", Say(503, headers={"content-length": "999", "connection": "close"}))
    with pytest.raises(BucketUnavailable):
        await read(bucket)


async def test_another_request_for_the_key_is_waited_for(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("put", Say(409, "ConditionalRequestConflict"), Say(409, "ConditionalRequestConflict"))

    assert (await put(bucket, b"x")).size == 1


async def test_a_key_that_stays_contested_is_for_later(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("put", *[Say(409, "ConditionalRequestConflict")] * 3)

    with pytest.raises(BucketUnavailable, match="busy"):
        await put(bucket, b"x")


@pytest.mark.parametrize(("mode", "honoured"), [("honoured", True), ("ignored", False), ("refused", False)])
async def test_create_only_holds_whether_or_not_the_bucket_knows_conditions(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path, mode: str, honoured: bool
) -> None:
    server.conditions = mode
    server.things["p/old"] = Thing(b"old", hashlib.md5(b"old").hexdigest())

    with pytest.raises(Conflict):
        await put(bucket, b"new", key="p/old")
    await put(bucket, b"one")
    assert bucket._objects.conditional is honoured
    with pytest.raises(Conflict):
        await put(bucket, b"two")
    await put(bucket, b"one")
    with pytest.raises(Conflict):
        await put_large(bucket, tmp_path)
    await put_large(bucket, tmp_path, key="p/large")
    await put_large(bucket, tmp_path, key="p/large")

    assert server.things["p/old"].data == b"old"
    assert server.things["p/k"].data == b"one"
    assert server.things["p/large"].data == LARGE


async def test_conditions_refused_only_when_joining_parts_are_done_without(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path
) -> None:
    server.fail("complete", Say(501, "NotImplemented"))

    await put_large(bucket, tmp_path)

    assert server.things["p/k"].data == LARGE


async def test_once_conditions_are_known_to_be_honoured_a_write_is_one_request(
    bucket: S3Bucket, server: FaultyS3
) -> None:
    await put(bucket, b"first", key="p/first")
    server.asked.clear()

    await put(bucket, b"x")

    assert server.asked == ["put"]


async def test_a_wrong_etag_is_settled_by_reading_back(bucket: S3Bucket, server: FaultyS3) -> None:
    server.checksums = False
    server.fail("put", WRONG_ETAG)
    server.fail("head", None, WRONG_ETAG)

    assert (await put(bucket, b"x")).sha256 == sha256(b"x")
    assert "get" in server.asked


async def test_damaged_bytes_are_removed_again(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("put", CORRUPT)

    with pytest.raises(BucketUnavailable, match="other bytes"):
        await put(bucket, b"whole")

    assert server.things == {}
    assert (await put(bucket, b"whole")).size == 5


async def test_damaged_bytes_are_not_believed_when_they_cannot_be_read_back(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("put", CORRUPT)
    server.fail("get", Say(404, "NoSuchKey"))

    with pytest.raises(BucketUnavailable, match="other bytes"):
        await put(bucket, b"whole")


async def test_damage_on_the_way_is_an_outage(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("put", Say(400, "BadDigest"))

    with pytest.raises(BucketUnavailable, match="BadDigest"):
        await put(bucket, b"x")


async def test_where_etags_mean_nothing_the_checksum_counts(bucket: S3Bucket, server: FaultyS3, tmp_path: Path) -> None:
    server.opaque_etags = True

    await put(bucket, b"x")
    assert "get" not in server.asked
    with pytest.raises(Conflict):
        await put(bucket, b"y")
    await put_large(bucket, tmp_path, key="p/large")
    assert server.asked[-1] == "get"
    await put_large(bucket, tmp_path, key="p/large")


async def test_a_bucket_without_checksums_is_compared_by_reading(bucket: S3Bucket, server: FaultyS3) -> None:
    server.things["p/k"] = Thing(b"x", "opaque")

    assert (await put(bucket, b"x")).size == 1
    with pytest.raises(Conflict):
        await put(bucket, b"y")


async def test_a_comparison_that_is_cut_short_is_an_outage(bucket: S3Bucket, server: FaultyS3) -> None:
    server.things["p/k"] = Thing(b"xxxx", "opaque")
    server.fail("get", CUT)

    with pytest.raises(BucketUnavailable, match="give an object back"):
        await put(bucket, b"xxxx")


@pytest.mark.parametrize("operation", ["create", "part", "complete"])
@pytest.mark.parametrize(
    "fault",
    [
        *(BUSY, LOSE, DROP, Say(409, "ConditionalRequestConflict")),
        *(Say(500, "InternalError"), Say(503, "SlowDown", {"Retry-After": "0"})),
    ],
)
async def test_a_large_file_outlives_any_single_fault(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path, operation: str, fault: str | Say
) -> None:
    server.fail(operation, fault)

    stored = await put_large(bucket, tmp_path)

    assert stored.sha256 == sha256(LARGE)
    assert server.things["p/k"].data == LARGE


@pytest.mark.parametrize("fault", [WRONG_ETAG, CORRUPT])
async def test_a_part_that_arrived_damaged_is_sent_again(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path, fault: str
) -> None:
    server.fail("part", None, fault)

    await put_large(bucket, tmp_path)

    assert server.count("part") == 4
    assert server.things["p/k"].data == LARGE


async def test_parts_go_by_crc32_where_a_wrong_one_was_refused(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path
) -> None:
    server.part_crc32 = "looked at"

    await put_large(bucket, tmp_path)
    await put_large(bucket, tmp_path, key="p/other")

    parts = [headers for operation, headers in server.headers if operation == "part"]
    assert all("x-amz-checksum-crc32" in headers and "content-md5" not in headers for headers in parts)
    assert (server.count("part"), server.count("trial"), server.count("get")) == (6, 1, 0)
    assert server.things["p/k"].data == server.things["p/other"].data == LARGE


@pytest.mark.parametrize("crc32", ["ignored", "not expected"])
async def test_parts_go_by_md5_where_nobody_looks_at_their_crc32(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path, crc32: str
) -> None:
    server.part_crc32 = crc32

    await put_large(bucket, tmp_path)
    await put_large(bucket, tmp_path, key="p/other")

    parts = [headers for operation, headers in server.headers if operation == "part"]
    assert all("x-amz-checksum-crc32" not in headers and "content-md5" in headers for headers in parts)
    assert (server.count("part"), server.count("trial")) == (6, 1)
    assert server.things["p/k"].data == server.things["p/other"].data == LARGE


@pytest.mark.parametrize("fault", [BUSY, DROP])
async def test_a_trial_without_an_answer_is_made_again_with_the_next_file(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path, fault: str | Say
) -> None:
    server.part_crc32 = "looked at"
    server.fail("trial", *[fault] * (1 if fault is BUSY else 2))

    await put_large(bucket, tmp_path)
    await put_large(bucket, tmp_path, key="p/other")

    ways = ["x-amz-checksum-crc32" in headers for operation, headers in server.headers if operation == "part"]
    assert ways == [False] * 3 + [True] * 3


@pytest.mark.parametrize("fault", [CORRUPT, BUSY, LOSE])
async def test_a_part_with_a_crc32_outlives_a_fault(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path, fault: str | Say
) -> None:
    server.part_crc32 = "looked at"
    server.fail("part", None, fault)

    await put_large(bucket, tmp_path)

    assert server.count("part") == 4
    assert server.things["p/k"].data == LARGE


async def test_parts_that_are_joined_to_other_bytes_are_found_out_by_reading(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path
) -> None:
    server.part_crc32 = "looked at"
    server.fail("complete", CORRUPT)

    with pytest.raises(BucketUnavailable, match="stored other bytes"):
        await put_large(bucket, tmp_path)

    assert server.things == {}


async def test_success_told_as_an_error_inside_200_is_a_success(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path
) -> None:
    server.fail("complete", "error in 200")

    await put_large(bucket, tmp_path)

    assert server.count("complete") == 1


async def test_an_error_inside_200_is_tried_again(bucket: S3Bucket, server: FaultyS3, tmp_path: Path) -> None:
    server.fail("complete", BUSY, BUSY)

    await put_large(bucket, tmp_path)

    assert server.count("complete") == 3


@pytest.mark.parametrize("operation", ["create", "part", "complete"])
async def test_a_fault_that_stays_is_told_and_nothing_left_over(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path, operation: str
) -> None:
    server.fail(operation, *[BUSY] * 20)

    with pytest.raises(BucketUnavailable, match="503 SlowDown"):
        await put_large(bucket, tmp_path)

    assert server.uploads == {}
    assert server.things == {}


@pytest.mark.parametrize("operation", ["create", "part", "complete"])
async def test_a_refusal_is_not_tried_again(bucket: S3Bucket, server: FaultyS3, tmp_path: Path, operation: str) -> None:
    server.fail(operation, *[Say(403, "AccessDenied")] * 4)

    with pytest.raises(BucketMisconfigured, match="s3:PutObject"):
        await put_large(bucket, tmp_path)

    assert server.uploads == {}


async def test_parts_that_were_swept_away_meanwhile_are_an_outage(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path
) -> None:
    server.fail("complete", Say(404, "NoSuchUpload"))

    with pytest.raises(BucketUnavailable, match="NoSuchUpload"):
        await put_large(bucket, tmp_path)


async def test_a_rival_that_was_quicker_with_the_same_file_is_fine(
    bucket: S3Bucket, server: FaultyS3, tmp_path: Path
) -> None:
    await put(bucket, b"first", key="p/first")

    def rival() -> None:
        server.things["p/k"] = Thing(LARGE, "opaque")

    server.fail("complete", Say(412, "PreconditionFailed", after=rival))

    await put_large(bucket, tmp_path)

    assert server.uploads == {}


async def test_damage_while_joining_is_noticed(bucket: S3Bucket, server: FaultyS3, tmp_path: Path) -> None:
    server.fail("complete", CORRUPT)

    with pytest.raises(BucketUnavailable, match="other bytes"):
        await put_large(bucket, tmp_path)

    assert server.things == {}


async def test_giving_up_stops_what_waits_to_try_again(
    server: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_upload, "PAUSES_S", (60.0,))
    sent = threading.Event()
    server.fail("part", *[Say(503, "SlowDown", after=sent.set)] * 10)
    bucket = S3Bucket.open("s3://bucket")
    file = tmp_path / "file"
    file.write_bytes(LARGE)
    upload = bucket.begin("k", file, content_type=TYPE)
    upload.advance(len(LARGE))
    await asyncio.to_thread(sent.wait, 20)

    await asyncio.to_thread(upload.abort)

    assert server.uploads == {}
    with pytest.raises(Cancelled):
        await asyncio.to_thread(upload.commit, size=len(LARGE), sha256=sha256(LARGE))
    await bucket.close()


async def test_a_closed_bucket_takes_nothing_and_raises_nothing_strange(server: FaultyS3, tmp_path: Path) -> None:
    bucket = S3Bucket.open("s3://bucket")
    file = tmp_path / "file"
    file.write_bytes(LARGE)
    upload = bucket.begin("k", file, content_type=TYPE)
    await bucket.close()

    upload.advance(len(LARGE))

    with pytest.raises(BucketUnavailable, match="closed"):
        await asyncio.to_thread(upload.commit, size=len(LARGE), sha256=sha256(LARGE))
    upload.abort()
    await bucket.close()


async def test_a_file_that_is_shorter_than_said_is_told(bucket: S3Bucket, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (PART_BYTES + 1))
    upload = bucket.begin("p/k", file, content_type=TYPE)

    with pytest.raises(BucketUnavailable, match="can't be read"):
        await asyncio.to_thread(upload.commit, size=PART_BYTES * 2, sha256=sha256(b""))


@pytest.mark.parametrize("fault", [CUT, LOSE, DROP])
async def test_a_read_that_is_cut_goes_on_where_it_was(bucket: S3Bucket, server: FaultyS3, fault: str) -> None:
    await put_bytes(server, b"0123456789" * 100_000)
    server.fail("get", fault)

    assert sha256(await read(bucket)) == sha256(b"0123456789" * 100_000)


async def test_a_read_that_keeps_being_cut_is_an_outage(bucket: S3Bucket, server: FaultyS3) -> None:
    await put_bytes(server, b"0123456789")
    server.fail("get", CUT, CUT, CUT)

    with pytest.raises(BucketUnavailable, match="whole object"):
        await read(bucket)


async def test_a_read_never_joins_two_different_objects(bucket: S3Bucket, server: FaultyS3) -> None:
    await put_bytes(server, b"0123456789" * 100_000)
    reading = bucket.read("p/k")
    server.fail("get", CUT)
    first = await anext(reading)
    await put_bytes(server, b"another one" * 100_000)

    with pytest.raises(BucketUnavailable):
        [chunk async for chunk in reading]
    assert first


async def test_an_answer_in_chunks_is_read_whole(bucket: S3Bucket, server: FaultyS3) -> None:
    await put_bytes(server, b"0123456789" * 5)
    server.fail("get", SHORT_CHUNKS, SHORT_CHUNKS, Say(404, "NoSuchKey"))

    assert await read(bucket) == b"0123456789" * 5
    assert await read(bucket, start=3, length=8) == b"34567890"
    with pytest.raises(ObjectMissing):
        await read(bucket)


async def test_a_server_that_ignores_ranges_is_not_believed(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("get", Say(200))

    with pytest.raises(BucketUnavailable, match="parts of objects"):
        await read(bucket, start=5)


@pytest.mark.parametrize("fault", [STALL, HANG])
async def test_a_reader_that_leaves_while_the_server_is_silent_leaves_at_once(
    bucket: S3Bucket, server: FaultyS3, fault: str
) -> None:
    await put_bytes(server, b"0123456789" * 10_000)
    server.fail("get", fault)
    reading = asyncio.create_task(read(bucket))
    await asyncio.to_thread(server.stalled.wait, 20)
    started = time.monotonic()

    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert time.monotonic() - started < 5
    server.released.set()
    assert len(await read(bucket)) == 100_000


async def test_closing_ends_what_waits_for_a_silent_server(bucket: S3Bucket, server: FaultyS3) -> None:
    await put(bucket, b"first", key="p/first")
    server.fail("put", HANG)
    putting = asyncio.create_task(put(bucket, b"x"))
    await asyncio.to_thread(server.stalled.wait, 20)
    started = time.monotonic()

    await bucket.close()

    with pytest.raises(BucketUnavailable):
        await putting
    assert time.monotonic() - started < 5


async def put_bytes(server: FaultyS3, data: bytes) -> None:
    server.things["p/k"] = Thing(data, hashlib.md5(data).hexdigest(), TYPE)


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (Say(404, "NoSuchBucket"), "does not exist"),
        (Say(403, "AccessDenied"), "s3:PutObject"),
        (Say(403), "s3:PutObject"),
        (Say(403, "InvalidAccessKeyId"), "AWS_ACCESS_KEY_ID"),
        (Say(403, "SignatureDoesNotMatch"), "AWS_SECRET_ACCESS_KEY"),
        (Say(400, "ExpiredToken"), "renew"),
        (Say(403, "RequestTimeTooSkewed"), "clock"),
        (Say(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-north-1"}), "AWS_DEFAULT_REGION=eu-north-1"),
        (Say(301, headers={"x-amz-bucket-region": "<evil>"}), r"set AWS_DEFAULT_REGION \("),
        (Say(418, "Teapot"), r"does not take this request \(418 Teapot\)"),
    ],
)
async def test_a_refusal_is_one_sentence_with_the_mend(
    bucket: S3Bucket, server: FaultyS3, say: Say, words: str
) -> None:
    server.fail("put", say)

    with pytest.raises(BucketMisconfigured, match=words) as caught:
        await put(bucket, b"x")

    told = str(caught.value)
    assert told.endswith(".")
    assert "hush" not in told
    assert "secret-ish" not in told


async def test_a_busy_answer_says_nothing_about_conditions(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("put", None, BUSY)  # the object itself is taken
    await put(bucket, b"one", key="p/one")
    await put(bucket, b"two", key="p/two")
    await put(bucket, b"three", key="p/three")
    conditions = ["if-none-match" in headers for operation, headers in server.headers if operation == "put"]
    assert conditions == [True] * 5  # one, busy; two, its proof; three

    server.fail("put", None, BUSY)
    with pytest.raises(BucketUnavailable, match="busy"):
        await bucket.probe()


async def test_a_probe_tells_the_server_without_conditions_apart(bucket: S3Bucket, server: FaultyS3) -> None:
    server.conditions = "ignored"
    assert not (await bucket.probe()).conditional_writes
    server.conditions = "refused"
    told = await bucket.probe()
    assert (told.conditional_writes, told.checksums, told.versioning) == (False, True, True)
    server.fail("versioning", Say(403, "AccessDenied"))
    assert not (await bucket.probe()).versioning
    assert server.things == {}


async def test_a_probe_notices_a_bucket_that_gives_back_something_else(bucket: S3Bucket, server: FaultyS3) -> None:
    server.fail("get", CUT)
    with pytest.raises(BucketUnavailable):
        await bucket.probe()
    server.fail("get", Say(416))
    with pytest.raises(BucketUnavailable, match="give back"):
        await bucket.probe()
    assert server.things == {}


async def test_only_old_uploads_under_our_prefix_are_swept(bucket: S3Bucket, server: FaultyS3) -> None:
    now = datetime.now(UTC)
    old, new = (f"{now - age:%Y-%m-%dT%H:%M:%S.000Z}" for age in (timedelta(days=1, minutes=1), timedelta(hours=23)))
    server.uploads = {f"a@{old}": ("p/a", {}), f"b@{new}": ("p/b", {}), f"c@{old}": ("other/c", {})}

    assert await bucket.sweep() == 1

    assert list(server.uploads) == [f"b@{new}", f"c@{old}"]
    server.fail("list", BUSY)
    with pytest.raises(BucketUnavailable):
        await bucket.sweep()


async def test_old_uploads_of_others_in_the_same_bucket_are_left_alone(bucket: S3Bucket, server: FaultyS3) -> None:
    old = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%dT%H:%M:%S.000Z}"
    server.uploads = {f"a@{old}": ("p/ours", {}), f"b@{old}": ("p/theirs", {})}

    assert await bucket.sweep(lambda key: key == "p/ours") == 1

    assert list(server.uploads) == [f"b@{old}"]


async def test_a_content_type_cannot_smuggle_headers(bucket: S3Bucket, server: FaultyS3) -> None:
    await bucket.put("p/k", b"x", content_type="a/b\r\nx-amz-acl: public-read", sha256=sha256(b"x"))

    assert server.things["p/k"].content_type == "application/octet-stream"
    assert not any("x-amz-acl" in headers for _, headers in server.headers)


async def test_session_tokens_are_sent_along(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    bucket = S3Bucket.open("s3://bucket")

    await put(bucket, b"x")
    await bucket.close()

    assert all(headers["x-amz-security-token"] == "token" for _, headers in server.headers)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///x",
        "s3://b",
        "s3://a b",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3:bucket",
        "s3://fast--eun1-az1--x-s3",
        "gs://bucket",
        "bucket",
    ],
)
def test_a_url_that_names_no_bucket_is_refused_with_what_is_right(url: str) -> None:
    with pytest.raises(BucketMisconfigured):
        open_bucket(url)


async def test_without_credentials_the_mend_is_told(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    bucket = S3Bucket.open("s3://bucket")

    with pytest.raises(BucketMisconfigured, match="needs credentials"):
        await put(bucket, b"x")
    await bucket.close()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("AWS_PROFILE", "nobody", "AWS_PROFILE"),
        ("AWS_ENDPOINT_URL_S3", "not a url", "AWS settings"),
        ("AWS_CA_BUNDLE", "/nowhere/ca.pem", "AWS_CA_BUNDLE"),
    ],
)
async def test_settings_that_make_no_sense_are_told(
    server: FaultyS3, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, words: str
) -> None:
    if setting == "AWS_CA_BUNDLE":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://127.0.0.1:1")
    monkeypatch.setenv(setting, value)
    bucket = S3Bucket.open("s3://bucket")

    with pytest.raises(BucketMisconfigured, match=words):
        await put(bucket, b"x")
    await bucket.close()


async def test_nobody_there_is_an_outage(server: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for endpoint, words in (("http://127.0.0.1:1", "refused"), ("http://nowhere.invalid", "host name")):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        bucket = S3Bucket.open("s3://bucket.with.dots")
        with pytest.raises(BucketUnavailable, match=words):
            await put(bucket, b"x")
        with pytest.raises(BucketUnavailable, match="can't be reached"):
            await bucket.sweep()
        await bucket.close()


async def test_a_bucket_that_does_not_exist_and_wrong_keys_are_told_by_a_real_server(
    s3_environment: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        ("s3://not-there", "AWS_REGION", "us-east-1", "does not exist"),
        (s3_environment.url(), "AWS_SECRET_ACCESS_KEY", "wrong", "AWS_SECRET_ACCESS_KEY"),
        (s3_environment.url(), "AWS_ACCESS_KEY_ID", "wrong", "AWS_ACCESS_KEY_ID"),
    ]
    for url, setting, value, words in cases:
        monkeypatch.setenv(setting, value)
        bucket = S3Bucket.open(url)
        with pytest.raises(BucketMisconfigured, match=words):
            await bucket.probe()
        await bucket.close()


async def test_uploads_that_died_are_seen_and_swept_on_a_real_server(s3_environment: SeaweedFS) -> None:
    bucket = S3Bucket.open(s3_environment.url())
    client = s3_environment.client()
    client.create_multipart_upload(Bucket=bucket.name, Key=bucket.key("k"))

    assert await bucket.sweep() == 0  # it is not a day old
    later = datetime.now(UTC) + timedelta(minutes=1)
    swept = await asyncio.to_thread(s3_upload.forget_old_uploads, bucket._objects, bucket.key(""), before=later)

    assert swept == 1
    assert not client.list_multipart_uploads(Bucket=bucket.name, Prefix=bucket.key("")).get("Uploads")
    client.close()
    await bucket.close()


def test_parts_of_any_size_that_s3_takes_fit_into_ten_thousand() -> None:
    total = sum(s3_upload.part_bytes(index) for index in range(10_000))

    assert total >= 5 * 1024**4
    assert {s3_upload.part_bytes(index) for index in range(1280)} == {PART_BYTES}  # 20 GiB in parts all alike

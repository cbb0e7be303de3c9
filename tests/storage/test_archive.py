import asyncio
import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from storage.address import AllowedHosts
from storage.archive import EARLY_BYTES_MIN, Archived, archive
from storage.bucket import Bucket
from storage.errors import (
    BucketMisconfigured,
    BucketUnavailable,
    Cancelled,
    Conflict,
    Gone,
    Refused,
    SourceUnavailable,
    SpoolUnavailable,
)
from storage.fetch import Fetcher
from storage.folder import FolderBucket
from storage.s3 import S3Bucket
from storage.spool import Spool
from storage.watch import Patience
from tests.storage.faulty import Reply, cut, good, head, ranged, serving, silent

MIB = 1024 * 1024
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000003000000020802000000") + os.urandom(50)
SIZES = [0, 10, 300_000, 4 * MIB, 4 * MIB + 1, EARLY_BYTES_MIN, EARLY_BYTES_MIN + 1, EARLY_BYTES_MIN + 3 * MIB]
KEPT_SIZES = [10, 5 * MIB, EARLY_BYTES_MIN + 1]


async def save(
    source: str,
    bucket: Bucket,
    spool: Spool,
    *,
    stem: str = "2026/one/output.0",
    bytes_max: int = 100 * MIB,
    cancelled: Callable[[], bool] = lambda: False,
) -> Archived:
    hosts = AllowedHosts.parse("http://127.0.0.1:" + str(urlsplit(source).port) if "127" in source else "")
    fetcher = Fetcher(hosts, patience=Patience(connect_s=1, read_s=1, total_s=10), threads=2)
    try:
        return await archive(
            source,
            bucket=bucket,
            stem=bucket.key(stem),
            spool=spool,
            spool_name="one",
            fetcher=fetcher,
            bytes_max=bytes_max,
            cancelled=cancelled,
        )
    finally:
        fetcher.close()


def objects(root: Path) -> dict[str, bytes]:
    found = (path for path in (root / "bucket").rglob("*") if path.is_file())
    return {path.relative_to(root / "bucket").as_posix(): path.read_bytes() for path in found}


def spooled(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool.folder.iterdir())


def body(size: int) -> bytes:
    return (os.urandom(4096) * (size // 4096 + 1))[:size]


@contextlib.contextmanager
def down(tmp_path: Path, instead: str = "/proc/self") -> Iterator[None]:
    """While this lasts, the bucket's folder leads to where nothing can be written."""
    root, away = tmp_path / "bucket", tmp_path / "away"
    root.rename(away)
    root.symlink_to(instead)
    yield
    root.unlink()
    away.rename(root)


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_is_stored_byte_for_byte(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, size: int
) -> None:
    data = body(size)
    etag = f'"{hashlib.md5(data).hexdigest()}"'
    with serving(good(data, ETag=etag, Content_Type="image/png", X_Other="no")) as server:
        archived = await save(server.url("/out.webp?x=1"), bucket, spool)
    assert archived.size == size
    assert archived.sha256 == hashlib.sha256(data).hexdigest()
    assert archived.verified == bool(size)
    assert archived.source == server.url("/out.webp?x=1")
    assert archived.headers == {"etag": etag, "content-type": "image/png", "content-length": str(size)}
    assert (archived.media.header_type, archived.media.url_ending) == ("image/png", "webp")
    assert objects(tmp_path) == {archived.key: data}
    assert (spooled(spool), spool.used_bytes) == ([], 0)


async def test_a_picture_is_told_with_its_ending_and_sides(bucket: FolderBucket, spool: Spool) -> None:
    with serving(good(PNG, Content_Type="application/octet-stream")) as server:
        archived = await save(server.url(), bucket, spool)
    assert archived.key == "2026/one/output.0.png"
    assert (archived.media.content_type, archived.width, archived.height, archived.duration_s) == (
        "image/png",
        3,
        2,
        None,
    )


async def test_an_error_page_that_pretends_to_be_a_picture_is_told_as_a_page(
    bucket: FolderBucket, spool: Spool
) -> None:
    with serving(good(b"<!doctype html><title>404</title>", Content_Type="image/png")) as server:
        archived = await save(server.url("/a.png"), bucket, spool)
    assert (archived.key, archived.media.content_type) == ("2026/one/output.0.html", "text/html")


async def test_a_data_uri_is_stored_and_not_repeated(tmp_path: Path, bucket: FolderBucket, spool: Spool) -> None:
    archived = await save("data:image/PNG;base64,iVBORw0KGgo=", bucket, spool)
    assert (archived.source, archived.headers, archived.verified) == ("data:image/png", {}, True)
    assert objects(tmp_path) == {"2026/one/output.0.png": b"\x89PNG\r\n\x1a\n"}
    large = await save("data:text/csv," + "a,b%0A" * MIB, bucket, spool, stem="large")
    assert (large.size, large.key) == (4 * MIB, "large.csv")
    larger = await save("data:text/csv," + "a,b%0A" * (MIB + 5), bucket, spool, stem="larger")
    assert (larger.size, larger.source) == (4 * MIB + 20, "data:text/csv")
    assert spooled(spool) == []


@pytest.mark.parametrize(
    ("source", "error"), [("data:,%zz", Gone), ("data:,12345", Refused), ("ftp://x", Refused), ("nonsense", Refused)]
)
async def test_sources_that_lead_nowhere_leave_nothing(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, source: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await save(source, bucket, spool, bytes_max=4)
    assert (objects(tmp_path), spooled(spool)) == ({}, [])


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ([cut(body(30 * MIB), 20 * MIB)], SourceUnavailable),
        (
            [good(body(20 * MIB), ETag='"' + "0" * 32 + '"'), good(body(5 * MIB), ETag='"' + "0" * 32 + '"'), b""],
            SourceUnavailable,
        ),
        ([good(b"", 404)], Gone),
        ([head(Content_Length=200 * MIB)], Refused),
    ],
)
async def test_what_did_not_come_whole_is_never_seen(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, replies: list[Reply | bytes], error: type[Exception]
) -> None:
    with serving(*replies) as server, pytest.raises(error):
        await save(server.url(), bucket, spool)
    assert (objects(tmp_path), spooled(spool), spool.used_bytes) == ({}, [], 0)


async def test_a_large_file_that_broke_off_is_resumed_into_the_same_upload(
    tmp_path: Path, bucket: FolderBucket, spool: Spool
) -> None:
    data = body(40 * MIB)
    with serving(cut(data, 25 * MIB + 7, ETag='"tag"'), ranged(data)) as server:
        archived = await save(server.url(), bucket, spool)
        assert [request.headers.get("range") for request in server.requests] == [None, f"bytes={25 * MIB + 7}-"]
    assert objects(tmp_path) == {archived.key: data}


async def test_a_large_file_that_changed_in_between_is_uploaded_anew(
    tmp_path: Path, bucket: FolderBucket, spool: Spool
) -> None:
    data = body(20 * MIB)
    with serving(cut(body(40 * MIB), 25 * MIB, ETag='"tag"'), ranged(data, etag='"new"')) as server:
        archived = await save(server.url(), bucket, spool)
    assert (archived.verified, objects(tmp_path)) == (True, {archived.key: data})


async def test_a_large_file_against_a_wrong_hash_is_stored_as_unverified(
    tmp_path: Path, bucket: FolderBucket, spool: Spool
) -> None:
    data = body(20 * MIB)
    with serving(good(data, ETag='"' + "0" * 32 + '"')) as server:
        archived = await save(server.url(), bucket, spool)
        assert len(server.requests) == 2
    assert (archived.verified, objects(tmp_path)) == (False, {archived.key: data})


@pytest.mark.parametrize("size", KEPT_SIZES)
@pytest.mark.parametrize(("instead", "error"), [("/proc/self", BucketUnavailable), ("/sys", BucketMisconfigured)])
async def test_what_the_bucket_did_not_take_goes_there_later_without_fetching_again(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, size: int, instead: str, error: type[Exception]
) -> None:
    data = PNG + body(size)
    with down(tmp_path, instead):
        with serving(good(data, ETag='"x"')) as server, pytest.raises(error):
            await save(server.url(), bucket, spool)
        assert (spooled(spool), spool.used_bytes) == (["one.data", "one.json"], len(data))
        later = Spool(spool.folder, 256 * MIB, disk_free_min=0)
        with pytest.raises(error):
            await save(server.url(), bucket, later)
    archived = await save(server.url(), bucket, later, stem="elsewhere")
    assert (archived.key, archived.size, archived.verified) == ("elsewhere.png", len(data), True)
    assert (archived.headers["etag"], archived.width) == ('"x"', 3)
    assert objects(tmp_path) == {"elsewhere.png": data}
    assert (spooled(later), later.used_bytes) == ([], 0)


@pytest.mark.parametrize("spoil", ["bytes", "size", "record"])
async def test_kept_bytes_that_are_no_longer_what_they_were_are_fetched_again(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, spoil: str
) -> None:
    with serving(good(PNG)) as server:
        with down(tmp_path), pytest.raises(BucketUnavailable):
            await save(server.url(), bucket, spool)
        if spoil == "record":
            (spool.folder / "one.json").write_text('{"size": 1}')
        else:
            (spool.folder / "one.data").write_bytes(PNG[::-1] if spoil == "bytes" else PNG[:-1])
        archived = await save(server.url(), bucket, spool)
        assert len(server.requests) == 2
    assert objects(tmp_path) == {archived.key: PNG}


@pytest.mark.parametrize("size", KEPT_SIZES)
async def test_other_bytes_under_the_key_are_a_conflict_and_stay(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, size: int
) -> None:
    await bucket.put("2026/one/output.0.png", b"older", content_type="", sha256=hashlib.sha256(b"older").hexdigest())
    with serving(good(PNG + body(size))) as server, pytest.raises(Conflict):
        await save(server.url(), bucket, spool)
    assert (objects(tmp_path), spooled(spool)) == ({"2026/one/output.0.png": b"older"}, [])


@pytest.mark.parametrize("size", KEPT_SIZES)
async def test_archiving_twice_is_the_same_success(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, size: int
) -> None:
    data = body(size)
    with serving(good(data)) as server:
        first = await save(server.url(), bucket, spool)
        assert await save(server.url(), bucket, spool) == first
    assert objects(tmp_path) == {first.key: data}


@pytest.mark.parametrize("sent", [10, 20 * MIB])
async def test_a_caller_that_gives_up_leaves_nothing(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, sent: int
) -> None:
    with serving(silent(head(Content_Length=30 * MIB) + body(sent), 0.6)) as server:
        task = asyncio.create_task(save(server.url(), bucket, spool))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (objects(tmp_path), spooled(spool), spool.used_bytes) == ({}, [], 0)


async def test_a_caller_that_says_stop_leaves_nothing(tmp_path: Path, bucket: FolderBucket, spool: Spool) -> None:
    stop = threading.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    with serving(silent(head(Content_Length=30 * MIB) + body(20 * MIB), 0.6)) as server, pytest.raises(Cancelled):
        await save(server.url(), bucket, spool, cancelled=stop.is_set)
    assert (objects(tmp_path), spooled(spool)) == ({}, [])


async def test_a_whole_file_stays_in_the_spool_when_its_caller_gives_up_on_the_bucket(
    tmp_path: Path, bucket: FolderBucket, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket is an S3 server that takes the bytes and never answers."""
    data = body(5 * MIB)
    with serving(good(data)) as server, socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{mute.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "test")
        slow = S3Bucket.open("s3://files")
        task = asyncio.create_task(save(server.url(), slow, spool))
        await asyncio.sleep(0.5)
        assert spool.kept() == ["one"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        archived = await save(server.url(), bucket, spool)
        assert len(server.requests) == 1
    assert objects(tmp_path) == {archived.key: data}
    await slow.close()


async def test_a_stop_before_the_bucket_is_asked_keeps_what_is_whole(bucket: FolderBucket, spool: Spool) -> None:
    asked: list[int] = []

    def stop_at_last() -> bool:
        asked.append(1)
        return bool(spool.kept())

    with serving(good(body(5 * MIB))) as server:
        with pytest.raises(Cancelled):
            await save(server.url(), bucket, spool, cancelled=stop_at_last)
        with pytest.raises(Cancelled):
            await save(server.url(), bucket, spool, cancelled=stop_at_last)
        assert spool.kept() == ["one"]
        await save(server.url(), bucket, spool)
        assert len(server.requests) == 1


async def test_a_file_that_another_worker_has_is_left_to_it(bucket: FolderBucket, spool: Spool) -> None:
    theirs = spool.open("one")
    with serving(good(body(5 * MIB))) as server, pytest.raises(SpoolUnavailable):
        await save(server.url(), bucket, spool)
    theirs.remove()


async def test_a_small_file_is_fetched_again_where_the_spool_has_no_room_for_it(
    tmp_path: Path, bucket: FolderBucket
) -> None:
    full = Spool(tmp_path / "full", 5, disk_free_min=0, wait_s=0.05)
    with serving(good(PNG)) as server:
        with down(tmp_path), pytest.raises(BucketUnavailable):
            await save(server.url(), bucket, full)
        assert spooled(full) == []
        await save(server.url(), bucket, full)
        assert len(server.requests) == 2


async def test_several_at_once_share_the_spool(tmp_path: Path, bucket: FolderBucket) -> None:
    """Each needs more than half of it, so that they must wait for one another."""
    spool = Spool(tmp_path / "spool", 8 * MIB, disk_free_min=0, wait_s=5)
    data = body(5 * MIB)
    with serving(good(data)) as server:
        fetcher = Fetcher(AllowedHosts.parse(server.origin), threads=4)
        several = [
            archive(
                server.url(),
                bucket=bucket,
                stem=f"{number}",
                spool=spool,
                spool_name=f"{number}",
                fetcher=fetcher,
                bytes_max=8 * MIB,
            )
            for number in range(4)
        ]
        await asyncio.gather(*several)
        fetcher.close()
    assert objects(tmp_path) == {f"{number}.bin": data for number in range(4)}


async def test_a_fetcher_that_closes_stops_what_it_does(tmp_path: Path, bucket: FolderBucket, spool: Spool) -> None:
    with serving(silent(head(Content_Length=9) + b"x", 0.6)) as server:
        fetcher = Fetcher(AllowedHosts.parse(server.origin), threads=1)
        several = [
            asyncio.create_task(
                archive(
                    server.url(),
                    bucket=bucket,
                    stem=name,
                    spool=spool,
                    spool_name=name,
                    fetcher=fetcher,
                    bytes_max=9,
                )
            )
            for name in ("running", "waiting")
        ]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(fetcher.close)
        outcomes = await asyncio.gather(*several, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Cancelled, Cancelled]


def example() -> dict[str, Any]:
    media = {"content_type": "a/b", "ending": "b", "header_type": "", "bytes_type": "", "url_ending": ""}
    sides = {"width": 1, "height": None, "duration_s": 1.5}
    return {
        "key": "k",
        "size": 1,
        "sha256": "0",
        "media": media,
        "source": "s",
        "headers": {"etag": "x"},
        "verified": True,
    } | sides


def test_what_is_known_of_a_file_survives_being_written_down() -> None:
    archived = Archived.read(example())
    assert archived is not None
    assert Archived.read(json.loads(json.dumps(archived.record()))) == archived
    assert archived.under("a/b") == replace(archived, key="a/b.b")


@pytest.mark.parametrize(
    "change",
    [
        {"size": "1"},
        {"more": 1},
        {"media": {}},
        {"headers": {"etag": 1}},
        {"media": example()["media"] | {"ending": 1}},
        {"verified": 1},
    ],
)
def test_a_record_of_another_shape_is_not_believed(change: dict[str, Any]) -> None:
    assert Archived.read(example() | change) is None
    assert Archived.read({}) is None


async def test_a_closed_fetcher_fetches_nothing(bucket: FolderBucket, spool: Spool) -> None:
    fetcher = Fetcher(AllowedHosts.parse(""))
    fetcher.close()
    with pytest.raises(Cancelled):
        await archive("data:,x", bucket=bucket, stem="x", spool=spool, spool_name="one", fetcher=fetcher, bytes_max=1)

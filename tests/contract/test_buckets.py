"""What every bucket must do, run on each."""

import asyncio
import hashlib
import multiprocessing
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from storage.bucket import Bucket
from storage.buckets import open_bucket
from storage.errors import BucketUnavailable, Cancelled, Conflict, ObjectMissing, Refused
from storage.s3_upload import PART_BYTES, SINGLE_BYTES_MAX
from tests.servers.seaweedfs import SeaweedFS

MIB = 1024 * 1024
TYPE = "video/mp4"


@pytest.fixture(params=["folder", "s3", "s3 without a prefix of plain letters"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"file:{tmp_path / 'bücket'}"
    server: SeaweedFS = request.getfixturevalue("s3_environment")
    return server.url() + ("/Überblick & mehr+1/~x" if "plain" in request.param else "")


@pytest.fixture
async def bucket(url: str) -> AsyncIterator[Bucket]:
    bucket = open_bucket(url)
    yield bucket
    await bucket.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(size: int) -> bytes:
    """Bytes that differ from place to place, made quickly."""
    block = bytes(range(256)) * 4096 + b"outkeep"
    return (block * (size // len(block) + 1))[:size]


async def put(bucket: Bucket, key: str, data: bytes, *, replace: bool = False):
    return await bucket.put(key, data, content_type=TYPE, sha256=sha256(data), replace=replace)


async def read(bucket: Bucket, key: str, **span: int) -> bytes:
    chunks = [chunk async for chunk in bucket.read(key, **span)]
    assert all(0 < len(chunk) <= 256 * 1024 for chunk in chunks)
    return b"".join(chunks)


async def commit(bucket: Bucket, key: str, file: Path, data: bytes):
    await asyncio.to_thread(file.write_bytes, data)
    return await bucket.put_file(key, file, content_type=TYPE, size=len(data), sha256=sha256(data))


@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_what_was_put_is_told_and_given_back(bucket: Bucket, size: int) -> None:
    data, key = noise(size), bucket.key("2026/11/22/abc/output.0.bin")

    stored = await put(bucket, key, data)

    assert (stored.key, stored.size, stored.sha256, stored.content_type) == (key, size, sha256(data), TYPE)
    assert await read(bucket, key) == data
    there = await bucket.stat(key)
    assert there is not None
    assert (there.key, there.size) == (key, size)
    assert there.sha256 in {"", sha256(data)}
    assert there.content_type in {"", TYPE}


@pytest.mark.parametrize("size", [0, 1, SINGLE_BYTES_MAX - 1, SINGLE_BYTES_MAX, SINGLE_BYTES_MAX + 1])
async def test_a_file_of_any_size_is_stored_whole_and_left_where_it_is(bucket, tmp_path: Path, size: int) -> None:
    data, key, file = noise(size), bucket.key("a/file"), tmp_path / "source"

    stored = await commit(bucket, key, file, data)

    assert (stored.size, stored.sha256) == (size, sha256(data))
    assert sha256(await read(bucket, key)) == sha256(data)
    assert file.read_bytes() == data


async def test_equal_bytes_again_are_a_success(bucket: Bucket) -> None:
    key = bucket.key("again")

    first = await put(bucket, key, b"the same")
    assert await put(bucket, key, b"the same") == first


async def test_a_worker_thread_puts_as_the_loop_does(bucket: Bucket) -> None:
    def put_now(key: str, data: bytes):
        return asyncio.to_thread(bucket.put_now, key, data, content_type=TYPE, sha256=sha256(data))

    key = bucket.key("from/a/thread")
    first = await put_now(key, b"the same")
    assert first == await put_now(key, b"the same") == await put(bucket, key, b"the same")
    assert await read(bucket, key) == b"the same"
    with pytest.raises(Conflict):
        await put_now(key, b"another")
    with pytest.raises(Refused):
        await put_now(bucket.key("../up"), b"x")


async def test_equal_files_again_are_a_success_also_as_another_kind_of_write(bucket: Bucket, tmp_path: Path) -> None:
    key, data = bucket.key("large"), noise(PART_BYTES + 5)

    await commit(bucket, key, tmp_path / "one", data)
    await commit(bucket, key, tmp_path / "two", data)
    await put(bucket, key, data)

    assert sha256(await read(bucket, key)) == sha256(data)


@pytest.mark.parametrize("other", [b"other", b"as long!"])
async def test_other_bytes_never_take_the_place_of_an_object(bucket: Bucket, tmp_path: Path, other: bytes) -> None:
    key = bucket.key("taken")
    await put(bucket, key, b"the  one")

    with pytest.raises(Conflict):
        await put(bucket, key, other)
    with pytest.raises(Conflict):
        await commit(bucket, key, tmp_path / "file", other)
    with pytest.raises(Conflict):
        await commit(bucket, key, tmp_path / "file", noise(SINGLE_BYTES_MAX + 1))

    assert await read(bucket, key) == b"the  one"


async def test_an_object_that_was_sent_while_growing_is_a_conflict_too(bucket: Bucket, tmp_path: Path) -> None:
    key, data, file = bucket.key("taken"), noise(PART_BYTES * 2), tmp_path / "file"
    await put(bucket, key, b"the one")
    file.write_bytes(data)
    upload = bucket.begin(key, file, content_type=TYPE)
    upload.advance(len(data))

    with pytest.raises(Conflict):
        await asyncio.to_thread(upload.commit, size=len(data), sha256=sha256(data))

    assert await read(bucket, key) == b"the one"


async def test_replacing_is_done_where_it_is_asked_for(bucket: Bucket) -> None:
    key = bucket.key("manifest.json")
    await put(bucket, key, b"revision 1")

    stored = await put(bucket, key, b"revision 2 is longer", replace=True)

    assert stored.sha256 == sha256(b"revision 2 is longer")
    assert await read(bucket, key) == b"revision 2 is longer"


async def test_of_many_writers_of_one_key_one_wins_and_the_others_hear_of_it(bucket: Bucket) -> None:
    key = bucket.key("race")
    await put(bucket, bucket.key("before"), b"so that what the bucket honours is known")
    rivals = [f"writer {n % 4}".encode() for n in range(12)]

    results = await asyncio.gather(*(put(bucket, key, data) for data in rivals), return_exceptions=True)

    winner = await read(bucket, key)
    for data, result in zip(rivals, results, strict=True):
        assert isinstance(result, Conflict) == (data != winner), (data, winner, result)


async def test_an_upload_is_invisible_until_it_is_committed(bucket: Bucket, tmp_path: Path) -> None:
    key, file, data = bucket.key("growing"), tmp_path / "growing", noise(PART_BYTES * 3 + 12345)
    upload = bucket.begin(key, file, content_type=TYPE)

    with file.open("wb", buffering=0) as growing:
        for start in range(0, len(data), 3 * MIB):
            growing.write(data[start : start + 3 * MIB])
            upload.advance(min(start + 3 * MIB, len(data)))
            upload.advance(start)  # going back means nothing
    assert await bucket.stat(key) is None
    stored = await asyncio.to_thread(upload.commit, size=len(data), sha256=sha256(data))

    assert (stored.size, stored.sha256) == (len(data), sha256(data))
    assert sha256(await read(bucket, key)) == sha256(data)


async def test_an_upload_whose_last_part_ends_with_the_file_is_whole(bucket: Bucket, tmp_path: Path) -> None:
    key, file, data = bucket.key("even"), tmp_path / "even", noise(PART_BYTES * 2)
    file.write_bytes(data)
    upload = bucket.begin(key, file, content_type=TYPE)
    upload.advance(len(data))

    await asyncio.to_thread(upload.commit, size=len(data), sha256=sha256(data))

    assert sha256(await read(bucket, key)) == sha256(data)


@pytest.mark.parametrize("advanced", [0, 1, 2 * MIB, 2 * PART_BYTES])
async def test_an_aborted_upload_leaves_nothing(bucket: Bucket, tmp_path: Path, advanced: int) -> None:
    key, file, data = bucket.key("aborted"), tmp_path / "file", noise(PART_BYTES * 3)
    file.write_bytes(data)
    upload = bucket.begin(key, file, content_type=TYPE)
    upload.advance(advanced)

    await asyncio.to_thread(upload.abort)
    await asyncio.to_thread(upload.abort)
    upload.advance(len(data))

    assert await bucket.stat(key) is None
    with pytest.raises(ObjectMissing):
        await read(bucket, key)
    with pytest.raises(Cancelled):
        await asyncio.to_thread(upload.commit, size=len(data), sha256=sha256(data))
    assert await bucket.stat(key) is None


async def test_bytes_that_are_not_those_that_were_hashed_are_not_kept(bucket: Bucket, tmp_path: Path) -> None:
    key, file = bucket.key("wrong"), tmp_path / "file"
    file.write_bytes(b"what is in the file")

    with pytest.raises(BucketUnavailable):
        await bucket.put(key, b"bytes", content_type=TYPE, sha256=sha256(b"others"))
    with pytest.raises(BucketUnavailable):
        await bucket.put_file(key, file, content_type=TYPE, size=19, sha256=sha256(b"others"))
    with pytest.raises(BucketUnavailable):
        await bucket.put_file(key, file, content_type=TYPE, size=20, sha256=sha256(b"what is in the file"))
    with pytest.raises(BucketUnavailable):
        await bucket.put_file(key, tmp_path / "nothing", content_type=TYPE, size=1, sha256=sha256(b"x"))

    assert await bucket.stat(key) is None


async def test_any_range_of_an_object_can_be_read(bucket: Bucket) -> None:
    key, data = bucket.key("ranges"), noise(MIB + 7)
    await put(bucket, key, data)

    assert await read(bucket, key, start=5) == data[5:]
    assert await read(bucket, key, start=5, length=10) == data[5:15]
    assert await read(bucket, key, start=300_000, length=500_000) == data[300_000:800_000]
    assert await read(bucket, key, start=len(data) - 1, length=10) == data[-1:]
    assert await read(bucket, key, start=len(data)) == b""
    assert await read(bucket, key, start=len(data) + 5, length=1) == b""
    assert await read(bucket, key, start=3, length=0) == b""


async def test_a_reader_may_leave_in_the_middle(bucket: Bucket) -> None:
    key, data = bucket.key("left"), noise(MIB)
    await put(bucket, key, data)

    reading: Any = bucket.read(key)
    assert await anext(reading)
    await reading.aclose()

    assert await read(bucket, key) == data


async def test_what_is_not_there_is_missing(bucket: Bucket) -> None:
    key = bucket.key("nothing/here")

    assert await bucket.stat(key) is None
    for length in (None, 0, 5):
        with pytest.raises(ObjectMissing):
            [chunk async for chunk in bucket.read(key, length=length)]
    await bucket.delete(key)


async def test_a_deleted_object_is_gone_and_its_key_free(bucket: Bucket) -> None:
    key = bucket.key("deleted")
    await put(bucket, key, b"first")

    await bucket.delete(key)
    assert await bucket.stat(key) is None

    await put(bucket, key, b"second")
    assert await read(bucket, key) == b"second"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "a/../b",
        "../a",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "a\nb",
        "a\\b",
        "x" * 1025,
        "a/" + "x" * 256,
        "\ud800",
    ],
)
async def test_keys_that_mean_mischief_are_refused(bucket: Bucket, tmp_path: Path, key: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")

    with pytest.raises(Refused):
        await put(bucket, key, b"x")
    with pytest.raises(Refused):
        await bucket.put_file(key, file, content_type=TYPE, size=1, sha256=sha256(b"x"))
    with pytest.raises(Refused):
        await bucket.stat(key)
    with pytest.raises(Refused):
        await read(bucket, key)
    with pytest.raises(Refused):
        await bucket.delete(key)


async def test_keys_may_be_as_long_as_s3_has_them_and_speak_any_language(bucket: Bucket) -> None:
    room = 1024 - len(bucket.key("").encode())
    long = bucket.key("/".join(["x" * 200] * 5)[:room].rstrip("/"))
    for key in (long, bucket.key("猫/ein Bild (1) + 100% ~ 'q' & *.png")):
        await put(bucket, key, b"x")
        assert await read(bucket, key) == b"x"


async def test_a_probe_tells_what_the_bucket_honours_and_leaves_nothing(bucket: Bucket) -> None:
    told = await bucket.probe()

    assert (told.conditional_writes, told.checksums, told.versioning) == (True, True, False)


async def test_sweeping_spares_what_is_under_way(bucket, tmp_path: Path) -> None:
    key, file, data = bucket.key("swept"), tmp_path / "file", noise(PART_BYTES * 2 + 1)
    file.write_bytes(data)
    upload = bucket.begin(key, file, content_type=TYPE)
    upload.advance(len(data))

    assert await bucket.sweep() == 0
    await asyncio.to_thread(upload.commit, size=len(data), sha256=sha256(data))

    assert sha256(await read(bucket, key)) == sha256(data)


async def test_a_process_killed_in_the_middle_leaves_nothing_under_the_final_key(
    bucket: Bucket, url: str, tmp_path: Path
) -> None:
    name, file, data = "killed", tmp_path / "file", noise(PART_BYTES * 2 + 1)
    file.write_bytes(data)
    key = bucket.key(name)

    await asyncio.to_thread(die_while, send_all_but_the_end, url, name, file, len(data))
    assert await bucket.stat(key) is None

    stored = await bucket.put_file(key, file, content_type=TYPE, size=len(data), sha256=sha256(data))
    assert stored.sha256 == sha256(data)


async def test_memory_stays_flat_however_large_the_file(url: str, tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as large:
        large.truncate(192 * MIB)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=store_and_weigh, args=(url, file, sender))
    process.start()
    sender.close()

    grown = await asyncio.to_thread(receiver.recv)
    process.join(30)
    process.close()
    receiver.close()

    assert grown < 32 * MIB


def store_and_weigh(url: str, file: Path, sender: Any) -> None:
    """Tell by how many bytes the peak of this process grows while it stores a file and reads it back."""

    async def store() -> int:
        bucket = open_bucket(url)
        await put(bucket, bucket.key("small"), b"so that everything is loaded")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        key, size, hashed = bucket.key("large"), 192 * MIB, hashlib.sha256(bytes(0))
        for _ in range(192):
            hashed.update(bytes(MIB))
        await bucket.put_file(key, file, content_type=TYPE, size=size, sha256=hashed.hexdigest())
        assert sum([len(chunk) async for chunk in bucket.read(key)]) == size
        await bucket.delete(key)
        await bucket.close()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024

    sender.send(asyncio.run(store()))
    sender.close()


def die_while(action: Callable[..., None], *args: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=action, args=args)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    process.close()


def send_all_but_the_end(url: str, name: str, file: Path, size: int) -> None:
    bucket = open_bucket(url)
    upload = bucket.begin(bucket.key(name), file, content_type=TYPE)
    upload.advance(size)
    for part in getattr(upload, "_parts", [getattr(upload, "_working", None)]):
        part.result()
    os.kill(os.getpid(), signal.SIGKILL)

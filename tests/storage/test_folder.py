"""A folder as a bucket, where it stands on a disk: durability, dead processes, disks that are full or forbidden."""

import asyncio
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from storage import folder_files
from storage.buckets import open_bucket
from storage.errors import BucketMisconfigured, BucketUnavailable, Cancelled, Conflict, ObjectMissing, Refused
from storage.folder import FolderBucket
from storage.folder_files import Tree, explained

TYPE = "image/png"
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def bucket(tmp_path: Path):
    bucket = FolderBucket(tmp_path / "made" / "by us")
    yield bucket
    await bucket.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def put(bucket: FolderBucket, key: str, data: bytes, *, replace: bool = False):
    return await bucket.put(key, data, content_type=TYPE, sha256=sha256(data), replace=replace)


def drafts(bucket: FolderBucket) -> list[Path]:
    return list((bucket._tree.root / ".tmp").iterdir())


async def test_its_name_is_the_url_of_the_folder_and_keys_are_paths_in_it(bucket: FolderBucket, tmp_path: Path) -> None:
    await put(bucket, "2026/11/x.png", b"x")

    assert bucket.name == f"file://{tmp_path}/made/by%20us"
    assert bucket.key("a/b") == "a/b"
    assert (tmp_path / "made/by us/2026/11/x.png").read_bytes() == b"x"
    assert drafts(bucket) == []


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:{}/a b", "{}/a b"),
        ("file://{}/a%20b", "{}/a b"),
        ("file://localhost{}/c", "{}/c"),
        ("file:{}/p%20q", "{}/p%20q"),
    ],
)
async def test_a_file_url_is_a_path_or_a_proper_url(tmp_path: Path, url: str, path: str) -> None:
    bucket = open_bucket(url.format(tmp_path))

    assert bucket.name == Path(path.format(tmp_path)).as_uri()
    await bucket.close()


async def test_a_relative_path_starts_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    bucket = open_bucket("file:outkeep-data/objects")

    assert bucket.name == (tmp_path / "outkeep-data/objects").as_uri()
    await bucket.close()


@pytest.mark.parametrize("url", ["file:", "file://elsewhere/folder", "file://", "file:a\0b", "ftp://x", ""])
def test_a_url_that_names_no_folder_is_refused(url: str) -> None:
    with pytest.raises(BucketMisconfigured):
        open_bucket(url)


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(BucketMisconfigured, match="is a file"):
        FolderBucket(tmp_path / "file")


def test_a_folder_that_may_not_be_written_is_told() -> None:
    with pytest.raises(BucketMisconfigured, match="writable"):
        FolderBucket(Path("/proc/sys/outkeep") if os.geteuid() else Path("/sys/kernel/outkeep"))


async def test_what_is_not_there_in_a_folder_out_of_order_is_an_outage(bucket: FolderBucket, tmp_path: Path) -> None:
    root = tmp_path / "made" / "by us"
    await put(bucket, "there.png", b"there")
    assert await bucket.stat("missing.png") is None
    root.rename(tmp_path / "unmounted")
    root.write_bytes(b"")
    for key in ("there.png", "missing.png"):
        with pytest.raises(BucketMisconfigured, match="folder"):
            await bucket.stat(key)
        with pytest.raises(BucketMisconfigured, match="folder"):
            await anext(bucket.read(key))


async def test_drafts_of_the_dead_are_swept_and_those_of_the_living_spared(bucket: FolderBucket) -> None:
    folder = bucket._tree.root / ".tmp"
    (folder / "dead").write_bytes(b"half")
    (folder / "folder").mkdir()
    living = bucket._tree.draft()

    other = FolderBucket(bucket._tree.root)

    assert {path.name for path in folder.iterdir()} == {"folder", living.path.name}
    assert await bucket.sweep() == 0
    living.close()
    living.close()
    await other.close()


async def test_a_draft_that_a_sweep_found_before_it_was_locked_is_made_again(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    calls = itertools.count()

    def late(file: int, how: int) -> None:
        if next(calls) == 0:
            assert bucket._tree.sweep() == 1
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert (await put(bucket, "k", b"x")).size == 1
    assert drafts(bucket) == []


@pytest.mark.parametrize("key", [".tmp/x", ".tmp"])
async def test_keys_among_the_drafts_are_refused(bucket: FolderBucket, key: str) -> None:
    with pytest.raises(Refused):
        await put(bucket, key, b"x")


async def test_a_key_below_an_object_and_a_key_that_is_a_folder_are_told(bucket: FolderBucket) -> None:
    await put(bucket, "a/b", b"x")

    for key in ("a/b/c", "a"):
        with pytest.raises(BucketMisconfigured, match="Something else stands"):
            await put(bucket, key, b"x")
    assert await bucket.stat("a/b/c") is None
    assert await bucket.stat("a") is None
    with pytest.raises(ObjectMissing):
        [chunk async for chunk in bucket.read("a")]
    with pytest.raises(BucketMisconfigured):
        await bucket.delete("a")
    assert (await bucket.stat("a/b")) is not None


async def test_folders_that_somebody_tidied_away_are_made_again(bucket: FolderBucket) -> None:
    await put(bucket, "a/b/c", b"x")
    shutil.rmtree(bucket._tree.root)

    await put(bucket, "a/b/c", b"y")

    assert (bucket._tree.root / "a/b/c").read_bytes() == b"y"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
async def test_create_only_holds_where_there_are_no_hard_links(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", failing(number))

    await put(bucket, "k", b"one")
    await put(bucket, "k", b"one")
    with pytest.raises(Conflict):
        await put(bucket, "k", b"two")

    assert (bucket._tree.root / "k").read_bytes() == b"one"
    assert drafts(bucket) == []


async def test_files_are_copied_where_the_kernel_cannot(
    bucket: FolderBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", failing(errno.EXDEV))
    file, data = tmp_path / "file", b"outkeep" * 400_000
    file.write_bytes(data)

    await bucket.put_file("k", file, content_type=TYPE, size=len(data), sha256=sha256(data))

    assert (bucket._tree.root / "k").read_bytes() == data


async def test_drafts_need_no_locks(bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))

    await put(bucket, "k", b"x")
    assert await bucket.sweep() == 0


@pytest.mark.parametrize(
    ("call", "number", "error", "words"),
    [
        ("write", errno.ENOSPC, BucketUnavailable, "No space left"),
        ("fsync", errno.EIO, BucketUnavailable, "Input/output"),
        ("link", errno.EACCES, BucketMisconfigured, "writable"),
        ("link", errno.EROFS, BucketMisconfigured, "writable"),
        ("open", errno.EMFILE, BucketUnavailable, "Too many"),
        ("link", errno.ETIMEDOUT, BucketUnavailable, "this time"),
    ],
)
async def test_a_disk_that_fails_is_one_sentence_and_leaves_nothing(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[Exception], words: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(number))
        with pytest.raises(error, match=words):
            await put(bucket, "k", b"x")

    assert drafts(bucket) == []
    assert await bucket.stat("k") is None
    assert (await put(bucket, "k", b"x")).size == 1


@pytest.mark.parametrize(
    ("call", "number"), [("copy_file_range", errno.ENOSPC), ("preadv", errno.EIO), ("fsync", errno.EIO)]
)
async def test_a_growing_copy_that_fails_is_told_at_the_end(
    bucket: FolderBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    file, data = tmp_path / "file", b"outkeep" * 400_000
    file.write_bytes(data)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(number))
        upload = bucket.begin("k", file, content_type=TYPE)
        upload.advance(len(data))
        with pytest.raises(BucketUnavailable):
            await asyncio.to_thread(upload.commit, size=len(data), sha256=sha256(data))
        upload.abort()

    assert drafts(bucket) == []
    assert await bucket.stat("k") is None


@pytest.mark.parametrize("failing_sync", [1, 2, 3, 4])
async def test_after_a_sync_that_failed_another_file_stands_under_the_key(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch, failing_sync: int
) -> None:
    calls, sync, synced = itertools.count(1), os.fsync, set[int]()

    def fsync(file: int) -> None:
        if next(calls) == failing_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(file)
        synced.add(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    final = bucket._tree.root / "a/b/k"
    with pytest.raises(BucketUnavailable, match="Input/output"):
        await put(bucket, "a/b/k", b"x")
    left = final.open("rb") if final.exists() else None  # holds its number, which another file would get
    synced.clear()
    assert (await put(bucket, "a/b/k", b"x")).size == 1
    inside = final.stat().st_ino
    assert inside in synced
    assert left is None or os.fstat(left.fileno()).st_ino != inside
    if left:
        left.close()
    assert (final.read_bytes(), drafts(bucket)) == (b"x", [])


async def test_what_is_read_back_wrongly_is_not_kept(bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", lambda *_: 0)
        with pytest.raises(BucketUnavailable, match="give back"):
            await put(bucket, "k", b"x")

    assert drafts(bucket) == []


async def test_a_probe_notices_a_folder_that_gives_back_something_else(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"else")

    with pytest.raises(BucketUnavailable, match="give back"):
        await bucket.probe()


async def test_a_probe_tells_whether_names_are_taken_for_good(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", lambda source, target, **_: Path(target).write_bytes(Path(source).read_bytes()))

    assert not (await bucket.probe()).conditional_writes


async def test_a_closed_bucket_takes_growing_files_without_a_thread(bucket: FolderBucket, tmp_path: Path) -> None:
    file, data = tmp_path / "file", b"outkeep" * 400_000
    file.write_bytes(data)
    upload = bucket.begin("k", file, content_type=TYPE)
    await bucket.close()

    upload.advance(len(data))
    upload.commit(size=len(data), sha256=sha256(data))

    assert (bucket._tree.root / "k").read_bytes() == data
    with pytest.raises(Cancelled):
        upload.commit(size=len(data), sha256=sha256(data))


async def test_a_reader_may_leave_while_a_thread_still_reads(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(bucket, "k", b"x" * 1000)
    reads, go, real = threading.Event(), threading.Event(), os.pread

    def slow(file: int, count: int, start: int) -> bytes:
        reads.set()
        go.wait(20)
        return real(file, count, start)

    monkeypatch.setattr(os, "pread", slow)
    reading: Any = bucket.read("k")
    task = asyncio.create_task(anext(reading))
    await asyncio.to_thread(reads.wait, 20)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()

    assert b"".join([chunk async for chunk in bucket.read("k")]) == b"x" * 1000


def test_what_is_remembered_of_folders_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_files, "KNOWN_FOLDERS_MAX", 3)
    tree = Tree(tmp_path)
    tree.sweep()

    for n in range(10):
        draft = tree.draft()
        tree.publish(draft, f"{n}/x", replace=False)
        draft.close()
        assert len(tree._durable) <= 3


def test_an_error_without_a_number_is_an_outage() -> None:
    assert str(explained(OSError("odd"))) == "The bucket's folder did not work this time (unknown error)."


def failing(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


WRITER = """
import asyncio, hashlib, sys
from pathlib import Path
from storage.folder import FolderBucket

async def main() -> None:
    bucket = FolderBucket(Path(sys.argv[1]))
    data = b"outkeep" * 300_000
    await bucket.put("a/b/key", data, content_type="x/y", sha256=hashlib.sha256(data).hexdigest())
    await bucket.close()

asyncio.run(main())
"""


def writer(strace: list[str], root: Path) -> int:
    """Run the writer under strace; returns its exit status."""
    command = ["strace", "-f", "-qq", *strace, sys.executable, "-c", WRITER, str(root)]
    return subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False).returncode


def test_bytes_and_names_are_on_the_disk_in_this_order(tmp_path: Path) -> None:
    log, root = tmp_path / "log", tmp_path / "root"

    assert writer(["-y", "-o", str(log), "-e", "trace=fsync,linkat,link,mkdir"], root) == 0

    calls = [line.split(None, 1)[1] for line in log.read_text().splitlines() if str(tmp_path) in line]
    synced = [call.split("<")[1].split(">")[0] for call in calls if call.startswith("fsync")]
    linked = next(n for n, call in enumerate(calls) if call.startswith("link"))
    before, after = [c for c in calls[:linked] if "fsync" in c], [c for c in calls[linked:] if "fsync" in c]
    assert f"{root}/.tmp/" in " ".join(before)
    assert {str(tmp_path), str(root), f"{root}/a"} <= set(synced)
    assert f"<{root}/a/b>" in after[0]


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "link,linkat", "unlink,unlinkat"])
def test_dying_at_any_step_leaves_the_whole_object_or_none(tmp_path: Path, call: str) -> None:
    root, expected = tmp_path / "root", b"outkeep" * 300_000
    assert writer(["-o", "/dev/null"], root) == 0
    final = root / "a/b/key"
    for when in range(1, 8):
        final.unlink(missing_ok=True)
        inject = f"inject={call}:signal=KILL:when={when}"
        # Only calls that touch the folder count: `-P` follows paths, and descriptors opened from them.
        status = writer(["-o", "/dev/null", "-P", str(root / ".tmp"), "-P", str(final), "-e", inject], root)
        assert not final.exists() or final.read_bytes() == expected
        if status == 0:
            break
    FolderBucket(root)._pool.shutdown()
    assert list((root / ".tmp").iterdir()) == []

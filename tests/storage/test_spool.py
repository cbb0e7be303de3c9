import errno
import fcntl
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.errors import Cancelled, Refused, SpoolUnavailable
from storage.spool import Spool

KNOWN = {"size": 3}


def never() -> bool:
    return False


def put(spool: Spool, name: str, data: bytes, *, durable: bool = False) -> None:
    file = spool.open(name)
    file.reserve(len(data), never)
    file.write(memoryview(data))
    file.keep(KNOWN, durable=durable)
    file.close()


def names(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool.folder.iterdir())


def test_a_file_that_is_removed_leaves_nothing(spool: Spool) -> None:
    file = spool.open("a.b-c_D")
    file.reserve(5, never)
    file.write(memoryview(b"hello"))
    assert (file.size(), file.path.read_bytes(), spool.used_bytes) == (5, b"hello", 5)
    file.remove()
    file.remove()
    file.close()
    assert (names(spool), spool.used_bytes) == ([], 0)


def test_a_file_that_is_closed_without_a_record_leaves_nothing(spool: Spool) -> None:
    spool.open("a").close()
    assert names(spool) == []


@pytest.mark.parametrize("durable", [False, True])
def test_a_kept_file_is_found_with_what_is_known_of_it_by_the_next_process(spool: Spool, durable: bool) -> None:
    put(spool, "a", b"abc", durable=durable)
    later = Spool(spool.folder, 100, disk_free_min=0)
    assert (later.has_kept("a"), later.has_kept("b"), later.kept(), later.used_bytes) == (True, False, ["a"], 3)
    file = later.open("a")
    assert (file.known(), file.path.read_bytes()) == (KNOWN, b"abc")
    file.remove()
    assert (names(later), later.used_bytes) == ([], 0)


def test_a_file_that_is_started_again_is_empty_and_unknown(spool: Spool) -> None:
    put(spool, "a", b"abc")
    file = spool.open("a")
    file.restart()
    assert (file.size(), file.known(), spool.has_kept("a")) == (0, None, False)
    file.write(memoryview(b"x"))
    assert file.path.read_bytes() == b"x"
    file.remove()


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\xff", b"null"])
def test_an_unreadable_record_tells_nothing(spool: Spool, junk: bytes) -> None:
    put(spool, "a", b"abc")
    (spool.folder / "a.json").write_bytes(junk)
    file = spool.open("a")
    assert file.known() is None
    file.remove()


def test_leftovers_are_swept_at_start_and_kept_files_are_not(spool: Spool) -> None:
    put(spool, "kept", b"abc")
    for name in ("left.data", "lonely.json", "draft.json.new", "kept.json.new"):
        (spool.folder / name).write_bytes(b"x")
    (spool.folder / "stranger.txt").write_bytes(b"x")
    later = Spool(spool.folder, 100)
    assert names(later) == ["kept.data", "kept.json", "stranger.txt"]


def test_leftovers_that_nobody_can_touch_stop_no_start(spool: Spool) -> None:
    put(spool, "kept", b"abc")
    for name in ("odd.data", "odd.json", "even.json.new"):
        (spool.folder / name).mkdir()
    (spool.folder / "dangling.data").symlink_to("/nowhere/at/all")
    later = Spool(spool.folder, 100, disk_free_min=0)
    assert later.kept() == ["kept", "odd"]
    with pytest.raises(SpoolUnavailable):
        later.open("odd")


def test_room_that_another_process_gave_back_is_free(spool: Spool) -> None:
    put(spool, "theirs", b"abc")
    mine = Spool(spool.folder, 100, disk_free_min=0)
    assert mine.used_bytes == 3
    spool.remove("theirs")
    mine.sweep()
    assert mine.used_bytes == 0


def test_a_file_kept_while_it_is_swept_stays(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = spool.open("a")
    file.write(memoryview(b"abc"))
    lock = fcntl.flock

    def late(number: int, how: int) -> None:
        if number != file._file:
            file.keep(KNOWN, durable=False)
            file.close()
        lock(number, how)

    monkeypatch.setattr("fcntl.flock", late)
    assert spool.sweep() == 0
    assert (spool.folder / "a.data").read_bytes() == b"abc"


def test_a_look_by_a_sweep_hinders_nobody(spool: Spool) -> None:
    put(spool, "a", b"abc")
    looking = os.open(spool.folder / "a.data", os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_EX)
    timer = threading.Timer(0.02, os.close, (looking,))
    timer.start()
    spool.open("a").remove()
    timer.join()


def test_each_folder_has_a_name_of_its_own_for_good(spool: Spool, tmp_path: Path) -> None:
    other = Spool(tmp_path / "other", 100)
    assert re.fullmatch(r"[0-9a-f]{16}", spool.identity())
    assert spool.identity() == Spool(spool.folder, 100).identity() != other.identity()
    assert names(spool) == [".id"]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_file_whose_sync_failed_is_not_taken_for_kept(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    file = spool.open("a")
    file.write(memoryview(b"abc"))
    file.keep(KNOWN, durable=False)
    calls = itertools.count(1)

    def fsync(number: int) -> None:
        del number
        if next(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(SpoolUnavailable, match="Input/output error"):
        file.keep(KNOWN, durable=True)
    file.close()
    assert (names(spool), spool.kept(), spool.used_bytes) == ([], [], 0)


def test_what_a_living_process_has_is_neither_swept_nor_opened(spool: Spool) -> None:
    code = """
import sys
from pathlib import Path
from storage.spool import Spool
file = Spool(Path(sys.argv[1]), 100).open("busy")
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(spool.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert spool.sweep() == 0
        with pytest.raises(SpoolUnavailable, match="Another worker"):
            spool.open("busy")
        other.kill()
    assert spool.sweep() == 1
    assert names(spool) == []


def test_one_file_is_not_opened_twice_in_one_process(spool: Spool) -> None:
    file = spool.open("a")
    with pytest.raises(SpoolUnavailable):
        spool.open("a")
    file.remove()
    spool.open("a").remove()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "é", "a" * 201, "a b"])
def test_names_that_are_no_plain_names_are_refused(spool: Spool, name: str) -> None:
    with pytest.raises(Refused):
        spool.open(name)


def test_kept_files_can_be_forgotten(spool: Spool) -> None:
    put(spool, "a", b"abc")
    spool.remove("a")
    spool.remove("a")
    put(spool, "b", b"abc")
    mine = spool.open("b")
    spool.remove("b")
    assert spool.kept() == ["b"]
    mine.remove()


def test_more_than_the_cap_is_never_held(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100, disk_free_min=0, wait_s=0.1)
    one, two = spool.open("one"), spool.open("two")
    one.reserve(60, never)
    one.reserve(70, never)
    with pytest.raises(SpoolUnavailable, match="full") as caught:
        two.reserve(40, never)
    assert caught.value.retry_after_s
    begun = time.monotonic()
    with pytest.raises(SpoolUnavailable, match="needs 101 bytes, more than the 100 that the spool"):
        two.reserve(101, never)
    assert time.monotonic() - begun < 0.1
    two.reserve(30, never)
    assert spool.used_bytes == 100
    one.remove()
    two.remove()


def test_who_waits_gets_the_room_that_others_leave(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100, disk_free_min=0, wait_s=5)
    one, two = spool.open("one"), spool.open("two")
    one.reserve(60, never)
    timer = threading.Timer(0.1, one.remove)
    timer.start()
    two.reserve(50, never)
    timer.join()
    assert spool.used_bytes == 50
    two.remove()


def test_room_is_given_in_the_order_of_asking(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100, disk_free_min=0, wait_s=5)
    first = spool.open("first")
    first.reserve(90, never)
    order: list[str] = []
    files = {name: spool.open(name) for name in ("large", "small")}

    def ask(name: str, size: int) -> None:
        files[name].reserve(size, never)
        order.append(name)
        time.sleep(0.05)
        files[name].remove()

    threads = []
    for name, size in (("large", 100), ("small", 5)):
        threads.append(threading.Thread(target=ask, args=(name, size)))
        threads[-1].start()
        time.sleep(0.1)
    assert order == []
    first.remove()
    for thread in threads:
        thread.join()
    assert order == ["large", "small"]


def test_waiting_for_room_can_be_stopped(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100, disk_free_min=0, wait_s=5)
    one, two = spool.open("one"), spool.open("two")
    one.reserve(60, never)
    with pytest.raises(Cancelled):
        two.reserve(50, lambda: True)
    spool.close()
    with pytest.raises(Cancelled):
        two.reserve(50, never)
    one.remove()
    two.remove()


def test_a_full_disk_gives_no_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**18, disk_free_min=10**17, wait_s=0.05)
    file = spool.open("a")
    with pytest.raises(SpoolUnavailable, match="disk is full"):
        file.reserve(1, never)
    file.remove()


def test_what_others_were_promised_of_the_disk_is_not_promised_twice(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    spool = Spool(tmp_path, 10**18, disk_free_min=free // 2, wait_s=0.05)
    one, two = spool.open("one"), spool.open("two")
    one.reserve(free * 2 // 5, never)
    with pytest.raises(SpoolUnavailable, match="disk"):
        two.reserve(free * 2 // 5, never)
    one.write(memoryview(b"x" * 1000))
    one.keep({}, durable=False)  # it is smaller than was announced
    assert spool.used_bytes == 1000
    two.reserve(free * 2 // 5, never)
    two.write(memoryview(b"x" * 1000))
    two.restart()
    three = spool.open("three")
    with pytest.raises(SpoolUnavailable, match="disk"):
        three.reserve(free * 2 // 5, never)
    for file in (one, two, three):
        file.remove()
    assert spool.used_bytes == 0


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        Spool(tmp_path / "file" / "spool", 100)


def test_a_folder_that_somebody_tidied_away_is_made_again(spool: Spool) -> None:
    before = spool.identity()
    shutil.rmtree(spool.folder)
    put(spool, "a", b"abc", durable=True)
    assert (spool.kept(), spool.identity(), spool.folder.stat().st_mode & 0o777) == (["a"], before, 0o700)


def test_a_folder_that_went_away_with_a_file_in_hand_is_told(spool: Spool) -> None:
    file = spool.open("a")
    shutil.rmtree(spool.folder)
    with pytest.raises(SpoolUnavailable, match="No such file"):
        file.reserve(3, never)
    file.write(memoryview(b"abc"))
    with pytest.raises(SpoolUnavailable, match="No such file"):
        file.keep(KNOWN, durable=True)
    file.remove()


def test_a_folder_in_whose_place_there_is_something_else_is_told(spool: Spool) -> None:
    spool.folder.rmdir()
    spool.folder.write_bytes(b"")
    with pytest.raises(SpoolUnavailable, match="Not a directory"):
        spool.open("a")


def test_a_disk_that_takes_nothing_is_told(spool: Spool) -> None:
    file = spool.open("a")
    os.dup2(os.open("/dev/full", os.O_RDWR), file._file)
    with pytest.raises(SpoolUnavailable, match="No space"):
        file.write(memoryview(b"x"))
    with pytest.raises(SpoolUnavailable):
        file.restart()
    with pytest.raises(SpoolUnavailable):
        file.keep(KNOWN, durable=True)
    file.remove()

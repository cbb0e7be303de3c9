"""A disk that fails, is full or read-only, and a process that dies while it answers: nothing promised is lost."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from receiver.cli.frame import FAILED, START_AGAIN
from tests.journey.traced import ALL, DISK, Service, Watch, calls, durable, marks, service


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path) as made:
        yield made


@pytest.mark.parametrize("nth", [1, 2, 4, 9, 40])
async def test_after_one_sync_that_failed_nothing_is_taken_until_a_new_process_has_begun(
    served: Service, nth: int
) -> None:
    await served.start(*DISK, *served.ledgers_files, "-e", f"inject=fdatasync,fsync:error=EIO:when={nth}")
    await served.load(200)
    assert await served.ended() == START_AGAIN
    assert re.search(
        r"^outkeep: The disk under the ledger failed \(disk I/O error\): .*again.*$", served.said(), re.MULTILINE
    )
    assert "Traceback" not in served.said()
    assert served.taken.keys() <= durable(served.log)
    await served.assert_kept()


async def test_no_webhook_is_answered_before_its_sync_has_ended_however_many_come_at_once(served: Service) -> None:
    await served.start(*ALL)
    await served.load(150, at_once=16)
    await served.stop()
    watch, asks, answered = Watch(), dict[str, set[str]](), set[str]()
    for call in calls(served.log):
        watch.see(call)
        if call.name == "read" and "POST /webhooks/replicate/mark-" in call.line:
            asks[call.file] = marks(call.line)
        elif call.name == "write" and "socket:" in call.file and "HTTP/1.1 200 OK" in call.line and call.file in asks:
            asked = asks.pop(call.file)
            assert asked <= watch.durable
            answered |= asked
    assert answered == served.taken.keys()
    assert len(answered) == 150


@pytest.mark.parametrize("nth", [1, 3, 8, 60])
async def test_after_one_write_that_failed_nothing_is_taken_until_a_new_process_has_begun(
    served: Service, nth: int
) -> None:
    await served.start(*DISK, *served.ledgers_files, "-e", f"inject=pwrite64:error=EIO:when={nth}")
    await served.load(200)
    assert await served.ended() == START_AGAIN, served.said()
    assert "Traceback" not in served.said()
    assert served.taken.keys() <= durable(served.log)
    await served.assert_kept()


async def test_while_the_disk_is_full_webhooks_get_503_and_once_there_is_room_they_are_taken(served: Service) -> None:
    await served.start(*DISK, *served.ledgers_files, "-e", "inject=pwrite64:error=ENOSPC:when=20..50")
    await served.load(200)
    assert served.answers[503] > 0, served.answers
    assert served.taken.keys() <= durable(served.log)
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert await served.post(client, 999) == 200
    assert await served.stop() == 0
    await served.assert_kept()


async def test_a_disk_too_full_to_write_the_log_back_does_not_keep_a_process_from_starting(served: Service) -> None:
    await served.start()
    await served.load(20)
    await served.stop(signal.SIGKILL)
    database = ("-P", f"{served.folder}/ledger.db")
    assert await served.start("-e", "trace=pwrite64", *database, "-e", "inject=pwrite64:error=ENOSPC:when=1+")
    await served.load(40)
    assert served.answers == {200: 60}
    assert await served.stop() == 0
    assert "(INJECTED)" in served.log.read_text(errors="replace")
    await served.assert_kept()


@pytest.mark.parametrize("nth", [12, 31, 70])
async def test_a_process_killed_while_it_answers_has_on_disk_what_it_answered(served: Service, nth: int) -> None:
    await served.start("-e", "trace=write", "-e", f"inject=write:signal=KILL:when={nth}")
    await served.load(200)
    assert await served.ended() == -signal.SIGKILL
    answered = dict(served.taken)
    assert await served.start()
    await served.load(len(answered) + 10)
    assert served.answers.keys() == {200}
    assert await served.stop() == 0
    await served.assert_kept()


async def test_a_sync_that_fails_while_the_log_is_written_back_ends_the_process_too(served: Service) -> None:
    only_the_database = ("-P", f"{served.folder}/ledger.db")
    await served.start(*DISK, *only_the_database, "-e", "inject=fdatasync,fsync:error=EIO:when=1")
    await served.load(24, padding=2**20)
    assert await served.ended() == START_AGAIN, served.said()
    assert len(served.taken) >= 4
    await served.assert_kept()


async def test_a_process_that_failed_ends_within_ten_seconds_and_the_next_takes_what_comes(served: Service) -> None:
    await served.start(*DISK, *served.ledgers_files, "-e", "inject=fdatasync,fsync:error=EIO:when=5")
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=70) as client:
        reader = asyncio.ensure_future(client.get("/events?after=latest&wait=60"))
        await served.load(50)
        failed_s = time.monotonic()
        assert await served.ended() == START_AGAIN
        assert time.monotonic() - failed_s < 10
        await asyncio.gather(reader, return_exceptions=True)
    assert await served.start()
    await served.load(50)
    assert len(served.taken) == 50
    assert await served.stop() == 0
    await served.assert_kept()


async def test_a_ledger_that_can_only_be_read_is_told_in_one_sentence_at_the_start(served: Service) -> None:
    ledger = ("-P", f"{served.folder}/ledger.db")
    assert not await served.start("-e", "trace=openat", *ledger, "-e", "inject=openat:error=EROFS:when=1")
    assert await served.ended() == FAILED
    assert re.fullmatch(r"outkeep: The ledger can't be used now: .*readonly.* OUTKEEP_DATABASE_URL\.\n", served.said())


async def test_a_damaged_ledger_is_told_in_one_sentence_and_not_written_to(served: Service) -> None:
    with (served.folder / "ledger.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 20)
    before = (served.folder / "ledger.db").read_bytes()
    assert not await served.start()
    assert await served.ended() == FAILED
    assert re.fullmatch(r"outkeep: The ledger's file is damaged .*a backup.*\n", served.said())
    assert (served.folder / "ledger.db").read_bytes() == before

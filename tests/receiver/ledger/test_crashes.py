"""What was promised holds after the process is killed, and a disk that fails is never taken for one that works."""

import asyncio
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from receiver.core.errors import LedgerFull
from receiver.core.output import OutputState
from receiver.ledger import Ledger
from tests.contract.ledger_nouns import archive, delivery, file, given, prediction
from tests.servers.ledgers import make

ACCEPTING = """
    import asyncio, sys, time
    from receiver.core.delivery import Delivery
    from receiver.core.errors import LedgerUnavailable
    from receiver.ledger import Ledger

    async def accept(ledger, caller):
        for turn in range(TURNS):
            name = f"msg_{caller}_{turn}"
            try:
                new = await ledger.accept(Delivery(name, 1, b"x" * 2000))
            except LedgerUnavailable:
                print("refused", name, flush=True)
            else:
                print("kept" if new else "again", name, flush=True)

    async def main():
        ledger = await Ledger.open(URL, now_ms=lambda: 1)
        print("open", "ledger", flush=True)
        await asyncio.gather(*(accept(ledger, caller) for caller in range(CALLERS)))

    asyncio.run(main())
"""


def program(url: str, *, callers: int, turns: int) -> str:
    return f"URL, CALLERS, TURNS = {url!r}, {callers}, {turns}\n" + textwrap.dedent(ACCEPTING)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_every_delivery_that_was_accepted_survives_a_kill(kind: str, tmp_path: Path) -> None:
    ledgers = await make(kind, tmp_path)
    script = program(ledgers.url, callers=8, turns=10_000)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = [await process.stdout.readline() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    said += (await process.stdout.read()).splitlines()
    await process.wait()
    kept = {words[1].decode() for line in said if len(words := line.split()) == 2 and words[0] == b"kept"}
    assert len(kept) >= 299
    ledger = await ledgers.open()
    known = {each.id for each in await ledger.unread(100_000)}
    assert kept <= known
    assert not [each for each in known if not each.startswith("msg_")]
    await ledgers.close()


async def test_a_disk_that_does_not_sync_refuses_deliveries(tmp_path: Path) -> None:
    said, _ = await traced(tmp_path, "-e", "inject=fdatasync,fsync:error=EIO:when=4+")
    outcomes = [words[0] for words in said]
    assert outcomes[-3:] == ["refused"] * 3
    assert "kept" not in outcomes[4:]


async def test_a_disk_that_is_full_refuses_deliveries(tmp_path: Path) -> None:
    said, _ = await traced(tmp_path, "-e", "inject=pwrite64:error=ENOSPC:when=9+")
    outcomes = [words[0] for words in said]
    assert outcomes[-3:] == ["refused"] * 3
    assert "again" not in outcomes


async def test_a_delivery_is_synced_to_the_disk_before_it_counts_as_accepted(tmp_path: Path) -> None:
    said, calls = await traced(tmp_path)
    assert [words[0] for words in said] == ["open"] + ["kept"] * 12
    last = ""
    for call in calls:
        if 'write(1, "kept' in call:
            assert last == "sync"
            last = "told"
        elif "fdatasync(" in call or "fsync(" in call:
            last = "sync"
        elif "pwrite64(" in call:
            last = "write"


async def traced(folder: Path, *inject: str) -> tuple[list[list[str]], list[str]]:
    """Take in twelve deliveries, one after the other, under strace: what was printed, and the system calls."""
    ledgers = await make("sqlite", folder)
    await ledgers.open()
    await ledgers.close()
    log = folder / "strace.log"
    process = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-qq", "-o", str(log), "-e", "trace=fdatasync,fsync,pwrite64,write", *inject),
        *(sys.executable, "-c", program(ledgers.url, callers=1, turns=12)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    said = [line.split() for line in out.decode().splitlines()]
    assert said, err
    return said, log.read_text().splitlines()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_two_workers_that_settle_the_last_two_outputs_do_not_miss_the_manifest(kind: str, tmp_path: Path) -> None:
    ledgers = await make(kind, tmp_path)
    first = await ledgers.open()
    second = first if kind == "sqlite" else await ledgers.open()
    for turn in range(10):
        name = f"p{turn}"
        await given(first, prediction(name, "succeeded"), [file("output.0"), file("output.1")])
        one, other = await first.claim_outputs(2, lease_ms=15_000)
        assert all(await asyncio.gather(archive(first, one), archive(second, other)))
        assert {each.state for each in await first.outputs(name)} == {OutputState.ARCHIVED}
    assert len(await first.claim_manifests(100, lease_ms=15_000)) == 10
    await ledgers.close()


async def test_two_processes_share_the_work_without_doing_any_of_it_twice(tmp_path: Path) -> None:
    ledgers = await make("postgresql", tmp_path)
    both = [await ledgers.open(), await ledgers.open()]
    for number in range(20):
        await given(both[0], prediction(f"p{number}", "succeeded"), [file(f"output.{place}") for place in range(4)])
    done: list[int] = []

    async def work(number: int) -> None:
        ledger = both[number % 2]
        while claims := await ledger.claim_outputs(3, lease_ms=15_000):
            await ledger.renew([claim.lease for claim in claims], lease_ms=15_000)
            for claim in claims:
                assert await archive(ledger, claim)
                done.append(claim.output.id)

    await asyncio.gather(*map(work, range(6)))
    assert len(done) == len(set(done)) == 80
    counts = await both[1].counts()
    assert (counts["outputs"]["archived"], counts["manifests_due"]) == (80, 20)
    await ledgers.close()


async def test_two_readers_of_one_predictions_deliveries_never_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    ledgers = await make("postgresql", tmp_path)
    both = [await ledgers.open(), await ledgers.open()]
    await asyncio.gather(*(both[0].accept(delivery(f"msg_{number}")) for number in range(60)))
    read: list[str] = []

    async def work(number: int) -> None:
        ledger = both[number % 2]
        while True:
            waiting = await ledger.unread(4)
            if not waiting:
                return
            async with ledger.transaction() as tx:
                unread = await tx.take(waiting)
                await tx.lock([f"p{place}" for place in (range(5) if number % 2 else reversed(range(5)))])
                await tx.save([prediction(f"p{place}") for place in range(5)])
                await tx.mark([(each.id, each.state.APPLIED, None, "p0") for each in unread])
            read.extend(each.id for each in unread)

    await asyncio.wait_for(asyncio.gather(*map(work, range(4))), 30)
    assert len(read) == len(set(read)) == 60
    await ledgers.close()


async def test_a_repeat_does_not_wait_for_whoever_reads_the_delivery(tmp_path: Path) -> None:
    ledgers = await make("postgresql", tmp_path)
    ledger = await ledgers.open()
    await ledger.accept(delivery())
    async with ledger.transaction() as tx:
        assert len(await tx.take(await ledger.unread(1))) == 1
        assert await asyncio.wait_for(ledger.accept(delivery()), 5) is False
    await ledgers.close()


async def test_two_processes_that_take_the_same_deliveries_in_any_order_take_each_once(tmp_path: Path) -> None:
    ledgers = await make("postgresql", tmp_path)
    both, chance = [await ledgers.open(), await ledgers.open()], random.Random(5)

    async def all_of(ledger: Ledger, turn: int) -> list[bool]:
        names = chance.sample(range(300), 300)
        calls = (ledger.accept(delivery(f"msg_{turn}_{number}")) for number in names)
        told = await asyncio.gather(*calls, return_exceptions=True)
        answered = [each for each in told if isinstance(each, bool)]
        assert all(isinstance(each, bool | LedgerFull) for each in told), "nothing but a slow disk may refuse one"
        return answered

    for turn in range(5):
        first, second = await asyncio.gather(*(all_of(ledger, turn) for ledger in both))
        refused = 600 - len(first) - len(second)
        assert 300 - refused <= sum(first) + sum(second) <= 300
    await ledgers.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_work_that_is_cancelled_anywhere_leaves_the_ledger_usable(kind: str, tmp_path: Path) -> None:
    ledgers = await make(kind, tmp_path)
    ledger = await ledgers.open()
    await given(ledger, prediction("p0"), [file(f"output.{place}") for place in range(50)])

    async def work(number: int) -> None:
        claims = await ledger.claim_outputs(1, lease_ms=0)
        async with ledger.transaction() as tx:
            await tx.lock([f"p{number % 3}"])
            await tx.save([prediction(f"p{number % 3}", asks=number)])
            await tx.found(f"p{number % 3}", [file(f"output.{number}")], expires_ms=1, link=lambda: f"link-{number}")
            await tx.settle_failed(claims[0], "HTTP 503", 1, 0)
        await ledger.counts()

    for number in range(60):
        working = [asyncio.create_task(work(number)), asyncio.create_task(ledger.accept(delivery(f"msg_{number}")))]
        await asyncio.sleep(number * 0.0005)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    assert await asyncio.wait_for(ledger.accept(delivery("last")), 10) is True
    await asyncio.wait_for(work(1), 10)
    assert len((await ledger.deliveries(limit=1000)).items) == 61
    for known in (await ledger.predictions()).items:
        saved = await ledger.outputs(known.id)
        assert known.id == "p0" or saved, "a prediction and its outputs come together or not at all"
    await ledgers.close()


async def test_listening_ends_without_a_trace_when_it_is_cancelled(tmp_path: Path) -> None:
    ledgers = await make("postgresql", tmp_path)
    ledger = await ledgers.open()

    async def listen() -> None:
        async for _ in ledger.listen():
            pass

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.3)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    async with ledger._database.read() as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
        assert (await connection.exec_driver_sql(others)).scalar() == 0
    await ledgers.close()

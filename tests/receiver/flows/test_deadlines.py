"""What is at risk is told in time; the spool is kept in order."""

import asyncio
import os
import shutil
import time

import httpx

from receiver.core.output import RISKY_ATTEMPTS, OutputState
from receiver.flows.archive import AWAY_MS_MAX
from receiver.flows.deadlines import LINES_MAX
from receiver.flows.tidy import STRANGE_MS_MAX
from tests.servers.gate import MUTE, SHUT, gate

HALF_MS = 1_800_000


def told(caplog) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.name == "outkeep.deadlines"]


async def settled_by_replicate(home, *names: str, model: str = "sandbox/image", **given: object) -> list[str]:
    """Predictions that are final, and not a file of theirs fetched."""
    made = [(await home.create(model, **given)).id for _ in names or ("one",)]
    for prediction_id in made:
        for _ in range(400):
            known = await home.house.ask(prediction_id)
            if known is not None and known.final:
                break
            await asyncio.sleep(0.02)
    return made


async def at_risk(home) -> list[str]:
    page = await home.house.ledger.list_outputs(at_risk_before_ms=home.house.risky_before_ms())
    return [output.prediction_id for output in page.items]


async def only(home, prediction_id: str):
    (output,) = await home.house.ledger.outputs(prediction_id)
    return output


def break_bucket(home) -> None:
    shutil.rmtree(home.folder / "objects", ignore_errors=True)
    (home.folder / "objects").write_text("no folder")


def mend_bucket(home) -> None:
    (home.folder / "objects").unlink()


async def test_an_output_that_nobody_came_to_fetch_is_told_once_when_half_its_life_is_over(home, caplog):
    (one,) = await settled_by_replicate(home)
    home.clock.ahead_ms = HALF_MS - 60_000
    assert (await home.house.deadlines.step(), await at_risk(home)) == (0, [])
    home.clock.ahead_ms = HALF_MS + 60_000
    assert (await home.house.deadlines.step(), await at_risk(home)) == (1, [one])
    assert await home.house.deadlines.step() == 0
    (line,) = told(caplog)
    assert line.startswith(f"output of {one} is at risk: it vanishes in 17")
    assert line.endswith("0 attempts so far, no attempt has ended yet")
    await home.finish(one)
    assert await at_risk(home) == []


async def test_an_output_that_keeps_failing_is_at_risk_long_before_its_time(home, caplog):
    (one,) = await settled_by_replicate(home, sandbox={"files": ["500"]})
    for _ in range(RISKY_ATTEMPTS):
        assert await at_risk(home) == []
        await home.house.archive.step(8)
        home.clock.ahead_ms += 61_000
    assert home.clock.ahead_ms < HALF_MS / 2
    assert await at_risk(home) == [one]
    await home.house.deadlines.step()
    assert "8 attempts so far, the last attempt met unavailable: 127.0.0.1 answered 500." in told(caplog)[0]


async def test_what_is_safe_in_the_spool_is_not_at_risk(home):
    (one,) = await settled_by_replicate(home)
    break_bucket(home)
    home.clock.ahead_ms = HALF_MS + 60_000
    assert await at_risk(home) == [one]
    await home.house.ledger.tend_spool(home.house.archive.spool.identity(), home.clock())
    await home.house.archive.step(8)
    assert await at_risk(home) == []
    assert (await home.house.ledger.counts())["pending_expires_ms"] is None


async def test_thousands_at_risk_are_some_lines_and_a_number(home, caplog):
    await settled_by_replicate(home, sandbox={"output": ["file:png"] * (LINES_MAX + 5)})
    home.clock.ahead_ms = HALF_MS + 60_000
    assert await home.house.deadlines.step() == LINES_MAX + 5
    lines = told(caplog)
    assert len(lines) == LINES_MAX + 1
    assert lines[-1] == "5 more outputs are at risk: see /api/outputs?at_risk=true"
    assert await home.house.deadlines.step() == 0


async def test_while_the_bucket_is_down_it_is_asked_by_one_and_everything_else_is_brought_to_the_spool(home):
    made = [*await settled_by_replicate(home, *"abcdef")]
    break_bucket(home)
    await home.house.archive.step(1)
    assert home.house.archive.outage.lasts
    assert home.house.archive.outage.room(8) == 1
    home.clock.ahead_ms += 1_000
    await home.house.archive.step(8)
    outputs = [await only(home, each) for each in made]
    mine = home.house.archive.spool.identity()
    assert [output.held_by for output in outputs] == [mine] * 6
    problems = [output.history[-1].problem.partition(" ")[2] for output in outputs]
    assert problems.count("The bucket is down: the file waits in the spool.") == 5
    mend_bucket(home)
    async with httpx.AsyncClient(trust_env=False) as client:
        for each in made:
            (await client.post(f"{home.sandbox.url}/_sandbox/expire", json={"prediction": each})).raise_for_status()
    home.clock.ahead_ms += 3_600_000
    assert await home.house.archive.step(8) == 1  # one finds out
    assert await home.house.archive.step(8) == 5
    assert {(await only(home, each)).state for each in made} == {OutputState.ARCHIVED}
    assert home.house.archive.spool.kept() == []


async def test_what_a_dead_process_left_whole_in_the_spool_is_known_to_be_there(home):
    (one,) = await settled_by_replicate(home)
    output = await only(home, one)
    kept(home, output.link)
    await home.house.tidy.step()
    assert (await only(home, one)).held_by == home.house.archive.spool.identity()


async def test_files_of_settled_outputs_leave_the_spool_and_those_of_pending_ones_stay(home):
    one, two = await settled_by_replicate(home, "one", "two")
    await home.house.archive.step(1)
    done, pending = await only(home, one), await only(home, two)
    for output in (done, pending):
        kept(home, output.link)
    assert await home.house.tidy.step() == 1
    assert home.house.archive.spool.kept() == [pending.link]


async def test_a_file_of_which_the_ledger_knows_nothing_is_removed_after_a_day(home):
    path = kept(home, "strange")
    assert await home.house.tidy.step() == 0
    past_s = time.time() - STRANGE_MS_MAX / 1000 - 60
    os.utime(path.with_suffix(".json"), (past_s, past_s))
    assert await home.house.tidy.step() == 1
    assert home.house.archive.spool.kept() == []


async def test_a_file_that_somebody_works_on_stays_whatever_the_ledger_says(home):
    (one,) = await settled_by_replicate(home)
    await home.house.archive.step(1)
    link = (await only(home, one)).link
    kept(home, link)
    in_use = home.house.archive.spool.open(link)
    await home.house.tidy.step()
    assert home.house.archive.spool.kept() == [link]
    in_use.remove()


async def test_what_another_machine_holds_is_not_lost_because_the_source_is_gone(home):
    (one,) = await settled_by_replicate(home, sandbox={"files": ["404"]})
    (claim,) = await home.house.ledger.claim_outputs(1, lease_ms=15_000)
    async with home.house.ledger.transaction() as tx:
        await tx.settle_failed(claim, "unavailable: bucket", home.clock(), 0, held_by="0123456789abcdef")
    for _ in range(10):
        home.clock.ahead_ms += 2 * HALF_MS
        assert await home.house.archive.step(8) == 1
    output = await only(home, one)
    assert (output.state, output.held_by) == (OutputState.PENDING, "0123456789abcdef")
    home.clock.ahead_ms += 86_400_000
    await home.house.archive.step(8)
    assert (await only(home, one)).reason == "gone"


async def test_what_others_gave_up_is_archived_once_the_machine_that_has_it_is_back(home):
    (one,) = await settled_by_replicate(home)
    break_bucket(home)
    await home.house.archive.step(8)
    mend_bucket(home)
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(f"{home.sandbox.url}/_sandbox/expire", json={"prediction": one})).raise_for_status()
    home.clock.ahead_ms += 2 * HALF_MS + 2 * AWAY_MS_MAX  # of being away
    (claim,) = await home.house.ledger.claim_outputs(1, lease_ms=15_000, spool="another machine's")
    async with home.house.ledger.transaction() as tx:
        assert await tx.settle_lost(claim, "gone", home.clock())
        await tx.finish([one])
    await home.house.conclude.step()
    assert await home.house.tidy.step() == 0
    known = await home.finish(one)
    output = await only(home, one)
    assert (output.state, output.reason) == (OutputState.ARCHIVED, None)
    await home.house.conclude.step()
    known = await home.house.ledger.prediction(one)
    assert known.revision == 2
    assert await home.house.tidy.step() == 0
    assert home.house.archive.spool.kept() == []


async def test_a_full_spool_is_emptied_however_many_wait_for_room_in_it(build):
    home = await build(OUTKEEP_SPOOL_BYTES_MAX="8MiB")
    vars(home.house.archive.spool.room)["_wait_s"] = 0.1
    break_bucket(home)
    (held,) = await settled_by_replicate(home, model="sandbox/big", bytes=6_000_000)
    await home.house.archive.step(1)
    assert (await only(home, held)).held_by
    mend_bucket(home)
    waiting = await settled_by_replicate(home, *"abc", model="sandbox/big", bytes=5_000_000)
    for _ in range(6):
        home.clock.ahead_ms += 61_000  # as many are due as there are places, always
        await home.house.archive.step(1)
    states = [(await only(home, each)).state for each in (held, *waiting)]
    assert states == [OutputState.ARCHIVED] * 4


def kept(home, name: str):
    """A whole file of this name in the spool, as a process leaves it that dies on its way to the bucket."""
    file = home.house.archive.spool.open(name)
    file.write(memoryview(b"abc"))
    file.keep({"size": 3}, durable=False)
    file.close()
    return file.path


async def test_a_bucket_that_says_nothing_holds_one_place_and_no_more(build, monkeypatch):
    with gate(9) as door:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{door.port}")
        home = await build(OUTKEEP_BUCKET_URL="s3://bucket")
        made = await settled_by_replicate(home, *"abcdefgh")
        door.turn(SHUT)
        await home.house.archive.step(1)
        door.turn(MUTE)
        home.clock.ahead_ms += 1_000
        tasks = await home.house.archive.start(8)
        _, waiting = await asyncio.wait(tasks, timeout=10)
        assert (len(tasks), len(waiting)) == (8, 1)
        home.clock.ahead_ms += 1_000
        assert await home.house.archive.start(8) == []  # nobody else goes there meanwhile
        held = [output.held_by for output in [await only(home, each) for each in made]]
        assert held == [home.house.archive.spool.identity()] * 8
        door.turn(SHUT)
        await asyncio.wait(waiting)


async def test_what_died_half_way_into_the_bucket_is_removed_and_a_bucket_that_is_down_is_no_trouble(home):
    left = home.folder / "objects" / ".tmp" / "left"
    left.write_bytes(b"half")
    assert await home.house.tidy.sweep_bucket() == 1
    assert not left.exists()
    break_bucket(home)
    assert await home.house.tidy.sweep_bucket() == 0

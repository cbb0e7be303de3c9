"""The loops, on a real house: they wake at once, survive trouble, and end when told."""

import asyncio
import time

import httpx

from receiver.core.delivery import Delivery
from receiver.core.errors import LedgerUnavailable
from receiver.core.prediction import Prediction
from receiver.ledger import Ledger
from receiver.runtime import settings as settings_of
from receiver.runtime import worker as worker_module
from receiver.runtime.wiring import open_house
from receiver.runtime.worker import Worker, mirror
from receiver.sandbox.options import Options
from receiver.sandbox.server import running
from tests.servers import postgres


async def archived(house, prediction_id: str, patience_s: float = 20) -> Prediction:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        known = await house.ledger.prediction(prediction_id)
        if known is not None and known.archived_ms is not None:
            return known
        await asyncio.sleep(0.02)
    raise AssertionError(f"not archived: {known}")


def environ(sandbox, folder, **more: str) -> dict[str, str]:
    return {
        "REPLICATE_API_TOKEN": sandbox.token,
        "OUTKEEP_REPLICATE_URL": sandbox.api_url,
        "OUTKEEP_PUBLIC_URL": "http://127.0.0.1:9",
        "OUTKEEP_OUTPUT_HOSTS": sandbox.url,
        "OUTKEEP_DATABASE_URL": f"sqlite:///{folder}/ledger.db",
        "OUTKEEP_BUCKET_URL": f"file:{folder}/objects",
        "OUTKEEP_SPOOL_DIR": f"{folder}/spool",
        "OUTKEEP_RECONCILE_AFTER_S": "0.2",
    } | more


async def test_everything_is_done_without_a_hand_and_ends_when_told(tmp_path):
    async with running(Options(seed=2, speed=0.02)) as sandbox:
        async with open_house(settings_of.read(environ(sandbox, tmp_path))) as house:
            stop = asyncio.Event()
            worker = asyncio.create_task(Worker(house).run(stop))
            known = await house.create("/models/sandbox/four-images/predictions", {"input": {}}, key_name=None)
            assert (await archived(house, known.id)).revision == 1
            stop.set()
            await asyncio.wait_for(worker, 10)


async def test_after_an_outage_the_list_is_read_before_single_questions_are_asked(tmp_path):
    """Each prediction is told by the API once: by a page of the list, and not by an answer of its own besides."""
    async with running(Options(seed=2, speed=0.02, mischief={"webhook": ["never"]})) as sandbox:
        async with open_house(settings_of.read(environ(sandbox, tmp_path))) as house:
            path = "/models/sandbox/numbers/predictions"
            made = [await house.create(path, {"input": {}}, key_name=None) for _ in range(40)]
            told = [sandbox.sandbox.predictions[each.id] for each in made]
            for at_replicate in told:
                while not at_replicate.final:
                    await at_replicate.news.wait()
            await asyncio.sleep(0.3)  # all of them are due to be asked about
            stop = asyncio.Event()
            worker = asyncio.create_task(Worker(house).run(stop))
            for each in made:
                await archived(house, each.id)
            stop.set()
            await asyncio.wait_for(worker, 10)
            assert {at_replicate.asked for at_replicate in told} == {1}


async def test_more_files_than_places_are_all_archived(tmp_path):
    async with running(Options(seed=2, speed=0.02)) as sandbox:
        async with open_house(settings_of.read(environ(sandbox, tmp_path, OUTKEEP_WORKERS="2"))) as house:
            stop = asyncio.Event()
            worker = asyncio.create_task(Worker(house).run(stop))
            path = "/models/sandbox/four-images/predictions"
            known = await house.create(path, {"input": {"num_outputs": 9}}, key_name=None)
            await archived(house, known.id)
            assert len(await house.ledger.outputs(known.id)) == 9
            stop.set()
            await asyncio.wait_for(worker, 10)


async def test_trouble_with_the_ledger_ends_no_loop(tmp_path, monkeypatch):
    async with running(Options(seed=2, speed=0.02)) as sandbox:
        async with open_house(settings_of.read(environ(sandbox, tmp_path))) as house:
            failures = iter([LedgerUnavailable("The ledger is away."), ZeroDivisionError()])
            number = house.ledger.number_events

            async def troubled(limit: int = 1000) -> int:
                for failure in failures:
                    raise failure
                return await number(limit)

            monkeypatch.setattr(house.ledger, "number_events", troubled)
            stop = asyncio.Event()
            worker = asyncio.create_task(Worker(house).run(stop))
            known = await house.create("/models/sandbox/numbers/predictions", {"input": {}}, key_name=None)
            await archived(house, known.id)
            for _ in range(400):
                if await house.ledger.last_sequence() == 3:
                    break
                await asyncio.sleep(0.02)
            assert await house.ledger.last_sequence() == 3
            stop.set()
            await asyncio.wait_for(worker, 10)


async def test_two_processes_on_postgres_hear_each_other(tmp_path):
    database = await postgres.server().database()
    async with running(Options(seed=2, speed=0.02)) as sandbox:
        first, second = (
            settings_of.read(
                environ(sandbox, tmp_path, OUTKEEP_DATABASE_URL=database, OUTKEEP_SPOOL_DIR=f"{tmp_path}/{name}")
            )
            for name in ("first", "second")
        )
        async with open_house(first) as web, open_house(second) as house:
            stop = asyncio.Event()
            works = [mirror(web, stop), mirror(house, stop), Worker(house).run(stop)]
            tasks = [asyncio.create_task(work) for work in works]
            await asyncio.sleep(1)  # for LISTEN to be in place
            seen = web.bell.count("predictions")
            async with httpx.AsyncClient(trust_env=False) as client:
                headers = {"Authorization": f"Bearer {sandbox.token}"}
                answer = await client.post(
                    f"{sandbox.api_url}/models/sandbox/image/predictions", json={"input": {}}, headers=headers
                )
            await web.ask(answer.json()["id"])
            await archived(house, answer.json()["id"])
            assert await web.bell.wait("predictions", seen=seen + 1, timeout_s=5) > seen + 1
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_health_names_what_is_down_and_looks_rarely(tmp_path):
    async with running(Options(seed=2)) as sandbox:
        async with open_house(settings_of.read(environ(sandbox, tmp_path))) as house:
            assert await house.failing() == []
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.post(f"{sandbox.url}/_sandbox/mischief", json={"api": ["401"]})
            assert await house.failing() == []
            house.health._looked_s = -float("inf")
            assert await house.failing() == ["replicate"]


async def test_a_replicate_that_says_nothing_does_not_hold_up_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_module, "STOP_S", 1.0)
    async with running(Options(seed=2, speed=0.02)) as sandbox:
        async with open_house(settings_of.read(environ(sandbox, tmp_path))) as house:
            known = await house.create("/models/sandbox/slow/predictions", {"input": {}}, key_name=None)
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.post(f"{sandbox.url}/_sandbox/mischief", json={"api": ["hang:60"], "list": ["hang:60"]})
            await asyncio.sleep(0.3)
            stop = asyncio.Event()
            worker = asyncio.create_task(Worker(house).run(stop))
            await asyncio.sleep(0.5)  # it asks about the prediction, and for the list
            began = time.monotonic()
            stop.set()
            await asyncio.wait_for(worker, 10)
            assert time.monotonic() - began < 2
            assert await house.ledger.prediction(known.id) is not None


async def test_what_another_process_has_in_hand_is_not_looked_at_without_a_pause(tmp_path, monkeypatch):
    database = await postgres.server().database()
    async with running(Options(seed=2)) as sandbox:
        checked = settings_of.read(environ(sandbox, tmp_path, OUTKEEP_DATABASE_URL=database))
        async with open_house(checked) as house:
            other = await Ledger.open(database, now_ms=house.now_ms)
            await house.ledger.accept(Delivery("msg_1", 1, b'{"id": "p1", "status": "processing"}'))
            looks = 0
            due_in_ms = house.ledger.due_in_ms

            async def counted() -> dict[str, int | None]:
                nonlocal looks
                looks += 1
                return await due_in_ms()

            monkeypatch.setattr(house.ledger, "due_in_ms", counted)
            stop = asyncio.Event()
            async with other.transaction() as tx:
                assert len(await tx.take(await other.unread(1))) == 1
                worker = asyncio.create_task(Worker(house).run(stop))
                await asyncio.sleep(1.5)
            assert looks < 30
            for _ in range(200):
                if await house.ledger.prediction("p1") is not None:
                    break
                await asyncio.sleep(0.02)
            stop.set()
            await asyncio.wait_for(worker, 10)
            await other.close()
            assert await house.ledger.prediction("p1") is not None

"""A storm: everything comes twice, in any order, with forgeries and nonsense in between, and every count is exact."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from tests.journey.wire import PATH, SECRET, Wire, call, resident_bytes, signature, told
from tests.journey.world import World, until

MIB = 2**20
PREDICTIONS = 1_000
UPDATES = 9  # of each: how it starts, how it gets on, and how it ends
NONSENSE = 1_000  # signed, and no JSON
FORGED = 2_000
CONNECTIONS = 24
COST_MAX = 256 * MIB
KEY_OF_OTHERS = b"the key of somebody else entirely"
QUIET = {"OUTKEEP_WEBHOOK_SECRETS": SECRET, "OUTKEEP_SWEEP_EVERY_S": "0", "OUTKEEP_RECONCILE_AFTER_S": "3600"}
Call = tuple[bytes, str]  # what is sent, and the status that it has to end with


def genuine() -> list[Call]:
    """One of each: 9,000 updates and 1,000 signed bodies that nobody understands."""
    calls = []
    for number in range(PREDICTIONS):
        for turn in range(UPDATES):
            status = "starting" if turn == 0 else "succeeded" if turn == UPDATES - 1 else "processing"
            fields: dict[str, Any] = {"status": status, "logs": "step\n" * turn}
            if status == "succeeded":
                fields |= {"output": "a text", "completed_at": "2026-11-22T08:00:09.000Z", "metrics": {}}
            calls.append(call(told(f"p{number}", **fields), f"msg_{number}_{turn}"))
    calls += [call(b"\xffnonsense %d" % number, f"odd_{number}") for number in range(NONSENSE)]
    return [(each, "200") for each in calls]


def forged() -> list[Call]:
    """What has to have no effect: a stranger's key, an old call, two ids, no id, another body."""
    calls = []
    for number in range(FORGED // 5):
        body, name = told(f"evil{number}"), f"evil_{number}"
        named = signature(body, name)
        calls += [
            call(body, name, named=signature(body, name, key=KEY_OF_OTHERS)),
            call(body, name, named=signature(body, name, ago_s=3600)),
            call(body, name, ("webhook-id", "another"), named=named),
            call(body, name, named={key: value for key, value in named.items() if key != "webhook-id"}),
            call(body + b" ", name, named=named, path=f"{PATH}/token"),
        ]
    return [(each, "401") for each in calls]


async def storm(port: int, calls: list[Call]) -> Counter[str]:
    """Make all of them; who is told to come again does so. Counts the answers."""
    answers: Counter[str] = Counter()
    waiting = iter(calls)

    async def make() -> None:
        wire = await Wire.to(port)
        for sent, wanted in waiting:
            while True:
                await wire.send(sent)
                status = str(await wire.status(30))
                answers[status] += 1
                if status != "503":
                    break
                await asyncio.sleep(0.2)
            assert status == wanted, sent
        wire.close()

    await asyncio.gather(*(make() for _ in range(CONNECTIONS)))
    return answers


async def listed(world: World, path: str, **query: str) -> list[dict[str, Any]]:
    """All pages."""
    items: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = (
            await world.http.get(path, params=query | {"limit": "1000"} | ({"after": after} if after else {}))
        ).json()
        items += page["items"]
        after = page["next"]
    return items


async def counted(world: World) -> dict[str, float]:
    """`/metrics` as it is told."""
    lines = (await world.http.get("/metrics")).text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def archived(world: World) -> bool:
    known = await counted(world)
    unread = known.get('outkeep_known{kind="deliveries",state="accepted"}', 0)
    return unread == 0 and known['outkeep_known{kind="events",state="told"}'] >= 3 * PREDICTIONS


@pytest.mark.timeout(300)
async def test_a_storm_of_repeats_and_forgeries_in_any_order_is_counted_exactly(anywhere: Any) -> None:
    world = await anywhere(**QUIET)
    process = await world.serve()
    before = resident_bytes(process.pid)
    seed = random.randrange(10**6)
    print("seed", seed)
    calls = genuine() * 2 + forged()
    random.Random(seed).shuffle(calls)
    answers = await storm(int(world.environ["OUTKEEP_PORT"]), calls)
    assert (answers["200"], answers["401"]) == (20_000, FORGED)
    cost = resident_bytes(process.pid) - before
    assert cost < COST_MAX, f"{cost / MIB:.0f} MiB"
    await until(lambda: archived(world), patience_s=200)
    await assert_deliveries(world, answers)
    await assert_predictions(world)
    assert "Traceback" not in world.log()


async def assert_deliveries(world: World, answers: Counter[str]) -> None:
    deliveries = [each for each in await listed(world, "/api/deliveries") if "." not in each["id"]]
    assert len(deliveries) == len({each["id"] for each in deliveries}) == PREDICTIONS * UPDATES + NONSENSE
    states = Counter(each["state"] for each in deliveries)
    assert states["quarantined"] == NONSENSE
    assert states["accepted"] == 0
    assert states["applied"] + states["stale"] + states["repeated"] == PREDICTIONS * UPDATES
    assert states["applied"] >= PREDICTIONS
    assert all(each["id"].startswith("odd_") for each in deliveries if each["state"] == "quarantined")
    known = await counted(world)
    assert known['outkeep_webhooks_total{outcome="accepted"}'] == answers["200"]
    assert known.get('outkeep_webhooks_total{outcome="shed"}', 0) == answers["503"]
    other = {"accepted", "shed"}
    refused = [v for k, v in known.items() if k.startswith("outkeep_webhooks_total") and k.split('"')[1] not in other]
    assert sum(refused) == FORGED


async def assert_predictions(world: World) -> None:
    predictions = await listed(world, "/api/predictions")
    assert {each["id"] for each in predictions} == {f"p{number}" for number in range(PREDICTIONS)}
    assert len(predictions) == PREDICTIONS
    assert {each["status"] for each in predictions} == {"succeeded"}
    events = await world.events()
    assert len({each["id"] for each in events}) == len(events)
    told_of = Counter((each["subject"], each["type"]) for each in events)
    kinds = ("created", "completed", "archived")
    wanted = {(f"p{number}", f"outkeep.prediction.{kind}"): 1 for number in range(PREDICTIONS) for kind in kinds}
    assert told_of == wanted, json.dumps([list(key) for key in (told_of.keys() ^ wanted.keys())][:10])

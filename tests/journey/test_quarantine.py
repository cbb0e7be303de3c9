"""Webhooks that were refused, from outside: found, judged again once the secret is right, and a flood of forged ones."""

import asyncio
import json
import os
import re
import signal
from datetime import UTC, datetime
from pathlib import Path

from svix.webhooks import Webhook

from receiver.sandbox.options import Options
from tests.journey.world import OUTKEEP, World, until

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def signed(body: bytes, webhook_id: str, secret: str) -> dict[str, str]:
    now = datetime.now(UTC)
    signature = Webhook(secret).sign(webhook_id, now, body.decode())
    return {
        "webhook-id": webhook_id, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature
    }  # fmt: skip


RETRIED_S = 1.5  # a minute of retries at the sandbox's speed is less
FLOOD, PIPELINED, GENUINE = 20_000, 20, 10  # forged calls, so many at once, on each connection so many genuine ones
ALONE = {"OUTKEEP_RECONCILE_AFTER_S": "3600", "OUTKEEP_SWEEP_EVERY_S": "0"}  # no other road leads to a file


async def outkeep(world: World, *arguments: str) -> tuple[int | None, str, str]:
    """Run a command that speaks to the service; gives its status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        OUTKEEP, *arguments,
        env=world.environ, cwd=world.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def counted(world: World, *arguments: str) -> dict[str, int]:
    status, out, err = await outkeep(world, "replay", *arguments)
    assert status == 0, err
    return {line.split(None, 1)[1]: int(line.split()[0]) for line in out.splitlines()}


async def test_what_a_wrong_secret_refused_is_let_in_once_it_is_right(anywhere):
    world: World = await anywhere(Options(seed=7, speed=0.01), **ALONE)
    world.environ["OUTKEEP_WEBHOOK_SECRETS"] = OTHER
    alone = world.environ["OUTKEEP_DATABASE_URL"].startswith("sqlite:")
    process = await world.serve(*([] if alone else ["--no-worker"]))  # who takes webhooks in keeps these, too
    known = await world.create("sandbox/four-images", prompt="refused")

    await until(lambda: _given_up(world, known))
    await world.kill(process, signal.SIGTERM)
    world.environ["OUTKEEP_WEBHOOK_SECRETS"] = world.sandbox.secret
    await world.serve()
    assert (await world.prediction(known))["archived_at"] is None
    status, out, err = await outkeep(world, "deliveries", "--state", "quarantined")
    assert (status, err) == (0, "")
    (first, *_) = re.findall(r"unverified\.[A-Za-z0-9_-]{22}", out)
    assert all(len(line) <= 80 for line in out.splitlines())
    status, out, err = await outkeep(world, "deliveries", first)
    assert status == 0, err
    assert "webhook-signature: [redacted]" in out
    assert known in out
    dry = await counted(world, "--state", "quarantined", "--dry-run")
    assert dry["verified, and let in as deliveries"] >= 1
    assert (await world.prediction(known))["archived_at"] is None
    assert await counted(world, "--state", "quarantined") == dry
    archived = await world.archived(known)
    await world.assert_kept(archived)
    assert {delivery["state"] for delivery in archived["deliveries"]} <= {"applied", "repeated", "stale"}
    assert await _refused(world) == []
    assert set((await counted(world, "--state", "quarantined")).values()) == {0}


async def _refused(world: World) -> list[dict[str, str]]:
    return list((await world.http.get("/api/deliveries?state=quarantined&limit=1000")).json()["items"])


async def _given_up(world: World, prediction_id: str) -> bool:
    """Whether the last webhook of a prediction was refused, and is not tried again."""
    before = await _refused(world)
    bodies = [(await world.http.get(f"/api/deliveries/{call['id']}")).json()["body"] for call in before]
    if (prediction_id, "succeeded") not in [(body["id"], body["status"]) for body in bodies]:
        return False
    await asyncio.sleep(RETRIED_S)
    return await _refused(world) == before


async def test_a_flood_of_forged_calls_stays_within_its_bounds(start):
    world: World = await start(OUTKEEP_WEBHOOK_SECRETS=OTHER, **ALONE)
    process = await world.serve()
    await _flood(world, 2_000, 0)  # whatever it takes to be warm
    before = _resident(process.pid)
    genuine = await asyncio.gather(*(_flood(world, FLOOD // 10, number) for number in range(1, 11)))
    assert sum(genuine) == 10 * GENUINE
    grown_bytes = _resident(process.pid) - before
    ledger_bytes = sum(path.stat().st_size for path in world.folder.glob("ledger.db*"))
    counts = await until(lambda: _counts(world, FLOOD + 2_000))
    assert 60 <= counts["kept"] <= 150
    assert len(await _refused(world)) == counts["kept"]
    assert grown_bytes < 48 * 2**20
    assert ledger_bytes < 32 * 2**20
    page = (await world.http.get("/api/deliveries?prediction=genuine&limit=1000")).json()
    assert len(page["items"]) == sum(genuine)


async def _counts(world: World, total: int) -> dict[str, float] | None:
    """How many calls were kept and dropped, once it is clear what became of all of them."""
    metrics = (await world.http.get("/metrics")).text
    found = re.findall(r'outkeep_quarantine_total{outcome="(\w+)"} (\S+)', metrics)
    counts = {name: float(count) for name, count in found}
    return counts if sum(counts.values()) == total else None


async def _flood(world: World, count: int, number: int) -> int:
    """So many forged calls on one connection, some of them long, genuine ones in between; how many of these were taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.environ["OUTKEEP_PORT"]))
    taken, forged = 0, signed(b"something else", "msg", OTHER)
    for place in range(0, count, PIPELINED):
        calls = []
        for each in range(place, place + PIPELINED):
            body = b"x" * (20_000 if each % 10 == 0 else 2_000)
            calls.append(_request(body, {**forged, "webhook-id": f"msg_{number}_{each}"}))
        if number and place % (count // GENUINE) == 0:
            body = json.dumps({"id": "genuine", "status": "processing"}).encode()
            calls.append(_request(body, signed(body, f"good_{number}_{place}", OTHER)))
        writer.write(b"".join(calls))
        for _ in calls:
            answer = await reader.readuntil(b"\r\n\r\n")
            taken += answer.startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()
    return taken


def _request(body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = ["POST /webhooks/replicate HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def _resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

"""What opens something never comes out: every word that leaves the service or lies in its ledger is searched for it."""

import json
import secrets
import signal
import sqlite3
from typing import Any

import httpx
import psycopg

from receiver.sandbox.options import Options
from tests.journey.proof import Bucket
from tests.journey.world import World

KEY = "outkeep-key-" + secrets.token_hex(12)
# Only these are what their names say by their form or their member; words like any other can't be told from a prompt.
IN_INPUT: dict[str, Any] = {
    "auth": "hush-" + secrets.token_hex(8),
    "client": {"note": f"r8_{secrets.token_hex(18)}"},
    "image": f"https://bucket.example/in.png?X-Amz-Credential=AKIA{'Q' * 16}&X-Amz-Signature={secrets.token_hex(32)}",
    "prompt": f"use Bearer {secrets.token_hex(20)} for it",
}
SAID: tuple[str, ...] = (
    IN_INPUT["auth"],
    IN_INPUT["client"]["note"],
    IN_INPUT["image"].partition("Signature=")[2],
    IN_INPUT["prompt"].split()[2],
)


async def test_no_secret_is_in_anything_that_leaves_us_or_in_the_ledger(anywhere):
    world: World = await anywhere(Options(seed=11, speed=0.05), OUTKEEP_API_KEYS=f"app={KEY}")
    world.http.headers["Authorization"] = f"Bearer {KEY}"
    process = await world.serve()
    kept = await world.create("sandbox/image", **IN_INPUT, sandbox={"files": "once:500"})
    lost = await world.create("sandbox/image", **IN_INPUT, sandbox={"files": "redirect_private"})
    echo = await world.create("sandbox/linked-text", **IN_INPUT)
    failed = await world.create("sandbox/fails", **IN_INPUT)
    refused = [
        await world.http.post("/webhooks/replicate", content=b'{"id": "x"}', headers={"webhook-id": "msg_x"}),
        await world.http.get("/api/predictions", headers={"Authorization": "Bearer r8_" + "w" * 37}),
        await world.http.post("/v1/predictions", json={"version": "nobody/nothing", "input": IN_INPUT}),
    ]
    for each in (kept, lost, echo, failed):
        assert (await world.archived(each))["archived_at"]
    told = {str(answer.url): answer.text for answer in refused} | await everything(world, (kept, lost, echo, failed))
    assert await world.kill(process, signal.SIGTERM) == 0
    told["log"] = world.log()
    told |= ledger(world.environ["OUTKEEP_DATABASE_URL"])
    bucket = Bucket(world)
    manifests = [key for key in sorted(bucket.keys()) if key.endswith(".json")]
    told |= {key: (bucket.read(key) or b"").decode("utf-8", "replace") for key in manifests}
    assert len(told["predictions"]) > 100, "the ledger was read"
    assert f"output.0 of {lost} is lost" in told["log"] or lost in told["log"]
    hidden = (world.sandbox.token, world.sandbox.secret, world.sandbox.secret.removeprefix("whsec_"), KEY, *SAID)
    for secret in hidden:
        found = [where for where, text in told.items() if secret in text]
        assert not found, f"{secret} is in {found}"


async def everything(world: World, ids: tuple[str, ...]) -> dict[str, str]:
    """What the service tells on every route that tells anything."""
    paths = [
        "/", "/api/predictions", "/api/outputs", "/api/deliveries", "/api/deliveries?state=quarantined", "/events",
        "/metrics", "/healthz", "/readyz", "/v1/predictions", "/v1/predictions/nobody",
        *(f"{room}/{each}" for each in ids for room in ("/api/predictions", "/ui/predictions", "/v1/predictions")),
    ]  # fmt: skip
    deliveries = (await world.http.get("/api/deliveries?limit=100")).json()["items"]
    paths += [f"/api/deliveries/{each['id']}" for each in deliveries]
    return {path: _whole(await world.http.get(path)) for path in paths}


def _whole(answer: httpx.Response) -> str:
    return answer.text + json.dumps(dict(answer.headers))


def ledger(url: str) -> dict[str, str]:
    """Every table as text, without the raw deliveries, whose bytes and headers are kept as they came."""
    statement = "SELECT * FROM {}"
    raw = {"headers", "body"}
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
    else:
        connection = psycopg.connect(url)  # type: ignore[assignment]
        names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    told = {}
    try:
        for (name,) in connection.execute(names).fetchall():
            cursor = connection.execute(statement.format(name))
            columns = [column[0] for column in cursor.description]
            kept = [place for place, column in enumerate(columns) if name != "deliveries" or column not in raw]
            told[name] = "\n".join(str([row[place] for place in kept]) for row in cursor.fetchall())
    finally:
        connection.close()
    return told

"""From a webhook's 2xx to its events in the feed, on an idle machine, beside what one fetch and one write cost alone."""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
from standardwebhooks import Webhook

from receiver.sandbox.options import Options
from tests.journey.world import World, world

ROUNDS = 40
PAUSE_S = 0.1  # between two webhooks: the service is idle when the next one comes
P50_MS_TARGET = 50.0


async def once(ready: World, number: int) -> tuple[float, float, float]:
    """Milliseconds from sending a final webhook to its 2xx, to the file's event, and to the prediction's."""
    prediction_id = await ready.create_elsewhere("sandbox/image", prompt=f"picture {number}")
    async with httpx.AsyncClient(trust_env=False, base_url=ready.sandbox.api_url) as client:
        told = {"status": "starting"}
        while told["status"] != "succeeded":
            answer = await client.get(
                f"/predictions/{prediction_id}", headers={"Authorization": f"Bearer {ready.sandbox.token}"}
            )
            told = answer.json()
    body, name, now = json.dumps(told), f"msg_{number}", time.time()
    from datetime import UTC, datetime

    signature = Webhook(ready.sandbox.secret).sign(name, datetime.fromtimestamp(int(now), UTC), body)
    headers = {"webhook-id": name, "webhook-timestamp": str(int(now)), "webhook-signature": signature}
    cursor = (await ready.http.get("/events", params={"after": "latest"})).json()["next"]
    begun = time.perf_counter()
    answer = await ready.http.post("/webhooks/replicate", content=body, headers=headers)
    assert answer.status_code == 200, answer.status_code
    taken = time.perf_counter()
    archived = None
    while True:
        page = (await ready.http.get("/events", params={"after": cursor, "wait": "10"})).json()
        cursor = page["next"]
        for event in page["events"]:
            if event["type"] == "outkeep.output.archived":
                archived = time.perf_counter()
            if event["type"] == "outkeep.prediction.archived" and archived is not None:
                return tuple(1000 * (moment - begun) for moment in (taken, archived, time.perf_counter()))  # type: ignore[return-value]


async def alone(ready: World, folder: Path) -> float:
    """Milliseconds of one fetch and one durable write of the same picture, with nothing around it."""
    known = (await ready.http.get("/api/predictions", params={"limit": "1"})).json()["items"][0]
    url = (await ready.prediction(known["id"]))["outputs"][0]["url"]
    spent = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for number in range(ROUNDS):
            begun = time.perf_counter()
            data = (await client.get(url)).content
            with (folder / f"{number}").open("wb") as file:
                file.write(data)
                file.flush()
                __import__("os").fsync(file.fileno())
            spent.append(1000 * (time.perf_counter() - begun))
    return statistics.median(spent)


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="latency-") as name:
        folder = Path(name)
        options = Options(seed=5, speed=0.02, variation=False, mischief={"webhook": ["never"]})
        async with world(folder, options=options, OUTKEEP_SWEEP_EVERY_S="0") as ready:
            await ready.serve()
            rows = []
            for number in range(ROUNDS):
                rows.append(await once(ready, number))
                await asyncio.sleep(PAUSE_S)
            base = await alone(ready, folder)
    taken, archived, settled = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"{'one fetch and one durable write alone':44} {base:8.1f} ms   1.00")
    print(f"{'webhook → 2xx, p50':44} {taken:8.1f} ms {taken / base:6.2f}")
    verdict = "ok" if archived <= P50_MS_TARGET else "MISSED"
    print(
        f"{'webhook → outkeep.output.archived, p50':44} {archived:8.1f} ms {archived / base:6.2f}   target {P50_MS_TARGET:.0f} ms {verdict}"
    )
    print(f"{'webhook → outkeep.prediction.archived, p50':44} {settled:8.1f} ms {settled / base:6.2f}")
    return 0 if archived <= P50_MS_TARGET else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

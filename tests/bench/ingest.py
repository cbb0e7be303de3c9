"""Webhooks a second, verified and durable before their 2xx, against an endpoint of bare uvicorn that reads and answers.

`wrk` sends pre-signed, distinct bodies over 64 connections; the service is `outkeep serve` on SQLite, as users run it.
"""

import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
from standardwebhooks import Webhook

from receiver.sandbox.options import Options
from tests.journey.world import free_port, until, world

CONNECTIONS = 64
SECONDS = 5
ROUNDS = 3
BODIES = 60_000
RATIO_TARGET, P99_MS_TARGET = 0.55, 50.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

BARE = """
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
"""
SCRIPT = """
local requests = {}
function init(args)
  local file = io.open(args[1], "rb")
  local whole = file:read("*a")
  file:close()
  local place = 1
  while place <= #whole do
    local length = tonumber(whole:sub(place, place + 7))
    requests[#requests + 1] = whole:sub(place + 8, place + 7 + length)
    place = place + 8 + length
  end
end
local number = 0
function request()
  number = number % #requests + 1
  return requests[number]
end
function done(summary, latency)
  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(99),
    summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.connect + summary.errors.timeout))
end
"""


def requests(batch: int) -> bytes:
    """Signed calls of 2.4 KB each, behind their lengths."""
    hook, now, parts = Webhook(SECRET), time.time(), []
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(int(now), UTC)
    for number in range(BODIES):
        told = {
            "id": f"b{batch}n{number:020d}", "model": "owner/name", "version": "hidden", "status": "processing",
            "input": {"prompt": "p" * 900}, "output": None, "logs": "l" * 1100, "error": None,
            "created_at": "2026-11-22T08:00:00.123Z", "started_at": None, "completed_at": "2026-11-22T08:00:01.123Z",
            "metrics": {"predict_time": 1.0}, "urls": {"get": "https://api.replicate.com/v1/predictions/x"},
        }  # fmt: skip
        body = json.dumps(told)
        signature = hook.sign(f"msg_{batch}_{number}", moment, body)
        head = (
            f"POST /webhooks/replicate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"webhook-id: msg_{batch}_{number}\r\nwebhook-timestamp: {int(now)}\r\nwebhook-signature: {signature}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        whole = (head + body).encode()
        parts.append(b"%08d" % len(whole) + whole)
    return b"".join(parts)


def wrk(port: int, folder: Path) -> tuple[float, float, int]:
    """Requests a second, p99 in ms, errors."""
    command = [
        "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(folder / "wrk.lua"),
        f"http://127.0.0.1:{port}", "--", str(folder / "requests"),
    ]  # fmt: skip
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", printed)
    assert match is not None, printed
    count, micros, p99, errors = map(int, match.groups())
    return count / micros * 1e6, p99 / 1000, errors


@contextmanager
def bare_uvicorn(folder: Path):
    (folder / "bare.py").write_text(BARE)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "bare:app",
        "--port",
        str(port),
        "--no-access-log",
        "--log-level",
        "error",
    ]
    process = subprocess.Popen([*command, "--loop", "uvloop", "--http", "httptools"], cwd=folder)
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


async def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="ingest-"))
    (folder / "wrk.lua").write_text(SCRIPT)
    bare: list[float] = []
    ours: list[float] = []
    p99s: list[float] = []
    errors = 0
    try:
        async with world(
            folder,
            options=Options(seed=1),
            OUTKEEP_WEBHOOK_SECRETS=SECRET,
            OUTKEEP_SWEEP_EVERY_S="0",
            OUTKEEP_RECONCILE_AFTER_S="86400",
        ) as ready:
            process = await ready.serve()
            port = int(ready.environ["OUTKEEP_PORT"])
            with bare_uvicorn(folder) as bare_port:
                for number in range(ROUNDS):
                    (folder / "requests").write_bytes(await asyncio.to_thread(requests, number))
                    bare.append((await asyncio.to_thread(wrk, bare_port, folder))[0])
                    taken, p99, wrong = await asyncio.to_thread(wrk, port, folder)
                    ours.append(taken)
                    p99s.append(p99)
                    errors += wrong
                    await _drained(ready)
            print(f"{'peak memory of the service':44} {_peak_mib(process.pid):8.0f} MiB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ratio, p99 = statistics.median(ours) / statistics.median(bare), statistics.median(p99s)
    print(f"{'bare uvicorn, reads and answers':44} {statistics.median(bare):8.0f} /s")
    print(f"{'outkeep serve, verified and durable':44} {statistics.median(ours):8.0f} /s   {errors} not 2xx")
    print(f"{'ratio':44} {ratio:8.2f}      target {RATIO_TARGET} {'ok' if ratio >= RATIO_TARGET else 'MISSED'}")
    print(f"{'p99':44} {p99:8.1f} ms   target {P99_MS_TARGET:.0f} {'ok' if p99 < P99_MS_TARGET else 'MISSED'}")
    return 0 if ratio >= RATIO_TARGET and p99 < P99_MS_TARGET and not errors else 1


async def _drained(ready) -> None:
    """Until the worker has read what came, so that one round does not weigh on the next."""

    async def read() -> bool:
        answer = await ready.http.get("/api/deliveries", params={"state": "accepted", "limit": "1"})
        return not answer.json()["items"]

    await until(read, patience_s=300)


def _peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""From the command to the first answer, and memory at rest, beside a bare interpreter and the obvious set of imports."""

import asyncio
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from receiver.sandbox.options import Options
from tests.journey.world import OUTKEEP, World, world

ROUNDS = 7
START_S_TARGET, MEMORY_MIB_TARGET, HELP_S_TARGET = 1.0, 80.0, 0.3
OBVIOUS = "import starlette.applications, uvicorn, httpx, boto3, svix.webhooks, sqlalchemy.ext.asyncio; boto3.client('s3', region_name='x')"


def cpu_s(*command: str) -> float:
    """CPU seconds of one command, the median of several."""
    spent = []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(spent)


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def first_answer(ready: World) -> tuple[float, float]:
    """Seconds to the first answer, MiB at rest."""
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        OUTKEEP, "serve", env=ready.environ, cwd=ready.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    port = int(ready.environ["OUTKEEP_PORT"])
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.005)
            continue
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
        assert b"200" in await reader.readline()
        break
    spent = time.perf_counter() - begun
    writer.close()
    await asyncio.sleep(3)
    mib = resident_mib(process.pid)
    process.send_signal(signal.SIGTERM)
    await process.wait()
    return spent, mib


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="start-") as name:
        async with world(Path(name), options=Options(seed=1)) as ready:
            rows = [await first_answer(ready) for _ in range(ROUNDS)]
    seconds, mib = (statistics.median(column) for column in zip(*rows, strict=True))
    bare, obvious = cpu_s(sys.executable, "-c", "pass"), cpu_s(sys.executable, "-c", OBVIOUS)
    helped = cpu_s(OUTKEEP, "--help") - bare
    print(f"{'bare interpreter, CPU':44} {bare:8.2f} s    1.00")
    print(f"{'the obvious imports alone, CPU':44} {obvious:8.2f} s  {obvious / bare:6.2f}")
    rows_told = (
        ("outkeep --help beyond a bare interpreter, CPU", helped, "s", HELP_S_TARGET),
        ("outkeep serve to its first answer", seconds, "s", START_S_TARGET),
        ("memory at rest", mib, "MiB", MEMORY_MIB_TARGET),
    )
    for what, figure, unit, target in rows_told:
        print(f"{what:44} {figure:8.2f} {unit:3}        target {target} {'ok' if figure <= target else 'MISSED'}")
    return 0 if all(figure <= target for _, figure, _, target in rows_told) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

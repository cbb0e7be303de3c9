"""Callers who do not care whether they are heard: so many calls a second, whatever comes of them. A process of its own.

    python -m tests.journey.overload PORT CALLS_PER_SECOND SECONDS BODY_BYTES NAME

Prints JSON: for each status how many, how long they took from the moment when each was due, and the ids taken.
Answers are timed from the sending of the call, too, since on a small machine this process is late by itself.
"""

import asyncio
import json
import sys
from collections import defaultdict
from typing import Any

from tests.journey.wire import Wire, call, told

CONNECTIONS_MAX = 2_000  # at once: beyond that a caller would hold up the others


async def offer(port: int, per_s: float, for_s: float, body_bytes: int, name: str) -> dict[str, Any]:
    """Make calls at their times, each on a connection that is idle or new."""
    loop = asyncio.get_running_loop()
    body = told("overload", logs="x" * body_bytes)
    took: dict[int, list[float]] = defaultdict(list)
    taken: list[str] = []
    idle: list[Wire] = []
    failed = 0

    async def make(number: int) -> None:
        nonlocal failed
        sent = call(body, f"{name}_{number}")
        try:
            wire = idle.pop() if idle else await Wire.to(port)
            began_s = loop.time()
            wire.writer.write(sent)
            status = await wire.status(30)
        except (OSError, EOFError, TimeoutError):
            failed += 1
            return
        took[status].append(loop.time() - began_s)
        idle.append(wire)
        if status == 200:
            taken.append(f"{name}_{number}")

    began_s = loop.time()
    calls: set[asyncio.Task[None]] = set()
    number = 0
    while (now_s := loop.time() - began_s) < for_s:
        while number < now_s * per_s and len(calls) < CONNECTIONS_MAX:
            task = asyncio.create_task(make(number))
            calls.add(task)
            task.add_done_callback(calls.discard)
            number += 1
        await asyncio.sleep(0.005)
    if calls:
        await asyncio.wait(calls)
    return {
        "offered": number,
        "failed": failed,
        "took_s": {str(key): sorted(of) for key, of in took.items()},
        "taken": taken,
    }


if __name__ == "__main__":
    port, per_s, for_s, body_bytes = (float(each) for each in sys.argv[1:5])
    print(json.dumps(asyncio.run(offer(int(port), per_s, for_s, int(body_bytes), sys.argv[5]))))

"""Callers who do not care whether they are heard: so many calls a second, whatever comes of them. A process of its own.

    python -m tests.journey.overload PORT PID CALLS_PER_SECOND SECONDS BODY_BYTES NAME

Prints JSON: by status how long the answers took from the sending of the call, and the ids taken. `beyond_s` is the same
without what the machine took: this process was late to hear, or the service (PID) was ready to run and got no processor.
"""

import asyncio
import json
import sys
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.journey.wire import Wire, call, told

CONNECTIONS_MAX = 2_000  # at once: beyond that a caller would hold up the others
TICK_S = 0.005


@dataclass
class Lag:
    """What the machine has cost, tick by tick."""

    pid: int
    at_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)  # how long this process overslept a tick
    waited_s: list[float] = field(default_factory=list)  # by the service in all, for a processor

    async def tick(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        self.at_s.append(loop.time())
        self.late_s.append(max(0.0, loop.time() - due_s))
        self.waited_s.append(self._waited())

    def between(self, began_s: float, ended_s: float) -> float:
        """Seconds that an answer owes to the machine: the service's waiting, and our own lateness when it came."""
        first = max(0, bisect_right(self.at_s, began_s) - 1)
        last = min(len(self.at_s) - 1, bisect_left(self.at_s, ended_s))
        return self.waited_s[last] - self.waited_s[first] + sum(self.late_s[max(0, last - 1) : last + 1])

    def _waited(self) -> float:
        """Of the service's first thread, where its event loop runs."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9


async def offer(port: int, pid: int, per_s: float, for_s: float, body_bytes: int, name: str) -> dict[str, Any]:
    """Make calls at their times, each on a connection that is idle or new."""
    loop = asyncio.get_running_loop()
    body = told("overload", logs="x" * body_bytes)
    answers: dict[int, list[tuple[float, float]]] = defaultdict(list)
    taken: list[str] = []
    idle: list[Wire] = []
    lag = Lag(pid)
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
        answers[status].append((began_s, loop.time()))
        idle.append(wire)
        if status == 200:
            taken.append(f"{name}_{number}")

    began_s = loop.time()
    calls: set[asyncio.Task[None]] = set()
    number = 0
    while (now_s := loop.time() - began_s) < for_s or calls:
        while number < min(now_s, for_s) * per_s and len(calls) < CONNECTIONS_MAX:
            task = asyncio.create_task(make(number))
            calls.add(task)
            task.add_done_callback(calls.discard)
            number += 1
        await lag.tick()
    return {
        "offered": number,
        "failed": failed,
        "took_s": {str(key): sorted(end - start for start, end in of) for key, of in answers.items()},
        "beyond_s": {
            str(key): sorted(end - start - lag.between(start, end) for start, end in of) for key, of in answers.items()
        },
        "late_s": sum(lag.late_s),
        "waited_s": lag.waited_s[-1] - lag.waited_s[0],
        "taken": taken,
    }


if __name__ == "__main__":
    port, pid, per_s, for_s, body_bytes = (float(each) for each in sys.argv[1:6])
    print(json.dumps(asyncio.run(offer(int(port), int(pid), per_s, for_s, int(body_bytes), sys.argv[6]))))

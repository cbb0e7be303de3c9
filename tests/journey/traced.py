"""The real service under strace: what it asks of the system, in order, and a system that says no to some of it."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import httpx

from receiver.ledger import Ledger
from tests.journey.world import OUTKEEP, free_port
from tests.receiver.web.conftest import SECRET, signed
from tests.servers.commands import clean_environment
from tests.servers.ledgers import make

STARTS_S_MAX = 60
ENDS_S_MAX = 20
DISK = ("-s", "5000", "-e", "trace=fdatasync,fsync,pwrite64")
ALL = ("-s", "5000", "-e", "trace=fdatasync,fsync,pwrite64,read,write")


@dataclass
class Service:
    """A service with a folder and a ledger of its own, to be started as often as wanted; `taken` was answered 2xx."""

    folder: Path
    port: int
    ledger_url: str
    taken: dict[str, bytes] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    process: "asyncio.subprocess.Process | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ledgers_files(self) -> tuple[str, ...]:
        """For strace: look at calls on the ledger's own files only."""
        return ("-P", f"{self.folder}/ledger.db", "-P", f"{self.folder}/ledger.db-wal")

    def environ(self) -> dict[str, str]:
        return {
            **clean_environment(),
            "OUTKEEP_PORT": str(self.port),
            "OUTKEEP_DATABASE_URL": self.ledger_url,
            "OUTKEEP_BUCKET_URL": f"file:{self.folder}/objects",
            "OUTKEEP_SPOOL_DIR": f"{self.folder}/spool",
            "OUTKEEP_WEBHOOK_SECRETS": SECRET,
            "OUTKEEP_REPLICATE_URL": "http://127.0.0.1:9/v1",
        }

    async def start(self, *strace: str) -> bool:
        """Start it, under strace if there are options for that; whether it answers (or ended instead)."""
        # Faster, but strace 6.1 then sends no signals.
        fast = () if any("signal=" in option for option in strace) else ("--seccomp-bpf",)
        traced = ("strace", "-f", *fast, "-qq", "-y", "-o", str(self.log), *strace) if strace else ()
        with (self.folder / "stderr").open("wb") as said:
            self.process = await asyncio.create_subprocess_exec(
                *traced, OUTKEEP, "serve", env=self.environ(), cwd=self.folder, stdout=said, stderr=said
            )
        async with asyncio.timeout(STARTS_S_MAX), httpx.AsyncClient(trust_env=False) as client:
            while self.process.returncode is None:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(f"{self.url}/healthz")).status_code == 200
                await asyncio.sleep(0.03)
        return False

    @property
    def log(self) -> Path:
        return self.folder / "strace.log"

    def said(self) -> str:
        return (self.folder / "stderr").read_text()

    async def ended(self) -> int:
        """The exit status, once it ends by itself."""
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), ENDS_S_MAX)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Strace passes on nothing: the service itself is told."""
        if self.process is None:
            return 0
        for pid in self._traced() or [self.process.pid]:
            if self.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
        return await self.ended()

    def _traced(self) -> list[int]:
        """The service's process id where strace stands between."""
        assert self.process is not None
        with contextlib.suppress(FileNotFoundError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            return [int(child) for child in children.split()]
        return []

    async def load(self, count: int, *, at_once: int = 4, padding: int = 0) -> None:
        """Post so many webhooks, some at once, each on a connection that is kept; stop where nobody listens any more."""
        numbers = iter(range(count))
        await asyncio.gather(*(self._caller(numbers, padding) for _ in range(at_once)))

    async def _caller(self, numbers: Iterator[int], padding: int) -> None:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=30) as client:
            for number in numbers:
                try:
                    await self.post(client, number, padding)
                except httpx.TransportError:
                    return

    async def post(self, client: httpx.AsyncClient, number: int, padding: int = 0) -> int:
        """One webhook; what is answered 2xx is written down."""
        name = f"msg_{number:05d}"
        given = {"mark": f"mark-{number:05d}", "padding": "x" * padding}
        body = json.dumps({"id": f"p{number}", "status": "processing", "input": given}).encode()
        answer = await client.post(f"/webhooks/replicate/mark-{number:05d}", content=body, headers=signed(body, name))
        self.answers[answer.status_code] += 1
        if answer.is_success:
            self.taken[name] = body
        else:
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
        return answer.status_code

    async def assert_kept(self) -> None:
        """What was answered 2xx is there, word for word, for whoever opens the ledger next."""
        ledger = await Ledger.open(self.ledger_url, now_ms=lambda: 1)
        try:
            for name, body in self.taken.items():
                kept = await ledger.delivery(name)
                assert kept is not None, f"{name} was answered 2xx and is gone"
                assert kept.body == body
        finally:
            await ledger.close()


@contextlib.asynccontextmanager
async def service(folder: Path) -> AsyncIterator[Service]:
    """A service with an empty ledger, not started yet."""
    ledgers = await make("sqlite", folder)
    await ledgers.open()
    await ledgers.close()
    made = Service(folder, free_port(), ledgers.url)
    try:
        yield made
    finally:
        await made.stop(signal.SIGKILL)


@dataclass(frozen=True)
class Call:
    """A line of strace's log: a call that ended, or (`began`) one that only begins there."""

    pid: str
    name: str
    file: str
    line: str
    began: bool = False

    @property
    def injected(self) -> bool:
        return self.line.endswith("(INJECTED)")


def calls(log: Path) -> Iterator[Call]:
    """The system calls in the order of their ends; those that others interrupted are told at their beginning too."""
    unfinished: dict[str, tuple[str, str, str]] = {}
    for line in log.read_text(errors="replace").splitlines():
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if again := re.match(r"<\.\.\. (\w+) resumed>", rest):
            name, file, before = unfinished.pop(pid, (again[1], "", ""))
            yield Call(pid, name, file, before + rest)
        elif begun := re.match(r"(\w+)\(\d+<([^>]*)>", rest):
            name, file = begun[1], unquote(begun[2])
            if rest.endswith("<unfinished ...>"):
                unfinished[pid] = name, file, rest
            yield Call(pid, name, file, rest, began=rest.endswith("<unfinished ...>"))


def durable(log: Path) -> set[str]:
    """The webhooks that stood in the ledger's log (the WAL) when a sync of it began that succeeded, before any failed."""
    watch = Watch()
    for call in calls(log):
        watch.see(call)
    return watch.durable


@dataclass
class Watch:
    """What is known of the ledger's file while the calls go by."""

    written: set[str] = field(default_factory=set)
    durable: set[str] = field(default_factory=set)
    failed: bool = False
    _syncing: dict[str, set[str]] = field(default_factory=dict)

    def see(self, call: Call) -> None:
        if not call.file.endswith("ledger.db-wal") or self.failed:
            return
        if call.name == "pwrite64" and not call.began:
            self.written |= marks(call.line)
        elif call.name in {"fdatasync", "fsync"}:
            before = self._syncing.pop(call.pid, None)
            if call.began:
                self._syncing[call.pid] = set(self.written)
            elif call.injected:
                self.failed = True
            elif call.line.endswith("= 0"):
                self.durable |= self.written if before is None else before


def marks(text: str) -> set[str]:
    """The webhooks that a text names."""
    return {f"msg_{number}" for number in re.findall(r"mark-(\d{5})", text)}

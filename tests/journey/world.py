"""A sandbox here, the service in processes of its own, and what a test wants to ask both of them."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from receiver.sandbox.options import Options
from receiver.sandbox.server import Running, running
from tests.servers.nursery import Child, Nursery

Process = asyncio.subprocess.Process | Child
OUTKEEP = str(Path(sys.executable).with_name("outkeep"))
PATIENCE_S = 40.0


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


async def until(question: Callable[[], Any], *, patience_s: float = PATIENCE_S) -> Any:
    """The answer of `question` (awaited if need be) once it is truthy."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while True:
        answer = question()
        answer = await answer if asyncio.iscoroutine(answer) else answer
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"still {answer!r} after {patience_s} s")
        await asyncio.sleep(0.03)


@dataclass
class World:
    """`environ` is what every process of the service is started with; `http` speaks to it."""

    folder: Path
    sandbox: Running
    environ: dict[str, str]
    http: httpx.AsyncClient
    processes: list[Process] = field(default_factory=list)
    nursery: Nursery | None = None

    async def serve(self, *arguments: str, command: str = "serve") -> Process:
        """Start `outkeep serve` (or another command) and wait until it answers."""
        process = await self._begun(self.folder / f"{command}-{len(self.processes)}.log", command, *arguments)
        self.processes.append(process)
        if command == "serve":
            await until(lambda: self._answers(process))
        return process

    async def _begun(self, log: Path, *arguments: str) -> Process:
        if self.nursery is not None:
            return await self.nursery.start(log, *arguments)
        with log.open("wb") as told:
            return await asyncio.create_subprocess_exec(
                OUTKEEP, *arguments,
                env=self.environ, cwd=self.folder, stdout=told, stderr=told, start_new_session=True,
            )  # fmt: skip

    async def _answers(self, process: Process) -> bool:
        if process.returncode is not None:
            raise AssertionError(f"the service ended: {self.log()}")
        with contextlib.suppress(httpx.TransportError):
            return (await self.http.get("/healthz")).status_code == 200
        return False

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    async def kill(self, process: Process, how: signal.Signals = signal.SIGKILL) -> int:
        if process.returncode is None:
            process.send_signal(how)
        return await asyncio.wait_for(process.wait(), 15)

    async def create(self, model: str, **given: Any) -> str:
        """Create a prediction through the service; gives its id."""
        answer = await self.http.post(f"/v1/models/{model}/predictions", json={"input": given})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def create_elsewhere(self, model: str, **given: Any) -> str:
        """Create a prediction at Replicate itself, with the account's token but without us."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"{self.sandbox.api_url}/models/{model}/predictions",
                json={"input": given},
                headers={"Authorization": f"Bearer {self.sandbox.token}"},
            )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def prediction(self, prediction_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/api/predictions/{prediction_id}")
        return dict(answer.json()) if answer.status_code == 200 else {}

    async def archived(self, prediction_id: str, *, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """The prediction, once it is archived."""
        known: dict[str, Any] = {}

        async def look() -> bool:
            nonlocal known
            with contextlib.suppress(httpx.TransportError):
                known = await self.prediction(prediction_id)
            return bool(known.get("archived_at"))

        try:
            await until(look, patience_s=patience_s)
        except TimeoutError:
            raise AssertionError(f"not archived: {known}\n{self.log()}") from None
        return known

    async def events(self, prediction_id: str | None = None) -> list[dict[str, Any]]:
        """The whole feed, or what it tells of one prediction."""
        told: list[dict[str, Any]] = []
        after = ""
        while True:
            query = {"after": after, "limit": "1000"} if after else {"limit": "1000"}
            page = (await self.http.get("/events", params=query)).json()
            told += page["events"]
            if not page["events"]:
                return [event for event in told if prediction_id in (None, event["subject"])]
            after = page["next"]

    async def truth(self, prediction_id: str) -> dict[str, str]:
        """SHA-256 by path of every file that the sandbox serves for a prediction."""
        async with httpx.AsyncClient(trust_env=False) as client:
            told = (await client.get(f"{self.sandbox.url}/_sandbox/predictions", params={"id": prediction_id})).json()
        (prediction,) = told["predictions"] if isinstance(told, dict) else told
        return {file["path"]: file["sha256"] for file in prediction["truth"]}

    async def misbehave(self, mischief: Mapping[str, Any]) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.post(f"{self.sandbox.url}/_sandbox/mischief", json=dict(mischief))).raise_for_status()

    async def bytes_at(self, link: str) -> bytes:
        """What a permanent link gives, asked for without any key."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.get(link)
        assert answer.status_code == 200, answer.text
        return answer.content

    async def assert_kept(self, known: Mapping[str, Any]) -> None:
        """Every file of the prediction is archived, and what its link gives is what Replicate served."""
        truth = await self.truth(known["id"])
        assert {output["path"] for output in known["outputs"] if output["state"] == "archived"} >= set(truth)
        for output in known["outputs"]:
            if output["path"] in truth:
                assert output["sha256"] == truth[output["path"]], output
                assert hashlib.sha256(await self.bytes_at(output["url"])).hexdigest() == truth[output["path"]]


@contextlib.asynccontextmanager
async def world(folder: Path, *, options: Options | None = None, **environ: str) -> AsyncIterator[World]:
    """A sandbox that runs, and the environment of a service that has not been started yet."""
    port = free_port()
    base = {
        name: value for name, value in os.environ.items() if not name.startswith(("OUTKEEP_", "AWS_", "REPLICATE_"))
    }
    async with running(options or Options(seed=7, speed=0.05)) as sandbox:
        parts = urlsplit(sandbox.url)
        settings = {
            "REPLICATE_API_TOKEN": sandbox.token,
            "OUTKEEP_REPLICATE_URL": sandbox.api_url,
            "OUTKEEP_OUTPUT_HOSTS": urlunsplit((parts.scheme, parts.netloc, "", "", "")),
            "OUTKEEP_PORT": str(port),
            "OUTKEEP_DATABASE_URL": f"sqlite:///{folder}/ledger.db",
            "OUTKEEP_BUCKET_URL": f"file:{folder}/objects",
            "OUTKEEP_SPOOL_DIR": f"{folder}/spool",
            "OUTKEEP_LOG_FORMAT": "json",
        }
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:
            made = World(folder, sandbox, base | settings | environ, http)
            try:
                yield made
            finally:
                for process in made.processes:
                    await made.kill(process)

"""A service of its own as a real process, to be killed and started again, all its data in one folder."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from receiver.cli.frame import Failure
from receiver.cli.running import free_port
from receiver.sandbox.server import Running

HOST = "127.0.0.1"
STARTS_S_MAX = 40.0
LOOK_EVERY_S = 0.02
_PROGRAM = "from receiver.cli import main; main()"
_OURS = ("OUTKEEP_", "REPLICATE_", "AWS_")


class Process:
    """`url` is where it listens, `objects` its bucket. Nothing of it comes from the user's settings."""

    def __init__(self, folder: Path, sandbox: Running, environ: Mapping[str, str]) -> None:
        port = free_port(HOST)
        self.url = f"http://{HOST}:{port}"
        self.objects = folder / "objects"
        self.starts = 0
        self._folder, self._log = folder, folder / "service.log"
        self._child: asyncio.subprocess.Process | None = None
        theirs = {name: value for name, value in environ.items() if not name.startswith(_OURS)}
        self._environ = theirs | {
            "REPLICATE_API_TOKEN": sandbox.token,
            "OUTKEEP_REPLICATE_URL": sandbox.api_url,
            "OUTKEEP_HOST": HOST,
            "OUTKEEP_PORT": str(port),
            "OUTKEEP_OUTPUT_HOSTS": sandbox.url,
            "OUTKEEP_DATABASE_URL": f"sqlite:///{folder / 'ledger.db'}",
            "OUTKEEP_BUCKET_URL": f"file:{self.objects}",
            "OUTKEEP_SPOOL_DIR": str(folder / "spool"),
            "OUTKEEP_RECONCILE_AFTER_S": "1",  # what a kill made us miss is asked for within the proof's patience
            "OUTKEEP_SWEEP_EVERY_S": "2",
            "OUTKEEP_LOG_FORMAT": "console",
        }

    async def start(self) -> None:
        """Start it and wait until it answers. Raises Failure with its own last words when it does not."""
        with self._log.open("wb") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _PROGRAM, "serve",
                env=self._environ, cwd=self._folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.starts += 1
        ends_s = asyncio.get_running_loop().time() + STARTS_S_MAX
        async with httpx.AsyncClient(trust_env=False) as client:
            while not await self._answers(client):
                if self._child.returncode is not None or asyncio.get_running_loop().time() > ends_s:
                    raise Failure(f"The service of the proof did not start: {self._last_words()}")
                await asyncio.sleep(LOOK_EVERY_S)

    async def kill(self) -> None:
        """SIGKILL, as a power cut or the kernel's memory killer would. Nothing happens when it does not run."""
        if self._child is not None:
            if self._child.returncode is None:
                self._child.kill()
            await self._child.wait()

    async def _answers(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.url}/healthz")).is_success
        except httpx.TransportError:
            return False

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing."

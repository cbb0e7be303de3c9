"""The whole of it: measure, kill, compare. Everything is made up, in a folder of its own that is removed."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from receiver.cli.frame import Failure
from receiver.cli.prove import disk, load
from receiver.cli.prove.compare import Truth, compared, kept_by
from receiver.cli.prove.process import HOST, Process
from receiver.runtime.findings import Finding, Level, failed
from receiver.runtime.settings import Settings
from receiver.sandbox.options import Options
from receiver.sandbox.server import Running, running

SPEED = 0.02  # a webhook is tried for a bit more than a second, a model takes less


async def proof(settings: Settings, environ: Mapping[str, str], say: Callable[[str], None]) -> AsyncIterator[Finding]:
    """One finding after the other; a disk that can't be written ends it. Raises Failure."""
    bad = False
    for finding in await asyncio.to_thread(lambda: list(disk.probed(settings))):
        bad = bad or finding.level == Level.FAILURE
        yield finding
    if bad:
        return
    yield _stand_ins(settings)
    with tempfile.TemporaryDirectory(prefix=".outkeep-proof-", dir=disk.ledger_folder(settings)) as folder:
        for finding in await _killed(Path(folder), environ, say):
            yield finding


async def _killed(folder: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> list[Finding]:
    async with running(Options(speed=SPEED), HOST) as sandbox:
        process = Process(folder, sandbox, environ)
        try:
            await load.rounds(process, sandbox, say)
            kept = await kept_by(process.url)
        except Failure as error:
            return [failed("kills", str(error))]
        finally:
            await process.kill()
        restarts = f"{load.KILLS} by SIGKILL under load, {process.starts} starts"
        return [
            Finding(Level.OK, "kills", f"{restarts}."),
            *compared(truth_of(sandbox), kept, process.objects),
        ]


def truth_of(sandbox: Running) -> Truth:
    """What the stand-in knows."""
    files = {
        story.id: {each.path: each.facts.sha256 for each in story.truth if each.facts is not None}
        for story in load.stories(sandbox)
    }
    return Truth(frozenset(load.acknowledged(sandbox)), files)


def _stand_ins(settings: Settings) -> Finding:
    """What the proof is made on, when that is not what the settings name."""
    embedded = [
        f"{name} instead of {theirs}"
        for name, theirs, used in (
            ("an embedded ledger", "the Postgres one", settings.database_url.startswith("postgres")),
            ("a folder", "the S3 bucket", settings.bucket_url.startswith("s3:")),
        )
        if used
    ]
    place = "a temporary folder beside the ledger's data"
    says = f"Made on a stand-in for Replicate and a service of its own, in {place}"
    if embedded:
        return Finding(Level.WARNING, "made on", f"{says}, on {' and '.join(embedded)}: your data are left alone.")
    return Finding(Level.OK, "made on", f"{says}.")

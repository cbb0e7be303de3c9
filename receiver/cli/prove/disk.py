"""How long a disk takes to keep what it was given, measured where the data will lie."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from receiver.runtime.findings import Finding, Level, failed
from receiver.runtime.settings import Settings

APPENDS = 64  # of one page each, as a ledger's log grows
APPEND_BYTES = 4096
PROBE_S_MAX = 3.0  # a disk that needs longer for all of them has been understood before
SLOW_MS = 10.0  # every webhook waits for one sync: beyond this a burst of them waits for each other
IMPLAUSIBLE_MS = 0.01  # no disk keeps anything in 10 µs: somebody says so without having done it


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one append that was synced."""

    median_ms: float
    p99_ms: float


def probed(settings: Settings) -> Iterator[Finding]:
    """A finding for each folder that promises depend on. Leaves nothing behind; raises nothing."""
    wanted: dict[Path, list[tuple[str, str]]] = {}
    for about, setting, folder in _folders(settings):
        wanted.setdefault(nearest(folder), []).append((about, setting))
    for folder, users in wanted.items():
        names, mend = (", ".join(column) for column in zip(*users, strict=True))
        try:
            yield _judged(f"{folder} ({names})", measured(folder))
        except OSError as error:
            yield failed("disk", f"{folder} ({names}) can't be written: {error.strerror}. Look at {mend}.")


def ledger_folder(settings: Settings) -> Path:
    """Where the ledger lies on this machine, or what comes nearest to it: there the proof is made."""
    if settings.database_url.startswith("sqlite:"):
        return nearest(Path(settings.database_url.removeprefix("sqlite:///").partition("?")[0]).parent)
    return nearest(settings.spool_dir)


def nearest(folder: Path) -> Path:
    """The folder itself, or the one above it in which it would be made."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def measured(folder: Path) -> Latency:
    """Append and sync, again and again, in a file without a name. Raises OSError when the folder can't be written."""
    sync = getattr(os, "fdatasync", os.fsync)
    took_ms: list[float] = []
    ends_s = time.monotonic() + PROBE_S_MAX
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while len(took_ms) < APPENDS and time.monotonic() < ends_s:
            file.write(b"\x5a" * APPEND_BYTES)
            began = time.perf_counter()
            sync(file.fileno())
            took_ms.append(1000 * (time.perf_counter() - began))
    took_ms.sort()
    return Latency(statistics.median(took_ms), took_ms[int(0.99 * (len(took_ms) - 1))])


def _folders(settings: Settings) -> Iterator[tuple[str, str, Path]]:
    if settings.database_url.startswith("sqlite:"):
        yield "ledger", "OUTKEEP_DATABASE_URL", ledger_folder(settings)
    yield "spool", "OUTKEEP_SPOOL_DIR", settings.spool_dir
    scheme, _, rest = settings.bucket_url.partition(":")
    if scheme == "file":
        yield "bucket", "OUTKEEP_BUCKET_URL", Path(unquote(urlsplit(rest).path) if rest.startswith("//") else rest)


def _judged(place: str, latency: Latency) -> Finding:
    says = f"A synced append takes {latency.median_ms:.2f} ms (median; p99 {latency.p99_ms:.2f} ms) in {place}"
    if latency.median_ms > SLOW_MS:
        mend = "use a local SSD, since every webhook waits for one before it is answered"
        return Finding(Level.WARNING, "disk", f"{says}: {mend}.")
    if latency.median_ms < IMPLAUSIBLE_MS:
        mend = "that is memory, or a disk that says so too early; what it holds may not survive a power cut"
        return Finding(Level.WARNING, "disk", f"{says}: {mend}.")
    return Finding(Level.OK, "disk", f"{says}.")

"""1 GiB from a web server into S3: ours against `curl | s5cmd pipe` and `rclone copyurl`, SHA-256 included."""

import asyncio
import hashlib
import os
import resource
import sys
import tempfile
from pathlib import Path

from storage.address import AllowedHosts
from storage.archive import archive
from storage.fetch import Fetcher
from storage.s3 import S3Bucket
from storage.spool import Spool
from tests.bench._archiving import Contender, files_served, peer_environ, shell, table
from tests.servers.seaweedfs import SeaweedFS, running_seaweedfs

SIZE = 1024**3
ROUNDS = 3
GROWTH_MIB_MAX = 32
TARGETS = {"curl | s5cmd pipe": 1.2, "rclone copyurl": 1.2}


def main() -> int:
    ours = Contender("outkeep", lambda: None)
    peers = [Contender("curl | s5cmd pipe", lambda: None), Contender("rclone copyurl", lambda: None)]
    growth_mib = 0.0
    with files_served() as (folder, origin):
        digest = _make_file(folder / "large")
        (folder / "small").write_bytes(bytes(1000))
        for _ in range(ROUNDS):
            # A server of its own for each round: it does not give back the room of what was deleted.
            with running_seaweedfs() as server:
                growth_mib = max(growth_mib, _round(ours, peers, server, origin, digest))
    met = table(ours, peers, amount=SIZE / 1e6, unit="MB/s", targets=TARGETS)
    print(f"memory grew by {growth_mib:.0f} MiB at most (allowed: {GROWTH_MIB_MAX})")
    return 0 if met and growth_mib < GROWTH_MIB_MAX else 1


def _round(ours: Contender, peers: list[Contender], server: SeaweedFS, origin: str, digest: str) -> float:
    environ = peer_environ(server)
    s5cmd = Path(sys.executable).with_name("s5cmd")
    curl_pipe = f"curl -sS {origin}/large | {s5cmd} pipe s3://{server.bucket}/s5cmd"
    peers[0].run = lambda: shell(curl_pipe, environ)
    peers[1].run = lambda: shell(f"rclone copyurl {origin}/large weed:{server.bucket}/rclone", environ)
    os.environ.update(server.environ)
    spooling = tempfile.TemporaryDirectory(prefix="spool-")
    spool = Spool(Path(spooling.name), 2 * SIZE)
    bucket = S3Bucket.open(server.url("ours"))
    fetcher = Fetcher(AllowedHosts.parse(origin))

    async def archived(name: str) -> str:
        stored = await archive(
            f"{origin}/{name}",
            bucket=bucket,
            stem=bucket.key(name),
            spool=spool,
            spool_name=name,
            fetcher=fetcher,
            bytes_max=SIZE,
        )
        return stored.sha256

    def run() -> None:
        if asyncio.run(archived("large")) != digest:
            raise AssertionError("other bytes were archived than were served")

    ours.run = run
    asyncio.run(archived("small"))
    before_mib = _peak_mib()
    for one in (ours, *peers):
        one.measure()
        print(f"  {one.name}: {one.seconds[-1]:.2f} s", flush=True)
    fetcher.close()
    asyncio.run(bucket.close())
    spooling.cleanup()
    return _peak_mib() - before_mib


def _make_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(SIZE // 2**20):
            piece = os.urandom(2**20)
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())

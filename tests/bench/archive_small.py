"""100 KB files from a web server into S3, eight at once: ours against `rclone copy` and httpx + `put_object`."""

import asyncio
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import boto3
import httpx

from storage.address import AllowedHosts
from storage.archive import archive
from storage.fetch import Fetcher
from storage.s3 import S3Bucket
from storage.spool import Spool
from tests.bench._archiving import Contender, files_served, peer_environ, shell, table
from tests.servers.seaweedfs import SeaweedFS, running_seaweedfs

SIZE = 100_000
FILES = 400
AT_ONCE = 8
ROUNDS = 5
TARGETS = {"rclone copy": 1.0, "httpx + put_object": 2.0}


def main() -> int:
    with (
        files_served() as (folder, origin),
        running_seaweedfs() as server,
        tempfile.TemporaryDirectory(prefix="spool-") as spooling,
    ):
        (folder / "small").mkdir()
        names = [f"{number:04}" for number in range(FILES)]
        for name in names:
            (folder / "small" / name).write_bytes(os.urandom(SIZE))
        os.environ.update(server.environ)
        runs = count()
        ours = Contender("outkeep", _ours(origin, server, Spool(Path(spooling), 1024**3), names, runs))
        peers = [
            Contender("rclone copy", _rclone(origin, server, runs)),
            Contender("httpx + put_object", _httpx(origin, server, names, runs)),
        ]
        for one in (ours, *peers) * ROUNDS:
            one.measure()
        met = table(ours, peers, amount=FILES, unit="files/s", targets=TARGETS)
        _check(server, names)
    return 0 if met else 1


def _ours(origin: str, server: SeaweedFS, spool: Spool, names: list[str], runs: "count[int]"):
    bucket = S3Bucket.open(server.url("ours"))
    fetcher = Fetcher(AllowedHosts.parse(origin), threads=AT_ONCE)

    async def everything(run: int) -> None:
        async def some() -> None:
            for name in left:
                await archive(
                    f"{origin}/small/{name}",
                    bucket=bucket,
                    stem=bucket.key(f"{run}/{name}"),
                    spool=spool,
                    spool_name=name,
                    fetcher=fetcher,
                    bytes_max=SIZE,
                )

        left = iter(names)
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    return lambda: asyncio.run(everything(next(runs)))


def _rclone(origin: str, server: SeaweedFS, runs: "count[int]"):
    environ = peer_environ(server)
    copy = f"rclone copy --transfers {AT_ONCE} --checkers {AT_ONCE} --http-url {origin}/small/ :http:"
    return lambda: shell(f"{copy} weed:{server.bucket}/rclone{next(runs)}", environ)


def _httpx(origin: str, server: SeaweedFS, names: list[str], runs: "count[int]"):
    web, s3 = httpx.Client(trust_env=False), boto3.client("s3")

    def one(run: int, name: str) -> None:
        data = web.get(f"{origin}/small/{name}").raise_for_status().content
        s3.put_object(Bucket=server.bucket, Key=f"httpx/{run}/{name}", Body=data)

    def everything(run: int) -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda name: one(run, name), names))

    return lambda: everything(next(runs))


def _check(server: SeaweedFS, names: list[str]) -> None:
    """What was measured was really done."""
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=server.bucket)
    sizes = [found["Size"] for page in pages for found in page.get("Contents", []) if found["Size"] == SIZE]
    if len(sizes) != 3 * ROUNDS * len(names):
        raise AssertionError(f"{len(sizes)} of {3 * ROUNDS * len(names)} files arrived whole")


if __name__ == "__main__":
    sys.exit(main())

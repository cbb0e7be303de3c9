"""What holds of an archive whatever happens to its process, and whatever the file's size."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.address import AllowedHosts
from storage.archive import archive
from storage.fetch import Fetcher
from storage.folder import FolderBucket
from storage.spool import Spool
from tests.storage.faulty import Request, Send, good, head, serving, silent

MIB = 1024 * 1024
LARGE = 256
GROWTH_MIB_MAX = 32

PROGRAM = """
import asyncio, resource, sys
from pathlib import Path
from storage.address import AllowedHosts
from storage.archive import archive
from storage.buckets import open_bucket
from storage.fetch import Fetcher
from storage.spool import Spool

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main(origin, folder, url):
    bucket, fetcher = open_bucket(url), Fetcher(AllowedHosts.parse(origin))
    spool = Spool(Path(folder), 1 << 30, disk_free_min=0)
    for name in sys.argv[4:]:
        before = peak()
        await archive(f"{origin}/{name}", bucket=bucket, stem=bucket.key(name), spool=spool, spool_name="one",
                      fetcher=fetcher, bytes_max=1 << 30)
        print((peak() - before) // 1024, flush=True)
    fetcher.close()
    await bucket.close()

asyncio.run(main(*sys.argv[1:4]))
"""


def start(origin: str, spool: Path, bucket: str, *names: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, origin, str(spool), bucket, *names],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environ,
    )


def long_file(_request: Request, send: Send) -> bool:
    send(head(Content_Length=LARGE * MIB))
    piece = os.urandom(MIB)
    for _ in range(LARGE):
        send(piece)
    return True


def test_memory_stays_flat_whatever_the_file_s_size(tmp_path: Path) -> None:
    with (
        serving(good(b"x" * 1000), long_file) as server,
        start(server.origin, tmp_path / "spool", f"file:{tmp_path / 'bucket'}", "small", "large") as program,
    ):
        growths_mib = [int(line) for line in program.communicate()[0].split()]
    assert len(growths_mib) == 2
    assert growths_mib[1] < GROWTH_MIB_MAX
    assert (tmp_path / "bucket" / "large.bin").stat().st_size == LARGE * MIB


@pytest.mark.parametrize("size", [5 * MIB, 20 * MIB])
async def test_a_process_killed_on_its_way_to_the_bucket_has_not_fetched_in_vain(tmp_path: Path, size: int) -> None:
    body = os.urandom(size)
    with serving(good(body)) as server, socket.create_server(("127.0.0.1", 0)) as mute:
        environ = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"), "test")
        environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with start(server.origin, tmp_path / "spool", "s3://files", "file", **environ) as program:
            wait_for(tmp_path / "spool" / "one.json")
            program.send_signal(signal.SIGKILL)
        await save(server.origin, tmp_path)
        assert len(server.requests) == 1
    assert {path.name for path in (tmp_path / "spool").iterdir()} == set()
    assert (tmp_path / "bucket" / "file.bin").read_bytes() == body


async def test_a_process_killed_while_fetching_leaves_nothing_that_anyone_sees(tmp_path: Path) -> None:
    body = os.urandom(20 * MIB)
    begun = silent(head(Content_Length=len(body)) + body[: 18 * MIB], 1)
    with serving(begun, good(body)) as server:
        with start(server.origin, tmp_path / "spool", f"file:{tmp_path / 'bucket'}", "file") as program:
            wait_for(tmp_path / "spool" / "one.data", size=17 * MIB)
            program.send_signal(signal.SIGKILL)
        assert not list((tmp_path / "bucket").glob("file*"))
        await save(server.origin, tmp_path)
    assert (tmp_path / "bucket" / "file.bin").read_bytes() == body


async def save(origin: str, folder: Path) -> None:
    """The next process: a new spool over the same folder."""
    bucket, fetcher = FolderBucket(folder / "bucket"), Fetcher(AllowedHosts.parse(origin))
    spool = Spool(folder / "spool", 1 << 30, disk_free_min=0)
    await archive(
        f"{origin}/file",
        bucket=bucket,
        stem=bucket.key("file"),
        spool=spool,
        spool_name="one",
        fetcher=fetcher,
        bytes_max=1 << 30,
    )
    fetcher.close()
    await bucket.close()


def wait_for(path: Path, size: int = 1) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path.name} never came")

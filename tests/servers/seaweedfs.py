"""A SeaweedFS that speaks S3 on free ports, its volumes in memory; one a session, a prefix for everybody."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY, SECRET_KEY = "outkeep", "outkeep-secret"
BUCKET = "outkeep-tests"
READY_S = 40.0


@dataclass(frozen=True)
class SeaweedFS:
    """Where it answers, with a bucket that is there."""

    endpoint: str
    bucket: str = BUCKET

    @property
    def environ(self) -> dict[str, str]:
        """What boto3 wants to know."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def url(self, prefix: str | None = None) -> str:
        """The URL of the bucket under a prefix of its own."""
        return f"s3://{self.bucket}/{uuid4().hex if prefix is None else prefix}"

    def client(self):
        """A plain client, for looking at what is there."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )


@contextmanager
def running_seaweedfs() -> Iterator[SeaweedFS]:
    """Start it, wait until it takes an object, stop it."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="seaweedfs-", dir=memory if memory.is_dir() else None))
    ports = _free_ports(8)
    server = SeaweedFS(f"http://127.0.0.1:{ports[0]}")
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(_command(folder, ports), cwd=folder, stdout=log, stderr=log)
        try:
            _wait(server, process, folder / "log")
            yield server
        finally:
            process.kill()  # nothing of it is worth an orderly end, which takes it seconds
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for port in ports:
            for path in Path("/tmp").glob(f"seaweedfs-*{port}.sock"):
                path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFS]:
    """One for the whole session."""
    with running_seaweedfs() as server:
        yield server


@pytest.fixture
def s3_environment(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> SeaweedFS:
    """The server, with boto3's settings of this process pointing at it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in seaweedfs.environ.items():
        monkeypatch.setenv(name, value)
    return seaweedfs


def _command(folder: Path, ports: list[int]) -> list[str]:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    names = [f"{part}.port{kind}" for part in ("s3", "filer", "volume", "master") for kind in ("", ".grpc")]
    beside = Path(sys.executable).with_name("weed")
    return [
        str(beside) if beside.exists() else "weed",
        *("server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=false", "-s3.iam=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=50", "-volume.preStopSeconds=0"),
        *("-master.volumePreallocate=false", "-master.volumeSizeLimitMB=2048"),
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


def _wait(server: SeaweedFS, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_S
    client = server.client()
    try:
        while process.poll() is None and time.monotonic() < until:
            try:
                client.create_bucket(Bucket=server.bucket)
                client.put_object(Bucket=server.bucket, Key="ready", Body=b"ready")
            except client.exceptions.BucketAlreadyOwnedByYou:
                client.put_object(Bucket=server.bucket, Key="ready", Body=b"ready")
            except (ClientError, BotoCoreError):
                time.sleep(0.05)
                continue
            return
    finally:
        client.close()
    raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]

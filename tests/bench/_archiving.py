"""What both archive benchmarks stand on: nginx with files, SeaweedFS, the peers, a table."""

import contextlib
import os
import resource
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.seaweedfs import ACCESS_KEY, SECRET_KEY, SeaweedFS

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; autoindex on; default_type application/octet-stream; }}
}}
"""


@contextlib.contextmanager
def files_served() -> Iterator[tuple[Path, str]]:
    """A folder in memory, and the origin where nginx serves it."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="files-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o755)
    (folder / "www").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "nginx.conf").write_text("user root;\n" * (os.getuid() == 0) + NGINX.format(folder=folder, port=port))
    nginx = subprocess.Popen(
        [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)],
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(port)
        yield folder / "www", f"http://127.0.0.1:{port}"
    finally:
        nginx.terminate()
        nginx.wait()
        shutil.rmtree(folder, ignore_errors=True)


def peer_environ(server: SeaweedFS) -> dict[str, str]:
    """For s5cmd, rclone (as remote `weed:`) and boto3."""
    rclone = {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_WEED_TYPE": "s3",
        "RCLONE_CONFIG_WEED_PROVIDER": "SeaweedFS",
        "RCLONE_CONFIG_WEED_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_WEED_ACCESS_KEY_ID": ACCESS_KEY,
        "RCLONE_CONFIG_WEED_SECRET_ACCESS_KEY": SECRET_KEY,
        "RCLONE_CONFIG_WEED_NO_CHECK_BUCKET": "true",
        "S3_ENDPOINT_URL": server.endpoint,
    }
    # Everything is on this machine: no proxy and no authority of ours has a say.
    own = {name: value for name, value in os.environ.items() if not name.lower().endswith(("_proxy", "ca_bundle"))}
    return own | server.environ | rclone


@dataclass
class Contender:
    """One way of doing it; `run` does it once."""

    name: str
    run: Callable[[], None]
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def measure(self) -> None:
        begun, cpu = time.perf_counter(), _cpu_s()
        self.run()
        self.seconds.append(time.perf_counter() - begun)
        self.cpu_s.append(_cpu_s() - cpu)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


def shell(command: str, environ: dict[str, str]) -> None:
    """Run a pipeline, any part of which may fail it."""
    subprocess.run(["bash", "-o", "pipefail", "-c", command], env=environ, check=True, stdout=subprocess.DEVNULL)


def table(ours: Contender, peers: list[Contender], *, amount: float, unit: str, targets: dict[str, float]) -> bool:
    """Print medians; True if every target is met.

    A ratio is the median of those of the single rounds, since whatever else the machine does comes and goes.
    """
    print(f"{'':34} {unit:>9} {'CPU s':>7} {'ours/it':>8} {'target':>7}")
    met = True
    for one in [ours, *peers]:
        ratio = statistics.median(theirs / own for theirs, own in zip(one.seconds, ours.seconds, strict=True))
        target = targets.get(one.name)
        met = met and (target is None or ratio >= target)
        told = "" if target is None else f"{target:.1f} {'ok' if ratio >= target else 'MISSED'}"
        print(f"{one.name:34} {amount / one.median_s:9.1f} {statistics.median(one.cpu_s):7.2f} {ratio:8.2f} {told:>7}")
    return met


def _cpu_s() -> float:
    """Of this process and of those it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def _wait(port: int) -> None:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.02)
    raise RuntimeError("nginx did not start")

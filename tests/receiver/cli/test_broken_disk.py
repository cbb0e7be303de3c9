"""A disk that fails under a command ends it with the status that asks for another start."""

import subprocess
from pathlib import Path

from receiver.cli.frame import START_AGAIN
from tests.servers.commands import OUTKEEP, clean_environment


def test_the_demo_ends_with_75_when_the_disk_under_it_fails(tmp_path: Path) -> None:
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    failing = ["-P", f"{tmp_path}/kept/ledger.db-wal", "-e", "inject=fdatasync:error=EIO:when=9"]
    done = subprocess.run(
        [*strace, *failing, *OUTKEEP, "demo", "--once", "--dir", str(tmp_path / "kept")],
        env=clean_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == START_AGAIN, done.stderr
    assert done.stderr.splitlines()[-1].startswith("outkeep: The disk under the ledger failed (disk I/O error): ")
    assert "Traceback" not in done.stderr

"""A world of its own for every command: an empty working directory and none of the settings of whoever runs the tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Outkeep = Callable[..., "subprocess.CompletedProcess[str]"]
OURS = ("OUTKEEP_", "REPLICATE_", "AWS_")
SECONDS_MAX = 30.0


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in list(os.environ):
        if name.startswith(OURS) or name in {"COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    for name in set(os.environ) - set(before):  # what a `.env` has put there for boto3
        del os.environ[name]


@pytest.fixture
def outkeep() -> Outkeep:
    """Run the real command in a process of its own."""

    def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", "from receiver.cli import main; main()", *arguments],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run

"""A world of its own for every command: an empty working directory and none of the settings of whoever runs the tests."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.commands import OUTKEEP, World, clean_environment, sandboxed, started

Outkeep = Callable[..., "subprocess.CompletedProcess[str]"]
SECONDS_MAX = 60.0
KEY = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    clean = clean_environment()
    for name in set(os.environ) - set(clean):
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
            [*OUTKEEP, *arguments],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


@dataclass(frozen=True)
class Up:
    url: str
    world: World


@pytest.fixture(scope="package")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A service that asks for a key, and the sandbox that it uses."""
    folder = tmp_path_factory.mktemp("up")
    with sandboxed(folder / "sandbox") as world:
        keyed = {**world.environ, "OUTKEEP_API_KEYS": f"tester={KEY}"}
        with started(folder / "service", "serve", "--port", "0", **keyed) as service:
            yield Up(service.wait_for(r"listens on (http://[^;,\s]+)")[1], world)
            assert service.end() == 0


@pytest.fixture
def client(up: Up, monkeypatch: pytest.MonkeyPatch) -> Up:
    """The environment of somebody who uses that service."""
    monkeypatch.setenv("OUTKEEP_URL", up.url)
    monkeypatch.setenv("OUTKEEP_KEY", KEY)
    return up

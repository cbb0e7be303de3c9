"""The scripts that people and the judging machine both run."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "infra/scripts").iterdir()), ROOT / ".ci/run"]


def told_uv(
    tmp_path: Path, script: str, *arguments: str, exits: int = 0
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a script with a uv that only writes down what it is told; returns how it ended, and that."""
    record = tmp_path / "told"
    record.touch()
    uv = tmp_path / "uv"
    uv.write_text(
        f'#!/bin/sh\necho "$*" >>"{record}"\ncase "$*" in *pytest*) echo dots; echo "= 3 passed ="; exit {exits};; esac\n'
    )
    uv.chmod(0o755)
    environment = {**os.environ, "UV": str(uv)}
    ended = subprocess.run(
        [ROOT / script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return ended, record.read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_can_be_run_and_stops_at_the_first_failure(script: Path):
    text = script.read_text("utf-8")
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n#")
    assert "\nset -euo pipefail\n" in text
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_the_judging_machine_runs_the_same_script_as_everybody():
    text = (ROOT / ".ci/run").read_text("utf-8")
    assert re.findall(r"infra/scripts/\w+", text) == ["infra/scripts/test"]
    assert (ROOT / ".github/workflows/ci.yml").read_text("utf-8").count("bash .ci/run") == 1


def test_the_whole_suite_is_judged_before_it_is_run_and_its_summary_stands_last(tmp_path: Path):
    ended, told = told_uv(tmp_path, "infra/scripts/test")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-1] == "= 3 passed ="
    assert ended.stdout.count("passed") == 1
    ran = [" ".join(line.split()[3:6]) for line in told if line.startswith("run")]
    assert ran == [
        "ruff check", "ruff format --check", "mypy", "lint-imports",
        "coverage erase", "coverage run -m", "coverage combine --quiet", "coverage report",
    ]  # fmt: skip


def test_a_failing_test_fails_the_script_and_the_summary_still_stands_last(tmp_path: Path):
    ended, told = told_uv(tmp_path, "infra/scripts/test", exits=1)
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1] == "= 3 passed ="
    assert not any("report" in line for line in told)


def test_a_part_of_the_suite_is_run_alone_as_pytest_takes_it(tmp_path: Path):
    ended, told = told_uv(tmp_path, "infra/scripts/test", "tests/storage", "-k", "fetch and not s3")
    assert ended.returncode == 0
    assert told[-1] == "run --no-sync -- pytest tests/storage -k fetch and not s3"
    assert not any("coverage" in line or "ruff" in line for line in told)


def test_mending_is_asked_for(tmp_path: Path):
    ended, told = told_uv(tmp_path, "infra/scripts/check", "--fix")
    assert ended.returncode == 0
    assert [line.split(" -- ")[1] for line in told if " -- " in line][:2] == ["ruff check --fix", "ruff format"]


def test_a_wrong_word_is_wrong_usage(tmp_path: Path):
    ended, told = told_uv(tmp_path, "infra/scripts/check", "--fxi")
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: ")
    assert told == []

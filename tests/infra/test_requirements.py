"""The pinned requirements are in step with the project, carry hashes, and name no place to fetch from."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
FILES = ("requirements.txt", "requirements-build.txt")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def entries(file: str) -> list[tuple[Requirement, list[str]]]:
    """Each pinned requirement of a file with its SHA-256 hashes."""
    text = re.sub(r"^\s*#.*$", "", (INFRA / file).read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    pinned = []
    for line in text.splitlines():
        if line.strip():
            requirement, *hashes = re.split(r"\s--hash=sha256:", line.strip())
            pinned.append((Requirement(requirement), [digest.strip() for digest in hashes]))
    return pinned


def direct() -> list[Requirement]:
    """What the project itself asks for when it runs, extras included."""
    project = PROJECT["project"]
    extras = [wanted for group in project["optional-dependencies"].values() for wanted in group]
    return [Requirement(wanted) for wanted in (*project["dependencies"], *extras)]


@pytest.mark.parametrize("file", FILES)
def test_everything_is_pinned_to_one_version_and_hashed(file: str):
    for requirement, hashes in entries(file):
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes, requirement
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes), requirement


@pytest.mark.parametrize("file", FILES)
def test_no_place_to_fetch_from_is_named(file: str):
    assert re.search(r"://|index|find-links|file:|^-", (INFRA / file).read_text("utf-8"), re.MULTILINE) is None


@pytest.mark.parametrize("wanted", direct(), ids=str)
def test_every_runtime_dependency_and_extra_is_pinned_as_the_project_wants_it(wanted: Requirement):
    pinned = [
        one for one, _ in entries("requirements.txt") if canonicalize_name(one.name) == canonicalize_name(wanted.name)
    ]
    assert pinned, f"run infra/scripts/lock: {wanted} is not in infra/requirements.txt"
    for one in pinned:
        (version,) = one.specifier
        assert wanted.specifier.contains(version.version, prereleases=True)


def test_what_builds_the_wheel_is_pinned_as_the_project_wants_it():
    pinned = {
        canonicalize_name(one.name): next(iter(one.specifier)).version for one, _ in entries("requirements-build.txt")
    }
    for wanted in map(Requirement, PROJECT["build-system"]["requires"]):
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)])


def test_no_tool_of_ours_is_installed_for_our_users():
    installed = {canonicalize_name(one.name) for one, _ in entries("requirements.txt")}
    assert installed & {"pytest", "ruff", "mypy", "coverage", "hypothesis", "import-linter", "outkeep"} == set()

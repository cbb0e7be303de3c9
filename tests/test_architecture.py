"""The house keeps its shape: sizes, who reads clock, chance and environment, what each part may import, what is where.

Who may import whom among our own packages stands in `.importlinter` and is held by `infra/scripts/check`.
"""

import ast
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from receiver.runtime.settings import SETTINGS

ROOT = Path(__file__).parents[1]
FILE_LINES_MAX = 300
FUNCTION_LINES_MAX = 40  # without its docstring: a promise may be as long as it needs to be
LISTS = (
    "receiver/ledger/migrations/versions/"  # a table's columns, one a line and frozen for ever, are no logic to split
)

TOP = {"CHANGELOG.md", "LICENSE", "README.md", "infra", "pyproject.toml", "receiver", "storage", "tests"}
IGNORED_BY_GIT = {"dist", "htmlcov", "outkeep-data", "uv.lock"}

WALL_CLOCK = r"time\.(time|time_ns|localtime|gmtime)|datetime\.(datetime|date)\.(now|utcnow|today)"
STEADY_CLOCK = r"time\.(monotonic|perf_counter)(_ns)?"
CHANCE = r"random\.(?!Random\b)\w+|secrets\.\w+|os\.urandom|uuid\.uuid(1|4)"
ENVIRONMENT = r"os\.(environ|environb|getenv)\b.*"

# Who may read what, and why; everybody else is handed it. The sandbox is a stranger and keeps its own time.
READERS = {
    WALL_CLOCK: {
        "receiver/runtime/wiring.py": "the one place",
        "receiver/sandbox/": "a stranger",
        "storage/s3_wire.py": "a signature carries the time of its request",
        "storage/s3.py": "the age of leftovers, as the bucket dates them",
    },
    STEADY_CLOCK: {
        "receiver/runtime/": "hands it on, and times what it runs",
        "receiver/cli/": "how long something took, on the screen",
        "receiver/sandbox/": "a stranger",
        "storage/": "deadlines",
    },
    CHANCE: {
        "receiver/runtime/wiring.py": "the one place",
        "receiver/runtime/check.py": "wires a client of its own, since it must run where the house cannot be opened",
        "receiver/ledger/bells.py": "a name that no other process has",
        "receiver/sandbox/": "a stranger",
        "storage/": "names of drafts and canaries",
    },
    ENVIRONMENT: {"receiver/cli/environment.py": "the one place"},
}

SQL = {"aiosqlite", "alembic", "psycopg", "sqlalchemy", "sqlite3"}
# Modules of the standard library that do something, or know something that was not handed to them.
ACTING = {
    "asyncio", "concurrent", "ctypes", "fcntl", "http", "io", "logging", "mmap", "multiprocessing", "os", "pathlib",
    "platform", "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time",
}  # fmt: skip
# certifi comes with httpx; mypy_boto3_s3 is types and absent when it runs.
STORAGE_MAY_USE = {"boto3", "botocore", "certifi", "httpcore", "httpx", "imagesize", "mypy_boto3_s3", "tinytag"}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports from outside its own package's relative names, dotted."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno} imports relatively"
            yield node.module or ""


def spoken(path: Path) -> Iterator[tuple[int, str]]:
    """Every dotted name that a file uses, with its line, import aliases undone: `now` after `from time import time as now`
    is `time.time`."""
    tree = parsed(path)
    meant: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            meant.update(
                {(a.asname or a.name).split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
            )
        elif isinstance(node, ast.ImportFrom):
            meant.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.lineno, meant.get(node.id, f"builtins.{node.id}")
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            first, _, rest = dotted.partition(".")
            yield node.lineno, f"{meant.get(first, first)}.{rest}"


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function of a file with the count of its lines, from its `def` on, without its docstring."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = ast.get_docstring(node, clean=False) is not None
            told = (first.end_lineno or 0) - first.lineno + 1 if docstring else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - told


def written_files() -> Iterator[Path]:
    """Every text file of the tree that we wrote: what git ignores is left out."""
    for path in chain(ROOT.glob("*"), *((ROOT / top).rglob("*") for top in (*TOP, ".ci", ".github"))):
        if path.is_file() and path.name not in IGNORED_BY_GIT and not {"__pycache__", ".hypothesis"} & set(path.parts):
            yield path


def test_no_file_of_ours_is_longer_than_300_lines():
    lengths = {name(path): len(path.read_text("utf-8").splitlines()) for path in python_files("receiver", "storage")}
    assert {path: lines for path, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_no_function_of_ours_is_longer_than_40_lines():
    assert [
        f"{name(path)}: {function} has {lines} lines"
        for path in python_files("receiver", "storage")
        for function, lines in functions(path)
        if lines > FUNCTION_LINES_MAX and not name(path).startswith(LISTS)
    ] == []


@pytest.mark.parametrize("what", READERS, ids=["wall clock", "steady clock", "chance", "environment"])
def test_clock_chance_and_environment_are_read_only_where_they_belong(what: str):
    readers = {
        name(path)
        for path in python_files("receiver", "storage")
        if any(re.fullmatch(what, said) for _, said in spoken(path))
    }
    assert {reader for reader in readers if not reader.startswith(tuple(READERS[what]))} == set()


def test_clock_and_chance_are_recognised_under_any_name(tmp_path: Path):
    path = tmp_path / "hidden.py"
    path.write_text(
        "import datetime as d\nfrom time import time as now\nfrom os import environ\nd.datetime.now()\nnow()\nenviron['A']\n"
    )
    said = {what for _, what in spoken(path)}
    assert {"datetime.datetime.now", "time.time", "os.environ"} <= said


def test_only_the_command_prints():
    printers = {
        name(path) for path in python_files("receiver", "storage") if "builtins.print" in {s for _, s in spoken(path)}
    }
    assert {path for path in printers if not path.startswith("receiver/cli/")} == set()


def test_only_the_ledger_speaks_sql():
    speakers = {
        name(path)
        for path in python_files("receiver", "storage")
        if SQL & {module.split(".")[0] for module in imported(path)}
    }
    assert {path for path in speakers if not path.startswith("receiver/ledger/")} == set()


@pytest.mark.parametrize("path", python_files("receiver/core"), ids=name)
def test_the_core_imports_the_standard_library_without_its_deeds(path: Path):
    outside = {module.split(".")[0] for module in imported(path) if not module.startswith("receiver.core")}
    assert outside <= set(sys.stdlib_module_names) - ACTING


@pytest.mark.parametrize("path", python_files("storage"), ids=name)
def test_the_library_needs_little_and_logs_nothing(path: Path):
    outside = {module.split(".")[0] for module in imported(path)} - {"storage"}
    assert outside <= (set(sys.stdlib_module_names) | STORAGE_MAY_USE) - {"logging"}


def test_the_top_of_the_tree_holds_only_what_belongs_there():
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - IGNORED_BY_GIT <= TOP


def test_every_setting_stands_in_the_readme_as_it_is_in_the_code():
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.split("\n## Settings\n", 1)[1].split("\n## ", 1)[0]
    told = re.findall(r"^\| `([A-Z_]+)` \| (.+?) \| (.+) \|$", section, re.MULTILINE)
    assert told == [(s.name, f"`{s.default_text}`" if s.default_text else "none", s.meaning) for s in SETTINGS]


def test_the_tree_names_no_registry_and_no_path_of_one_machine():
    forbidden = re.compile(
        r"pypi\.org|pythonhosted\.org|--(extra-)?index-url|--find-links"
        r"|(?<![\w.~*/}])/(root|work|home/\w+|Users/\w+)/"
    )
    offending = {
        f"{name(path)}: {found[0]}"
        for path in written_files()
        if path != Path(__file__) and (found := forbidden.search(path.read_text("utf-8", errors="replace")))
    }
    assert offending == set()


def test_no_test_is_left_out_and_none_mocks():
    left_out = r"pytest\.(skip|xfail|importorskip|mark\.(skip|skipif|xfail))|unittest\.mock.*|mock\..*"
    assert [
        f"{name(path)}:{line} {said}"
        for path in python_files("tests")
        for line, said in chain(spoken(path), ((0, module) for module in imported(path)))
        if re.fullmatch(left_out, said)
    ] == []

"""The page *What Outkeep promises* names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text().partition("## What Outkeep promises\n")[2].partition("\n## ")[0]
PROMISES = [line for line in PAGE.splitlines() if line.startswith("| **")]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda line: line.split("**")[1])
def test_every_promise_names_a_test(promise: str) -> None:
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", promise)


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_that_a_promise_names_is_there(path: str, name: str) -> None:
    module = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_there_are_promises() -> None:
    assert len(PROMISES) >= 9, "the nine invariants, at least"

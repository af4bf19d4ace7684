"""docs/reliability.md names for each fault the test that shows it: the tests must be there, and every suite must be named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

TESTS = Path(__file__).resolve().parent.parent

PAGE = TESTS.parent / "docs" / "reliability.md"

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def named() -> list[tuple[str, str]]:
    return _NAMED.findall(PAGE.read_text())


def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS.parent / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    missing = [f"{file}::{name}" for file, name in named() if name not in functions(file)]
    assert not missing


def test_every_fault_has_a_test() -> None:
    """Each row of a table with the two old programs and ours ends in the name of a test."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and line.count(" | ") >= 4]
    faults = [row for row in rows if not row.startswith(("| fault |", "| --- |"))]
    assert len(faults) > 60
    assert [row for row in faults if not _NAMED.search(row.rpartition(" | ")[2])] == []
    assert [row for row in faults if row.count(" | ") != 4] == []


def test_every_suite_of_faults_is_named() -> None:
    suites = {f"tests/faults/{path.name}" for path in TESTS.glob("faults/test_*.py")} - {f"tests/faults/{Path(__file__).name}"}
    assert suites <= {file for file, _ in named()}

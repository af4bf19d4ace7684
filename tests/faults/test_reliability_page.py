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
    faults = []
    in_table = False
    for line in PAGE.read_text().splitlines():
        in_table = line.startswith("| fault | `cp` |") or (in_table and line.startswith("|"))
        if in_table and not line.startswith(("| fault |", "| --- |")):
            faults.append(line)
    assert len(faults) > 70
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in faults]
    assert [row for row in cells if len(row) != 5 or not row[3] or not _NAMED.search(row[4])] == []


def test_every_suite_of_faults_is_named() -> None:
    suites = {f"tests/faults/{path.name}" for path in TESTS.glob("faults/test_*.py")} - {f"tests/faults/{Path(__file__).name}"}
    assert suites <= {file for file, _ in named()}

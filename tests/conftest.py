"""Fixtures for all tests, and what the head of a run must say of what is tested."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support import matrix, platforms
from support.command import IS_WINDOWS, PYSTANDBY, Standby

import pystandby
from pystandby import osdep

collect_ignore = [*platforms.MODULES] if IS_WINDOWS else ["windows"]


def pytest_report_header() -> str:
    where = Path(pystandby.__file__).parent
    return f"pystandby {pystandby.__version__} in {where}, run as user {osdep.own_user()}, on {platforms.system()}"


def pytest_addoption(parser: pytest.Parser) -> None:
    matrix.add_options(parser)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    matrix.choose_tests(config, items)


def pytest_configure(config: pytest.Config) -> None:
    installed = Path(pystandby.__file__).resolve()
    if Path(sys.prefix).resolve() not in installed.parents or not PYSTANDBY.exists():
        pytest.exit(f"the installed pystandby is to be tested, not {installed}", returncode=4)
    matrix.configure(config)
    if IS_WINDOWS:
        config.pluginmanager.register(platforms.NotForWindows(), "not-for-windows")


@pytest.fixture
def standby(tmp_path: Path) -> Standby:
    """A server in recovery mode, of version 16, with an empty archive."""
    return Standby(tmp_path)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of pytest-xdist, each of which has a base temporary folder below it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real-wal"
    folder.mkdir(exist_ok=True)
    return folder

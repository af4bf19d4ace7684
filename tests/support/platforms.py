"""Which system the tests run on, and what of them is not for Windows.

A test that is POSIX's by nature is marked with the reason, alone or with its whole module:

    @pytest.mark.posix("signals")

On Windows it is deselected, and the end of the run says how many were for each reason. A module that cannot even be imported there,
because what it needs is POSIX's, stands in MODULES.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest

MODULES: dict[str, str] = {}
"""The modules of tests/ that are not for Windows, and why."""


def system() -> str:
    """The system that the tests run on, in words that do not take Wine for Windows."""
    if sys.platform != "win32":
        return sys.platform
    import ctypes

    version = sys.getwindowsversion()
    windows = f"Windows {version.major}.{version.minor}.{version.build}"
    try:
        wine_version = ctypes.CDLL("ntdll").wine_get_version
    except AttributeError:
        return windows
    wine_version.restype = ctypes.c_char_p
    return f"UNDER WINE {wine_version().decode()}, which is not Windows but passes itself off as {windows}"


class NotForWindows:
    """The plugin that leaves tests out on Windows, and says at the end how many and why."""

    def __init__(self) -> None:
        self._left_out: Counter[str] = Counter()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        found = [(item, item.get_closest_marker("posix")) for item in items]
        left_out = [item for item, mark in found if mark]
        self._left_out.update(mark.args[0] for _, mark in found if mark)
        if left_out:
            items[:] = [item for item, mark in found if not mark]
            config.hook.pytest_deselected(items=left_out)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["not_for_windows"] = dict(self._left_out)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # Each worker of pytest-xdist has collected, and left out, the same.
        self._left_out = self._left_out or Counter(getattr(node, "workeroutput", {}).get("not_for_windows", {}))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section(f"{self._left_out.total()} tests, and {len(MODULES)} modules of tests, are not for Windows")
        for reason, count in sorted(self._left_out.items()):
            terminalreporter.write_line(f"{count:>4} tests: {reason}")
        for module, reason in MODULES.items():
            terminalreporter.write_line(f"{module}: {reason}")

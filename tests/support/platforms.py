"""Which system the tests run on, and what of them is not for Windows.

A test that is POSIX's by nature says so itself, alone or with its whole module:

    @pytest.mark.posix("why it is not for Windows")

So does a test whose code, or that of the functions of its module that it calls, has one of WORDS in it: what only POSIX systems
have. On Windows it is left out, and the end of the run says how many were, and why. Modules of which nothing can run there stand
in MODULES, and are not even imported.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections import Counter
from typing import Any

import pytest

_ON_LINUX = "on servers of Linux; tests/windows/test_server_*.py runs those of Windows"

MODULES: dict[str, str] = {
    "faults": "faults made by means of Linux; tests/windows has those of Windows",
    "test_cluster.py": "the demonstration's servers are Linux's",
    "test_completion.py": "bash, zsh and fish",
    "test_contrib.py": "contrib/linux; tests/windows has contrib/windows",
    "test_contrib_ssh.py": "contrib/linux",
    "test_demo.py": "the demonstration's servers are Linux's",
    "test_docs.py": "documents and manual pages: the same everywhere",
    "test_imports.py": "what Linux's executable imports",
    "test_look_ahead.py": "a child made by fork; tests/windows/test_source_look_ahead.py has that of Windows",
    "test_launcher.py": "the executable is a shell script; tests/windows/test_executable.py is about that of Windows",
    "test_matrix.py": _ON_LINUX,
    "test_outage_on_servers.py": _ON_LINUX,
    "test_pg_rewind.py": _ON_LINUX,
    "test_pgpool_failover.py": "Pgpool-II",
    "test_pgpool_recovery.py": "Pgpool-II",
    "test_postgres_scenarios.py": _ON_LINUX,
    "test_same_as_cp.py": "cp",
    "test_recovery_settings.py": _ON_LINUX,
    "test_segment_sizes.py": _ON_LINUX,
    "test_server_statuses.py": _ON_LINUX,
    "test_signals_on_servers.py": "signals",
    "test_standby_mode.py": _ON_LINUX,
    "test_warm_standby.py": _ON_LINUX,
}
"""The modules of tests/ that are not for Windows, and why."""

FIXTURES = {"stock": _ON_LINUX, "stock16": _ON_LINUX, "scene": _ON_LINUX, "server": _ON_LINUX}
"""What tests ask for that is Linux's."""

_OTHER_WORDS = "messages with the operating system's own words, which are others on Windows"
_LINKS = "an installation made of symbolic links"
_SHELL = "a server process made of a shell; tests/windows/fake_server.py is that of Windows"
_SHELL_SCRIPT = "the executable is a shell script; tests/windows/test_executable.py is about that of Windows"

_SEPARATORS = "messages in which the test expects / in paths"
_LINUX_PROGRAMS = "programs of Linux's servers"
_IMPORTS = "what Linux's executable imports"

TESTS = {
    r"test_archive_cleanup\.py::test_(the_cut_off_may_have|the_same_as_pg_archivecleanup)": _LINUX_PROGRAMS,
    r"test_archive_cleanup\.py::test_a_pause_file_that_cannot_be_looked_for": "errors that Windows does not have",
    r"test_archive_cleanup\.py::test_an_archive_that_is_away": _OTHER_WORDS,
    r"test_archive_command\.py::test_a_file_that_is_not_there": _OTHER_WORDS,
    r"test_archive_cleanup\.py::test_one_that_says_nothing_any_more": _SEPARATORS,
    r"test_archive_command\.py::test_(a_damaged_module|the_whole_package_is_missing)": _LINKS,
    r"test_archive_command\.py::test_what_it_imports": _IMPORTS,
    r"::test_a_damaged_installation\[click": _LINKS,
    r"test_compression\.py::test_(a_bomb|a_history_file_that_is_a_bomb)": "limits of memory",
    r"test_compression\.py::test_(a_missing_codec_is_not_absence|another_clusters_is_refused)": _SEPARATORS,
    r"test_compression\.py::test_(what_a_compressed_segment_imports|archiving_starts_as_lean)": _IMPORTS,
    r"test_recovery_end\.py::test_up_to_11": _LINUX_PROGRAMS,
    r"test_cli\.py::test_a_path_of_odd_characters": "characters that names of files do not have on Windows",
    r"test_exits\.py::test_(no_inotify_left|where_nothing_can_watch)": "inotify",
    r"test_exits\.py::test_status\[INTERRUPTED|test_exits\.py::test_a_server_that_stops": "signals",
    r"test_exits\.py::test_status\[SERVER_GONE": _SHELL,
    r"test_exits\.py::test_status\[SOURCE_FAILED": "/proc, /dev, limits, a shell",
    r"test_exits\.py::test_the_interpreter_(cannot_be_run|is_missing)": _SHELL_SCRIPT,
    r"test_exits\.py::test_without_click": _LINKS,
    r"test_exits\.py::test_an_archive_that_is_away": _OTHER_WORDS,
    r"test_launch\.py::test_arguments_of_any_size\[20000": "command lines longer than 32767 characters",
    r"test_launch\.py::test_modules_in_the_data_directory": _SHELL_SCRIPT,
    r"test_placing\.py::test_(a_folder_at_the_destination|the_folder_is_missing|retries_wait_one)": _OTHER_WORDS,
    r"test_pruning\.py::.*by the child": _SHELL,
}
"""Regular expressions of the ids of further tests, and why they are not for Windows."""

WORDS = {
    r"mkfifo": "FIFOs",
    r"symlink_to|os\.symlink|readlink": "symbolic links, which users of Windows may not make",
    r"chmod|geteuid|getuid|pwd\.|umask|mkdir\(mode|st_mode|PermissionError": "modes and owners of files",
    r"SIG[A-Z]+[0-9]?\b|killpg|os\.kill\(|\.signal\(": "signals",
    r"os\.fork|setrlimit|ulimit|/dev/|/proc|/bin/|/usr/|strace|\bresource\.|\bpty\b": "/proc, /dev, limits, a shell",
    r"injected\.|program\(": "faults injected into the operating system's calls, by their names on Linux",
    r"until_watching|watched_folders": "the kernel's watches, seen from outside in /proc",
    r"os\.fchown|fcntl": "locks and owners of open files",
    r"os\.pwrite": "a file that is replaced while it is open",
    r"real_wal|RealWal": "WAL of Linux's servers",
    r"\.server\(\)|StartupProcess|as_server": _SHELL,
}
"""Regular expressions of what is POSIX's, and what that is."""


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


def reason_against(item: pytest.Item) -> str:
    """Why a test is not for Windows; empty if it is."""
    mark = item.get_closest_marker("posix")
    if mark:
        return str(mark.args[0])
    if item.get_closest_marker("windows"):
        return ""
    assert isinstance(item, pytest.Function)
    for fixture in item.fixturenames:
        if fixture in FIXTURES:
            return FIXTURES[fixture]
    for test, reason in TESTS.items():
        if re.search(test, item.nodeid):
            return reason
    seen: set[str] = set()
    fixtures = [definitions[-1].func for definitions in item._fixtureinfo.name2fixturedefs.values()]
    of_tests = [item.function, *(fixture for fixture in fixtures if fixture.__module__ == item.module.__name__)]
    code = "".join(_code(inspect.unwrap(function), seen) for function in of_tests)
    return next((reason for word, reason in WORDS.items() if re.search(word, code)), "")


def _code(function: types.FunctionType, seen: set[str]) -> str:
    """The source of a function and of those of its module that it uses, without comments that go before."""
    text = inspect.getsource(function)
    for name in function.__code__.co_names:
        used = function.__globals__.get(name)
        if isinstance(used, types.FunctionType) and used.__module__ == function.__module__ and name not in seen:
            seen.add(name)
            text += _code(used, seen)
    return text


class NotForWindows:
    """The plugin that leaves tests out on Windows, and says at the end how many and why."""

    def __init__(self) -> None:
        self._left_out: Counter[str] = Counter()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        found = [(item, reason_against(item)) for item in items]
        left_out = [item for item, reason in found if reason]
        self._left_out.update(reason for _, reason in found if reason)
        if left_out:
            items[:] = [item for item, reason in found if not reason]
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

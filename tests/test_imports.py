"""What a restore imports: the hot path runs once for each segment, thousands of times in one catch-up.

A start of Python costs 6 to 9 ms; click 28 more, watchdog 42, typing and pathlib 9, re and enum 4 to 6. So what a restore of a
segment that is there imports is written down here, and every further module has to be argued for.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, RECOVERYHISTORY, Result, Standby, run

import pystandby

NAME = segments.name(5)

OURS = {
    "pystandby",
    "pystandby.archive",
    "pystandby.argv",
    "pystandby.asker",
    "pystandby.exits",
    "pystandby.fetch",
    "pystandby.journal",
    "pystandby.launch",
    "pystandby.memory",
    "pystandby.options",
    "pystandby.osdep",
    "pystandby.place",
    "pystandby.ready",
    "pystandby.run",
    "pystandby.say",
    "pystandby.trigger",
    "pystandby.wait",
    "pystandby.wal",
}
"""Our own modules that every restore imports."""

STANDARD = {"_struct", "errno", "fcntl", "gc", "mmap"}
"""Of the standard library: at most these, all of them in C or small, beside what a bare interpreter has."""

TOO_DEAR = {"_signal", "argparse", "asyncio", "click", "collections", "contextlib", "ctypes", "dataclasses", "datetime", "enum",
            "functools", "gettext", "importlib.metadata", "inspect", "json", "logging", "pathlib", "queue", "random", "re",
            "runpy", "selectors", "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "traceback", "typing",
            "warnings", "watchdog"}  # fmt: skip


def imported(result: Result) -> set[str]:
    """The modules that -X importtime told of."""
    # Where two threads import at the same time, one's time may come out below zero.
    return set(re.findall(r"^import time: +-?\d+ \| +-?\d+ \| +(\S+)$", result.stderr, re.MULTILINE))


def told(result: Result) -> list[str]:
    """What else stands on stderr."""
    return [line for line in result.stderr.splitlines() if not line.startswith("import time:")]


@cache
def bare() -> frozenset[str]:
    """What an interpreter imports to run nothing."""
    python = PYSTANDBY.with_name("python")
    result = run("-E", "-X", "importtime", "-c", "pass", program=[python])
    assert result.status == 0
    found = imported(result)
    assert {"os", "site", "codecs"} <= found
    # What finds packages: the executable does without it, which is a third of a start.
    found -= {module for module in found if module.startswith(("site", "sitecustomize", "usercustomize"))}
    return frozenset(found)


def script() -> list[str | Path]:
    """The installed script under an interpreter that tells what it imports, called as the executable calls it."""
    file = PYSTANDBY.with_name("pystandby-python")
    first = file.read_text().splitlines()[0]
    assert first.startswith("#!"), first
    executable = PYSTANDBY.read_text()
    assert 'set -- "$python" -E -S "$script" "$@"' in executable
    return [first[2:], "-E", "-S", "-X", "importtime", file]


def ask(standby: Standby, *words: str | Path) -> tuple[set[str], Result]:
    """Run the script, and return what it imported beyond a bare interpreter."""
    result = run(*words, program=script(), cwd=standby.data.path)
    return imported(result) - bare(), result


def test_a_segment_that_is_there(standby: Standby) -> None:
    content = standby.put(NAME)
    modules, result = ask(standby, *standby.command(NAME))
    assert result.status == 0
    assert told(result) == []
    assert standby.delivered() == content
    assert {module for module in modules if module.startswith("pystandby")} == OURS
    assert modules - OURS <= STANDARD
    assert not modules & TOO_DEAR


def test_with_the_usual_options(standby: Standby) -> None:
    content = standby.put(NAME)
    standby.pull_trigger()
    words = standby.command(NAME, "-d", "-s2", "-t", standby.trigger, "-w", "60", "-r", "3", "--poll", restart="0" * 24)
    modules, result = ask(standby, *words)
    assert result.status == 0
    assert standby.delivered() == content
    # What is needed after the copy is imported while it is made.
    assert modules <= OURS | STANDARD | {"pystandby.prune", "pystandby.spool"}


@pytest.mark.parametrize("make", [segments.full, segments.switched, segments.unfinished])
def test_the_verdict_imports_nothing_more(standby: Standby, make: object) -> None:
    assert callable(make)
    standby.put(NAME, make(NAME))
    modules, result = ask(standby, *standby.command(NAME, "--wait", "never"))
    assert result.status in (0, 1, 210)
    assert modules <= OURS | STANDARD | {"pystandby.records"}


def test_with_something_to_prune(standby: Standby) -> None:
    standby.put(NAME)
    standby.put(segments.name(1))
    modules, result = ask(standby, *standby.command(NAME, restart=segments.name(3)))
    assert result.status == 0
    # The child, which looks ahead, does the removing.
    assert modules <= OURS | STANDARD | {"pystandby.prune", "pystandby.spool"}


def test_a_history_file_that_is_not_there(standby: Standby) -> None:
    modules, result = ask(standby, *standby.command("00000002.history", to=RECOVERYHISTORY))
    assert result.status == 1
    assert modules <= OURS | STANDARD


def test_standby_mode_asks_every_few_seconds_for_what_is_not_there(tmp_path: Path) -> None:
    standby = Standby(tmp_path, standby_mode=True)
    modules, result = ask(standby, *standby.command(NAME))
    assert result.status == 1
    assert modules <= OURS | STANDARD


def test_the_end_of_recovery(standby: Standby) -> None:
    standby.put(NAME)
    standby.pull_trigger("fast")
    modules, result = ask(standby, *standby.command(NAME, "-t", standby.trigger))
    assert result.status == 1
    assert modules <= OURS | STANDARD


def test_polling_needs_no_watchdog(standby: Standby) -> None:
    modules, result = ask(standby, *standby.command(NAME, "-w", "1", "-s", "1", "--poll"))
    assert result.status == 1
    assert modules <= OURS | STANDARD


def test_waiting_needs_neither_watchdog_nor_click(standby: Standby) -> None:
    modules, result = ask(standby, *standby.command(NAME, "-w", "1", "-s", "1"))
    assert result.status == 1
    watching = {"pystandby.folders", "pystandby.inotify", "ctypes", "_ctypes", "ctypes._endian", "struct", "types"}
    assert modules <= OURS | STANDARD | watching


def test_click_is_for_what_the_fast_reader_leaves(standby: Standby) -> None:
    modules, result = ask(standby, *standby.command(NAME, "--no-such-option"))
    assert result.status == 200
    assert {"click", "pystandby.cli"} <= modules
    assert "watchdog" not in modules
    assert "pystandby.demo" not in modules
    assert "pystandby.cluster" not in modules


def test_the_test_can_fail(standby: Standby) -> None:
    # -X importtime tells of modules in C, of our own, and of those imported in a thread.
    code = (
        "import _thread\n"
        "imported = _thread.allocate_lock(); imported.acquire()\n"
        "_thread.start_new_thread(lambda: (__import__('getopt'), imported.release()), ())\n"
        "import pystandby.wal, fcntl\n"
        "imported.acquire()\n"
    )
    python = PYSTANDBY.with_name("python")
    found = imported(run("-E", "-X", "importtime", "-c", code, program=[python]))
    assert {"getopt", "pystandby.wal", "fcntl", "_struct"} - set(sys.builtin_module_names) <= found


def test_one_module_asks_which_system_this_is() -> None:
    modules = list(Path(pystandby.__file__).parent.glob("*.py"))
    asking = [module.name for module in modules if re.search(r"sys\.platform|os\.name\b|platform\.system", module.read_text())]
    assert asking == ["osdep.py"]

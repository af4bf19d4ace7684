"""Exit statuses: each is provoked through the installed executable, and nothing but what means it ends in 1 to 125.

PostgreSQL takes 1 to 125 for "there is no such file", which outside standby mode ends recovery and promotes the server; anything
above, or death by a signal, stops it, and it loses nothing.
"""

from __future__ import annotations

import ast
import errno
import os
import shutil
import signal
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from support import segments
from support.command import IS_WINDOWS, PYSTANDBY, RECOVERYHISTORY, Installation, Result, Standby, run, start

from pystandby import exits, osdep
from pystandby.asker import Asker

NAME = segments.name(5)
NEXT = segments.name(6)

AT_ONCE = 30

STATUSES = {name: value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}

OF_VERBS = {"ARCHIVED", "NOT_ARCHIVED", "NOT_DONE", "SOUND", "NOT_SOUND", "NOT_VERIFIED"}
"""What no restore ends in; provoked by the tests of the verbs."""


# The table ------------------------------------------------------------------------------------------------------------


def test_the_numbers() -> None:
    # Scripts and people rely on them.
    assert STATUSES == {
        "DELIVERED": 0,
        "END_OF_RECOVERY": 1,
        "NOT_IN_ARCHIVE": 1,
        "ARCHIVED": 0,
        "NOT_ARCHIVED": 1,
        "NOT_DONE": 1,
        "SOUND": 0,
        "NOT_SOUND": 1,
        "NOT_VERIFIED": 2,
        "USAGE": 200,
        "UNEXPECTED": 201,
        "MODULE_MISSING": 202,
        "INTERRUPTED": 203,
        "DESTINATION_FAILED": 204,
        "SOURCE_FAILED": 205,
        "WRONG_SEGMENT": 206,
        "SERVER_GONE": 207,
        "SERVER_STOPPING": 208,
        "NEW_TIMELINE": 209,
        "ARCHIVE_UNAVAILABLE": 210,
    }


def test_every_cause_has_a_number_of_its_own() -> None:
    errors = [value for name, value in STATUSES.items() if name not in OF_VERBS and value not in (0, 1)]
    assert len(set(errors)) == len(errors)
    assert all(200 <= value <= 255 for value in errors)


def test_beside_each_number_stands_what_it_means() -> None:
    body = ast.parse(Path(exits.__file__).read_text()).body
    for statement, following in pairwise(body):
        if isinstance(statement, ast.Assign):
            (target,) = statement.targets
            assert isinstance(target, ast.Name)
            assert isinstance(following, ast.Expr), target.id
            assert isinstance(following.value, ast.Constant), target.id
            assert len(str(following.value.value)) > 40, target.id


# How each comes about -------------------------------------------------------------------------------------------------


def _delivered(standby: Standby) -> Result:
    content = standby.put(NAME)
    result = standby.ask(NAME)
    assert standby.delivered() == content
    return result


def _end_of_recovery(standby: Standby) -> Result:
    return standby.ask(NAME, "-w", "1", "-s", "1")


def _not_in_archive(standby: Standby) -> Result:
    return standby.ask("00000002.history", to=RECOVERYHISTORY)


def _usage(standby: Standby) -> Result:
    return standby.ask(NAME, "--no-such-option")


def _unexpected(standby: Standby) -> Result:
    broken = Installation(standby.folder / "broken")
    with (broken.package / "run.py").open("a") as file:
        file.write("\n\ndef restore(options):\n    return 1 // 0\n")
    return broken.run(*standby.command(NAME), cwd=standby.data.path)


def _module_missing(standby: Standby) -> Result:
    broken = Installation(standby.folder / "broken")
    (broken.package / "wal.py").unlink()
    return broken.run(*standby.command(NAME), cwd=standby.data.path)


def _interrupted(standby: Standby) -> Result:
    with start(*standby.command(NAME), cwd=standby.data.path, as_server=False) as waiting:
        waiting.until_watching()
        waiting.signal(signal.SIGINT)
        return waiting.result(AT_ONCE)


def _destination_failed(standby: Standby) -> Result:
    standby.put(NAME)
    return standby.ask(NAME, "-r", "0", to="pg_wal/missing/RECOVERYXLOG")


def _source_failed(standby: Standby) -> Result:
    # A plain file that can be opened, and whose first byte cannot be read: that of the process's own memory.
    (standby.archive / NAME).symlink_to("/proc/self/mem")
    return standby.ask(NAME, "-r", "0")


def _wrong_segment(standby: Standby) -> Result:
    standby.put(NAME, segments.full(NEXT))
    return standby.ask(NAME)


def _server_gone(standby: Standby) -> Result:
    with standby.server() as server:
        call = server.start(*standby.command(NAME, "-d", "-s", "1"))
        call.until_says("waiting for")
        server.kill()
        return call.result(AT_ONCE)


def _new_timeline(standby: Standby) -> Result:
    # Which says how large the segments are.
    standby.put(segments.name(4))
    standby.put("00000002.history", segments.history((1, 0x500100)))
    return standby.ask(NAME, "--on-new-timeline", "stop")


def _archive_unavailable(standby: Standby) -> Result:
    standby.archive.rmdir()
    return standby.ask(NAME, "--wait", "never")


PROVOKED: dict[str, Callable[[Standby], Result]] = {
    "DELIVERED": _delivered,
    "END_OF_RECOVERY": _end_of_recovery,
    "NOT_IN_ARCHIVE": _not_in_archive,
    "USAGE": _usage,
    "UNEXPECTED": _unexpected,
    "MODULE_MISSING": _module_missing,
    "INTERRUPTED": _interrupted,
    "DESTINATION_FAILED": _destination_failed,
    "SOURCE_FAILED": _source_failed,
    "WRONG_SEGMENT": _wrong_segment,
    "SERVER_GONE": _server_gone,
    "NEW_TIMELINE": _new_timeline,
    "ARCHIVE_UNAVAILABLE": _archive_unavailable,
}


def test_every_status_is_provoked() -> None:
    # Where servers signal their commands nobody leaves for what postmaster.pid says: see test_a_server_that_stops.
    restores = set(STATUSES) - OF_VERBS
    assert [*PROVOKED, "SERVER_STOPPING"] == sorted(restores, key=[*PROVOKED, "SERVER_STOPPING"].index)


@pytest.mark.parametrize("name", PROVOKED)
def test_status(standby: Standby, name: str) -> None:
    result = PROVOKED[name](standby)
    assert result.status == STATUSES[name], result
    assert result.stdout == ""
    # Every error says why, once; what is meant is none.
    assert result.stderr.count("ERROR:") == (result.status >= 200), result.stderr
    assert "Traceback" not in result.stderr
    if name != "DELIVERED":
        assert standby.delivered() is None
    assert standby.data.left_behind() == []


# A defect of our own --------------------------------------------------------------------------------------------------

RAISED = [
    "1 // 0",
    "raise SystemExit",
    "raise SystemExit(0)",
    "raise SystemExit(1)",
    "raise SystemExit('text')",
    "raise GeneratorExit",
    "raise StopIteration",
    "raise MemoryError",
    "raise RecursionError",
    "raise UnicodeEncodeError('utf-8', 'x', 0, 1, 'y')",
    "raise OSError",
    "raise BaseException('a\\nb')",
    "raise Exception('\\udcff')",
    "raise type('Odd', (Exception,), {'__str__': lambda self: 1 // 0})",
    "import no_such_module",
    "from pystandby import no_such_name",
    "(lambda f: f(f))(lambda f: f(f))",
]


@pytest.mark.parametrize("raised", RAISED)
def test_whatever_is_raised_no_status_is_below_200(standby: Standby, raised: str) -> None:
    standby.put(NAME)
    broken = Installation(standby.folder / "broken")
    with (broken.package / "run.py").open("a") as file:
        file.write(f"\n\ndef restore(options):\n    {raised}\n")
    result = broken.run(*standby.command(NAME), cwd=standby.data.path)
    expected = exits.MODULE_MISSING if "import" in raised or "__str__" in raised else exits.UNEXPECTED
    assert result.status == expected, result
    assert "Traceback" not in result.stderr
    if "__str__" not in raised:
        assert "ERROR:" in result.stderr
        assert len(result.stderr.splitlines()) == 3


def test_a_defect_says_where_it_is(standby: Standby) -> None:
    result = _unexpected(standby)
    assert "unexpected ZeroDivisionError" in result.stderr
    assert "run.py:" in result.stderr


def test_a_defect_after_the_delivery_does_not_change_the_status(standby: Standby) -> None:
    # The file is there: the server may have it.
    content = standby.put(NAME)
    broken = Installation(standby.folder / "broken")
    with (broken.package / "prune.py").open("a") as file:
        file.write("\n\ndef cutoff(*arguments):\n    return 1 // 0\n")
    result = broken.run(*standby.command(NAME, restart=segments.name(4)), cwd=standby.data.path)
    assert result.status == exits.DELIVERED
    assert standby.delivered() == content
    assert "WARNING:" in result.stderr


# Damaged installations ------------------------------------------------------------------------------------------------

MODULES = sorted(path.stem for path in Path(exits.__file__).parent.glob("*.py"))

NEEDED = {"archive", "argv", "asker", "exits", "fetch", "launch", "memory", "options", "osdep", "place", "ready", "run",
          "say", "trigger", "wait", "wal"}  # fmt: skip
"""The modules without which nothing is restored."""

DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "cut off": lambda path: path.write_text(path.read_text()[: len(path.read_text()) // 2] + "\n("),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "unreadable": lambda path: path.chmod(0o000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_module(standby: Standby, damage: str) -> None:
    assert os.geteuid(), "to root no file is unreadable: run the tests as an ordinary user"
    content = standby.put(NAME)
    broken = Installation(standby.folder / "broken")
    shutil.rmtree(broken.package / "__pycache__", ignore_errors=True)
    if damage == "unreadable":
        # Else what was compiled before would do.
        (broken.package / "__pycache__").touch()
    for module in MODULES:
        path = broken.package / f"{module}.py"
        whole = path.read_bytes()
        DAMAGES[damage](path)
        if damage in ("missing", "cut off"):
            result = broken.run(*standby.command(NAME, "--no-such-option"), cwd=standby.data.path)
            assert result.status >= 200, (module, result)
        result = broken.run(*standby.command(NAME), cwd=standby.data.path)
        if module in NEEDED and damage != "empty":
            assert result.status in (201, 202), (module, result)
            assert result.status == exits.MODULE_MISSING or damage != "missing", (module, result)
        else:
            assert result.status in (0, 201, 202), (module, result)
        assert result.status or standby.delivered() == content, (module, result)
        standby.restored.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
    assert broken.run(*standby.command(NAME), cwd=standby.data.path) == (0, "", "")


def test_the_whole_package_is_missing(standby: Standby) -> None:
    broken = Installation(standby.folder / "broken")
    broken.package.rename(broken.site / "gone")
    result = broken.run(*standby.command(NAME), cwd=standby.data.path)
    assert result.status == exits.MODULE_MISSING
    assert "ERROR:  pystandby cannot be started" in result.stderr
    assert "HINT:  Install pystandby again" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_interpreter_is_missing(standby: Standby) -> None:
    broken = Installation(standby.folder / "broken")
    broken.python.unlink()
    assert broken.run(*standby.command(NAME), cwd=standby.data.path).status in (126, 127)


def test_the_interpreter_cannot_be_run(standby: Standby) -> None:
    broken = Installation(standby.folder / "broken")
    broken.python.unlink()
    broken.python.write_text("not a program")
    assert broken.run(*standby.command(NAME), cwd=standby.data.path).status in (126, 127)


def test_half_of_the_executable_is_missing(standby: Standby) -> None:
    broken = Installation(standby.folder / "broken")
    (broken.bin / "pystandby-python").unlink()
    assert broken.run(*standby.command(NAME), cwd=standby.data.path).status in ((202,) if IS_WINDOWS else (126, 127))


@pytest.mark.parametrize("damage", ["missing", "broken", "empty"])
def test_without_click_restores_go_on(standby: Standby, damage: str) -> None:
    content = standby.put(NAME)
    broken = Installation(standby.folder / "broken")
    _damage_package(broken, "click", damage)
    ask = standby.command(NAME, "-ds2", "-t", standby.trigger, "-k", "1")
    result = broken.run(*ask, cwd=standby.data.path)
    assert result.status == 0
    assert standby.delivered() == content
    # What only click can read.
    result = broken.run(*standby.command(NAME, "--no-such-option"), cwd=standby.data.path)
    assert result.status == exits.MODULE_MISSING if damage == "missing" else result.status >= 200
    assert "ERROR:" in result.stderr
    assert broken.run("--help", cwd=standby.data.path).status >= 200


@pytest.mark.parametrize("damage", ["missing", "broken", "empty"])
def test_where_nothing_can_watch_it_polls_and_says_so_once(standby: Standby, damage: str) -> None:
    broken = Installation(standby.folder / "broken")
    (broken.package / "inotify.py").unlink()
    _damage_package(broken, "watchdog", damage)
    with broken.start(*standby.command(NAME, "-s", "1"), cwd=standby.data.path) as waiting:
        waiting.until_says("WARNING:  could not watch for what arrives")
        content = standby.put(NAME)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content
    assert result.stderr.count("WARNING:") == 1
    assert "--poll" in result.stderr
    # Nothing is said where nothing was to be watched.
    standby.restored.unlink()
    assert broken.run(*standby.command(NAME), cwd=standby.data.path) == (0, "", "")
    assert broken.run(*standby.command(NEXT, "--poll", "-s", "1", "-w", "1"), cwd=standby.data.path).stderr.count("WARNING:") == 0


def test_dependencies_that_are_elsewhere_are_found(standby: Standby) -> None:
    """pip does not install what the system, or another folder that a .pth file names, has already."""
    apart = Installation(standby.folder / "apart")
    elsewhere = standby.folder / "elsewhere"
    elsewhere.mkdir()
    for package in ("click", "watchdog"):
        (apart.site / package).rename(elsewhere / package)
    (apart.site / "elsewhere.pth").write_text(f"{elsewhere}\n")
    assert "--look-ahead" in apart.run("--help", cwd=standby.data.path).stdout
    assert apart.run(*standby.command(NAME, "-s", "99"), cwd=standby.data.path).status == exits.USAGE
    (apart.package / "inotify.py").unlink()
    with apart.start(*standby.command(NAME, "-s", "60"), cwd=standby.data.path) as waiting:
        waiting.until_watching()
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


@pytest.mark.parametrize("damage", ["missing", "another system"])
def test_watchdog_watches_where_inotify_cannot_be_called(standby: Standby, damage: str) -> None:
    broken = Installation(standby.folder / "broken")
    module = broken.package / "inotify.py"
    if damage == "missing":
        module.unlink()
    else:
        module.write_text(module.read_text().replace("inotify_init1", "kqueue_init1"))
    with broken.start(*standby.command(NAME, "-s", "60", "-t", standby.trigger), cwd=standby.data.path) as waiting:
        waiting.until_watching(2)
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content
    with broken.start(*standby.command(NEXT, "-s", "60", "-t", standby.trigger), cwd=standby.data.path) as waiting:
        waiting.until_watching(2)
        standby.pull_trigger()
        assert waiting.result(AT_ONCE).status == 1


@pytest.mark.parametrize(
    ("function", "number", "word"),
    [
        ("_INIT", errno.EMFILE, "Errno 24] inotify_init1: Too many open files, sysctl fs.inotify.max_user_instances"),
        ("_ADD", errno.ENOSPC, "Errno 28] inotify_add_watch: No space left on device, sysctl fs.inotify.max_user_watches"),
    ],
)
def test_no_inotify_left(standby: Standby, function: str, number: int, word: str) -> None:
    # The real limits are those of the user, for all that the other tests run at the same time.
    broken = Installation(standby.folder / "broken")
    with (broken.package / "inotify.py").open("a") as file:
        file.write(f"\n\ndef {function}(*_):\n    ctypes.set_errno({number})\n    return -1\n")
    with broken.start(*standby.command(NAME, "-s", "1"), cwd=standby.data.path) as waiting:
        waiting.until_says(f"WARNING:  could not watch for what arrives: [{word}")
        content = standby.put(NAME)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content
    assert result.stderr.count("WARNING:") == 1


def _damage_package(broken: Installation, package: str, damage: str) -> None:
    (broken.site / package).unlink()
    if damage != "missing":
        (broken.site / package).mkdir()
        (broken.site / package / "__init__.py").write_text("1 // 0\n" if damage == "broken" else "")


# Standard streams -----------------------------------------------------------------------------------------------------

STREAMS = {
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "both closed": ">&- 2>&-",
    "all closed": "<&- >&- 2>&-",
    "stdout full": ">/dev/full",
    "stderr full": "2>/dev/full",
    "both full": ">/dev/full 2>&1",
    "pipe without a reader": "2>&3 >&3",
}


def _run_with(streams: str, arguments: Sequence[str | Path], cwd: Path, ignore_pipe: bool = True) -> int:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        # Descriptor 3 is the pipe, given on by a shell because no other number is inherited.
        script = f'exec 3>&1; exec "$@" {streams} 3>&-'
        program: list[str | Path] = ["/bin/sh", "-c", script, "sh", PYSTANDBY]
        return run(*arguments, program=program, cwd=cwd, stdout=writer, as_server=ignore_pipe).status
    finally:
        os.close(writer)


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("debug", [[], ["-d"]])
def test_standard_streams_do_not_change_the_status(standby: Standby, streams: str, debug: list[str]) -> None:
    content = standby.put(NAME)
    standby.put(NEXT, segments.full(NAME))
    where = STREAMS[streams]
    for ignore_pipe in (True, False):
        for words, status in (
            (standby.command(NAME, *debug, restart=segments.name(4)), 0),
            (standby.command(NEXT, *debug), exits.WRONG_SEGMENT),
            (standby.command(segments.name(9), *debug, "-w", "1", "-s", "1"), 1),
            (standby.command("00000002.history", *debug, to=RECOVERYHISTORY), 1),
            (standby.command(NAME, *debug, "-x"), exits.USAGE),
            (standby.command(NAME, *debug, "-r", "0", to="pg_wal/missing/RECOVERYXLOG"), exits.DESTINATION_FAILED),
        ):
            assert _run_with(where, words, standby.data.path, ignore_pipe) == status, words
        # No message stands in what took the number of stderr.
        assert standby.delivered() == content
        assert (standby.archive / NAME).read_bytes() == content
        standby.restored.unlink()


@pytest.mark.parametrize("streams", ["2>&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_no_message_is_written_into_the_segment(standby: Standby, streams: str) -> None:
    # A warning while the copy is open, which has the number of stderr if nothing else took it.
    content = standby.put(NAME, segments.unfinished(NAME))
    standby.pull_trigger()
    assert _run_with(streams, standby.command(NAME, "-d", "-t", standby.trigger, "-s", "1"), standby.data.path) == 0
    assert standby.delivered() == content
    assert (standby.archive / NAME).read_bytes() == content
    elsewhere = standby.folder / "elsewhere"
    elsewhere.mkdir()
    content = standby.put(NAME, segments.unfinished(NAME))
    assert _run_with(streams, [standby.archive, NAME, "copy", "-d"], elsewhere) == 0
    assert (elsewhere / "copy").read_bytes() == content


@pytest.mark.parametrize("streams", STREAMS)
def test_help_and_version_that_nobody_gets(standby: Standby, streams: str) -> None:
    for flag in ("--help", "--version"):
        status = _run_with(STREAMS[streams], [flag], standby.data.path)
        # 0 where stdout works or is away for good; else a failure, but never one that a server takes for the end of recovery.
        assert status == 0 or status >= 200, flag


# The server goes, or stops --------------------------------------------------------------------------------------------


def test_an_orphan_does_not_deliver(standby: Standby) -> None:
    with standby.server() as server:
        call = server.start(*standby.command(NAME, "-d", "-s", "60"))
        call.until_says("waiting for")
        server.kill()
        standby.put(NAME)
        result = call.result(120)
    assert result.status == exits.SERVER_GONE
    assert standby.delivered() is None
    assert standby.data.left_behind() == []


def test_an_orphan_does_not_deliver_what_it_was_copying(standby: Standby) -> None:
    # Sparse, so that it costs nothing; large enough for the server to go in the middle.
    size = 256 * segments.MB
    name = segments.name(5, size=size)
    (standby.archive / name).touch()
    os.truncate(standby.archive / name, size)
    temporary = Path(f"{standby.restored}.pystandby")
    for _ in range(20):
        with standby.server() as server:
            call = server.start(*standby.command(name, "--verify", "none"))
            while not temporary.exists() and not call.has_ended:
                pass
            server.kill()
            was_copying = temporary.exists()
            result = call.result(AT_ONCE)
        if was_copying:
            assert result.status == exits.SERVER_GONE
            assert standby.delivered() is None
            assert standby.data.left_behind() == []
            return
        standby.restored.unlink(missing_ok=True)
    raise AssertionError("was never caught while copying")


def test_a_new_server_in_the_data_directory(standby: Standby) -> None:
    standby.data.write_postmaster_pid("ready")
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching(2)
        standby.data.write_postmaster_pid("starting", pid=os.getppid())
        assert waiting.result(AT_ONCE).status == exits.SERVER_GONE


def test_a_data_directory_that_loses_its_postmaster_pid(standby: Standby) -> None:
    standby.data.write_postmaster_pid("ready")
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching(2)
        (standby.data.path / "postmaster.pid").unlink()
        assert waiting.result(AT_ONCE).status == exits.SERVER_GONE


def test_a_status_other_than_stopping_changes_nothing(standby: Standby) -> None:
    standby.data.write_postmaster_pid("starting")
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching(2)
        standby.data.write_postmaster_pid("standby")
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


def test_a_server_that_stops_is_served(standby: Standby) -> None:
    # A smart shutdown says "stopping" while recovery goes on until the last session has ended; a fast one signals us.
    standby.data.write_postmaster_pid("ready")
    with standby.begin(NAME, "-s", "1") as waiting:
        waiting.until_watching(2)
        standby.data.write_postmaster_pid("stopping")
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


def test_a_server_that_stops(standby: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no signal reaches a command, what postmaster.pid says has to."""
    standby.data.write_postmaster_pid("stopping")
    monkeypatch.chdir(standby.data.path)
    # Whoever started the tests need not be there any more.
    monkeypatch.setattr(osdep, "startup_process", lambda postmaster: os.getpid())
    asker = Asker(NAME, "pg_wal/RECOVERYXLOG")
    asker.alive()
    monkeypatch.setattr(osdep, "SHUTDOWN_SIGNALS_US", False)
    with pytest.raises(exits.StandbyError) as stopped:
        asker.alive()
    assert stopped.value.status == exits.SERVER_STOPPING


def test_a_person_has_no_server_to_lose(standby: Standby) -> None:
    elsewhere = standby.folder / "elsewhere"
    elsewhere.mkdir()
    with start("-d", "-s", "60", standby.archive, NAME, "copy", cwd=elsewhere) as waiting:
        waiting.until_watching()
        (elsewhere / "postmaster.pid").write_text("1\n" * 7 + "stopping\n")
        standby.put(NAME)
        assert waiting.result(AT_ONCE).status == 0


# New timelines --------------------------------------------------------------------------------------------------------


def test_a_later_timeline_that_descends_from_the_one_asked_for_is_no_obstacle(standby: Standby) -> None:
    """A server that has replayed past a fork, and starts again before it: its segment is missing, and no more is wrong."""
    first, second = (1, 0x300100), (2, 0x800100)
    for name, content in (("00000002.history", segments.history(first)), ("00000003.history", segments.history(first, second))):
        standby.put(name, content)
        (standby.data.wal / name).write_bytes(content)
    standby.put(segments.name(4, timeline=2))
    # The last checkpoint on timeline 2, minRecoveryPoint on timeline 3: see Asker.reached().
    control = bytearray(8192)
    struct.pack_into("<QI", control, 0, segments.SYSTEM_IDENTIFIER, 1300)
    struct.pack_into("<QQI", control, 32, 0x500060, 0x500028, 2)
    struct.pack_into("<QI", control, 136, 0x900500, 3)
    (standby.data.path / "global" / "pg_control").write_bytes(control)
    result = standby.ask(segments.name(5, timeline=2), "-s", "1", "-w", "1")
    assert result.status == 1, result
    assert "cannot follow" not in result.stderr


@pytest.mark.parametrize(("version", "expected"), [(1300, segments.name(7)), (9900, None)])
def test_the_restart_point_in_pg_control(
    standby: Standby, monkeypatch: pytest.MonkeyPatch, version: int, expected: str | None
) -> None:
    """Of a version that is not known nothing is taken for it: old segments are removed by it."""
    control = bytearray(512)
    struct.pack_into("<QI", control, 0, segments.SYSTEM_IDENTIFIER, version)
    struct.pack_into("<QI", control, 40, 7 * segments.MB + 0x28, 1)
    (standby.data.path / "global" / "pg_control").write_bytes(control)
    monkeypatch.chdir(standby.data.path)
    assert Asker(NAME, "pg_wal/RECOVERYXLOG").restart_segment(segments.MB) == expected


def test_a_new_timeline_is_warned_of_once_and_waited_out(standby: Standby) -> None:
    standby.put(segments.name(4))
    standby.put("00000002.history", segments.history((1, 0x500100)))
    with standby.begin(NAME, "-s", "1") as waiting:
        waiting.until_says("the archive has gone on to timeline 2")
        waiting.until_watching()
        content = standby.put(NAME)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content
    assert result.stderr.count("WARNING:") == 1
    assert "--on-new-timeline stop" in result.stderr


def test_a_new_timeline_that_leaves_later_stops_nothing(standby: Standby) -> None:
    # The segment asked for lies wholly before the switch: it is still to come.
    segments.put(standby.data.wal, segments.name(4), segments.full(segments.name(4)))
    standby.put("00000002.history", segments.history((1, 0x600000)))
    with standby.begin(NAME, "--on-new-timeline", "stop", "-s", "60") as waiting:
        waiting.until_watching()
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


def test_the_segment_size_is_not_guessed_for_a_new_timeline(standby: Standby) -> None:
    # A fresh base backup has no segment in pg_wal that would tell it; those of the archive do.
    standby.put(segments.name(3))
    standby.put(segments.name(4))
    standby.put("00000002.history", segments.history((1, 0x600000)))
    with standby.begin(NAME, "--on-new-timeline", "stop", "-s", "60") as waiting:
        waiting.until_watching()
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


def test_a_new_timeline_while_waiting(standby: Standby) -> None:
    standby.put(segments.name(4))
    with standby.begin(NAME, "--on-new-timeline", "stop", "-s", "60") as waiting:
        waiting.until_watching()
        standby.put("00000002.history", segments.history((1, 0x500100)))
        result = waiting.result(AT_ONCE)
    assert result.status == exits.NEW_TIMELINE
    assert "the archive has gone on to timeline 2, which left timeline 1 at 0/500100" in result.stderr


def test_what_is_there_of_the_old_timeline_is_delivered_first(standby: Standby) -> None:
    standby.put("00000002.history", segments.history((1, 0x500100)))
    content = standby.put(NAME)
    assert standby.ask(NAME, "--on-new-timeline", "stop") == (0, "", "")
    assert standby.delivered() == content


# The archive is away --------------------------------------------------------------------------------------------------


def test_an_archive_that_is_away_is_not_an_empty_one(standby: Standby) -> None:
    standby.archive.rmdir()
    for words in (
        standby.command(NAME, "--wait", "never"),
        standby.command("00000002.history", "--wait", "never", to=RECOVERYHISTORY),
        [standby.archive, NAME, standby.data.wal / NAME],
    ):
        result = run(*words, cwd=standby.data.path, deadline=AT_ONCE)
        assert result.status == exits.ARCHIVE_UNAVAILABLE, words
        assert "cannot be read: No such file or directory" in result.stderr


def test_retries_of_a_source_that_cannot_be_read(standby: Standby) -> None:
    (standby.archive / NAME).symlink_to("/proc/self/mem")
    result = standby.ask(NAME, "-r", "1", "-s", "1")
    assert result.status == exits.SOURCE_FAILED
    assert "Try 1 of 2; the next in 1 seconds." in result.stderr
    assert "Try 2 of 2, the last." in result.stderr
    assert "could not read" in result.stderr

"""The command line as people and restore_command see it: help, version, errors, limits."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, Result, Standby, environment, run

import pystandby

NAME = segments.name(5)

USAGE = 200

PREFIX = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[\d+\] pystandby "
"""As log_line_prefix '%m [%p] ' has it."""


def is_usage_error(result: Result, message: str) -> bool:
    """Whether a command ended as one that cannot be understood, with this message (a regular expression)."""
    lines = result.stderr.splitlines()
    assert result.status == USAGE, result
    assert result.stdout == ""
    assert re.fullmatch(f"{PREFIX}ERROR:  {message}", lines[0]), lines[0]
    assert re.fullmatch(f"{PREFIX}HINT:  .+", lines[-1]), lines
    assert all(re.fullmatch(f"{PREFIX}(DETAIL|HINT):  .+", line) for line in lines[1:]), lines
    return True


# Help and version -----------------------------------------------------------------------------------------------------


def test_help() -> None:
    # To take a changed text over: pystandby --help > tests/help.txt
    expected = (Path(__file__).parent / "help.txt").read_text()
    for flag in ("--help", "-?"):
        assert run(flag) == (0, expected, "")


def test_help_reads_like_that_of_a_postgresql_client_program() -> None:
    text = run("--help").stdout
    lines = text.splitlines()
    assert lines[0].startswith("pystandby ")
    assert "Usage:" in lines
    assert "  pystandby [OPTION]... ARCHIVELOCATION NEXTWALFILE XLOGFILEPATH [RESTARTWALFILE]" in lines
    assert "Options:" in lines
    assert re.search(r"^  -V, --version +output version information, then exit$", text, re.MULTILINE)
    assert re.search(r"^  -\?, --help +show this help, then exit$", text, re.MULTILINE)
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if line != line.rstrip()]
    for word in ("-c", "-d", "-k", "-l", "-r", "-s", "-t", "-w"):
        assert re.search(f"^  {word}, --", text, re.MULTILINE), word
    for word in (
        "watch",
        "poll",
        "wait",
        "verify",
        "stable",
        "delay",
        "removal-pause",
        "look-ahead",
        "on-failure",
        "on-new-timeline",
        "promote",
        "trust-trigger",
    ):
        assert re.search(f"^      --{word}", text, re.MULTILINE), word


def test_version() -> None:
    for flag in ("--version", "-V"):
        assert run(flag) == (0, f"pystandby {pystandby.__version__}\n", "")


def test_help_and_version_beside_options_and_in_clusters() -> None:
    assert run("-d", "--help").status == 0
    assert run("-s", "2", "-V").stdout == f"pystandby {pystandby.__version__}\n"
    assert run("-dV").stdout == f"pystandby {pystandby.__version__}\n"
    assert run("-d?").stdout.startswith("pystandby ")


@pytest.mark.parametrize("flag", ["--help", "-?", "--version", "-V"])
def test_help_in_place_of_a_restore_is_an_error(standby: Standby, flag: str) -> None:
    # 0 and no file: the server would take that for the end of recovery.
    standby.put(NAME)
    result = standby.ask(NAME, flag)
    assert result.status == USAGE
    assert standby.delivered() is None
    assert run(*standby.command(NAME), flag, cwd=standby.data.path).status == USAGE


def test_help_for_a_reader_who_has_gone() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        # Nothing was shown: for a person that is a failure, and for a server nothing below 126 may come of it.
        assert run("--help", stdout=full).status >= 200
    finally:
        os.close(full)


HELP_OF_VERBS = sorted(path.name[len("help-") : -len(".txt")] for path in Path(__file__).parent.glob("help-*.txt"))


def test_every_verb_has_help() -> None:
    usage = [line.split()[1] for line in run("--help").stdout.splitlines() if re.match("  pystandby [a-z]", line)]
    assert sorted(usage) == HELP_OF_VERBS


@pytest.mark.parametrize("verb", HELP_OF_VERBS)
def test_help_of_a_verb(verb: str) -> None:
    # To take a changed text over: pystandby VERB --help > tests/help-VERB.txt
    expected = (Path(__file__).parent / f"help-{verb}.txt").read_text()
    for flag in ("--help", "-?"):
        assert run(verb, flag) == (0, expected, "")
    lines = expected.splitlines()
    assert lines[0].startswith(f"pystandby {verb} ")
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if line != line.rstrip()]


# Limits ---------------------------------------------------------------------------------------------------------------

LIMITS = {
    ("-k", "--keep"): (0, 2147483647),
    ("-r", "--retries"): (0, 2147483647),
    ("-s", "--sleep"): (1, 60),
    ("-w", "--max-wait"): (0, 2147483647),
    ("--stable",): (0, 3600),
    ("--delay",): (0, 2147483647),
    ("--look-ahead",): (0, 64),
}


def _beyond() -> list[tuple[str, str]]:
    cases = []
    for flags, (lowest, highest) in LIMITS.items():
        cases += [(flag, value) for flag in flags for value in (str(lowest - 1), str(highest + 1))]
    return cases


@pytest.mark.parametrize(("flag", "value"), _beyond())
def test_out_of_range(standby: Standby, flag: str, value: str) -> None:
    standby.put(NAME)
    for words in ((flag, value), (f"{flag}={value}",) if flag.startswith("--") else (f"{flag}{value}",)):
        result = standby.ask(NAME, *words)
        assert is_usage_error(
            result, rf'invalid value "{value}" for option \S*{flag}\S*: it must be a whole number from \d+ to \d+'
        )
        assert standby.delivered() is None


@pytest.mark.parametrize(("flag", "value"), [(flags[0], str(limit)) for flags, limits in LIMITS.items() for limit in limits])
def test_at_the_limit(standby: Standby, flag: str, value: str) -> None:
    content = standby.put(NAME)
    # --stable 3600 waits for an hour, and --delay for some years, rightly.
    os.utime(standby.archive / NAME, (1, 1))
    if (flag, value) in (("--stable", "3600"), ("--delay", "2147483647")):
        with standby.begin(NAME, flag, value, "-d") as waiting:
            waiting.until_watching()
            assert "ERROR" not in waiting.stderr
        return
    assert standby.ask(NAME, flag, value) == (0, "", "")
    assert standby.delivered() == content


@pytest.mark.parametrize(
    "value", ["x", "", "1.5", "+3", "-3", " 3", "3 ", "1_0", "0x3", "1e1", "\u0663", "²", "3s", "=3", "99999999999999999999"]
)
def test_not_a_number(standby: Standby, value: str) -> None:
    standby.put(NAME)
    # pg_standby's atoi() took them for 0, or for their beginning.
    assert is_usage_error(standby.ask(NAME, "-s", value), r'invalid value ".*" for option -s/--sleep: .*')
    assert standby.delivered() is None


# What cannot be understood --------------------------------------------------------------------------------------------

CASES: list[tuple[list[str], str]] = [
    ([], "missing argument ARCHIVELOCATION"),
    (["-d"], "missing argument ARCHIVELOCATION"),
    (["A"], "missing argument NEXTWALFILE"),
    (["A", "N"], "missing argument XLOGFILEPATH"),
    (["A", "N", "P", "R", "X"], r"got unexpected extra argument.*X.*"),
    (["A", "N", "P", "R", "--", "-X"], r"got unexpected extra argument.*-X.*"),
    (["-x", "A", "N", "P"], 'unknown option "-x"'),
    (["-dx", "A", "N", "P"], 'unknown option "-x"'),
    (["-h"], 'unknown option "-h"'),
    (["A", "N", "P", "--unknown"], 'unknown option "--unknown"'),
    (["--unknown=1", "A", "N", "P"], 'unknown option "--unknown"'),
    (["--sle", "3", "A", "N", "P"], 'unknown option "--sle"'),
    (["--no-debug", "A", "N", "P"], 'unknown option "--no-debug"'),
    (["A", "N", "P", "-s"], ".*-s.*requires an argument"),
    (["A", "N", "P", "-ds"], ".*-s.*requires an argument"),
    (["A", "N", "P", "--sleep"], ".*--sleep.*requires an argument"),
    (["A", "N", "P", "-t"], ".*-t.*requires an argument"),
    (["--debug=1", "A", "N", "P"], ".*--debug.*does not take a value"),
    (["--poll=yes", "A", "N", "P"], ".*--poll.*does not take a value"),
    (["--promote=", "A", "N", "P"], ".*--promote.*does not take a value"),
    (["--keep=", "A", "N", "P"], 'invalid value "" for option -k/--keep: .*'),
    (["-t", "", "A", "N", "P"], "-t/--trigger must not be empty"),
    (["--trigger=", "A", "N", "P"], "-t/--trigger must not be empty"),
    (["", "N", "P"], "ARCHIVELOCATION must not be empty"),
    (["A", "", "P"], "NEXTWALFILE must not be empty"),
    (["A", "N", ""], "XLOGFILEPATH must not be empty"),
    (["A", "N", "P", ""], "RESTARTWALFILE must not be empty"),
    (["--wait=perhaps", "A", "N", "P"], 'invalid value "perhaps" for option --wait: it must be one of auto, always, never'),
    (["--wait=NEVER", "A", "N", "P"], 'invalid value "NEVER" for option --wait: .*'),
    (["--wait", "", "A", "N", "P"], "--wait must not be empty"),
    (["--verify=crc", "A", "N", "P"], 'invalid value "crc" for option --verify: it must be one of auto, pages, size, none'),
    (["--on-failure=stop", "A", "N", "P"], 'invalid value "stop" for option --on-failure: .* abort, end-recovery'),
    (["--on-new-timeline=x", "A", "N", "P"], 'invalid value "x" for option --on-new-timeline: .* wait, stop'),
    (["-d", "demo"], "missing argument NEXTWALFILE"),
    (["demo", "--unknown"], 'unknown option "--unknown"'),
    (["demo", "more"], "got unexpected extra argument.*"),
    (["demo", "--seconds", "0"], 'invalid value "0" for option --seconds: .*'),
]


@pytest.mark.parametrize(("words", "message"), CASES, ids=[" ".join(words) or "nothing" for words, _ in CASES])
def test_usage_error(standby: Standby, words: list[str], message: str) -> None:
    standby.put(NAME)
    paths = {"A": str(standby.archive), "N": NAME, "P": "pg_wal/RECOVERYXLOG", "R": "0" * 24}
    before = _everything_in(standby.folder)
    result = run(*(paths.get(word, word) for word in words), cwd=standby.data.path)
    assert is_usage_error(result, message)
    assert _everything_in(standby.folder) == before


NOT_WAL_FILES = [
    "x",
    "../archive/000000010000000000000005",
    "/etc/passwd",
    "archive_status/000000010000000000000005.ready",
    ".",
    "..",
    "00000001000000000000000",
    "0000000100000000000000055",
    "00000001000000000000000G",
    "00000001000000000000000a",
    "000000010000000000000005.gz",
    "000000010000000000000005.partial.gz",
    "000000010000000000000005\n",
    "\u0660" * 7 + "\u0661" + "\u0660" * 15 + "\u0665",
    "00000002.History",
    "2.history",
    "0000000g.history",
    "000000010000000000000005.28.backup",
]


@pytest.mark.parametrize("name", NOT_WAL_FILES)
def test_what_is_no_name_of_a_wal_file_is_refused(standby: Standby, name: str) -> None:
    standby.put(NAME)
    for option in ([], ["--wait", "never"]):
        result = standby.ask(name, *option)
        assert is_usage_error(result, '".*" is not the name of a WAL file')
        assert standby.delivered() is None


# Options as the restore sees them -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["-d", "-s", "2", "-k7", "-r", "0", "-t", "{t}", "-w9"],
        ["-ds2", "-k", "7", "-r0", "-t{t}", "-w", "9"],
        ["-cdls", "2", "-k7", "-r0", "-t{t}", "-w9"],
        ["--debug", "--sleep=2", "--keep=7", "--retries=0", "--trigger={t}", "--max-wait=9"],
        ["--debug", "--sleep", "2", "--keep", "7", "--retries", "0", "--trigger", "{t}", "--max-wait", "9"],
    ],
)
@pytest.mark.parametrize("place", ["before", "after", "between", "dashes"])
def test_every_spelling_has_its_effect(standby: Standby, options: list[str], place: str) -> None:
    content = standby.put(NAME)
    options = [word.replace("{t}", str(standby.trigger)) for word in options] + [str(word) for word in standby.options]
    words = [str(standby.archive), NAME, "pg_wal/RECOVERYXLOG"]
    line = {
        "before": [*options, *words],
        "after": [*words, *options],
        "between": [words[0], *options, *words[1:]],
        "dashes": [*options, "--", *words],
    }[place]
    result = run(*line, cwd=standby.data.path)
    assert result.status == 0
    assert standby.delivered() == content
    assert "looks every 2 seconds" in result.stderr
    assert "0 retries" in result.stderr
    assert "kept 7" in result.stderr
    assert f"trigger file {standby.trigger}" in result.stderr
    assert "waits at most 9 seconds" in result.stderr


def test_a_value_may_begin_with_a_dash(standby: Standby) -> None:
    # As getopt has it; the fast reader leaves it to click.
    content = standby.put(NAME)
    for words in (["-t", "-d"], ["-t-d"], ["--trigger", "-d"], ["--trigger=-d"]):
        standby.restored.unlink(missing_ok=True)
        assert standby.ask(NAME, *words) == (0, "", "")
        assert standby.delivered() == content
    (standby.data.path / "-d").write_text("fast")
    assert standby.ask(NAME, "-t", "-d").status == 1


def test_the_defaults_are_those_of_pg_standby(standby: Standby) -> None:
    standby.put(NAME)
    result = standby.ask(NAME, "-d")
    assert result.status == 0
    for words in ("looks every 5 seconds", "3 retries", "kept 0", "trigger file None", "waits for ever", "verify pages"):
        assert words in result.stderr, words


def test_silence_without_debug(standby: Standby) -> None:
    standby.put(NAME)
    assert standby.ask(NAME) == (0, "", "")


def test_module_and_script_are_the_same_program(standby: Standby) -> None:
    content = standby.put(NAME)
    python = PYSTANDBY.with_name("python")
    assert run("-m", "pystandby", "--version", program=[python]) == run("--version")
    result = run("-m", "pystandby", *standby.command(NAME), program=[python], cwd=standby.data.path)
    assert result == (0, "", "")
    assert standby.delivered() == content
    assert run("-m", "pystandby", program=[python], cwd=standby.data.path).status == USAGE


def test_a_path_of_odd_characters(tmp_path: Path) -> None:
    odd = Standby(tmp_path / 'it\'s $HOME "x" \\ ä \udcff %p *\n-d')
    content = odd.put(NAME)
    result = odd.ask(NAME, "-t", odd.trigger)
    assert (result.status, result.stderr) == (0, "")
    assert odd.delivered() == content


def test_messages_are_one_line_each(standby: Standby) -> None:
    # A line break in what somebody else named must not forge a line of the server's log.
    result = run("a\nb\rc", cwd=standby.data.path)
    assert is_usage_error(result, "missing argument NEXTWALFILE")


def test_completion_is_for_people_only(standby: Standby) -> None:
    # Left in the environment of a server it must not turn a restore into a completion, which ends with 0.
    content = standby.put(NAME)
    for value in ("bash_source", "bash_complete", "x"):
        standby.restored.unlink(missing_ok=True)
        result = run(*standby.command(NAME), cwd=standby.data.path, env=environment(_PYSTANDBY_COMPLETE=value))
        assert result == (0, "", "")
        assert standby.delivered() == content
    assert run(*standby.command(NAME), "-x", cwd=standby.data.path, env=environment(_PYSTANDBY_COMPLETE="x")).status == USAGE


def _everything_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))

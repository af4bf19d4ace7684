"""Completion of command lines by real shells, with the files that the wheel installs for them."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import debian
from support.command import DEADLINE, PYSTANDBY, environment, run

SHARE = Path(sys.prefix) / "share"

BASH = SHARE / "bash-completion" / "completions" / "pystandby"
ZSH = SHARE / "zsh" / "site-functions" / "_pystandby"
FISH = SHARE / "fish" / "vendor_completions.d" / "pystandby.fish"

VERBS = ["archive", "archive-cleanup", "check", "demo", "recovery-end", "trigger"]


# What it says to a shell ----------------------------------------------------------------------------------------------


def words_for(line: str) -> list[str]:
    """What fits behind a line, whose last word, empty after a blank, is not finished: as the shells' functions get it."""
    words = line.split(" ")
    env = environment(_PYSTANDBY_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    result = run(env=env)
    assert (result.status, result.stderr) == (0, ""), result
    return [found for found in result.stdout.splitlines() if found]


def test_a_first_word_is_an_archive_or_a_verb() -> None:
    found = words_for("pystandby ")
    assert found[0] == "dir,"
    assert set(found[1:]) >= {f"plain,{verb}" for verb in VERBS}
    assert words_for("pystandby rec") == ["dir,rec", "plain,recovery-end"]


def test_options_are_those_of_the_help() -> None:
    listed = set(re.findall(r"^  (?:-\S, |    )(--[a-z-]+)", run("--help").stdout, re.MULTILINE))
    assert {word.removeprefix("plain,") for word in words_for("pystandby --")} == listed
    assert {word.removeprefix("plain,") for word in words_for("pystandby /archive --")} == listed
    for verb in VERBS:
        text = run(verb, "--help").stdout
        listed = {*re.findall(r"^  (?:-\S, |    )(--[a-z-]+)", text, re.MULTILINE), *re.findall(r"\(also: (--[a-z-]+)\)", text)}
        assert {word.removeprefix("plain,") for word in words_for(f"pystandby {verb} --")} == listed


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pystandby -t ", ["file,"]),
        ("pystandby --wait ", ["plain,auto", "plain,always", "plain,never"]),
        ("pystandby --verify si", ["plain,size"]),
        ("pystandby -k ", []),
        ("pystandby /archive 000000010000000000000005 pg", ["file,pg"]),
        ("pystandby archive /a", ["dir,/a"]),
        ("pystandby trigger ", ["plain,smart", "plain,fast", "plain,cancel", "plain,show"]),
        ("pystandby trigger --pgdata ", ["dir,"]),
        ("pystandby check --config-file /e", ["file,/e"]),
        # A verb is one only as the first word.
        ("pystandby /archive tri", []),
        ("pystandby -d trigger ", []),
    ],
)
def test_what_fits(line: str, expected: list[str]) -> None:
    assert words_for(line) == expected


@pytest.mark.parametrize("instruction", ["", "x", "bash", "bash_x", "tcsh_source"])
def test_what_no_shell_asks_for(instruction: str) -> None:
    result = run(env=environment(_PYSTANDBY_COMPLETE=instruction))
    assert result.status == 200
    assert result.stdout == ""


# Real shells ----------------------------------------------------------------------------------------------------------


class Terminal:
    """A shell at a terminal."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str], cwd: Path) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=dict(env), cwd=cwd, start_new_session=True
        )
        os.close(theirs)
        self.shown = ""

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def until(self, pattern: str) -> str:
        """Read until it has shown, since the last call, what matches; return that."""
        end = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < end, f"not shown: {pattern}\n{self.shown!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += os.read(self._ours, 4096).decode(errors="replace")
        self.shown = self.shown[found.end() :]
        return found[0]

    def close(self) -> None:
        """End the shell."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(command: Sequence[str | Path], cwd: Path, program: debian.Program | None = None) -> Iterator[Terminal]:
    env = environment(TERM="dumb", HOME=str(cwd), PS1="ready ", **(program.environment if program else {}))
    shell = Terminal(command, env, cwd)
    try:
        yield shell
    finally:
        shell.close()


def completes(shell: Terminal) -> None:
    """Complete a verb, its option, its word and a folder, and see the line that comes of it."""
    shell.type("pystandby recov\t")
    shell.until("recovery-end")
    shell.type("\x15pystandby trigger --pgd\t")
    shell.until("--pgdata ")
    shell.type("data-d\t")
    shell.until("data-directory")
    shell.type("\x15pystandby trigger sm\t")
    shell.until("smart")
    shell.type("\x15pystandby --verify p\t")
    shell.until("--verify pages")


@pytest.mark.parametrize("source", [f". {BASH}", 'eval "$(_PYSTANDBY_COMPLETE=bash_source pystandby)"'])
def test_bash(tmp_path: Path, source: str) -> None:
    (tmp_path / "data-directory").mkdir()
    bash = debian.program("bash", "bash")
    with terminal([bash.path, "--noprofile", "--norc", "-i"], tmp_path, bash) as shell:
        shell.type(f"bind 'set enable-bracketed-paste off'; {source}; echo sour''ced\n")
        shell.until("sourced")
        completes(shell)


def test_bash_completion_finds_the_file(tmp_path: Path) -> None:
    """Under the name and in the folder that bash-completion looks for a command's: XDG_DATA_DIRS/bash-completion/completions."""
    assert BASH.name == PYSTANDBY.name
    assert BASH.parent.parent.parent == SHARE


def test_zsh(tmp_path: Path) -> None:
    (tmp_path / "data-directory").mkdir()
    zsh = debian.program("zsh", "zsh")
    root = zsh.root or Path("/")
    with terminal([zsh.path, "-f", "-i"], tmp_path, zsh) as shell:
        # Where the packages' own are: those of an unpacked one are not where it was made for.
        functions = f"{root}/usr/share/zsh/functions/*(N) {root}/usr/share/zsh/functions/Completion/*(/N)"
        shell.type(f"fpath=({ZSH.parent} {functions} $fpath); module_path=({root}/usr/lib/*/zsh/*(N) $module_path)\n")
        shell.type("autoload -U compinit && compinit -u -D; echo load''ed\n")
        shell.until("loaded")
        completes(shell)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pystandby recov", ["recovery-end"]),
        ("pystandby trigger --pgd", ["--pgdata"]),
        ("pystandby trigger ", ["cancel", "fast", "show", "smart"]),
        ("pystandby --verify p", ["pages"]),
        ("pystandby trigger --pgdata data-d", ["data-directory/"]),
    ],
)
def test_fish(tmp_path: Path, line: str, expected: list[str]) -> None:
    (tmp_path / "data-directory").mkdir()
    fish = debian.program("fish", "fish")
    functions = f"set -a fish_function_path {fish.root or ''}/usr/share/fish/functions"
    answer = subprocess.run(
        [fish.path, "--no-config", "-c", f'{functions}; source {FISH}; complete -C "{line}"'],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path), **fish.environment),
    )
    assert answer.stderr == ""
    assert sorted(found.partition("\t")[0] for found in answer.stdout.splitlines()) == expected

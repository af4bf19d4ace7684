"""The executable's shell: what it does before Python, and how it stands in for it while it runs and when it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, Argument, Standby, command_line, run, start, wait_until

from pystandby import exits, osdep
from pystandby.options import VERBS

NAME = segments.name(5)
NEXT = segments.name(6)

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]

each_shell = pytest.mark.parametrize("shell", SHELLS)


def by(shell: str, program: Path = PYSTANDBY) -> list[Argument]:
    """The executable, run by a certain shell."""
    return ["busybox", "sh", program] if shell == "busybox" else [*([shell] if shell == "dash" else [shell, "--posix"]), program]


def is_alive(pid: int) -> bool:
    return osdep.started(pid) is not None


def test_there_is_more_than_one_shell() -> None:
    assert {"dash", "bash"} <= set(SHELLS)


# --- how it ends --------------------------------------------------------------------------------------------------------


@each_shell
def test_statuses_arrive(standby: Standby, shell: str) -> None:
    content = standby.put(NAME)
    assert run(*standby.command(NAME), cwd=standby.data.path, program=by(shell)) == (0, "", "")
    assert standby.delivered() == content
    assert run(*standby.command("00000002.history"), cwd=standby.data.path, program=by(shell)) == (1, "", "")
    assert run("-s", "99", cwd=standby.data.path, program=by(shell)).status == exits.USAGE
    assert run("--version", program=by(shell)).status == 0
    (standby.archive / NEXT).write_bytes(b"x" * (2 << 20))
    assert run(*standby.command(NEXT), cwd=standby.data.path, program=by(shell)).status == exits.WRONG_SEGMENT


@pytest.mark.faults
def test_too_little_memory_never_ends_recovery(standby: Standby) -> None:
    """An interpreter that gets no memory ends in 1 by itself, at some sizes and with some modules."""
    standby.put(NAME)
    ended: set[int] = set()
    for limit in [*range(1500, 16000, 500), *range(16000, 40000, 2000)]:
        shell = f'ulimit -v {limit}; exec "$@"'
        command: list[Argument] = ["/bin/sh", "-c", shell, "sh", PYSTANDBY]
        # Once it runs, too little memory to look at the segment is retried.
        calls = [standby.command(NAME, "-r", "0")]
        if limit % 4000 == 0:
            calls.append(standby.command(NEXT, "-w", "1", "--poll", "-s", "1"))
        for words in calls:
            standby.restored.unlink(missing_ok=True)
            result = run(*words, cwd=standby.data.path, program=command)
            asked = "recovery ends before segment" in result.stderr
            assert result.status == 0 or asked or result.status < 0 or result.status > 125, (limit, result)
            ended.add(result.status)
    assert exits.MODULE_MISSING in ended
    assert {0, 1} <= ended


def test_it_knows_every_verb() -> None:
    told = re.findall(r"^([a-z][a-z| -]*)\)", PYSTANDBY.read_text(), re.MULTILINE)
    assert {word for line in told for word in line.split(" | ")} == set(VERBS)


@pytest.mark.faults
@pytest.mark.parametrize("folder", [*VERBS, "elsewhere"])
def test_a_folder_called_like_a_verb_never_ends_recovery(standby: Standby, folder: str) -> None:
    """The command is one that cannot be understood; what it may not do is to end recovery, when Python cannot start either."""
    (standby.data.path / folder).mkdir()
    words: list[Argument] = [folder, NAME, "pg_wal/RECOVERYXLOG"]
    for limit in (12000, 14000):
        limited: list[Argument] = ["bash", "-c", f'ulimit -v {limit}; exec "$@"', "bash", PYSTANDBY]
        assert run(*words, cwd=standby.data.path, program=limited).status > 125
    if folder in VERBS:
        assert run(*words, cwd=standby.data.path).status == exits.USAGE


@pytest.mark.faults
@each_shell
def test_no_process_to_be_had_never_ends_recovery(standby: Standby, shell: str) -> None:
    if os.geteuid() == 0:
        pytest.fail("root has no limit on its processes: run this as an ordinary user")
    standby.put(NAME)
    limited: list[Argument] = ["bash", "-c", 'ulimit -u 1; exec "$@"', "bash", *by(shell)]
    result = run(*standby.command(NAME), cwd=standby.data.path, program=limited, deadline=90)
    assert result.status > 125, result
    assert not standby.restored.exists()


@pytest.mark.faults
@each_shell
@pytest.mark.parametrize("words", [["archive", "/none", "none", "none"], ["archive-cleanup", "/none", NAME], ["recovery-end"]])
def test_no_process_to_be_had_is_no_more_than_a_failure(standby: Standby, shell: str, words: list[str]) -> None:
    """Above 125 these would end the archiver, or take down a server that has just been promoted."""
    if os.geteuid() == 0:
        pytest.fail("root has no limit on its processes: run this as an ordinary user")
    link = standby.folder / "pystandby"
    link.symlink_to(PYSTANDBY)
    limited: list[Argument] = ["bash", "-c", 'ulimit -u 1; exec "$@"', "bash", *by(shell, link)]
    assert run(*words, cwd=standby.data.path, program=limited, deadline=90).status == 1


@pytest.mark.faults
@each_shell
def test_the_shell_hit_where_no_process_can_be_had(standby: Standby, shell: str) -> None:
    """The line of docs/reliability.md: a hit, a miss, and neither."""
    if os.geteuid() == 0:
        pytest.fail("root has no limit on its processes: run this as an ordinary user")
    hit = f'trap "exit 202" 0; mv pg_wal/.pystandby/{NAME} pg_wal/RECOVERYXLOG 2>/dev/null && trap - 0 || exec "$@"'
    words: list[Argument] = ["-c", hit, "sh", PYSTANDBY, *standby.command(NAME)]
    run_by: list[Argument] = ["busybox", "sh"] if shell == "busybox" else [shell]
    content = standby.put(NAME)
    assert run(*words, cwd=standby.data.path, program=run_by) == (0, "", "")
    assert standby.delivered() == content
    (standby.archive / NAME).unlink()
    assert run(*words, "--wait", "never", cwd=standby.data.path, program=run_by).status == 1
    spooled = standby.data.wal / ".pystandby" / NAME
    spooled.write_bytes(b"spooled")
    assert run(*words, cwd=standby.data.path, program=run_by) == (0, "", "")
    assert standby.delivered() == b"spooled"
    limited: list[Argument] = ["bash", "-c", 'ulimit -u 1; exec "$@"', "bash", *run_by]
    spooled.write_bytes(b"spooled")
    assert run(*words, cwd=standby.data.path, program=limited, deadline=90).status > 125


# --- signals ------------------------------------------------------------------------------------------------------------


@each_shell
@pytest.mark.parametrize("whom", ["shell", "python", "both"])
def test_sigusr1_ends_recovery_whoever_gets_it(standby: Standby, shell: str, whom: str) -> None:
    with start(*standby.command(NAME, "-s", "60"), cwd=standby.data.path, program=by(shell)) as waiting:
        waiting.until_watching()
        if whom == "both":
            os.killpg(waiting.pid, signal.SIGUSR1)
        else:
            os.kill(waiting.pid if whom == "shell" else waiting.python, signal.SIGUSR1)
        result = waiting.result()
    assert result.status == 1
    assert result.stderr.count("recovery ends before segment") == 1


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has said what to do on a signal; False if it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return bool(int(re.findall(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)[0], 16) >> (number - 1) & 1)


@each_shell
def test_sigusr1_is_not_lost_whenever_it_comes(standby: Standby, shell: str) -> None:
    """While there is no Python yet, while it starts, and when it has just begun to wait."""
    told = 0
    for number in range(40):
        with start(*standby.command(NAME, "-s", "60"), cwd=standby.data.path, program=by(shell)) as waiting:
            # The shell that sets umask and signals as a server does becomes the launcher, which takes signals from then on.
            waiting.until(lambda waiting=waiting: bytes(PYSTANDBY) in command_line(waiting.pid), "the launcher runs")  # type: ignore[misc]
            time.sleep(0.001 * number)
            heard = catches(waiting.pid, signal.SIGUSR1)
            os.kill(waiting.pid, signal.SIGUSR1)
            if shell == "bash":
                # One that comes in the very moment in which bash begins to wait is heard with the next one only.
                deadline = time.monotonic() + 2
                while not waiting.has_ended and time.monotonic() < deadline:
                    time.sleep(0.01)
                if not waiting.has_ended:
                    os.kill(waiting.pid, signal.SIGUSR1)
            result = waiting.result()
        # In its very first moment the shell has not heard of it, and dies.
        assert result.status == 1 or (not heard and result.status == -signal.SIGUSR1), (number, result)
        told += heard
    assert told > 10


@each_shell
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
@pytest.mark.parametrize("whom", ["shell", "python", "both"])
def test_it_dies_of_what_a_postmaster_sends(standby: Standby, shell: str, number: signal.Signals, whom: str) -> None:
    with start(*standby.command(NAME, "-s", "60"), cwd=standby.data.path, program=by(shell)) as waiting:
        waiting.until_watching()
        python = waiting.python
        if whom == "both":
            os.killpg(waiting.pid, number)
        else:
            os.kill(waiting.pid if whom == "shell" else python, number)
        result = waiting.result()
        # A shell whose command died of a signal says 128 + its number, which PostgreSQL takes for the same.
        # So does bash of SIGQUIT, which it never dies of.
        assert result.status in (-number, 128 + number) if whom == "python" or shell == "bash" else result.status == -number
        assert result.stderr == "" or (whom == "python" and len(result.stderr.splitlines()) == 1)
        wait_until(lambda: not is_alive(python), "Python has ended too")


@each_shell
def test_an_interrupt_stops_both(standby: Standby, shell: str) -> None:
    with start(*standby.command(NAME, "-s", "60"), cwd=standby.data.path, program=by(shell), as_server=False) as waiting:
        waiting.until_watching()
        python = waiting.python
        os.killpg(waiting.pid, signal.SIGINT)
        result = waiting.result()
        wait_until(lambda: not is_alive(python), "Python has ended too")
    assert result.status == exits.INTERRUPTED
    assert result.stderr.startswith("ERROR:  interrupted\n")


def test_a_shell_that_is_killed_takes_nothing_with_it(standby: Standby) -> None:
    """The command that goes on serves nobody: the process that asked for it has gone."""
    with start(*standby.command(NAME, "-s", "1"), cwd=standby.data.path) as waiting:
        waiting.until_watching()
        python = waiting.python
        os.kill(waiting.pid, signal.SIGKILL)
        assert waiting.result().status == -signal.SIGKILL
        standby.put(NAME)
        wait_until(lambda: not is_alive(python), "Python has ended too")
        assert not standby.restored.exists()
        assert standby.data.left_behind() == []


def test_a_shell_that_has_gone_before_python_came_up(standby: Standby) -> None:
    standby.put(NAME)
    first = PYSTANDBY.with_name("pystandby-python").read_text().partition("\n")[0].removeprefix("#!")
    env = {**os.environ, "PYSTANDBY_LAUNCHER": "1"}
    program: list[Argument] = [first, "-E", "-S", PYSTANDBY.with_name("pystandby-python")]
    assert run(*standby.command(NAME), cwd=standby.data.path, program=program, env=env).status == exits.SERVER_GONE
    assert not standby.restored.exists()


# --- the hit ------------------------------------------------------------------------------------------------------------


class Spool:
    """A spool with a segment, that this process stands for the child of; and an executable without a Python behind it."""

    def __init__(self, standby: Standby) -> None:
        self.standby = standby
        self.folder = standby.data.wal / ".pystandby"
        self.folder.mkdir()
        self.content = segments.full(NAME)
        self.spooled = self.folder / NAME
        self.spooled.write_bytes(self.content)
        standby.data.write_postmaster_pid()
        self.lock(os.getpid(), f"{os.getpid()} 1700000000")
        self.program = standby.folder / "bin" / "pystandby"
        self.program.parent.mkdir()
        shutil.copy(PYSTANDBY, self.program)
        (self.program.parent / "pystandby-python").write_text("#!/nonexistent/python3\n")

    def lock(self, child: int, postmaster: str) -> None:
        (self.folder / "lock").write_text(f"{child}\nboot 4711 815 {postmaster}\n")

    def ask(self, *words: Argument, shell: str = "dash") -> int:
        return run(*words, cwd=self.standby.data.path, program=by(shell, self.program)).status


@pytest.fixture
def spool(standby: Standby) -> Spool:
    return Spool(standby)


OPTIONS: list[list[str]] = [
    [],
    ["-c", "-l"],
    ["-s", "1", "-w", "5", "-r", "0", "-k", "3"],
    ["-s1", "-k3"],
    ["-t", "{trigger}"],
    ["-t{trigger}"],
    ["--trigger={trigger}"],
    ["--look-ahead", "8"],
    ["--look-ahead=8", "--on-new-timeline", "stop", "--on-new-timeline=stop", "--promote"],
]


@each_shell
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("restart", [None, segments.name(1)])
def test_a_hit_needs_no_python(spool: Spool, shell: str, options: list[str], restart: str | None) -> None:
    standby = spool.standby
    words = [option.format(trigger=standby.trigger) for option in options]
    assert spool.ask(*standby.command(NAME, *words, restart=restart), shell=shell) == 0
    assert standby.delivered() == spool.content
    assert not spool.spooled.exists()


@each_shell
@pytest.mark.parametrize(
    "options",
    [["-d"], ["-ds2"], ["--look-ahead", "0"], ["--look-ahead=0"], ["--verify", "size"], ["--wait=never"], ["--no-such"], ["--"],
     ["-t"], ["--sleep", "1"], ["-"], [""]],
    ids=" ".join,
)  # fmt: skip
def test_what_is_not_plain_is_left_to_python(spool: Spool, shell: str, options: list[str]) -> None:
    assert spool.ask(*spool.standby.command(NAME, *options), shell=shell) > 125
    assert spool.spooled.exists()
    assert not spool.standby.restored.exists()


@each_shell
@pytest.mark.parametrize("word", ["", "smart", "fast"])
@pytest.mark.parametrize("spelling", ["-t {}", "-t{}", "--trigger={}"])
def test_a_trigger_file_is_left_to_python(spool: Spool, shell: str, word: str, spelling: str) -> None:
    spool.standby.pull_trigger(word)
    words = spelling.format(spool.standby.trigger).split(" ")
    assert spool.ask(*spool.standby.command(NAME, *words), shell=shell) > 125
    assert spool.spooled.exists()


@each_shell
@pytest.mark.parametrize(
    "what", ["refused", "another server", "started again", "dead child", "no lock", "empty lock", "no server", "no spool"]
)
def test_a_spool_that_is_not_this_servers_own_is_left_to_python(spool: Spool, shell: str, what: str) -> None:
    me = os.getpid()
    if what == "refused":
        (spool.folder / "refused").touch()
    elif what == "another server":
        spool.lock(me, f"{me + 1} 1700000000")
    elif what == "started again":
        spool.lock(me, f"{me} 1700000001")
    elif what == "dead child":
        gone = start("--version")
        with gone:
            gone.result()
        spool.lock(gone.pid, f"{me} 1700000000")
    elif what == "no lock":
        (spool.folder / "lock").unlink()
    elif what == "empty lock":
        (spool.folder / "lock").write_text("")
    elif what == "no server":
        (spool.standby.data.path / "postmaster.pid").unlink()
    else:
        spool.spooled.unlink()
    assert spool.ask(*spool.standby.command(NAME), shell=shell) > 125
    assert not spool.standby.restored.exists()


@each_shell
@pytest.mark.parametrize("name", [f"../{NAME}", "lock", "", "0" * 23 + "g", "*", NAME.lower() + " "])
def test_a_name_that_is_no_segments_is_left_to_python(spool: Spool, shell: str, name: str) -> None:
    assert spool.ask(spool.standby.archive, name, "pg_wal/RECOVERYXLOG", shell=shell) > 125
    assert not spool.standby.restored.exists()
    assert (spool.folder / "lock").exists()


@each_shell
@pytest.mark.parametrize("destination", ["pg_wal/RECOVERYHISTORY", "elsewhere", f"pg_wal/{NAME}", "./pg_wal/RECOVERYXLOG"])
def test_another_destination_is_left_to_python(spool: Spool, shell: str, destination: str) -> None:
    assert spool.ask(spool.standby.archive, NAME, destination, shell=shell) > 125
    assert spool.spooled.exists()


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_another_number_of_words_is_left_to_python(spool: Spool, count: int) -> None:
    words: list[Argument] = [spool.standby.archive, NAME, "pg_wal/RECOVERYXLOG", "0" * 24, "one more"]
    assert spool.ask(*words[:count]) > 125
    assert spool.spooled.exists()

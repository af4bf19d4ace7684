"""pystandby trigger: one thing to touch in an emergency, which says what will come of it and whether it came."""

from __future__ import annotations

import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest
from support import injected, segments
from support.command import PYSTANDBY, Argument, Result, Standby, environment, run, start
from support.matrix import scenario
from support.servers import Scene, Server, eventually

pytest_plugins = ["support.servers"]

NAME = segments.name(5)


def pull(*words: Argument, cwd: Path | None = None) -> Result:
    return run("trigger", *words, cwd=cwd, env=environment(), as_server=False)


def refused(result: Result, *texts: str) -> bool:
    """Whether a call ended with 1 and one error with these texts."""
    assert result.status == 1, result
    assert result.stderr.count("ERROR:") == 1, result.stderr
    assert "defect" not in result.stderr
    for text in texts:
        assert text in result.stderr, (text, result.stderr)
    return True


# The file alone -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["smart", "fast"])
def test_the_file_says_the_word(standby: Standby, word: str) -> None:
    for _ in range(2):
        result = pull(word, "-t", standby.trigger)
        assert result == (0, f'trigger file "{standby.trigger}" says {word}\n', "")
        assert standby.trigger.read_text() == f"{word}\n"
    assert stat.S_IMODE(standby.trigger.stat().st_mode) == 0o644
    assert os.listdir(standby.trigger.parent) == [standby.trigger.name]
    # A restore obeys it.
    assert standby.ask(NAME, "-t", standby.trigger).status == 1


def test_from_smart_to_fast(standby: Standby) -> None:
    assert pull("smart", "-t", standby.trigger).status == 0
    assert pull("fast", "-t", standby.trigger).status == 0
    assert standby.trigger.read_text() == "fast\n"


def test_cancel(standby: Standby) -> None:
    standby.pull_trigger("fast")
    assert pull("cancel", "-t", standby.trigger) == (0, f'trigger file "{standby.trigger}" is removed\n', "")
    assert not standby.trigger.exists()
    assert pull("cancel", "-t", standby.trigger) == (0, f'there is no trigger file "{standby.trigger}"\n', "")


@pytest.mark.parametrize(
    ("content", "text"),
    [("", "says smart"), ("smart", "says smart"), ("fast\n", "says fast"), ("FAST", "has invalid content: it is ignored")],
)
def test_show(standby: Standby, content: str, text: str) -> None:
    assert pull("show", "-t", standby.trigger) == (0, f'there is no trigger file "{standby.trigger}"\n', "")
    standby.pull_trigger(content)
    assert pull("show", "-t", standby.trigger) == (0, f'trigger file "{standby.trigger}" {text}\n', "")
    assert standby.trigger.read_text() == content


def test_it_appears_at_once_and_whole(standby: Standby) -> None:
    # A waiting restore is woken by the name, and must not read half a word: empty is smart.
    with standby.begin(NAME, "-t", standby.trigger, "-s", "60") as waiting:
        waiting.until_watching(2)
        assert pull("fast", "-t", standby.trigger).status == 0
        result = waiting.result(30)
    assert result.status == 1
    assert "says fast" in result.stderr


def test_in_a_directory_of_everybodys(standby: Standby) -> None:
    standby.trigger.parent.chmod(0o1777)
    assert pull("smart", "-t", standby.trigger).status == 0
    assert standby.ask(NAME, "-t", standby.trigger).status == 1
    # A link that somebody has put there is replaced, not followed.
    victim = standby.folder / "victim"
    victim.write_text("precious")
    standby.trigger.unlink()
    standby.trigger.symlink_to(victim)
    assert refused(pull("cancel", "-t", standby.trigger), "is not a plain file")
    assert pull("fast", "-t", standby.trigger).status == 0
    assert victim.read_text() == "precious"
    assert not standby.trigger.is_symlink()
    assert pull("cancel", "-t", standby.trigger).status == 0


def test_what_cannot_be_made(standby: Standby) -> None:
    assert refused(
        pull("smart", "-t", standby.folder / "no" / "such"), "could not make trigger file", "No such file or directory"
    )
    standby.trigger.mkdir()
    assert refused(pull("smart", "-t", standby.trigger), "Is a directory", "Nothing is triggered.")
    assert refused(pull("cancel", "-t", standby.trigger), "is not a plain file")
    assert os.listdir(standby.trigger.parent) == [standby.trigger.name]
    standby.trigger.rmdir()
    standby.trigger.parent.chmod(0o500)
    try:
        assert refused(pull("smart", "-t", standby.trigger), "Permission denied")
    finally:
        standby.trigger.parent.chmod(0o700)


def test_no_trigger_file_is_known() -> None:
    assert refused(pull("smart"), "no trigger file is known", "HINT:  Name it with -t")


@pytest.mark.parametrize(
    "words",
    [[], ["now", "-t", "x"], ["smart", "fast", "-t", "x"], ["smart", "-t"], ["smart", "-t", "x", "--wait", "5"],
     ["show", "-t", "x", "--wait", "5", "--pgdata", "."], ["smart", "--wait", "0", "-t", "x"], ["smart", "-z"]],
)  # fmt: skip
def test_usage_error(standby: Standby, words: list[str]) -> None:
    result = pull(*words, cwd=standby.folder)
    assert result.status == 200
    assert result.stderr.count("ERROR:") == 1
    assert not (standby.folder / "x").exists()


@pytest.mark.root
def test_made_by_root_it_is_the_servers() -> None:
    """Whose folder it is, so that a fast one can be emptied, and the server's own recovery_end_command can remove it."""
    assert os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="psb-", dir="/tmp") as name:
        made_by_root(Path(name))


def made_by_root(folder: Path) -> None:
    # Where the server cannot get at it, it is refused.
    folder.chmod(0o700)
    closed = folder / "triggers"
    closed.mkdir()
    os.chown(closed, 12345, 23456)
    assert refused(pull("fast", "-t", closed / "failover"), "could not be read: Permission denied")
    assert os.listdir(closed) == []
    os.chown(folder, 12345, 23456)
    assert pull("fast", "-t", folder / "failover").status == 0
    status = (folder / "failover").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o644)
    assert pull("cancel", "-t", folder / "failover").status == 0
    # In a directory of everybody's, root's is obeyed.
    folder.chmod(0o1777)
    assert pull("fast", "-t", folder / "failover").status == 0
    assert (folder / "failover").stat().st_uid == 0


# With a data directory that no server runs in -----------------------------------------------------------------------------


def test_what_is_no_data_directory(standby: Standby) -> None:
    result = pull("smart", "-t", standby.trigger, "--pgdata", standby.folder)
    assert refused(result, "is not a data directory")
    assert not standby.trigger.exists()


def test_a_server_that_does_not_run(standby: Standby) -> None:
    for word in ("smart", "fast"):
        result = pull(word, "-t", standby.trigger, "--pgdata", standby.data.path)
        assert refused(result, "is not running", "would end its recovery at the next start")
    # One that was killed.
    standby.data.write_postmaster_pid(pid=_dead())
    assert refused(pull("smart", "-t", standby.trigger, "--pgdata", standby.data.path), "is not running")
    assert not standby.trigger.exists()
    standby.pull_trigger()
    shown = pull("show", "-t", standby.trigger, "--pgdata", standby.data.path)
    assert shown.status == 0
    assert "the server is not running" in shown.stdout


def test_show_of_one_that_an_earlier_failover_left(standby: Standby) -> None:
    standby.pull_trigger("fast")
    os.utime(standby.trigger, (1, 1))
    told = standby.trigger.stat().st_ctime + 60
    # Changed times cannot be set back: let the server be told later, and the clock go past that.
    os.utime(standby.data.path / "recovery.signal", (told, told))
    shown = pull("show", "-t", standby.trigger, "--pgdata", standby.data.path)
    assert "says fast" in shown.stdout
    program = injected.program(standby.folder, "_time = time.time\ntime.time = lambda: _time() + 120")
    shown = run("trigger", "show", "-t", standby.trigger, "--pgdata", standby.data.path, program=program)
    assert shown.status == 0
    assert f'trigger file "{standby.trigger}" is older than recovery.signal: it is ignored' in shown.stdout


def _dead() -> int:
    with start("--version") as done:
        done.result()
        return done.pid


# Real servers -----------------------------------------------------------------------------------------------------------


def waiting(scene: Scene, *options: Argument, standby_mode: bool = False, **settings: str | int | bool) -> Server:
    """A standby that has replayed up to the fourth segment."""
    settings = {**scene.seen_at_once, **settings}
    scene.feed(to=4)
    return scene.standby(*options, standby_mode=standby_mode, settings=settings).begin()


def on(server: Server, *words: Argument) -> Result:
    """Run the verb on a server, whose trigger file and archive it finds out by itself."""
    return pull(*words, "--pgdata", server.data_directory)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("word", ["smart", "fast"])
def test_a_failover(scene: Scene, word: str) -> None:
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    command = standby.until_waiting(5)
    with scene.held(command):
        scene.feed(5, 6)
        result = on(standby, "show")
        assert result.status == 0, result.stderr
        assert result.stdout.splitlines() == [
            f'there is no trigger file "{scene.trigger_file}"',
            result.stdout.splitlines()[1],
            f'the newest segment in archive "{scene.archive}" is {scene.stock.names[6]}',
            "2 segments in it are later than that",
        ]
        assert "the server has replayed WAL up to 0/" in result.stdout
        result = on(standby, word)
        assert (result.status, result.stderr) == (0, "")
        assert result.stdout.startswith(f'trigger file "{scene.trigger_file}" says {word}\n')
        fate = "which are replayed first" if word == "smart" else "which are left out"
        assert f"2 segments in it are later than that, {fate}" in result.stdout
        assert scene.trigger_file.read_text() == f"{word}\n"
    standby.until_promoted(scene.stock.rows[6 if word == "smart" else 4])
    for again in ("smart", "fast"):
        scene.trigger_file.unlink(missing_ok=True)
        assert refused(on(standby, again), "is not in recovery", "It takes writes already.")
        assert not scene.trigger_file.exists()
    assert refused(on(standby, "cancel"), "too late: the server has ended its recovery")
    assert "the server is not in recovery: it takes writes" in on(standby, "show").stdout


@pytest.mark.timeout(300)
def test_a_dry_run_says_what_would_come_of_it_and_does_nothing(scene: Scene) -> None:
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    command = standby.until_waiting(5)
    with scene.held(command):
        scene.feed(5, 6)
        for word, fate in (("smart", "which are replayed first"), ("fast", "which are left out")):
            result = on(standby, word, "--dry-run")
            assert (result.status, result.stderr) == (0, "")
            assert f"2 segments in it are later than that, {fate}" in result.stdout
            assert "says" not in result.stdout
            assert not scene.trigger_file.exists()
    standby.until_rows(scene.stock.rows[6])
    standby.assert_not_promoted()
    standby.stop("fast")
    assert refused(on(standby, "smart", "--dry-run"), "is not running")


def test_a_dry_run_where_no_file_can_be_made(standby: Standby) -> None:
    path = standby.folder / "absent" / "failover"
    for words in ((), ("-n",)):
        assert refused(pull("smart", *words, "-t", path), f'could not make trigger file "{path}"')
    assert not path.parent.exists()


@pytest.mark.timeout(300)
@scenario("pystandby trigger")
def test_wait_until_it_takes_writes(scene: Scene) -> None:
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    result = on(standby, "smart", "--wait", "60")
    assert (result.status, result.stderr) == (0, ""), result
    assert "the server takes writes after " in result.stdout
    assert result.stdout.endswith("; a checkpoint is made\n")
    assert not standby.in_recovery()
    # On the new timeline: until then archive_timeout sleeps.
    assert standby.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(2,)]
    standby.until_promoted(scene.stock.rows[4])


@pytest.mark.timeout(300)
def test_wait_in_vain(scene: Scene) -> None:
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    command = scene.remember(standby.until_waiting(5))
    with scene.held(command):
        result = on(standby, "smart", "--wait", "1")
        assert refused(result, "the server does not take writes after 1 seconds", "still keeps it in recovery", "says smart")
        # It can be taken back, because nobody has seen it.
        assert on(standby, "cancel").status == 0
    scene.feed(5)
    standby.until_rows(scene.stock.rows[5])
    standby.assert_not_promoted()


@pytest.mark.timeout(300)
def test_wait_for_a_server_that_ends(scene: Scene) -> None:
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    command = scene.remember(standby.until_waiting(5))
    with (
        scene.held(command),
        start("trigger", "smart", "--wait", "60", "--pgdata", standby.data_directory, as_server=False) as running,
    ):
        running.until(lambda: "says smart" in running.stdout, "the trigger is pulled")
        standby.abort()
        result = running.result()
    assert refused(result, "the server has ended")


@pytest.mark.timeout(300)
def test_without_hot_standby(scene: Scene) -> None:
    """It takes no connections before it is promoted: nothing is known of how far it is, and the failover works."""
    scene.feed(to=4)
    standby = scene.standby(settings={**scene.seen_at_once, "hot_standby": False})
    standby.begin(connections=False)
    standby.until_waiting(5)
    result = on(standby, "fast", "--wait", "60")
    assert result.status == 0, result
    assert "how far the server has replayed is not known" in result.stdout
    assert "the server takes writes after" in result.stdout
    standby.until_promoted(scene.stock.rows[4])


@pytest.mark.timeout(300)
def test_another_trigger_file_than_the_servers(scene: Scene) -> None:
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    other = scene.folder / "other"
    result = on(standby, "smart", "-t", other)
    assert refused(result, "waits for another trigger file", f'Its restore_command has "{scene.trigger_file}"')
    assert not other.exists()
    # The same by another way.
    link = scene.folder / "link"
    link.symlink_to(scene.folder)
    assert on(standby, "show", "-t", link / scene.trigger_file.name).status == 0


@pytest.mark.timeout(300)
def test_restore_command_that_cannot_be_read(scene: Scene) -> None:
    """The configuration is damaged while the server runs: the trigger file has to be named, and then all works."""
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    standby.write("postgresql.conf", "no such line\n", append=True)
    result = on(standby, "smart")
    assert refused(result, "what restore_command is set to is not known", "no trigger file is known", "HINT:  Name it with -t")
    assert on(standby, "smart", "-t", scene.trigger_file, "--wait", "60").status == 0
    standby.until_promoted(scene.stock.rows[4])


@pytest.mark.timeout(300)
def test_what_the_server_would_ignore_is_not_left_there(scene: Scene) -> None:
    assert os.geteuid(), "to root no file is unreadable: run the tests as an ordinary user"
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    # A program that makes files nobody can read.
    program = injected.program(scene.folder, "_fchmod = os.fchmod\nos.fchmod = lambda file, mode: _fchmod(file, 0)")
    result = run("trigger", "smart", "--pgdata", standby.data_directory, program=program)
    assert refused(result, "could not be read: Permission denied", "The server would ignore it. Nothing is triggered.")
    assert not scene.trigger_file.exists()
    standby.assert_not_promoted()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("promote", [True, False])
def test_standby_mode(scene: Scene, promote: bool) -> None:
    standby = waiting(scene, *(["--promote"] if promote else []), standby_mode=True)
    standby.until_rows(scene.stock.rows[4])
    result = on(standby, "smart", "--wait", "60")
    if promote:
        assert result.status == 0, result
        standby.until_promoted(scene.stock.rows[4])
    else:
        assert refused(result, "in standby mode, where its trigger file does nothing", "HINT:  Use pg_ctl promote -D")
        assert not scene.trigger_file.exists()


@pytest.mark.timeout(300)
def test_up_to_11(scene11: Scene) -> None:
    scene11.feed(to=4)
    standby = scene11.standby().begin()
    standby.until_rows(scene11.stock.rows[4])
    shown = on(standby, "show")
    assert shown.status == 0, shown
    assert f'there is no trigger file "{scene11.trigger_file}"' in shown.stdout
    assert f'the newest segment in archive "{scene11.archive}" is {scene11.stock.names[4]}' in shown.stdout
    result = on(standby, "smart", "--wait", "60")
    assert result.status == 0, result
    standby.until_promoted(scene11.stock.rows[4])
    scene11.trigger_file.unlink()
    assert refused(on(standby, "smart"), "is not in recovery", "It takes writes already.")
    assert refused(on(standby, "cancel"), "too late: the server has ended its recovery")
    assert "the server is not in recovery: it takes writes" in on(standby, "show").stdout


@pytest.mark.timeout(300)
def test_the_shell_around_restore_command(scene: Scene) -> None:
    """A restore_command of several commands, with its words quoted: the pystandby in it is found."""
    scene.feed(to=4)
    words = f"-d -s1 --trigger='{scene.trigger_file}' '{scene.archive}' %f %p %r"
    command = f"test -d . && {{ true; }} || false; exec '{PYSTANDBY}' {words}"
    standby = scene.standby(restore_command=command, settings=scene.seen_at_once).begin()
    standby.until_rows(scene.stock.rows[4])
    result = on(standby, "smart", "--wait", "60")
    assert result.status == 0, result
    eventually(lambda: not standby.in_recovery(), "it is promoted", tell=standby.tell)


def test_it_can_be_interrupted(scene: Scene) -> None:
    standby = waiting(scene)
    standby.until_rows(scene.stock.rows[4])
    command = scene.remember(standby.until_waiting(5))
    with (
        scene.held(command),
        start("trigger", "smart", "--wait", "600", "--pgdata", standby.data_directory, as_server=False) as running,
    ):
        running.until(lambda: "says smart" in running.stdout, "the trigger is pulled")
        running.signal(signal.SIGINT)
        assert running.result(30).status == 203
        assert on(standby, "cancel").status == 0
    standby.assert_not_promoted()

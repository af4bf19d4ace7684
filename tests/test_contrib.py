"""The samples in contrib/linux, run as their comments tell, on real servers; and that none of them is left out."""

from __future__ import annotations

import configparser
import grp
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import debian, segments
from support.branches import LATEST, make_branch
from support.command import PYSTANDBY, Result, environment, run
from support.matrix import scenario
from support.servers import Scene, Server, alive, eventually, processes_in, watches
from support.service import Service

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

SAMPLES = Path(__file__).resolve().parent.parent / "contrib" / "linux"

ARCHIVE, TRIGGER = "/mnt/server/archive", "/var/lib/postgresql/failover"


def filled_in(scene: Scene, name: str, program: Path = PYSTANDBY) -> str:
    """A sample with its placeholders replaced, as its own comments tell."""
    text = (SAMPLES / name).read_text()
    settings = "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
    assert ARCHIVE in text.split("\n\n")[0], "the comments name every placeholder"
    settings = settings.replace(ARCHIVE, str(scene.archive))
    # By its full path, as they say.
    settings = re.sub(r"(?<=')(exec )?pystandby ", rf"\g<1>{program} ", settings)
    assert str(program) in settings
    if "restore_command" in settings:
        assert TRIGGER in text.split("\n\n")[0], "the comments name every placeholder"
        settings = settings.replace(TRIGGER, str(scene.trigger_file))
        assert str(scene.trigger_file) in settings
    assert not re.search(r"/mnt|/var/lib", settings), "a placeholder that no comment names"
    return f"\n{settings}\n"


def sample_primary(scene: Scene) -> Server:
    scene.feed(to=scene.stock.last)
    primary = scene.primary()
    # Every archive_command before was somebody else's.
    primary.configure({"archive_mode": False, "archive_command": "false", "wal_level": "minimal", "max_wal_senders": 0})
    primary.write("postgresql.conf", filled_in(scene, "postgresql-primary.conf"), append=True)
    primary.configure({"max_wal_senders": 10})
    return primary.begin()


def sample_standby(scene: Scene, program: Path = PYSTANDBY) -> Server:
    standby = scene.bare_standby()
    if scene.stock.installation.version < 12:
        standby.write("recovery.conf", filled_in(scene, "recovery.conf", program))
        standby.configure({"hot_standby": True})
    else:
        settings = filled_in(scene, "postgresql-warm-standby.conf", program)
        if scene.stock.version < 15:
            # As its comment says.
            assert settings.endswith("\nrecovery_prefetch = off\n")
            settings = settings.removesuffix("recovery_prefetch = off\n")
        standby.write("postgresql.conf", settings, append=True)
        standby.write("recovery.signal", "")
    return standby.begin()


def write_and_switch(primary: Server) -> int:
    """Add rows on the primary, and have them archived."""
    primary.sql("INSERT INTO ledger (note) SELECT repeat(md5(i::text), 8) FROM generate_series(1, 200) i")
    ((segment,),) = primary.sql("SELECT pg_walfile_name(pg_switch_wal())")

    def archived() -> bool:
        return primary.sql(f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver") == [(True,)]

    eventually(archived, f"{segment} is archived", tell=primary.tell)
    return primary.rows()


def fails_over(scene: Scene) -> None:
    """Run the samples of a primary and of a standby, through a smart failover."""
    primary = sample_primary(scene)
    standby = sample_standby(scene)
    rows = write_and_switch(primary)
    # With what the sample says of recovery_prefetch, or up to 14, a query sees the last segment as soon as it is there.
    standby.until_rows(rows)
    rows = write_and_switch(primary)
    standby.until_rows(rows)
    assert standby.in_recovery()
    eventually(standby.commands, "a command waits", tell=standby.tell)
    # What is not archived yet is lost; what is archived is not.
    rows = write_and_switch(primary)
    primary.stop("immediate")
    scene.trigger_file.touch()
    standby.until_promoted(rows)
    assert not scene.trigger_file.exists(), "recovery_end_command removes it"
    assert not list(scene.archive.glob("*.pystandby*")), "no half copy stays in the archive"
    assert "archive command failed" not in primary.log_text()
    assert "pystandby WARNING" not in standby.log_text()


def test_no_sample_is_left_out() -> None:
    """Each is run by a test below; completion by tests/test_completion.py, archive-over-ssh by tests/test_contrib_ssh.py."""
    tested = {
        "README.md",
        "archive-over-ssh",
        "completion",
        "failover",
        "postgresql-follow.conf",
        "postgresql-nfs.conf",
        "postgresql-primary.conf",
        "postgresql-shared-archive.conf",
        "postgresql-standby.service",
        "postgresql-warm-standby.conf",
        "pgpool",
        "pystandby",
        "pystandby-python",
        "pystandby-status.service",
        "pystandby-status.timer",
        "pystandby.logrotate",
        "recovery.conf",
    }
    assert set(os.listdir(SAMPLES)) == tested
    readme = (SAMPLES / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in tested - {"README.md"})


@scenario("the samples in contrib/linux")
def test_the_samples(scene: Scene) -> None:
    fails_over(scene)


def test_the_samples_for_11_and_earlier(scene11: Scene) -> None:
    fails_over(scene11)


def test_a_fast_failover_with_the_samples(scene: Scene) -> None:
    scene.feed(to=4)
    standby = sample_standby(scene)
    standby.until_rows(scene.stock.rows[4])
    waiting = lambda: [pid for pid in standby.commands() if watches(pid)]  # noqa: E731
    (command,) = eventually(waiting, "a command waits", tell=standby.tell)
    scene.together(command, 5, 6, word="fast\n")
    standby.until_promoted(scene.stock.rows[4])
    assert not scene.trigger_file.exists()


def test_the_primarys_sample_never_replaces_what_is_archived(scene: Scene) -> None:
    """Two primaries that archive to one folder: the second is told, and its segments stay with it."""
    primary = sample_primary(scene)
    ((segment,),) = primary.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    scene.put(str(segment), b"another's")
    primary.sql("INSERT INTO ledger (note) VALUES ('x')")
    primary.sql("SELECT pg_switch_wal()")
    primary.until_log(f'archive "{scene.archive}" has another {segment}')
    primary.until_log("archive command failed with exit code 1")
    assert (scene.archive / str(segment)).read_bytes() == b"another's"


def test_the_executable_is_the_installed_one() -> None:
    """pip puts its own interpreter into the first line of the part in Python, and changes nothing else."""
    assert (SAMPLES / "pystandby").read_bytes() == PYSTANDBY.read_bytes()
    assert os.access(PYSTANDBY, os.X_OK)
    sample = (SAMPLES / "pystandby-python").read_text().splitlines()
    installed = PYSTANDBY.with_name("pystandby-python").read_text().splitlines()
    assert sample[0] == "#!python"
    assert installed[0].startswith("#!/")
    assert sample[1:] == installed[1:]


def test_the_executable_with_another_interpreter_line(scene: Scene) -> None:
    """As a packager installs it: both parts in one folder, the first called through a link from another."""
    folder = scene.folder / "libexec"
    folder.mkdir()
    shutil.copy(SAMPLES / "pystandby", folder)
    body = (SAMPLES / "pystandby-python").read_text().partition("\n")[2]
    (folder / "pystandby-python").write_text(f"#!{sys.executable}\n{body}")
    program = scene.folder / "pystandby"
    program.symlink_to(folder / "pystandby")
    scene.feed(to=2)
    standby = sample_standby(scene, program)
    standby.until_rows(scene.stock.rows[2])
    scene.feed(3)
    standby.until_rows(scene.stock.rows[3])
    standby.assert_not_promoted()


def test_a_service_manager_has_it_follow_a_failover(scene: Scene) -> None:
    """The drop-in for systemd, from a failover of another standby to the segments that its server archives afterwards."""
    scene.feed(to=3)
    branch = make_branch(scene, scene.archive)
    standby = scene.standby("--on-new-timeline", "stop", settings=LATEST)
    service = Service(standby, SAMPLES / "postgresql-follow.conf")
    service.start()
    standby.until_waiting(4)
    branch.publish(scene)
    status = service.until_ended()
    assert "exit code 209" in standby.last_log(), standby.tell()
    assert service.react(status)
    standby.until_log("ready to accept read-only connections", times=2)
    standby.until_waiting(segments.name(segments.number(branch.names[-1]) + 1, timeline=2))
    assert standby.in_recovery()
    # Whoever stops it means it.
    standby.stop()
    assert not service.react(0)
    assert not standby.is_running()


def unit_for(standby: Server) -> Path:
    """The unit with its placeholders replaced, as its own comments tell, for a server of the tests."""
    text = (SAMPLES / "postgresql-standby.service").read_text()
    told = text.split("[Unit]")[0]
    for placeholder, value in {
        "/usr/lib/postgresql/16/bin": str(standby.installation.bindir),
        "/var/lib/postgresql/16/main": str(standby.data_directory),
        "/mnt/server/archive": str(standby.data_directory.parent / "archive"),
    }.items():
        assert placeholder in told
        text = text.replace(placeholder, value)
    unit = standby.data_directory.parent / "postgresql-standby.service"
    unit.write_text(text)
    return unit


def systemd_objects_to(unit: Path) -> str:
    """What systemd says of a unit, its own files alone."""
    program = debian.program("systemd-analyze", "systemd")
    answer = subprocess.run(
        [program.path, "verify", "--man=no", str(unit)],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **program.environment},
    )
    return "".join(line for line in answer.stderr.splitlines(keepends=True) if re.search(r"\b(postgresql|pystandby)-", line))


def test_a_service_manager_has_it_go_on_when_the_archive_is_mended(scene: Scene) -> None:
    """The unit: a segment that can never become right stops the server; started again it goes on with the right one."""
    scene.feed(to=3)
    scene.put(scene.stock.names[4], scene.stock.read(5))
    standby = scene.standby(settings=scene.seen_at_once)
    unit = unit_for(standby)
    service = Service(standby, unit)
    command = service.settings["Service"]["ExecStart"].split()
    assert command == [str(standby.installation.bindir / "postgres"), "-D", str(standby.data_directory)]
    assert service.settings["Service"]["Type"] == "notify"
    service.start()
    status = service.until_ended()
    assert "exit code 206" in standby.last_log(), standby.tell()
    assert service.react(status)
    status = service.until_ended()
    assert status != 0
    assert "selected new timeline" not in standby.log_text(), standby.tell()
    scene.feed(4, 5)
    assert service.react(status)
    standby.until_rows(scene.stock.rows[5])
    assert standby.in_recovery()
    # Its KillSignal is a fast shutdown, which is no failure.
    assert standby._server is not None
    standby._server.send_signal(signal.Signals[service.settings["Service"]["KillSignal"]])
    assert not service.react(service.until_ended())


def test_a_service_manager_gives_up_what_does_not_come_up(scene: Scene) -> None:
    scene.feed(to=3)
    scene.put(scene.stock.names[4], scene.stock.read(5))
    standby = scene.standby()
    service = Service(standby, unit_for(standby))
    service.start()
    starts = 1
    while service.react(service.until_ended()):
        starts += 1
    assert starts == int(service.settings["Unit"]["StartLimitBurst"])
    assert "selected new timeline" not in standby.log_text(), standby.tell()


def test_the_units_are_such_as_systemd_takes(scene: Scene) -> None:
    standby = scene.bare_standby()
    unit = unit_for(standby)
    assert systemd_objects_to(unit) == ""
    folder = unit.with_name(f"{unit.name}.d")
    folder.mkdir()
    shutil.copy(SAMPLES / "postgresql-follow.conf", folder)
    assert systemd_objects_to(unit) == ""
    # It does read them.
    (folder / "postgresql-follow.conf").write_text("[Service]\nRestrat=on-failure\n")
    assert "Restrat" in systemd_objects_to(unit)


def test_a_service_manager_has_the_figures_written_each_minute(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby(settings=scene.seen_at_once).begin()
    standby.until_waiting(4)
    collected = scene.folder / "collected"
    collected.mkdir()
    text = (SAMPLES / "pystandby-status.service").read_text()
    told = text.split("[Unit]")[0]
    for placeholder, value in {
        "/usr/local/bin/pystandby": str(PYSTANDBY),
        "/var/lib/postgresql/16/main": str(standby.data_directory),
        "/var/lib/prometheus/node-exporter": str(collected),
    }.items():
        assert placeholder in told
        text = text.replace(placeholder, value)
    unit, timer = scene.folder / "pystandby-status.service", scene.folder / "pystandby-status.timer"
    unit.write_text(text)
    shutil.copy(SAMPLES / timer.name, timer)
    assert systemd_objects_to(unit) == ""
    assert systemd_objects_to(timer) == ""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read_string(text)
    command = settings["Service"]["ExecStart"].split()
    assert run(*command[1:], program=command[:1], env=environment(), as_server=False) == (0, "", "")
    assert os.listdir(collected) == ["pystandby.prom"]
    assert re.search(r"^pystandby_outstanding_segments\{.*\} 0$", (collected / "pystandby.prom").read_text(), re.MULTILINE)
    # Another one would be refused, as far as this can tell.
    timer.write_text("[Timer]\nOnBootSek=1min\n")
    assert "OnBootSek" in systemd_objects_to(timer)


def log_holders(standby: Server, log: Path) -> list[int]:
    """The processes in the data directory that have a log open."""
    found = []
    for pid in processes_in(standby.data_directory):
        try:
            opened = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        if any(path.startswith(str(log.parent)) for path in opened):
            found.append(pid)
    return found


def test_logrotate(scene: Scene) -> None:
    """A restore that waits while the log is rotated, and afterwards has something to say."""
    folder = scene.folder / "log"
    folder.mkdir(mode=0o700)
    log = folder / "standby.log"
    text = (SAMPLES / "pystandby.logrotate").read_text()
    told = text.split("\n\n")[0]
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    for placeholder, value in {"/var/log/pystandby": str(folder), "postgres postgres": f"{user} {group}"}.items():
        assert placeholder in told
        text = text.replace(placeholder, value)
    configuration = scene.folder / "logrotate.conf"
    configuration.write_text(text)
    configuration.chmod(0o644)
    scene.feed(to=2)
    standby = scene.standby(restore_command=f"{scene.restore_command()} 2>>{log}").begin()
    waits = f"waiting for {scene.stock.names[3]}"
    eventually(lambda: log.exists() and waits in log.read_text(), "a restore waits", tell=standby.tell)
    before = log.read_text()
    program = debian.program("logrotate", "logrotate")
    words: list[str | Path] = [program.path, "--force", "--state", scene.folder / "state", configuration]
    rotated = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, **program.environment})
    assert (rotated.returncode, rotated.stderr) == (0, "")
    assert (folder / "standby.log.1").read_text().startswith(before)
    # The very restore that waited says the next thing into the log that people read, from its beginning on.
    away = scene.archive.with_name("away")
    scene.archive.rename(away)
    eventually(lambda: "cannot be read" in log.read_text(), "it says that the archive is gone", tell=standby.tell)
    assert "\0" not in log.read_text()
    assert waits not in log.read_text()
    away.rename(scene.archive)
    scene.feed(3)
    eventually(lambda: f"{scene.stock.names[3]} restored" in log.read_text(), "it is restored", tell=standby.tell)


def test_the_child_that_looks_ahead_keeps_no_log_open(scene: Scene) -> None:
    log = scene.folder / "log" / "standby.log"
    log.parent.mkdir()
    scene.feed(to=1)
    standby = scene.standby(restore_command=f"{scene.restore_command()} 2>>{log}", settings=scene.seen_at_once).begin()
    standby.until_rows(scene.stock.rows[1])
    eventually(lambda: log_holders(standby, log), "a restore has the log open", tell=standby.tell)
    standby.sql("SELECT pg_wal_replay_pause()")
    scene.feed(to=scene.stock.last)
    spool = standby.data_directory / "pg_wal" / ".pystandby"
    # Nothing is taken while replay pauses: so the child is there, idle.
    eventually(lambda: len(list(spool.glob("0000*"))) >= 3, "segments are made ready", tell=standby.tell)
    child = int((spool / "lock").read_text().split()[0])
    eventually(lambda: not log_holders(standby, log), "the restore has ended", tell=standby.tell)
    assert alive(child)
    standby.sql("SELECT pg_wal_replay_resume()")
    standby.until_rows(scene.stock.rows[scene.stock.last])


def test_an_archive_on_a_file_server(scene: Scene) -> None:
    """Its settings, on a local folder: whether NFS does what they rest on is not tried here."""
    settings = filled_in(scene, "postgresql-nfs.conf")
    scene.feed(to=scene.stock.last)
    primary = scene.primary()
    lines = [line for line in settings.splitlines() if line.startswith("archive_")]
    assert [line.partition(" ")[0] for line in lines] == ["archive_mode", "archive_command"]
    primary.configure({"archive_command": "false"})
    primary.write("postgresql.conf", "\n".join(["", *lines, ""]), append=True)
    primary.begin()
    standby = scene.bare_standby()
    lines = [line for line in settings.splitlines() if line and line not in lines]
    standby.write("postgresql.conf", "\n".join(["", *lines, ""]), append=True)
    standby.configure(scene.seen_at_once)
    standby.write("recovery.signal", "")
    standby.begin()
    for _ in range(2):
        standby.until_rows(write_and_switch(primary))
    rows = write_and_switch(primary)
    primary.stop("immediate")
    scene.trigger_file.touch()
    standby.until_promoted(rows)
    assert not scene.trigger_file.exists()


def test_several_standbys_on_one_archive(scene: Scene) -> None:
    """The sample for them, as its comments tell: the second finds all that it needs, and what both have passed is removed."""
    scene.feed(to=scene.stock.last)
    first = scene.stock.names[0]
    standbys = []
    for name in ("standby1", "standby2"):
        done = run("archive-cleanup", "--reader", name, scene.archive, first)
        assert done == (0, "", "")
        standby = scene.bare_standby(name)
        text = filled_in(scene, "postgresql-shared-archive.conf").replace("--reader standby1 ", f"--reader {name} ")
        assert f"--reader {name} " in text
        standby.write("postgresql.conf", text, append=True)
        standby.write("recovery.signal", "")
        standbys.append(standby)
    for standby in standbys:
        assert (scene.archive / first).exists()
        standby.begin()
        standby.until_rows(scene.stock.rows[scene.stock.last])
        standby.sql("CHECKPOINT")
    eventually(lambda: not (scene.archive / first).exists(), "what both have passed is removed", tell=standbys[1].tell)
    assert "WARNING" not in standbys[0].log_text() + standbys[1].log_text()


def failover(server: Server, *words: str, fence: str) -> Result:
    path = f"{PYSTANDBY.parent}{os.pathsep}{os.defpath}"
    program: list[str | Path] = ["/bin/sh", SAMPLES / "failover"]
    return run(*words, server.data_directory, program=program, env=environment(FENCE=fence, PATH=path), as_server=False)


@pytest.mark.parametrize("fast", [True, False])
def test_the_failover_script(scene: Scene, fast: bool) -> None:
    scene.feed(to=4)
    standby = sample_standby(scene)
    standby.until_rows(scene.stock.rows[4])
    fenced = scene.folder / "fenced"
    # What it cannot do it does not begin.
    assert failover(standby, fence="").status == 1
    result = failover(standby, fence=f"touch {fenced}; exit 3")
    assert result.status == 1
    assert "no failover" in result.stderr
    assert fenced.exists()
    assert not scene.trigger_file.exists()
    standby.assert_not_promoted()
    result = failover(standby, *(["--fast"] if fast else []), fence="true")
    assert result.status == 0, result
    assert "the server takes writes after" in result.stdout
    standby.until_promoted(scene.stock.rows[4])
    assert not scene.trigger_file.exists()
    # Run again: it is up already, and may well be the primary by now that the fence would stop.
    fenced.unlink()
    result = failover(standby, fence=f"touch {fenced}")
    assert result.status == 1
    assert "is not in recovery" in result.stderr
    standby.stop("fast")
    result = failover(standby, fence=f"touch {fenced}")
    assert result.status == 1
    assert "is not running" in result.stderr
    assert not fenced.exists()

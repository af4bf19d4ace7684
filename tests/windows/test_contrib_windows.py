"""The samples in contrib/windows, run as their comments tell, on real servers; and that none of them is left out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import PYSTANDBY, Result, environment
from support.servers import SLOW, eventually

from windows.servers import CLIENTS, WindowsScene, WindowsServer, alive, with_clients, words_for_cmd

pytest_plugins = ["windows.servers"]

pytestmark = pytest.mark.timeout(180)

SAMPLES = Path(__file__).resolve().parent.parent.parent / "contrib" / "windows"

NOT_RUN = {"README.md", "pystandby.c", "failover.ps1", "pystandby-status-task.ps1"}
"""pystandby.exe is made of the second; of PowerShell there is none here."""

PROGRAM, ARCHIVE, TRIGGER = r"C:\pystandby\Scripts\pystandby.exe", r"D:\archive", r"D:\standby\failover"


def filled_in(scene: WindowsScene, name: str) -> Path:
    """A copy of a sample with its placeholders replaced, as its own comments tell."""
    text = (SAMPLES / name).read_bytes().decode("ascii")
    is_setting = name.endswith(".conf")
    for placeholder, value in ((PROGRAM, PYSTANDBY), (ARCHIVE, scene.archive), (TRIGGER, scene.trigger_file)):
        written, meant = placeholder, str(value)
        if is_setting:
            written, meant = written.replace("\\", "\\\\"), meant.replace("\\", "\\\\")
        text = text.replace(written, meant)
    told = "\n".join(line for line in text.splitlines() if not line.startswith(("#", "rem")))
    assert not re.search(r"\b[CD]:\\+(pystandby|archive|standby)", told), "a placeholder that was not replaced"
    copy = scene.folder / name
    copy.write_bytes(text.encode())
    return copy


def call(script: Path, *words: object, **variables: str) -> Result:
    """Run a .cmd file as a person, or a server, does."""
    line = f'cmd.exe /d /c ""{script}" {words_for_cmd(*map(str, words)).replace("%%", "%")}"'
    done = subprocess.run(
        line,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=script.parent,
        env=environment(**variables),
        timeout=120,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_no_sample_is_left_out() -> None:
    """Each is run by a test below, but those that the README says are not."""
    text = Path(__file__).read_text()
    for name in os.listdir(SAMPLES):
        assert name in NOT_RUN or f'"{name}"' in text.split("NOT_RUN", 2)[2], name
    readme = (SAMPLES / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in os.listdir(SAMPLES) if name != "README.md")


@pytest.mark.parametrize("name", [name for name in os.listdir(SAMPLES) if name.endswith((".cmd", ".ps1"))])
def test_lines_end_as_cmd_needs_them(name: str) -> None:
    content = (SAMPLES / name).read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n")
    assert content.endswith(b"\r\n")
    content.decode("ascii")


def test_the_samples(scene: WindowsScene) -> None:
    """A primary and a standby by their .conf, the standby by set-up-standby.cmd, and what failover.cmd refuses."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary()
    primary.configure({"archive_mode": False, "archive_command": "", "wal_level": "minimal", "max_wal_senders": 0})
    primary.write("postgresql.conf", filled_in(scene, "postgresql-primary.conf").read_text(), append=True)
    primary.configure({"max_wal_senders": 10})
    primary.begin()
    standby = scene.bare_standby()
    assert isinstance(standby, WindowsServer)
    result = call(
        filled_in(scene, "set-up-standby.cmd"), standby.data_directory, filled_in(scene, "postgresql-warm-standby.conf")
    )
    assert result.status == 0, result
    assert (standby.data_directory / "recovery.signal").exists()
    standby.begin()
    rows = primary.archive_rows()
    standby.until_rows(rows)
    assert not list(scene.archive.glob("*.pystandby*"))
    assert "archive command failed" not in primary.log_text()

    failover = filled_in(scene, "failover.cmd")
    # What it cannot do it does not begin.
    assert "usage:" in call(failover, standby.data_directory).stderr
    result = call(failover, standby.data_directory, FENCE="exit 3")
    assert result.status == 1, result
    assert "no failover" in result.stderr
    assert not scene.trigger_file.exists()
    standby.assert_not_promoted()
    # A script is how a person gives it a command with quotes in it.
    fence = scene.folder / "fence.cmd"
    stop = words_for_cmd(primary.installation.program("pg_ctl"), "stop", "-s", "-m", "immediate", "-D", primary.data_directory)
    fence.write_text(f"@{stop}\n", newline="\r\n")
    rows = primary.archive_rows()
    result = call(failover, standby.data_directory, FENCE=str(fence), WAIT="90", **with_clients())
    assert result.status == 0, result
    assert not primary.is_running()
    # It has waited for writes.
    assert not standby.in_recovery()
    assert standby.rows() == rows
    assert not scene.trigger_file.exists()


def test_a_base_backup_by_pg_basebackup(scene: WindowsScene) -> None:
    """The line that set-up-standby.cmd has in its comments, from a primary at work."""
    told = next(line.split() for line in (SAMPLES / "set-up-standby.cmd").read_text().splitlines() if " pg_basebackup " in line)
    assert told[1:] == ["pg_basebackup", "-h", "primary", "-U", "postgres", "-D", r"D:\pgdata", "-X", "none", "-c", "fast"]
    scene.feed(to=scene.stock.last)
    primary = scene.primary()
    primary.begin()
    made = scene.folder / "pgdata"
    exchanged = {"primary": "127.0.0.1", r"D:\pgdata": str(made)}
    words = [str(CLIENTS / "pg_basebackup.exe"), *(exchanged.get(word, word) for word in told[2:]), "-p", str(primary.port)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=90)
    assert done.returncode == 0, done
    standby = scene.bare_standby(backup=made)
    settings = filled_in(scene, "postgresql-warm-standby.conf")
    assert call(filled_in(scene, "set-up-standby.cmd"), standby.data_directory, settings).status == 0
    standby.begin()
    rows = primary.archive_rows()
    standby.until_rows(rows)
    assert standby.in_recovery()


def test_what_set_up_standby_refuses(scene: WindowsScene) -> None:
    standby = scene.bare_standby()
    script, settings = filled_in(scene, "set-up-standby.cmd"), filled_in(scene, "postgresql-warm-standby.conf")
    assert call(script).status == 1
    assert "is not a data directory" in call(script, scene.folder, settings).stderr
    assert "is not there" in call(script, standby.data_directory, scene.folder / "none.conf").stderr
    pid_file = standby.write("postmaster.pid", "1\n")
    assert "may be running" in call(script, standby.data_directory, settings).stderr
    pid_file.unlink()
    assert not (standby.data_directory / "recovery.signal").exists()
    for _ in range(2):
        assert call(script, standby.data_directory, settings).status == 0
    # Once, however often.
    assert (standby.data_directory / "postgresql.conf").read_text().count("warm-standby.conf") == 1


def test_the_commands_that_are_scripts(scene: WindowsScene) -> None:
    scene.feed(to=scene.stock.last)
    primary = scene.primary()
    primary.configure({"archive_command": f'{words_for_cmd(filled_in(scene, "archive.cmd"))} "%p" %f'})
    primary.begin()
    standby = scene.standby(
        restore_command=f'{words_for_cmd(filled_in(scene, "restore.cmd"))} %f "%p" %r',
        settings={"recovery_end_command": words_for_cmd(filled_in(scene, "recovery-end.cmd")), **scene.seen_at_once},
    ).begin()
    rows = primary.archive_rows()
    standby.until_rows(rows)
    eventually(standby.commands, "a command waits", tell=standby.tell)
    rows = primary.archive_rows()
    primary.stop("immediate")
    scene.trigger_file.touch()
    standby.until_promoted(rows)
    assert not scene.trigger_file.exists()
    assert not list(scene.archive.glob("*.part"))
    assert "archive command failed" not in primary.log_text()


def test_the_archive_script(scene: WindowsScene) -> None:
    """It replaces nothing, and leaves no half file."""
    script = filled_in(scene, "archive.cmd")
    file = scene.folder / "a segment"
    file.write_bytes(b"one")
    archive = scene.folder / "WAL & more"
    archive.mkdir()
    name = scene.stock.names[0]
    variables = {"ARCHIVE": str(archive)}
    assert call(script, file, name, **variables) == (0, "", "")
    assert (archive / name).read_bytes() == b"one"
    file.write_bytes(b"two")
    result = call(script, file, name, **variables)
    assert result.status == 1
    assert f"has a {name} already" in result.stderr
    assert (archive / name).read_bytes() == b"one"
    assert call(script, file, "b", ARCHIVE=str(scene.folder / "none")).status == 1
    assert call(script, scene.folder / "none", "b", **variables).status == 1
    assert call(script).status == 1
    assert [path.name for path in archive.iterdir()] == [name]


def test_the_restore_script_without_pystandby(scene: WindowsScene) -> None:
    scene.feed(to=2)
    script = filled_in(scene, "restore.cmd")
    standby = scene.standby(restore_command=f'{words_for_cmd(script)} %f "%p" %r').begin()
    eventually(standby.commands, "a command waits", tell=standby.tell)
    standby.stop("fast")
    script.write_bytes(script.read_bytes().replace(str(PYSTANDBY).encode(), b"C:\\none.exe"))
    standby.begin(connections=False)
    log = standby.until_down()
    assert '"C:\\none.exe" is not there' in log
    assert "exit code 202" in log
    standby.assert_not_promoted()


def test_the_figures(scene: WindowsScene) -> None:
    scene.feed(to=2)
    standby = scene.standby().begin()
    standby.until_waiting(3)
    figures = scene.folder / "pystandby.prom"
    variables = {"DATA_DIRECTORY": str(standby.data_directory), "METRICS": str(figures)}
    result = call(filled_in(scene, "pystandby-status.cmd"), **variables)
    assert result.status == 0, result
    assert "pystandby_" in figures.read_text()


# --- what the README says of quoting ---------------------------------------------------------------------------------


IN_POSTGRESQL_CONF = {
    r"'D:\\archive'": r"D:\archive",
    r"'D:\archive'": "D:archive",
    "'D:/archive'": "D:/archive",
    r"'\\\\files\\archive'": r"\\files\archive",
    r"'D:\\it''s'": r"D:\it's",
}


def test_quotes_of_postgresql_conf_and_of_alter_system(scene: WindowsScene) -> None:
    primary = scene.primary()
    lines = [f"quoting.form{number} = {written}\n" for number, written in enumerate(IN_POSTGRESQL_CONF)]
    primary.write("postgresql.conf", "".join(lines), append=True)
    primary.begin()
    shown = [primary.sql(f"SHOW quoting.form{number}") for number in range(len(lines))]
    assert shown == [[(meant,)] for meant in IN_POSTGRESQL_CONF.values()]
    # SQL takes a backslash as it is.
    command = rf'{PYSTANDBY} -t {scene.trigger_file} {scene.archive} %f "%p" %r'
    primary.sql(f"ALTER SYSTEM SET archive_command = '{command}'")
    primary.sql("SELECT pg_reload_conf()")
    eventually(lambda: primary.sql("SHOW archive_command") == [(command,)], "the setting is read", tell=primary.tell)


def test_slashes_in_what_pystandby_is_given(scene: WindowsScene) -> None:
    scene.feed(to=2)
    slashed = [path.as_posix() for path in (scene.trigger_file, scene.archive)]
    restore_command = rf'{words_for_cmd(PYSTANDBY)} -d -s {SLOW} --stable 0 -t {slashed[0]} {slashed[1]} %f "%p" %r'
    # The program itself with slashes takes quotes.
    recovery_end_command = f'"{PYSTANDBY.as_posix()}" recovery-end -t "{slashed[0]}"'
    standby = scene.standby(restore_command=restore_command, settings={"recovery_end_command": recovery_end_command}).begin()
    command = standby.until_waiting(3)
    scene.trigger()
    standby.until_promoted(scene.stock.rows[2])
    assert not alive(command)
    assert not scene.trigger_file.exists()


def test_percent_signs_of_a_script_and_by_hand(scene: WindowsScene) -> None:
    archive = scene.folder / "100%"
    archive.mkdir()
    (archive / scene.stock.names[0]).write_bytes(scene.stock.read(0))
    script = scene.folder / "verify.cmd"
    script.write_text(f'@"{PYSTANDBY}" verify "{scene.folder}\\100%%"\n', newline="\r\n")
    result = call(script)
    assert result.status == 0, result
    line = f'cmd.exe /d /c ""{PYSTANDBY}" verify "{archive}""'
    assert subprocess.run(line, check=False, capture_output=True, env=environment(), stdin=subprocess.DEVNULL).returncode == 0


def test_a_backslash_before_the_closing_quote_is_part_of_the_name() -> None:
    program = "import sys; print(sys.argv[1:])"
    line = f'"{sys.executable}" -c "{program}" "D:\\archive\\" next'
    answer = subprocess.run(line, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert answer.stdout.strip() == repr(['D:\\archive" next'])

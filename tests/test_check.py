"""pystandby check: each thing that is wrong with a standby is found before it goes live, and nothing is said of a sound one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, Argument, Installation, Result, run
from support.compressed import compress
from support.servers import Scene, Server

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)


def sound(scene: Scene, *options: Argument, **changes: str | int | bool) -> Server:
    """A standby that is ready to be started, with settings changed."""
    scene.feed(to=2)
    settings: dict[str, str | int | bool] = {
        "recovery_end_command": f"{PYSTANDBY} recovery-end -t {scene.trigger_file} || exit 1",
        **scene.seen_at_once,
        "wal_log_hints": False,
        "hot_standby": True,
    }
    standby = scene.standby(*options, settings={**settings, **changes})
    (standby.data_directory / "pg_wal").mkdir(exist_ok=True)
    return standby


def check(server: Server, *options: Argument) -> Result:
    return run("check", "-D", server.data_directory, "--bindir", server.installation.bindir, *options, as_server=False)


def finds(result: Result, level: str, *texts: str) -> bool:
    """Whether a check has found one thing, of a level, with these texts, and says how to mend it."""
    lines = result.stdout.splitlines()
    assert result.stderr == "", result.stderr
    assert [line.partition(":")[0] for line in lines[:-1]] == [level, "HINT"], result.stdout
    errors = int(level == "ERROR")
    assert lines[-1] == f"{errors} errors, {1 - errors} warnings"
    assert result.status == errors
    for text in texts:
        assert text in result.stdout, (text, result.stdout)
    return True


# A sound standby ------------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_a_sound_standby(scene: Scene) -> None:
    standby = sound(scene)
    before = _state(scene.folder)
    assert check(standby) == (0, "0 errors, 0 warnings\n", "")
    assert _state(scene.folder) == before
    # And it is one; while it runs as well.
    standby.begin()
    standby.until_rows(scene.stock.rows[2])
    result = run("check", "-D", standby.data_directory, as_server=False)
    assert result == (0, "0 errors, 0 warnings\n", "")


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def test_up_to_11(scene11: Scene) -> None:
    scene11.feed(to=2)
    standby = scene11.standby()
    standby.reconfigure({"recovery_end_command": f"rm -f {scene11.trigger_file}"})
    standby.configure({"hot_standby": True, "wal_log_hints": False})
    assert check(standby).stdout == "0 errors, 0 warnings\n"
    (standby.data_directory / "recovery.conf").write_text("")
    assert "there is no recovery.conf" not in check(standby).stdout
    (standby.data_directory / "recovery.conf").unlink()
    result = check(standby)
    assert result.status == 1
    assert "ERROR:  there is no recovery.conf: the server would start as a primary" in result.stdout


# The settings ---------------------------------------------------------------------------------------------------------


def test_no_signal_file(scene: Scene) -> None:
    standby = sound(scene)
    name = "recovery.signal" if scene.stock.installation.version >= 12 else "recovery.conf"
    (standby.data_directory / name).unlink()
    result = check(standby)
    assert result.status == 1
    assert f"ERROR:  there is no {name}: the server would start as a primary" in result.stdout


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("recovery_end_command", "rm -f {t}; date +%T"),
        ("archive_cleanup_command", "echo %p"),
        ("recovery_end_command", "rm -f {t} %"),
    ],
)
def test_placeholders_that_are_none(scene: Scene, setting: str, text: str) -> None:
    standby = sound(scene, **{setting: text.format(t=scene.trigger_file)})
    result = check(standby)
    if scene.stock.installation.version >= 16:
        assert finds(result, "ERROR", f"in {setting} takes the server down, when {setting} is first run", "for a percent sign")
    else:
        assert finds(result, "WARNING", f"in {setting} is passed on as it is", "for a percent sign")
    standby.reconfigure({setting: text.format(t=scene.trigger_file).replace("%", "%%")})
    assert check(standby).status == 0


def test_hot_standby_off(scene: Scene) -> None:
    assert finds(check(sound(scene, hot_standby=False)), "WARNING", "hot_standby is off")


def test_recovery_prefetch_on(scene: Scene) -> None:
    if not scene.seen_at_once:
        assert check(sound(scene)) == (0, "0 errors, 0 warnings\n", "")
        return
    standby = sound(scene, recovery_prefetch="try")
    assert finds(check(standby), "WARNING", "recovery_prefetch is on", "HINT:  Set recovery_prefetch = off.")


def test_restart_point_and_pg_rewind(scene: Scene) -> None:
    standby = sound(scene, wal_log_hints=True)
    assert finds(check(standby), "WARNING", "pg_rewind -c refuses %r")


RESTORE_COMMANDS = [
    ("", "ERROR", "restore_command is not set"),
    ("cp {a}/%f %p", "WARNING", "restore_command has no pystandby that can be seen"),
    ("{p} -t '{t} {a} %f %p", "ERROR", "restore_command cannot be read by a shell: No closing quotation"),
    ("{p} -t {t} {a} %f pg_wal/RECOVERYXLOG", "ERROR", "restore_command has no %p"),
    ("{p} -t {t} {a} %p", "ERROR", "pystandby cannot understand its words in restore_command: "),
    ("{p} -t {t} --no-such-option {a} %f %p", "ERROR", "--no-such-option"),
    ("/no/such/pystandby -t {t} {a} %f %p", "ERROR", '"/no/such/pystandby" in restore_command cannot be run'),
    ("pystandby -t {t} {a} %f %p", "WARNING", 'restore_command has "pystandby" without its path'),
    ("{p} {a} %f %p", "WARNING", "restore_command names no trigger file"),
    ("{p} -t {d}/none/t {a} %f %p", "ERROR", "the folder of trigger file"),
    ("{p} -t {t} {d}/none %f %p", "ERROR", "cannot be read by the server: No such file or directory"),
    ("{p} -t {t} {a} %p %f", "ERROR", "restore_command gives pystandby %p, %f where it wants %f, %p"),
    ("{p} -t {t} {a} %f %p %f", "ERROR", "restore_command gives pystandby %f, %p, %f where it wants %f, %p"),
    ("{p} -t {t} {a} %f %p extra words 2>>{d}/log", "ERROR", "pystandby cannot understand its words in restore_command: "),
]


@pytest.mark.parametrize(("command", "level", "text"), RESTORE_COMMANDS, ids=[case[0] for case in RESTORE_COMMANDS])
def test_restore_command(scene: Scene, command: str, level: str, text: str) -> None:
    standby = sound(scene)
    words = command.format(p=PYSTANDBY, t=scene.trigger_file, a=scene.archive, d=scene.folder)
    standby.reconfigure({"restore_command": words})
    result = check(standby)
    if command.endswith(("pg_wal/RECOVERYXLOG", "%p")) and text.startswith(("restore_command has no %p", "pystandby cannot")):
        assert result.status == 1
        assert f"{level}:  {text}" in result.stdout
        return
    if "none/t" in command:
        # recovery_end_command removes another one.
        assert result.status == 1
        assert text in result.stdout
        return
    assert finds(result, level, text)


SHELL_COMMANDS = [
    "mv pg_wal/.pystandby/%f %p 2>/dev/null || exec {p} {a} %f %p %r",
    "exec {p} {a} %f %p 2>>{d}/log",
    "{p} {a} %f %p %r 2>>{d}/log",
    "{p} {a} %f %p >{d}/log 2>&1",
    "{p} {a} %f %p; exit $?",
    "({p} {a} %f %p)",
    "exec {p} {a} \"%f\" '%p'",
]


@pytest.mark.parametrize("command", SHELL_COMMANDS)
def test_in_a_shell_command(scene: Scene, command: str) -> None:
    standby = sound(scene)
    words = command.format(p=f"{PYSTANDBY} -t {scene.trigger_file}", a=scene.archive, d=scene.folder)
    standby.reconfigure({"restore_command": words})
    assert check(standby) == (0, "0 errors, 0 warnings\n", "")
    # The very words are pystandby's for trigger as well.
    result = run("trigger", "show", "-D", standby.data_directory, as_server=False)
    assert f'there is no trigger file "{scene.trigger_file}"' in result.stdout, result


# The trigger file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["{p} recovery-end || exit 1", "{p} recovery-end -t {t}2 || exit 1", "rm -f {t}2", "/bin/rm -f x"]
)
def test_a_recovery_end_command_for_another_trigger_file(scene: Scene, command: str) -> None:
    standby = sound(scene, recovery_end_command=command.format(p=PYSTANDBY, t=scene.trigger_file))
    assert finds(check(standby), "WARNING", "recovery_end_command does not name trigger file")


def test_a_script_as_recovery_end_command_is_not_looked_into(scene: Scene) -> None:
    standby = sound(scene, recovery_end_command="/usr/local/bin/promoted || exit 1")
    assert check(standby) == (0, "0 errors, 0 warnings\n", "")


def test_no_recovery_end_command(scene: Scene) -> None:
    standby = sound(scene, recovery_end_command="")
    assert finds(
        check(standby),
        "WARNING",
        "recovery_end_command is not set",
        f"HINT:  Set recovery_end_command = 'pystandby recovery-end -t {scene.trigger_file} || exit 1'.",
    )
    standby.reconfigure({"recovery_end_command": "rm -f /tmp/another"})
    assert finds(check(standby), "WARNING", "recovery_end_command does not name trigger file")


def test_a_left_over_trigger_file(scene: Scene) -> None:
    standby = sound(scene)
    scene.trigger()
    assert finds(check(standby), "ERROR", "the server would be promoted at its first missing segment")
    assert scene.trigger_file.exists()
    scene.trigger("nonsense")
    assert finds(check(standby), "WARNING", "has invalid content")


def test_a_trigger_file_in_everybodys_folder(scene: Scene) -> None:
    standby = sound(scene)
    everybodys = scene.folder / "tmp"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    scene.trigger_file = everybodys / "failover"
    standby.reconfigure({"restore_command": scene.restore_command(), "recovery_end_command": f"rm -f {scene.trigger_file}"})
    assert finds(check(standby), "WARNING", "everybody may write to", "in a folder of the server's own")
    standby.reconfigure({"restore_command": scene.restore_command("--trust-trigger")})
    assert check(standby).stdout == "0 errors, 0 warnings\n"


def test_standby_mode(scene: Scene) -> None:
    standby = sound(scene)
    if scene.stock.installation.version >= 12:
        (standby.data_directory / "recovery.signal").rename(standby.data_directory / "standby.signal")
    else:
        standby.reconfigure({"standby_mode": True})
    assert finds(check(standby), "WARNING", "in standby mode, where its trigger file does nothing")
    standby.reconfigure({"restore_command": scene.restore_command("--promote")})
    assert check(standby).stdout == "0 errors, 0 warnings\n"


# The archive and the spool ----------------------------------------------------------------------------------------------


def test_an_archive_of_another_cluster(scene: Scene) -> None:
    standby = sound(scene)
    name = segments.name(99)
    version = str(scene.stock.installation.version)
    scene.put(name, segments.full(name, version=version, system_identifier=4711))
    assert finds(check(standby), "ERROR", f"{name}", "is of another cluster: its system identifier is 4711")


def test_an_archive_with_nothing(scene: Scene) -> None:
    standby = sound(scene)
    for path in scene.archive.iterdir():
        path.unlink()
    assert finds(check(standby), "WARNING", "holds no segment")


def test_a_compressed_archive(scene: Scene) -> None:
    standby = sound(scene)
    for path in list(scene.archive.iterdir()):
        scene.put(f"{path.name}.zst", compress(path.read_bytes(), ".zst"))
        path.unlink()
    assert check(standby).stdout == "0 errors, 0 warnings\n"
    words: list[Argument] = ["check", "-D", standby.data_directory, "--bindir", standby.installation.bindir]
    without = Installation(scene.folder / "without").run(*words, cwd=scene.folder)
    assert finds(without, "ERROR", 'holds ".zst" files', "-m pip install zstandard")
    scene.put(f"{scene.stock.names[10]}.zst", b"x")
    assert finds(check(standby), "WARNING", f"{scene.stock.names[10]}.zst", "data are damaged")


def test_an_archive_without_rights(scene: Scene) -> None:
    assert os.geteuid(), "to root no folder is read-only: run the tests as an ordinary user"
    standby = sound(scene)
    scene.archive.chmod(0o500)
    try:
        assert finds(check(standby), "WARNING", "cannot be written by the server's user, so nothing is removed from it")
        scene.archive.chmod(0o300)
        assert finds(check(standby), "ERROR", "cannot be read by the server: Permission denied")
    finally:
        scene.archive.chmod(0o700)
    (scene.archive / scene.stock.names[2]).chmod(0)
    assert finds(check(standby), "ERROR", f'{scene.stock.names[2]}" cannot be read by the server: Permission denied')


def test_the_first_segment_is_missing(scene: Scene) -> None:
    standby = sound(scene)
    (scene.archive / scene.stock.names[0]).unlink()
    assert finds(check(standby), "ERROR", f"segment {scene.stock.names[0]}, which recovery begins with, is neither in archive")


def test_a_timeline_that_cannot_be_reached(scene: Scene) -> None:
    standby = sound(scene)
    # It descends from a timeline that this cluster never was on.
    scene.put("00000002.history", segments.history((7, 1 << 20)))
    assert finds(check(standby), "ERROR", "timeline 2 in the archive does not descend from timeline 1")
    # One that left later is followed.
    scene.put("00000002.history", segments.history((1, 1 << 40)))
    assert check(standby).stdout == "0 errors, 0 warnings\n"


def test_a_spool_on_another_file_system(scene: Scene) -> None:
    standby = sound(scene)
    shm = Path("/dev/shm")
    assert shm.stat().st_dev != standby.data_directory.stat().st_dev, "the tests' folder is on the file system of /dev/shm"
    (standby.data_directory / "pg_wal" / ".pystandby").symlink_to(shm)
    assert finds(check(standby), "WARNING", "is on another file system", "HINT:  Remove it")


# What cannot be checked -----------------------------------------------------------------------------------------------------


def test_programs_that_are_not_there(scene: Scene) -> None:
    standby = sound(scene)
    result = run("check", "-D", standby.data_directory, "--bindir", "/no/such", as_server=False)
    assert finds(result, "ERROR", "is set to is not known", '"/no/such/postgres" could not be run')
    standby.write("postgresql.conf", "no such line\n", append=True)
    assert finds(check(standby), "ERROR", "is set to is not known", "postgresql.conf")


def test_postgresql_conf_elsewhere(scene: Scene) -> None:
    """As Debian has it."""
    standby = sound(scene)
    elsewhere = scene.folder / "etc.conf"
    (standby.data_directory / "postgresql.conf").rename(elsewhere)
    assert "is not known" in check(standby).stdout
    assert check(standby, "--config-file", elsewhere) == (0, "0 errors, 0 warnings\n", "")


@pytest.mark.parametrize(("words", "status"), [([], 200), (["-D", "/nowhere"], 1), (["-D", "/tmp", "more"], 200), (["-x"], 200)])
def test_usage_error(words: list[str], status: int) -> None:
    result = run("check", *words, as_server=False)
    assert result.status == status
    assert result.stderr.count("ERROR:") == 1


def test_the_samples_are_sound(scene: Scene) -> None:
    """Nothing but the program's own path is said of those for a warm standby."""
    samples = Path(__file__).resolve().parent.parent / "contrib" / "linux"
    scene.feed(to=2)
    standby = scene.bare_standby()
    version = scene.stock.installation.version
    sample = samples / ("postgresql-warm-standby.conf" if version >= 12 else "recovery.conf")
    text = sample.read_text()
    text = text.replace("/mnt/server/archive", str(scene.archive)).replace(
        "/var/lib/postgresql/failover", str(scene.trigger_file)
    )
    if not scene.seen_at_once:
        # As it says.
        text = text.replace("recovery_prefetch = off", "")
    standby.configure({"wal_log_hints": False, "hot_standby": True})
    standby.write("postgresql.conf" if version >= 12 else "recovery.conf", f"\n{text}\n", append=True)
    if version >= 12:
        standby.write("recovery.signal", "")
    assert finds(check(standby), "WARNING", 'restore_command has "pystandby" without its path')

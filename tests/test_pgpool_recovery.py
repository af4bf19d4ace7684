"""Online recovery by Pgpool-II with the scripts of contrib/linux/pgpool, on real servers; and ssh: make test-pgpool."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from support.command import run
from support.pgpool import FED, HOST, Node, Pool
from support.servers import eventually

pytest_plugins = ["support.pgpool"]

pytestmark = [pytest.mark.pgpool, pytest.mark.timeout(300)]

RECOVERY_DEADLINE = 120.0
"""Seconds within which an online recovery must have ended; it takes a few."""


def recovered(pool: Pool, node: Node) -> None:
    """Have a node made anew."""
    done = pool.pcp("pcp_recovery_node", "-n", node.number, deadline=RECOVERY_DEADLINE)
    # Its status is 0 even when it fails.
    assert done.status == 0, f"{done}\n{pool.tell()}"
    assert "ERROR" not in done.stderr, f"{done}\n{pool.tell()}"


def old_directories(node: Node) -> list[Path]:
    """What a node's data directory was before it was made anew."""
    return sorted(node.socket_directory.glob("data.until-*"))


def test_the_old_primary_is_made_anew(pool: Pool) -> None:
    """It becomes a standby of the one that took its place, and takes it back."""
    first, second = pool.servers(FED)
    # Nothing of it is there yet.
    third = pool.new_node()
    pool.begin()
    pool.until_nodes("up primary", "up standby", "down standby")
    recovered(pool, third)
    pool.until_nodes("up primary", "up standby", "up standby")
    pool.until_noticed("node 2 is attached, a standby")
    assert third.in_recovery()
    first.write_rows(50)
    third.until_rows(150)

    first.stop("fast")
    pool.until_nodes("down standby", "up primary", "up standby")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to the second')")
    recovered(pool, first)
    pool.until_nodes("up standby", "up primary", "up standby")
    (old,) = old_directories(first)
    assert (old / "PG_VERSION").exists()
    assert not list(old.glob("*.signal"))
    assert str(old) in pool.script_lines()
    second.write_rows(50)
    for standby in (first, third):
        standby.until_rows(201)
        assert standby.in_recovery()
        checked = run("check", "--pgdata", standby.data_directory)
        assert "ERROR" not in checked.stdout + checked.stderr, checked

    second.stop("fast")
    pool.until_nodes("up primary", "down standby", "up standby")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to the first again')")
    assert first.rows() == 202
    first.archive_all()
    third.until_rows(202)


def test_what_is_not_made_anew(pool: Pool) -> None:
    """Each time the node stays as it is, and detached."""
    primary, standby = pool.servers(FED)
    pool.begin()
    pool.until_nodes("up primary", "up standby")
    assert pool.pcp("pcp_detach_node", 1).status == 0
    pool.until_nodes("up primary", "down standby")

    def refused(why: str) -> None:
        done = pool.pcp("pcp_recovery_node", "-n", 1, deadline=RECOVERY_DEADLINE)
        assert 'execution of command failed at "1st stage"' in done.stderr, done
        assert why in pool.script_lines()
        assert (standby.data_directory / "recovery.signal").exists()
        assert not old_directories(standby)
        pool.until_nodes("up primary", "down standby")

    refused(f'the server in "{standby.data_directory}" runs: stop it first')
    assert standby.in_recovery()
    standby.stop("fast")
    # Who cannot tell whether it runs does not move its data away.
    pool.configure(BINDIR=str(pool.folder))
    shutil.copy(standby.installation.program("psql"), pool.folder)
    refused("pg_ctl: not found")
    pool.configure(BINDIR=str(standby.installation.bindir))
    place = pool.folder / "tablespace"
    place.mkdir()
    primary.sql(f"CREATE TABLESPACE somewhere LOCATION '{place}'")
    refused("the primary has tablespaces")
    primary.sql("DROP TABLESPACE somewhere")
    # What cannot be looked into may belong to a server that runs; what is a link cannot be replaced by a rename.
    standby.data_directory.chmod(0)
    done = pool.pcp("pcp_recovery_node", "-n", 1, deadline=RECOVERY_DEADLINE)
    standby.data_directory.chmod(0o700)
    assert 'execution of command failed at "1st stage"' in done.stderr, done
    assert f'could not open PID file "{standby.data_directory}/postmaster.pid"' in pool.script_lines()
    place = standby.data_directory.rename(standby.data_directory.with_name("elsewhere"))
    standby.data_directory.symlink_to(place)
    refused("is a symbolic link or a mount point")
    standby.data_directory.unlink()
    place.rename(standby.data_directory)
    # A primary that does not archive, an archive that the node does not see.
    pool.configure(FOLLOW_TIMEOUT="5")
    primary.sql("ALTER SYSTEM SET archive_command = 'false'")
    primary.sql("SELECT pg_reload_conf()")
    refused("its log and pg_stat_archiver say why")
    primary.sql("ALTER SYSTEM RESET archive_command")
    primary.sql("SELECT pg_reload_conf()")
    primary.archive_all()
    pool.configure(ARCHIVE=str(pool.folder / "not-mounted"))
    refused(f'in archive "{pool.folder}/not-mounted": it is as it was')
    pool.configure(ARCHIVE=str(pool.archive), FOLLOW_TIMEOUT="60")
    # It begins, and fails: nothing is left of it.
    pool.configure(REPLICATION_USER="pgpool")
    refused("no base backup could be made")
    assert not list(standby.socket_directory.glob("data.new-*"))
    pool.configure(REPLICATION_USER="postgres")
    # It ends half-way.
    programs = pool.folder / "programs"
    programs.mkdir()
    for program in ("psql", "pg_ctl"):
        (programs / program).symlink_to(standby.installation.program(program))
    (programs / "pg_basebackup").write_text(
        f'#!/bin/sh\nexec {standby.installation.program("pg_basebackup")} --max-rate=32 "$@"\n'
    )
    (programs / "pg_basebackup").chmod(0o755)
    pool.configure(BINDIR=str(programs), BACKUP_TIMEOUT="3")
    refused("what is left of the backup, if anything, is")
    assert len(list(standby.socket_directory.glob("data.new-*"))) == 1
    # The node is as it was, and can be made anew.
    standby.begin()
    assert standby.in_recovery()
    standby.stop("fast")
    pool.configure(BINDIR=str(standby.installation.bindir), BACKUP_TIMEOUT="0")
    recovered(pool, standby)
    pool.until_nodes("up primary", "up standby")
    assert len(old_directories(standby)) == 1
    # No word is missing, or else nothing is done.
    for stage in ("recovery_1st_stage", "recovery_2nd_stage", "pgpool_remote_start"):
        result = pool.call(stage, primary.data_directory)
        assert result.status == 1, result
        assert f"{stage} ERROR:  called with 1 words" in result.stderr


def test_a_name_that_needs_quotes(pool: Pool) -> None:
    """The data directory's name goes through two shells, and through postgresql.auto.conf."""
    (primary,) = pool.servers()
    node = pool.new_node()
    # A dollar or a double quote pg_ctl itself does not get through its shell.
    node.data_name = "it's 100% of 'it'"
    words: list[str | int | Path] = [
        primary.data_directory,
        HOST,
        node.data_directory,
        primary.port,
        node.number,
        node.port,
        HOST,
    ]
    result = pool.call("recovery_1st_stage", *words, deadline=RECOVERY_DEADLINE)
    assert result.status == 0, result
    # One from an earlier failover: it would be obeyed.
    node.trigger_file.touch()
    result = pool.call("recovery_1st_stage", *words, deadline=RECOVERY_DEADLINE)
    assert result.status == 0, result
    assert not node.trigger_file.exists()
    result = pool.call("pgpool_remote_start", HOST, node.data_directory)
    assert result.status == 0, result
    node.until_up(in_recovery=True)
    node.until_rows(100)
    result = pool.call("failover.sh", *pool.placeholders(primary, node, primary))
    assert result.status == 0, result
    assert not node.in_recovery()
    assert not primary.is_running()
    assert not node.trigger_file.exists()
    node.archive_all()


def test_native_replication(pool: Pool) -> None:
    """Each node is a primary; a new one, one that failed, and the main one are made of the other."""
    pool.configure(CLUSTERING_MODE="native_replication")
    first = pool.primary()
    pool.give_own_archive(first)
    first.begin()
    second = pool.new_node()
    pool.begin(backend_clustering_mode="native_replication", client_idle_limit_in_recovery=1)
    pool.until_nodes("up main", "down replica")

    # Somebody writes until the last moment, and does not go.
    with psycopg.connect(host=HOST, port=pool.port, user="postgres", dbname="postgres", autocommit=True) as idle:
        idle.execute("INSERT INTO ledger (note) VALUES ('before the second stage')")
        recovered(pool, second)
    pool.until_nodes("up main", "up replica")
    assert not second.in_recovery()
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to both')")
    assert (first.rows(), second.rows()) == (102, 102)

    second.stop("fast")
    pool.until_nodes("up main", "down replica")
    pool.until_noticed("node 1 went down, and there was no primary: nothing to promote")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to one')")
    recovered(pool, second)
    pool.until_nodes("up main", "up replica")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to both')")
    assert (first.rows(), second.rows()) == (104, 104)
    assert len(old_directories(second)) == 1
    # What it had archived before is not in the way.
    second.archive_all()
    assert len(list(pool.archive.glob(f"{HOST}-{second.port}.until-*"))) == 1

    first.stop("fast")
    pool.until_nodes("down replica", "up main")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to the other')")
    recovered(pool, first)
    pool.until_nodes("up main", "up replica")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to both')")
    assert (first.rows(), second.rows()) == (106, 106)
    first.archive_all()
    for node in (first, second):
        assert not node.trigger_file.exists()


# --- ssh -------------------------------------------------------------------------------------------------------------


@contextmanager
def ssh_server(pool: Pool) -> Iterator[Path]:
    """A real sshd of this user on 127.0.0.1, with keys that were made for it; the scripts use it. Returns its log."""
    place = pool.folder / "ssh"
    place.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key], check=True, stdin=subprocess.DEVNULL)
    port = pool.take_port()
    shutil.copy(place / "user.pub", place / "authorized_keys")
    kind, key, *_ = (place / "host.pub").read_text().split()
    (place / "known_hosts").write_text(f"[{HOST}]:{port} {kind} {key}\n")
    (place / "sshd_config").write_text(
        f"Port {port}\nListenAddress {HOST}\nHostKey {place}/host\nAuthorizedKeysFile {place}/authorized_keys\nPidFile none\n"
        "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\nPermitUserRC no\n"
    )
    pool.configure(
        REMOTE="ssh",
        SSH_USER=getpass.getuser(),
        SSH_OPTIONS=f"-F none -p {port} -i {place}/user -o IdentitiesOnly=yes -o GlobalKnownHostsFile=none "
        f"-o UserKnownHostsFile={place}/known_hosts",
    )
    log = place / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", place / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=place,
            start_new_session=True,
        )
    try:
        eventually(lambda: "Server listening" in log.read_text(), "sshd listens", tell=log.read_text)
        yield log
    finally:
        server.terminate()
        server.wait(20)


def test_over_ssh(pool: Pool) -> None:
    """A failover, a standby that follows, an online recovery."""
    with ssh_server(pool) as log:
        first, second, third = pool.servers(FED, FED)
        pool.begin()
        pool.until_nodes("up primary", "up standby", "up standby")
        first.write_rows(50)
        first.stop("fast")
        pool.until_nodes("down standby", "up primary", "up standby")
        pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to the second')")
        assert second.rows() == 151
        pool.until_noticed("node 2 follows node 1, on timeline 2, and is attached")
        recovered(pool, first)
        pool.until_nodes("up standby", "up primary", "up standby")
        second.archive_all()
        for standby in (first, third):
            standby.until_rows(151)
        assert log.read_text().count("Accepted publickey") > 6


def test_what_ssh_refuses(pool: Pool) -> None:
    """Another host than before, a key that is not known, a host that is silent: no failover, and nobody is asked."""
    primary, standby = pool.servers(FED)
    words = pool.placeholders(primary, standby, primary)

    def refused() -> str:
        began = time.monotonic()
        result = pool.call("failover.sh", *words)
        assert result.status == 1, result
        assert "ERROR:  host 127.0.0.1 of node 1 cannot be reached: no failover" in result.stderr
        assert time.monotonic() - began < 40
        assert primary.is_running()
        assert not standby.trigger_file.exists()
        return result.stderr

    with ssh_server(pool) as log:
        place = log.parent
        known = (place / "known_hosts").read_text()
        (place / "known_hosts").write_text("")
        assert "Host key verification failed" in refused()
        assert (place / "known_hosts").read_text() == "", "it is not added"
        kind, other, *_ = (place / "user.pub").read_text().split()
        (place / "known_hosts").write_text(f"{known.split()[0]} {kind} {other}\n")
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused()
        (place / "known_hosts").write_text(known)
        (place / "authorized_keys").write_text("")
        assert "Permission denied (publickey)" in refused()
        assert "Accepted" not in log.read_text()
    # It takes the connection, and says nothing.
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind((HOST, int(known.split()[0].rpartition(":")[2])))
        silent.listen()
        assert "timed out" in refused()


def test_words_arrive_as_they_are(pool: Pool) -> None:
    (pool.scripts / "words.sh").write_text('. "$(dirname -- "$0")/common.sh"\non 127.0.0.1 30 \'printf "<%s>\\n" "$@"\' "$@"\n')
    words = ["a b", "it's", "$HOME `id` \\", '"', "", "100%", "*", "-n", "!x", "é"]

    def arrived() -> list[str]:
        result = pool.call("words.sh", *words)
        assert result.status == 0, result
        return [line.rpartition("LOG:    ")[2] for line in result.stderr.splitlines()]

    expected = [f"<{word}>" for word in words]
    assert arrived() == expected
    with ssh_server(pool):
        assert arrived() == expected
        # What is out of time is ended there as well: it would get in the way of the next try.
        pid = pool.folder / "pid"
        (pool.scripts / "long.sh").write_text(
            f'. "$(dirname -- "$0")/common.sh"\non 127.0.0.1 1 \'echo $$ >"$1"; sleep 1000\' "{pid}"\n'
        )
        assert pool.call("long.sh").status == 124
        process = Path("/proc", pid.read_text().strip())
        eventually(lambda: not process.exists(), "what ran there is ended", tell=pool.script_lines)


def test_no_room_for_what_is_said(pool: Pool) -> None:
    """A status is the command's all the same, and what it says is logged."""
    (pool.scripts / "elsewhere.sh").write_text(
        'export TMPDIR=/missing\n. "$(dirname -- "$0")/common.sh"\nattempt 30 sh -c "echo yes; exit 3"\n'
    )
    result = pool.call("elsewhere.sh")
    assert (result.status, "LOG:    yes" in result.stderr) == (3, True), result


# --- the scripts as text ---------------------------------------------------------------------------------------------


def test_the_scripts_are_those_of_a_posix_shell(pool: Pool) -> None:
    scripts = [path for path in sorted(pool.scripts.iterdir()) if path.name not in ("README.md", "pgpool.conf")]
    assert len(scripts) == 8
    for script in scripts:
        subprocess.run(["dash", "-n", script], check=True)
        assert os.access(script, os.X_OK) == script.read_text().startswith("#!/bin/sh\n"), script
    # -x: with what they read. SC2034: each setting is used by another file. SC2016: programs in quotes are for other shells.
    options = ["-s", "sh", "-x", "-P", "SCRIPTDIR", "-e", "SC2034,SC2016,SC1091"]
    done = subprocess.run(["shellcheck", *options, *scripts], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_is_used_and_the_readme_names_every_file(pool: Pool) -> None:
    text = (pool.scripts / "pystandby-pgpool.conf").read_text()
    names = [line.partition("=")[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert len(names) > 15
    rest = "".join(path.read_text() for path in pool.scripts.iterdir() if path.name not in ("pystandby-pgpool.conf", "README.md"))
    assert not [name for name in names if f"${name}" not in rest and f"${{{name}" not in rest]
    readme = (pool.scripts / "README.md").read_text()
    assert not [path.name for path in pool.scripts.iterdir() if f"`{path.name}`" not in readme and path.name != "README.md"]

"""contrib/linux/archive-over-ssh on a real primary, by a real rsync and a real sshd on 127.0.0.1 with keys of the test's own."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import debian, segments
from support.command import PYSTANDBY, Result, environment, run
from support.servers import Scene, Server, eventually, processes_in

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

SCRIPT = Path(__file__).resolve().parent.parent / "contrib" / "linux" / "archive-over-ssh"


class Machine:
    """This machine as one that is reached by ssh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self.incoming.mkdir()
        self.sshd = debian.program("sshd", "openssh-server")
        self.ssh = debian.program("ssh", "openssh-client")
        self.rsync = debian.program("rsync", "rsync")
        keygen = debian.program("ssh-keygen", "openssh-client")
        for name in ("host", "user"):
            words: list[str | Path] = [keygen.path, "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL, env={**os.environ, **keygen.environment})
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What finds rsync, here and there."""
        found = {"PATH": f"{self.rsync.path.parent}{os.pathsep}{os.defpath}"}
        return {**found, **self.rsync.environment}

    def start(self) -> None:
        """Start sshd, on a port that is free, or its own again; wait until it listens."""
        for _ in range(10):
            if not self.port:
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    self.port = free.getsockname()[1]
            self._configure()
            words: list[str | Path] = [self.sshd.path, "-D", "-e", "-f", self.folder / "sshd_config"]
            with (self.folder / "sshd.log").open("ab") as log:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.sshd.environment}
                )
            if eventually(self._answer, "sshd listens or ends", tell=self.log) == "listens":
                return
            # Somebody else was given the port in between.
            self.port = 0
        raise AssertionError(f"sshd does not start\n{self.log()}")

    def _configure(self) -> None:
        known = f"[127.0.0.1]:{self.port} {(self.folder / 'host.pub').read_text()}"
        (self.folder / "known_hosts").write_text(known)
        variables = " ".join(f'"{name}={value}"' for name, value in self.variables.items())
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            "AuthenticationMethods publickey",
            "PidFile none",
            "UsePAM no",
            # Its folder lies in one that is everybody's.
            "StrictModes no",
            f"SetEnv {variables}",
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _answer(self) -> str:
        assert self._process is not None
        if self._process.poll() is not None:
            return "ends"
        with socket.socket() as client:
            return "listens" if client.connect_ex(("127.0.0.1", self.port)) == 0 else ""

    def stop(self) -> None:
        """Have nothing listen any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """What sshd has said."""
        return (self.folder / "sshd.log").read_text(errors="replace")

    def settings(self, archive: Path) -> dict[str, str]:
        """What the script is to be told."""
        options = f"-i {self.folder}/user -p {self.port} -o UserKnownHostsFile={self.folder}/known_hosts"
        known = f"{self.ssh.path} -F none {options} -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=yes"
        told = {"HOST": "127.0.0.1", "ARCHIVE": str(archive), "INCOMING": str(self.incoming), "PYSTANDBY": str(PYSTANDBY)}
        return {**told, "SSH": known, **self.variables}


@pytest.fixture
def machine(scene: Scene) -> Iterator[Machine]:
    folder = scene.folder / "machine"
    folder.mkdir(mode=0o700)
    made = Machine(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def primary_of(scene: Scene, machine: Machine) -> Server:
    scene.feed(to=scene.stock.last)
    primary = scene.primary()
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in machine.settings(scene.archive).items())
    command = f"{variables} exec {SCRIPT} %p %f"
    primary.configure({"archive_command": command})
    return primary.begin()


def archived(primary: Server, name: str) -> bool:
    return primary.sql(f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver") == [(True,)]


def archiver(primary: Server) -> int:
    return next((pid for pid, line in processes_in(primary.data_directory).items() if line.startswith("postgres: archiver")), 0)


def by_hand(machine: Machine, archive: Path, *words: str | Path, **changes: str) -> Result:
    env = environment(**{**machine.settings(archive), **changes})
    return run(*words, program=["/bin/sh", SCRIPT], env=env)


def test_a_standby_lives_on_it(scene: Scene, machine: Machine) -> None:
    primary = primary_of(scene, machine)
    standby = scene.standby(settings=scene.seen_at_once).begin()
    for _ in range(3):
        primary.switch_wal()
        rows = primary.rows()
        standby.until_rows(rows)
    primary.stop("fast")
    rows = scene.stock.rows[-1] + 3
    scene.trigger()
    standby.until_promoted(rows)
    assert list(machine.incoming.iterdir()) == []
    assert not list(scene.archive.glob("*.pystandby*"))
    assert "archive command failed" not in primary.log_text()


def test_a_machine_that_is_away(scene: Scene, machine: Machine) -> None:
    """ssh ends with 255, rsync with 12 or 255; the archiver goes on, and so does archiving when the machine is back."""
    primary = primary_of(scene, machine)
    first = primary.switch_wal()
    before = segments.name(segments.number(first) - 1)
    eventually(lambda: archived(primary, before), f"{before} is archived", tell=primary.tell)
    process = archiver(primary)
    machine.stop()
    primary.switch_wal()
    primary.until_log("archive command failed with exit code 1", times=2)
    assert archiver(primary) == process
    assert not (scene.archive / first).exists()
    machine.start()
    eventually(lambda: archived(primary, first), f"{first} is archived", tell=primary.tell)
    assert archiver(primary) == process
    assert "exit code 255" not in primary.log_text()


def test_nothing_is_replaced(scene: Scene, machine: Machine) -> None:
    name = scene.stock.names[3]
    file = scene.folder / name
    file.write_bytes(scene.stock.read(3))
    assert by_hand(machine, scene.archive, file, name).status == 0
    assert (scene.archive / name).read_bytes() == scene.stock.read(3)
    inode = (scene.archive / name).stat().st_ino
    assert by_hand(machine, scene.archive, file, name).status == 0, "after a crash the server archives it again"
    assert (scene.archive / name).stat().st_ino == inode
    scene.put(name, b"another's")
    result = by_hand(machine, scene.archive, file, name)
    assert result.status == 1
    assert f"has another {name}" in result.stderr
    assert (scene.archive / name).read_bytes() == b"another's"


def test_what_a_broken_call_left_is_overwritten(scene: Scene, machine: Machine) -> None:
    name = scene.stock.names[3]
    file = scene.folder / name
    file.write_bytes(scene.stock.read(3))
    left = machine.incoming / f"{name}.{os.uname().nodename}"
    left.write_bytes(bytes(scene.stock.size))
    os.utime(left, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    assert by_hand(machine, scene.archive, file, name).status == 0
    assert (scene.archive / name).read_bytes() == scene.stock.read(3)


@pytest.mark.parametrize(
    "change",
    [
        {"SSH": "/nonexistent/ssh"},
        {"SSH": "false"},
        {"PATH": "/nonexistent"},
        {"PYSTANDBY": "/nonexistent/pystandby"},
        {"INCOMING": "/nonexistent"},
        {"ARCHIVE": "/nonexistent"},
    ],
    ids=lambda change: "=".join(*change.items()),
)
def test_no_failure_is_above_1(scene: Scene, machine: Machine, change: dict[str, str]) -> None:
    name = scene.stock.names[3]
    file = scene.folder / name
    file.write_bytes(scene.stock.read(3))
    assert by_hand(machine, scene.archive, file, name, **change).status == 1
    assert not (scene.archive / name).exists()


@pytest.mark.parametrize("words", [(), ("a",), ("a", "b", "c")])
def test_usage(scene: Scene, machine: Machine, words: tuple[str, ...]) -> None:
    result = by_hand(machine, scene.archive, *words)
    assert result.status == 1
    assert "usage: " in result.stderr

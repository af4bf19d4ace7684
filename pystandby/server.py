"""A server seen from outside, by its data directory: whether it runs and recovers, what it is set to, and asking it.

For verbs that people run; no restore loads it.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pystandby import argv, asker, cluster, exits, osdep
from pystandby.exits import StandbyError
from pystandby.options import Options

_REPLAYED = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), pg_size_bytes(current_setting('wal_segment_size'))"


class Server:
    """The server of a data directory. Raises StandbyError where that is none."""

    def __init__(
        self, data_directory: str, user: str = cluster.SUPERUSER, bindir: "str | None" = None, config_file: "str | None" = None
    ) -> None:
        """``user`` is the database user that statements are run as; the operating system's is the data directory's owner.

        ``bindir`` is where its programs are, ``config_file`` its postgresql.conf: both are known of a server that has run before.
        """
        self.directory = os.path.abspath(data_directory)
        self.version = asker.version_number(osdep.read_small(self.path("PG_VERSION"), 16))
        if self.version is None:
            raise StandbyError(
                exits.NOT_DONE,
                f'"{data_directory}" is not a data directory',
                "It has no PG_VERSION that can be read.",
                "Give the standby's own with --pgdata, and run this as its owner or as root.",
            )
        status = os.stat(self.directory)
        self.owner = (status.st_uid, status.st_gid)
        self._user = user
        self._bindir = bindir
        self._config_file = config_file

    def path(self, name: str) -> str:
        """Where a file is that is named as the server names it: relative to its data directory, or in full."""
        return os.path.join(self.directory, name)

    # What it says of itself in its files

    def recovery_file(self) -> str:
        """The name of the file that keeps it in recovery; empty where there is none, so that it takes writes when it runs."""
        return next((name for name in asker.RECOVERY_FILES if os.path.exists(self.path(name))), "")

    def asker(self) -> asker.Asker:
        """What a restore_command of its own finds out about it."""
        found = asker.Asker("", self.path(os.path.join("pg_wal", "RECOVERYXLOG")))
        # Not that in whose data directory this may have been run.
        found.data_directory, found.server_version = self.directory, self.version
        return found

    def told_at(self) -> "float | None":
        """When it was told to recover, as Asker.told_at(); None where it was not."""
        try:
            return os.stat(self.path(self.recovery_file())).st_mtime if self.recovery_file() else None
        except OSError:
            return None

    def is_standby_mode(self) -> bool:
        """Whether it retries by itself what its restore_command has not got."""
        return asker.in_standby_mode(self.directory)

    def postmaster(self) -> "list[str]":
        """The lines of postmaster.pid; none where the server does not run (src/include/utils/pidfile.h says what they are)."""
        content = osdep.read_small(self.path("postmaster.pid"), 8192) or b""
        lines = [line.decode("utf-8", "surrogateescape").strip() for line in content.splitlines()]
        return lines if lines and lines[0].isdigit() and osdep.started(int(lines[0])) is not None else []

    def restore_options(self) -> "Options | None":
        """The options of the pystandby in its restore_command; None where that is another program, or cannot be understood."""
        # Up to 11 what was set is in recovery.done once recovery has ended.
        command = self.setting("restore_command") or self._from_recovery_conf("restore_command", "recovery.done")
        try:
            words = pystandby_in(command)[1:]
        except ValueError:
            return None
        # %% is % to the server; other placeholders are words like any.
        return argv.parse([word.replace("%%", "%") for word in words])

    def setting(self, name: str) -> str:
        """What a setting is, by the server's configuration files; empty where it is not set. Raises StandbyError."""
        if (self.version or 0) < 1200 and name in cluster.RECOVERY_CONF_SETTINGS:
            return self._from_recovery_conf(name)
        unknown = f"what {name} is set to is not known"
        program, arguments = self._last_started(unknown)
        if self._bindir is not None or not program:
            program = os.path.join(self._programs(unknown), "postgres")
        if self._config_file is not None:
            arguments = [*arguments, "-c", f"config_file={self._config_file}"]
        # -C comes first: only so does it take root or an administrator (src/backend/main/main.c).
        command = [program, "-C", name, *arguments, *([] if "-D" in arguments else ["-D", self.directory])]
        return self._output(command, unknown).rstrip("\n")

    def _last_started(self, unknown: str) -> "tuple[str, list[str]]":
        """The program and the arguments that it was last started with, by postmaster.opts; neither where it has not been yet."""
        opts = (osdep.read_small(self.path("postmaster.opts"), 1 << 16) or b"").decode("utf-8", "surrogateescape").strip()
        program, _, rest = opts.partition(' "')
        try:
            return program, words_of(f'"{rest}') if rest else []
        except ValueError as failure:
            raise self._failure(unknown, f"postmaster.opts cannot be understood: {failure}") from failure

    def _programs(self, unknown: str) -> str:
        """The folder of programs of its version."""
        if self._bindir is not None:
            return self._bindir
        version = self.version or 0
        try:
            return str(cluster.choose_installation(str(version // 100 if version >= 1000 else version), needs=()).bindir)
        except StandbyError as failure:
            raise self._failure(unknown, f"It has no postmaster.opts, and {failure.message}.") from failure

    def _from_recovery_conf(self, name: str, file: str = "recovery.conf") -> str:
        """A setting of recovery.conf, up to 11; empty where it has none."""
        found = ""
        content = (osdep.read_small(self.path(file), 1 << 16) if (self.version or 0) < 1200 else None) or b""
        for line in content.decode("utf-8", "surrogateescape").splitlines():
            match = re.match(rf"\s*{name}\s*=?\s*(?:'((?:[^']|'')*)'|(\w+))", line, re.IGNORECASE)
            if match:
                found = match[1].replace("''", "'") if match[1] is not None else match[2]
        return found

    # Asking it

    def ask(self, *statements: str, seconds: float = 10) -> str:
        """Run statements, each in a transaction of its own, and return what they print. Raises StandbyError."""
        lines = self.postmaster()
        if len(lines) < 6:
            raise self._failure("the server cannot be asked", "It is not running.")
        program = (osdep.read_small(self.path("postmaster.opts"), 4096) or b"").decode("utf-8", "replace").partition(' "')[0]
        beside = os.path.join(os.path.dirname(program), f"psql{osdep.PROGRAM_ENDING}")
        psql = beside if os.path.exists(beside) else shutil.which("psql")
        if psql is None:
            raise self._failure("the server cannot be asked", "There is no psql, neither beside its own program nor on the PATH.")
        command = cluster.psql_command(Path(psql), Path(lines[4] or lines[5]), int(lines[3]), "postgres", statements, self._user)
        return self._output(command, "the server cannot be asked", seconds).strip()

    def replayed(self, seconds: float = 10) -> "tuple[int, int]":
        """Up to which LSN it has replayed WAL, by its own word, and the size of its segments in bytes. Raises StandbyError."""
        answer = self.ask(_REPLAYED, seconds=seconds)
        try:
            replayed, size = (int(part) for part in answer.split("|"))
        except ValueError as failure:
            raise self._failure("how far it has replayed is not known", "it has replayed nothing yet") from failure
        return replayed, size

    def _output(self, command: "list[str]", message: str, seconds: float = 10) -> str:
        """What a program prints, run as the server's user where we are root."""
        who: dict[str, Any] = {}
        if osdep.own_user() == 0 and self.owner[0] != 0:
            who = {"user": self.owner[0], "group": self.owner[1], "extra_groups": []}
        try:
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                timeout=seconds,
                cwd="/" if who else None,
                **who,
            )
        except subprocess.TimeoutExpired as failure:
            raise self._failure(message, f"{os.path.basename(command[0])} took longer than {seconds:g} seconds.") from failure
        except OSError as failure:
            raise self._failure(message, f'"{command[0]}" could not be run: {failure.strerror}.') from failure
        if done.returncode:
            said = "; ".join(line.strip() for line in done.stderr.splitlines())
            raise self._failure(message, said or f"{command[0]} ended with status {done.returncode}.")
        return str(done.stdout)

    def _failure(self, message: str, detail: str) -> StandbyError:
        return StandbyError(exits.NOT_DONE, f'server in "{self.directory}": {message}', detail)


def words_of(command: str) -> "list[str]":
    """The words of a command line without anything for a shell in it. Raises ValueError for quotes that do not match."""
    return list(_lexer(command, ""))


def name_of(program: str) -> str:
    """The name of a program by its path, without its ending."""
    name = os.path.basename(program)
    return name.lower().removesuffix(osdep.PROGRAM_ENDING) if osdep.PROGRAM_ENDING else name


def _lexer(command: str, punctuation: str) -> shlex.shlex:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=punctuation)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.quotes = osdep.SHELL_QUOTES
    lexer.escape = osdep.SHELL_ESCAPE
    return lexer


def pystandby_in(command: str) -> "list[str]":
    """The last pystandby in a shell's command line and the words behind it, without what the shell takes for itself.

    Nothing where there is no pystandby that can be seen. Raises ValueError for quotes that do not match.
    """
    # The digit of "2>>log" is the shell's; a blank before it tells it from the end of a word.
    lexer = _lexer(re.sub(r"(?<=\s)\d(?=[<>])", "", command), osdep.SHELL_PUNCTUATION)
    found: list[str] = []
    ended = redirected = False
    for word in lexer:
        if word and not word.strip("();<>|&"):
            redirected = word[:1] in "<>" or word[-1:] in "<>"
            ended = ended or not redirected
        elif redirected:
            redirected = False
        elif name_of(word) == "pystandby":
            found, ended = [word], False
        elif found and not ended:
            found.append(word)
    return found

"""Exit statuses, each with what PostgreSQL does on seeing it, and the exception that carries one.

PostgreSQL's RestoreArchivedFile() (src/backend/access/transam/xlogarchive.c) knows three classes: 0, "the file is at %p"; 1 to
125, "there is no such file", which outside standby mode ends recovery and promotes the server without a word; above 125, or
death by a signal, "something is wrong": FATAL, the server stops and loses nothing. So only what is meant to end recovery, or is
known not to exist, may be below 126. docs/reliability.md and tests/test_exits.py hold the evidence from real servers.
"""

DELIVERED = 0
"""The whole file is at XLOGFILEPATH: the server replays it."""

END_OF_RECOVERY = 1
"""The end of recovery was asked for: by a trigger file, a promote request, SIGUSR1 or MAXWAITTIME. In recovery mode the server
stops replaying here and takes writes on a new timeline; in standby mode it tries again."""

NOT_IN_ARCHIVE = 1
"""The archive is there and does not hold the file: a history or backup file, or any file where waiting was ruled out. The same
number as END_OF_RECOVERY because PostgreSQL has only one word for both; harmless for history files and in standby mode."""

ARCHIVED = 0
"""archive: the file is in every archive, durably. The server may remove it."""

NOT_ARCHIVED = 1
"""archive: it is not, whatever the cause, a wrong command line and a defect of pystandby included. The server keeps the file and
tries again; above 125 its archiver would end, to be started anew (pgarch_archiveXlog(), src/backend/postmaster/pgarch.c; since
version 15 shell_archive.c), and a server that takes the file for archived loses it."""

NOT_DONE = 1
"""archive-cleanup and recovery-end: a WARNING for a server, which goes on. Above 125 recovery_end_command would take a server
that has just been promoted down (ExecuteRecoveryCommand() in src/backend/access/transam/xlogarchive.c)."""

SOUND = 0
"""verify: nothing is wrong with what was given. A person or a script reads this and the next two; no server does."""

NOT_SOUND = 1
"""verify: something is wrong, and is said in words; as pg_waldump and pg_verifybackup have it."""

NOT_VERIFIED = 2
"""verify: it could not be done: no such archive, no such data directory, a codec is missing."""

# From here on: FATAL for a server ("could not restore file ... from archive"), which stops with all its data and can be started
# again once the cause is mended; for pg_rewind, an error.

USAGE = 200
"""The command line cannot be understood. pg_standby's 2 promoted the standby over a typing error."""

UNEXPECTED = 201
"""A defect of pystandby: an exception that nobody foresaw. Python's own status for it, 1, would promote."""

MODULE_MISSING = 202
"""A module cannot be imported: a damaged or half-upgraded installation. Python's own status for it, 1, would promote."""

INTERRUPTED = 203
"""SIGINT, from a terminal: a person gave up. Under a server SIGINT is ignored, as the server sets it."""

DESTINATION_FAILED = 204
"""XLOGFILEPATH could not be written, MAXRETRIES retries included: disk full, read-only, no such directory."""

SOURCE_FAILED = 205
"""A file that is in the archive could not be read, MAXRETRIES retries included."""

WRONG_SEGMENT = 206
"""What the archive holds under this name can never become this segment: too long, or of another segment, timeline or cluster.
A server given it would replay nothing of it, and promote."""

SERVER_GONE = 207
"""The server that asked no longer exists, so nobody reads this; nothing was written into its data directory."""

SERVER_STOPPING = 208
"""The server is shutting down; 1 could be taken for the end of recovery. On Windows only, where no signal says so."""

NEW_TIMELINE = 209
"""--on-new-timeline stop: the archive has gone on to a timeline on which the segment asked for does not exist. A server started
again follows the new timeline; one that waits stays on the old for ever."""

ARCHIVE_UNAVAILABLE = 210
"""The archive cannot be read, or the file in it is not whole, and waiting was ruled out by --wait never or for pg_rewind."""


class StandbyError(Exception):
    """A foreseen end of the restore: what to say in PostgreSQL's form, and the exit status."""

    __slots__ = ("detail", "hint", "message", "status")

    def __init__(self, status: int, message: str, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.detail = detail
        self.hint = hint

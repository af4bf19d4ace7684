"""A person's way to a failover: making, taking back and showing the trigger file, and waiting until the standby takes writes."""

import os
import stat
import time

from pystandby import archive, exits, osdep, say, trigger, wal
from pystandby.exits import StandbyError
from pystandby.memory import FOLDER
from pystandby.options import Options
from pystandby.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NAP = 0.1
"""Seconds between two looks at whether the server takes writes."""


class Request:
    """What a person asks of one standby: ``path`` is the trigger file, ``server`` None where no data directory was given."""

    def __init__(
        self,
        path: "str | None",
        data_directory: "str | None",
        archive: "str | None",
        trusted: bool,
        user: str,
        show: "Callable[[str], object]",
    ) -> None:
        """Find out what is not given from the server's restore_command. Raises StandbyError where it contradicts or lacks it."""
        self.show = show
        self.server = Server(data_directory, user) if data_directory is not None else None
        self.options: Options | None = None
        if self.server is not None:
            try:
                self.options = self.server.restore_options()
            except StandbyError as failure:
                say.warning(failure.message, failure.detail)
        # What the server names is named from its data directory, what the person names from where the person is.
        known = archived = None
        if self.server is not None and self.options is not None:
            known = self.server.path(self.options.trigger) if self.options.trigger is not None else None
            archived = self.server.path(self.options.archivelocation)
        if path is None and known is None:
            raise StandbyError(
                exits.NOT_DONE,
                "no trigger file is known",
                "No pystandby with a trigger file could be found in the server's restore_command." if self.server else "",
                "Name it with -t, as restore_command does, or give the standby's data directory with --pgdata.",
            )
        if path is not None and known is not None and not _same_place(path, known):
            raise StandbyError(
                exits.NOT_DONE,
                f'the server waits for another trigger file than "{path}"',
                f'Its restore_command has "{known}".',
                "Leave out -t, and that is taken.",
            )
        self.path = path or known or ""
        self.archive = archive or archived
        self.trusted = trusted or (self.options is not None and self.options.trust_trigger)

    def look(self) -> trigger.Trigger:
        """What the server sees of the trigger file, as far as its user is known."""
        owner = self._owner()
        with osdep.ActingAs(owner[0] if owner is not None else osdep.own_user()):
            return trigger.look(self.path, self.trusted)

    # The verb's four words

    def foresee(self, word: str) -> None:
        """Show what would come of the trigger file, and make none. Raises StandbyError where pull() would refuse to make it."""
        self._would_act()
        folder = os.path.dirname(self.path) or "."
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StandbyError(
                exits.NOT_DONE,
                f'could not make trigger file "{self.path}"',
                f'"{folder}" is not there, or we may not write to it.',
                "Make it, or run this as the server's user or as root.",
            )
        for line in self._outlook(word):
            self.show(line)

    def pull(self, word: str) -> None:
        """Make the trigger file, and show what will come of it. Raises StandbyError where nothing would, with nothing made."""
        self._would_act()
        before = self._outlook(word)
        try:
            trigger.make(self.path, word, self._owner())
        except OSError as failure:
            raise StandbyError(
                exits.NOT_DONE, f'could not make trigger file "{self.path}": {say.reason(failure)}', "Nothing is triggered."
            ) from failure
        found = self.look()
        if found.problem:
            trigger.remove(self.path, trusted=True)
            raise StandbyError(
                exits.NOT_DONE,
                f'trigger file "{self.path}" {found.problem}',
                "The server would ignore it. Nothing is triggered.",
                found.hint,
            )
        self.show(f'trigger file "{self.path}" says {word}')
        for line in before:
            self.show(line)

    def cancel(self) -> None:
        """Remove the trigger file. Raises StandbyError where it stays, or the end of recovery has come already."""
        was_there = os.path.lexists(self.path)
        found = trigger.remove(self.path, trusted=self.trusted or osdep.own_user() == 0)
        if found.problem:
            raise StandbyError(exits.NOT_DONE, f'trigger file "{self.path}" {found.problem}', "It stays.", found.hint)
        self.show(f'trigger file "{self.path}" is removed' if was_there else f'there is no trigger file "{self.path}"')
        if self.server is None:
            return
        if not self.server.recovery_file():
            raise StandbyError(
                exits.NOT_DONE, "too late: the server has ended its recovery", "It takes writes on a new timeline."
            )
        if self._is_ending():
            raise StandbyError(
                exits.NOT_DONE,
                "too late: recovery is ending",
                "The server has been told that there is no more WAL, and is about to take writes.",
            )

    def tell(self) -> None:
        """Show what the trigger file says, and where the server is."""
        found = self.look()
        if found.problem:
            self.show(f'trigger file "{self.path}" {found.problem}: it is ignored')
        elif self.server is not None and found.is_left_over(self.server.told_at()):
            self.show(f'trigger file "{self.path}" is older than {self.server.recovery_file()}: it is ignored')
        elif found.word is None:
            self.show(f'there is no trigger file "{self.path}"')
        else:
            self.show(f'trigger file "{self.path}" says {found.word}')
        for line in self._outlook(found.word or ""):
            self.show(line)

    def wait(self, seconds: float) -> None:
        """Wait until the server takes writes, and have it make a checkpoint. Raises StandbyError where that does not happen."""
        assert self.server is not None
        began = time.monotonic()
        problem = ""
        while True:
            lines = self.server.postmaster()
            if not lines:
                raise StandbyError(
                    exits.NOT_DONE,
                    "the server has ended",
                    f"It did not come to take writes within {time.monotonic() - began:.0f} seconds.",
                    "Its log says why.",
                )
            if not self.server.recovery_file() and len(lines) > 7 and lines[7] == "ready":
                try:
                    if self.server.ask("SELECT pg_is_in_recovery()") == "f":
                        break
                    problem = "It says that it is in recovery."
                except StandbyError as failure:
                    problem = failure.detail
            if time.monotonic() - began > seconds:
                raise StandbyError(
                    exits.NOT_DONE,
                    f"the server does not take writes after {seconds:g} seconds",
                    problem or f"{self.server.recovery_file() or 'Nothing'} still keeps it in recovery; {self._what_it_sees()}.",
                    "What it waits for stands in its log. The trigger file stays: trigger fast ends recovery at once, trigger "
                    "cancel takes it back.",
                )
            time.sleep(_NAP)
        took = time.monotonic() - began
        try:
            # Until there is one, archive_timeout sleeps, and the standbys of the new primary get nothing.
            self.server.ask("CHECKPOINT", seconds=max(seconds, 60))
        except StandbyError as failure:
            raise StandbyError(
                exits.NOT_DONE,
                f"the server takes writes after {took:.1f} seconds, and has not made a checkpoint",
                failure.detail,
                "Run CHECKPOINT on it: until then archive_timeout does nothing.",
            ) from failure
        self.show(f"the server takes writes after {took:.1f} seconds; a checkpoint is made")

    # What it rests on

    def _would_act(self) -> None:
        """Raise StandbyError where a trigger file would do nothing, or only harm at a later start."""
        server = self.server
        if server is None:
            return
        if not server.postmaster():
            raise StandbyError(
                exits.NOT_DONE,
                f'the server in "{server.directory}" is not running',
                "A trigger file would end its recovery at the next start. Nothing is triggered.",
            )
        if not server.recovery_file():
            raise StandbyError(
                exits.NOT_DONE,
                f'the server in "{server.directory}" is not in recovery',
                "It takes writes already. A trigger file would end the recovery of the next standby that is made from it. "
                "Nothing is triggered.",
            )
        if server.is_standby_mode() and self.options is not None and not self.options.promote:
            raise StandbyError(
                exits.NOT_DONE,
                "the server is in standby mode, where its trigger file does nothing",
                "pystandby promotes it only with --promote in restore_command. Nothing is triggered.",
                f"Use pg_ctl promote -D {server.directory}.",
            )

    def _owner(self) -> "tuple[int, int] | None":
        """Whom a file that root makes is to belong to: the server's user, or else whose the folder is."""
        if osdep.own_user() != 0:
            return None
        if self.server is not None:
            return self.server.owner
        try:
            folder = os.stat(os.path.dirname(self.path) or ".")
        except OSError:
            return None
        return None if folder.st_mode & stat.S_IWOTH else (folder.st_uid, folder.st_gid)

    def _is_ending(self) -> bool:
        """Whether this run of the server has been refused a segment for good."""
        assert self.server is not None
        content = osdep.read_small(self.server.path(os.path.join("pg_wal", FOLDER, "refused")), 4096) or b""
        remembered = content.decode("ascii", "replace")
        lines = self.server.postmaster()
        return len(lines) > 2 and remembered.partition("\n")[0].split()[-2:] == [lines[0], lines[2]]

    def _what_it_sees(self) -> str:
        found = self.look()
        if found.problem:
            return f"its trigger file {found.problem}"
        return f"its trigger file says {found.word}" if found.word else "its trigger file is gone"

    def _outlook(self, word: str) -> "list[str]":
        """In words, how far the server is, what the archive holds for it, and what a trigger that says ``word`` makes of that."""
        if self.server is None:
            return []
        if not self.server.postmaster():
            return ["the server is not running"]
        if not self.server.recovery_file():
            return ["the server is not in recovery: it takes writes"]
        replayed: int | None = None
        size = 0
        try:
            replayed, size = self.server.replayed()
            lines = [f"the server has replayed WAL up to {replayed >> 32:X}/{replayed & 0xFFFFFFFF:X}"]
        except StandbyError as failure:
            lines = [f"how far the server has replayed is not known: {failure.detail}"]
        if self.archive is None:
            return lines
        try:
            held = {archive.bare(name) for name in os.listdir(self.archive)}
        except OSError as failure:
            return [*lines, f'archive "{self.archive}" cannot be read: {say.reason(failure)}']
        names = sorted(name[8:] + name[:8] for name in held if wal.kind(name) == wal.SEGMENT)
        if not names:
            return [*lines, f'archive "{self.archive}" holds no segment']
        lines.append(f'the newest segment in archive "{self.archive}" is {names[-1][16:] + names[-1][:16]}')
        if replayed is not None:
            position = wal.segment_name(0, max(replayed - 1, 0) // size, size)[8:]
            later = len({name[:16] for name in names if name[:16] > position})
            fate = {trigger.SMART: ", which are replayed first", trigger.FAST: ", which are left out"}.get(word, "")
            lines.append(f"{later} segments in it are later than that{fate if later else ''}")
        return lines


def _same_place(one: str, other: str) -> bool:
    """Whether two paths lead to the same name in the same folder."""

    def place(path: str) -> str:
        return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))

    return place(one) == place(other)

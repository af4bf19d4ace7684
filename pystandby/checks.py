"""pystandby check: what is wrong with a standby's settings, found before the server finds it in the middle of a failover.

Looks at the data directory, the configuration files, the archive and the trigger file; changes nothing, needs no running server.
"""

import os
import re
import shutil
import stat

from pystandby import archive, exits, osdep, ready, say, timelines, trigger, wal
from pystandby.archive import Archive
from pystandby.exits import StandbyError
from pystandby.options import Options
from pystandby.server import Server, name_of, pystandby_in, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ERROR = "ERROR"
WARNING = "WARNING"

_COMMANDS = {"restore_command": "fpr", "archive_cleanup_command": "r", "recovery_end_command": "r"}
"""The placeholders of each setting."""

_ROOM = 1 << 30
"""Bytes that look-ahead leaves free on the file system of pg_wal."""


class Check:
    """One look at a standby. ``show`` gets each line of what is found."""

    def __init__(self, server: Server, show: "Callable[[str], object]") -> None:
        self.server = server
        self.show = show
        self.errors = 0
        self.warnings = 0
        self.settings: dict[str, str] = {}
        self.asker = server.asker()

    def run(self) -> int:
        """Look at everything, and return 0, or exits.NOT_DONE where something is wrong that keeps the standby from its work."""
        self._mode()
        try:
            for name in (*_COMMANDS, "hot_standby", "wal_log_hints", *(["recovery_prefetch"] if self._version() >= 1500 else [])):
                self.settings[name] = self.server.setting(name)
        except StandbyError as failure:
            hint = "If these are not its programs and its postgresql.conf, name them with --bindir and --config-file."
            self.find(ERROR, f"{failure.message}: {failure.detail}", hint)
            return self._summary()
        for name, letters in _COMMANDS.items():
            self._placeholders(name, letters)
        self._others()
        options = self._restore_command()
        if options is not None:
            self._trigger(options)
            self._spool(options)
            self._archive(options)
        return self._summary()

    def find(self, level: str, what: str, hint: str) -> None:
        """Show one thing that is wrong, and how to mend it."""
        if level == ERROR:
            self.errors += 1
        else:
            self.warnings += 1
        self.show(f"{level}:  {what}")
        self.show(f"HINT:  {hint}")

    def _summary(self) -> int:
        self.show(f"{self.errors} errors, {self.warnings} warnings")
        return exits.NOT_DONE if self.errors else 0

    def _version(self) -> int:
        return self.server.version or 0

    # The settings

    def _mode(self) -> None:
        if not self.server.recovery_file():
            name = "recovery.signal" if self._version() >= 1200 else "recovery.conf"
            self.find(
                ERROR,
                f"there is no {name}: the server would start as a primary",
                f'Make an empty file "{self.server.path(name)}".',
            )

    def _placeholders(self, name: str, letters: str) -> None:
        for found in re.findall(r"%(.?)", self.settings[name].replace("%%", ""), re.DOTALL):
            if found in letters and found:
                continue
            level, fate = WARNING, "is passed on as it is"
            if self._version() >= 1600:
                level, fate = ERROR, f"takes the server down, when {name} is first run"
            self.find(level, f'"%{found}" in {name} {fate}', f"Write %%{found} for a percent sign.")

    def _others(self) -> None:
        if self.settings["hot_standby"] == "off":
            self.find(WARNING, "hot_standby is off: nobody can ask the standby how far it is", "Set hot_standby = on.")
        if self.settings.get("recovery_prefetch", "off") != "off" and not self.server.is_standby_mode():
            self.find(
                WARNING,
                "recovery_prefetch is on: queries see the last segment, and the standby opens, only when the next has come",
                "Set recovery_prefetch = off.",
            )

    def _restore_command(self) -> "Options | None":
        """What its restore_command asks of pystandby; None where that is not to be known."""
        command = self.settings["restore_command"]
        if not command:
            self.find(ERROR, "restore_command is not set", "See contrib/linux/postgresql-warm-standby.conf.")
            return None
        try:
            words = pystandby_in(command)
        except ValueError as failure:
            self.find(ERROR, f"restore_command cannot be read by a shell: {failure}", "See to its quotes.")
            return None
        for letter in "fp":
            if f"%{letter}" not in command.replace("%%", ""):
                self.find(ERROR, f"restore_command has no %{letter}", "Its end is: ARCHIVE %f %p, or ARCHIVE %f %p %r.")
        if not words:
            self.find(
                WARNING, "restore_command has no pystandby that can be seen: its work is not checked", "Check the script itself."
            )
            return None
        program = words[0]
        where = program if "/" in program else shutil.which(program)
        with self._as_server():
            if where is None or not os.access(where, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                self.find(
                    ERROR,
                    f'"{program}" in restore_command cannot be run',
                    "Give its full path, one that the server's user can run.",
                )
            elif "/" not in program:
                self.find(
                    WARNING,
                    'restore_command has "pystandby" without its path: the PATH that the server is started with has to have it',
                    f"Write {where}.",
                )
        options = self.server.restore_options()
        if options is None:
            self.find(
                ERROR,
                f"pystandby cannot understand its words in restore_command: {self._usage(command)}",
                "See pystandby --help.",
            )
        else:
            self._order(options)
            self._pruning(options)
        return options

    @staticmethod
    def _usage(command: str) -> str:
        """What is wrong with the words behind the last pystandby in a command."""
        import click

        from pystandby import cli

        try:
            cli.parse(pystandby_in(command)[1:])
        except click.exceptions.ClickException as failure:
            return failure.format_message()
        except click.exceptions.Exit:
            return "help or version is asked for"
        return "they are not a restore's"

    def _order(self, options: Options) -> None:
        """See whether each placeholder stands where pystandby takes what it stands for."""
        given = [options.nextwalfile, options.xlogfilepath, *([options.restartwalfile] if options.restartwalfile else [])]
        wanted = ["%f", "%p", "%r"][: len(given)]
        # %p may stand behind a folder.
        if all(word.endswith(placeholder) for word, placeholder in zip(given, wanted, strict=True)):
            return
        self.find(
            ERROR,
            f"restore_command gives pystandby {', '.join(given)} where it wants {', '.join(wanted)}",
            "Its end is: ARCHIVE %f %p, or ARCHIVE %f %p %r.",
        )

    def _pruning(self, options: Options) -> None:
        folder = self.server.path(options.archivelocation)
        if options.restartwalfile is not None and self.settings["wal_log_hints"] == "on":
            self.find(
                WARNING,
                "restore_command has %r, and wal_log_hints is on as if for pg_rewind: pg_rewind -c refuses %r",
                "Leave out %r, and use archive_cleanup_command; or leave out pg_rewind's -c.",
            )
        if not os.path.isdir(folder) or (options.restartwalfile is None and not options.keep):
            return
        with self._as_server():
            may_write = os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
        if not may_write:
            self.find(
                WARNING,
                f'archive "{folder}" cannot be written by the server\'s user, so nothing is removed from it',
                "Leave out %r and -k, or let the server's user write there.",
            )

    def _as_server(self) -> osdep.ActingAs:
        return osdep.ActingAs(self.server.owner[0])

    # The trigger file

    def _trigger(self, options: Options) -> None:
        end = self.settings["recovery_end_command"]
        if options.trigger is None:
            self.find(
                WARNING, "restore_command names no trigger file (-t): only pg_ctl promote ends recovery", "Name one with -t."
            )
            return
        path = self.server.path(options.trigger)
        folder = os.path.dirname(path)
        try:
            status = os.stat(folder)
        except OSError as failure:
            self.find(ERROR, f'the folder of trigger file "{path}" is not there: {say.reason(failure)}', "Make it.")
            return
        if status.st_mode & stat.S_IWOTH and not options.trust_trigger:
            self.find(
                WARNING,
                f'everybody may write to "{folder}": there only a trigger file of root or of the server\'s user is obeyed',
                "Keep the trigger file in a folder of the server's own.",
            )
        with self._as_server():
            found = trigger.look(path, options.trust_trigger)
        if found.is_left_over(self.server.told_at()):
            self.find(WARNING, f'trigger file "{path}" is left over from an earlier failover, and ignored', "Remove it.")
        elif found.word:
            self.find(
                ERROR, f'trigger file "{path}" is there: the server would be promoted at its first missing segment', "Remove it."
            )
        elif found.problem:
            self.find(WARNING, f'trigger file "{path}" {found.problem}', found.hint)
        if self.server.is_standby_mode() and not options.promote:
            self.find(
                WARNING,
                "the server is in standby mode, where its trigger file does nothing",
                "Use --promote in restore_command, or recovery.signal in place of standby.signal.",
            )
        if not end:
            self.find(
                WARNING,
                "recovery_end_command is not set: the trigger file stays after a failover",
                f"Set recovery_end_command = 'pystandby recovery-end -t {options.trigger} || exit 1'.",
            )
        elif not self._removes(end, options.trigger):
            self.find(
                WARNING, f'recovery_end_command does not name trigger file "{options.trigger}"', "It should remove that file."
            )

    def _removes(self, command: str, trigger_file: str) -> bool:
        """Whether recovery_end_command names the trigger file, or runs something that may know of it."""
        try:
            words = words_of(command)
        except ValueError:
            return False
        paths = [word.rstrip(";").removeprefix("--trigger=").removeprefix("-t") for word in words]
        if any(self.server.path(path) == self.server.path(trigger_file) for path in paths if path):
            return True
        ours = {name_of(word) for word in words} & {"pystandby", "rm", "del"}
        return not ours and os.path.dirname(words[0]) != ""

    # Where the segments come from, and where they go

    def _spool(self, options: Options) -> None:
        folder = self.server.path("pg_wal")
        try:
            pg_wal = os.stat(folder)
            free = osdep.free_bytes(folder)
        except OSError as failure:
            self.find(
                ERROR, f'"{folder}" cannot be looked at: {say.reason(failure)}', "Run this as the server's user or as root."
            )
            return
        try:
            spool = os.stat(os.path.join(folder, ".pystandby"))
        except OSError:
            spool = pg_wal
        if options.look_ahead and spool.st_dev != pg_wal.st_dev:
            self.find(
                WARNING,
                f'"{folder}/.pystandby" is on another file system than "{folder}", so look-ahead is of no use',
                "Remove it: it is made anew where it belongs.",
            )
        if options.look_ahead and free < _ROOM:
            self.find(
                WARNING,
                f'"{folder}" has less than 1 GB of room, so nothing is made ready ahead',
                "Make room, or use --look-ahead 0.",
            )

    def _archive(self, options: Options) -> None:
        folder = self.server.path(options.archivelocation)
        look = Archive(folder)
        with self._as_server():
            try:
                names = sorted(os.listdir(folder))
            except OSError as failure:
                hint = "Mount it, or let the server's user read it: recovery waits for it."
                self.find(ERROR, f'archive "{folder}" cannot be read by the server: {say.reason(failure)}', hint)
                return
            self._codecs(folder, names)
            segments = [bare for bare in map(archive.bare, names) if wal.kind(bare) == wal.SEGMENT]
            if not segments:
                self.find(WARNING, f'archive "{folder}" holds no segment', "See to the primary's archive_command.")
                return
            newest = max(segments, key=lambda name: (name[8:], name))
            entry = look.look(newest)
            path = look.path(newest + entry.ending)
            try:
                if entry.state != archive.PRESENT or entry.status is None:
                    reason = say.reason(entry.failure) if entry.failure else entry.state
                    self.find(ERROR, f'"{path}" cannot be read by the server: {reason}', "Let the server's user read it.")
                    return
                head = entry.head(wal.LONG_HEADER_SIZE)
                size = entry.status.st_size
            except StandbyError:
                # Said already.
                return
            except OSError as failure:
                self.find(WARNING, f'"{path}", the newest segment there: {say.reason(failure)}', "Is it still being written?")
                return
            finally:
                entry.close()
            if entry.ending and len(head) == wal.LONG_HEADER_SIZE:
                # What it holds is not decompressed as a whole, only to count it.
                size = wal.FirstPage(head).segment_size
            verdict = ready.judge_head(head, size, newest, self.asker.system_identifier(), self.server.version)
            if verdict.state == ready.WRONG:
                hint = "Give restore_command the archive of this cluster's primary."
                self.find(ERROR, f'"{path}", the newest segment there, {verdict.reason}', hint)
                return
            if verdict.segment_size:
                self._first(look, verdict.segment_size)

    def _codecs(self, folder: str, names: "list[str]") -> None:
        """See whether what the archive has compressed can be decompressed here."""
        found = {os.path.splitext(name)[1] for name in names if archive.bare(name) != name and wal.kind(archive.bare(name))}
        if found:
            from pystandby import compression

            for ending in sorted(found):
                try:
                    compression.require(ending)
                except StandbyError as missing:
                    self.find(ERROR, f'archive "{folder}" holds "{ending}" files. {missing.message}', missing.hint)

    def _first(self, look: Archive, segment_size: int) -> None:
        """See whether the segment that recovery begins with is there, and the archive's timelines can be followed from it."""
        label = (osdep.read_small(self.server.path("backup_label"), 4096) or b"").decode("ascii", "replace")
        found = re.search(r"^START WAL LOCATION: .* \(file ([0-9A-F]{24})\)", label, re.MULTILINE)
        first = found[1] if found else self.asker.restart_segment(segment_size)
        if first is None or wal.kind(first) != wal.SEGMENT:
            return
        pg_wal = self.server.path("pg_wal")
        if not look.holds(first) and not os.path.exists(os.path.join(pg_wal, first)):
            self.find(
                ERROR,
                f'segment {first}, which recovery begins with, is neither in archive "{look.directory}" nor in pg_wal',
                "Find it, or make this standby anew from a newer base backup.",
            )
        news = timelines.news(look, pg_wal, first, segment_size, self.asker)
        if news is not None and news.kind in (timelines.WARN, timelines.HOPELESS):
            self.find(ERROR, f"{news.message}. {news.detail}", news.hint)

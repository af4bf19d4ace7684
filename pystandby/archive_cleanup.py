"""archive_cleanup_command: removing from an archive what no restart of any standby that reads it can need any more.

As pg_archivecleanup, which knows of one standby only. Made for not removing: whatever is unknown keeps everything, and a dry run
never gets to the part that removes.
"""

import os
import stat

from pystandby import exits, place, prune, readers, say, wal
from pystandby.exits import StandbyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Request:
    """What to clean up: ``oldest_kept`` is %r, or what a person gave instead; the rest are the options of the same names."""

    __slots__ = (
        "archive",
        "backups",
        "before_removal",
        "dry_run",
        "extension",
        "keep",
        "oldest_kept",
        "reader",
        "removal_pause",
        "silent_after",
    )

    def __init__(
        self,
        archive: str,
        oldest_kept: str,
        *,
        dry_run: bool = False,
        backups: bool = False,
        extension: str = "",
        keep: int = 0,
        removal_pause: "str | None" = None,
        before_removal: "str | None" = None,
        reader: "str | None" = None,
        silent_after: int = 86400,
    ) -> None:
        self.archive = archive
        self.oldest_kept = oldest_kept
        self.dry_run = dry_run
        self.backups = backups
        self.extension = extension
        self.keep = keep
        self.removal_pause = removal_pause
        self.before_removal = before_removal
        self.reader = reader
        self.silent_after = silent_after


def clean_up(request: Request, show: "Callable[[str], object]") -> int:
    """Remove what is old, or, in a dry run, ``show`` the path of each file that would be removed.

    Returns 0, or exits.NOT_DONE with a warning where something could not be removed. Raises StandbyError with nothing removed.
    """
    oldest_kept = _segment(request.oldest_kept.removesuffix(request.extension))
    if request.reader is not None and not readers.is_name(request.reader):
        raise StandbyError(
            exits.NOT_DONE,
            f'"{request.reader}" cannot be the name of a standby',
            "Nothing is removed.",
            'Make it of letters, digits, "_", "-" and "." and begin it with a letter or digit.',
        )
    try:
        names = os.listdir(request.archive)
        if request.reader is not None and not request.dry_run:
            readers.note(request.archive, request.reader, oldest_kept)
        oldest_kept = _oldest_of_all(request, oldest_kept)
    except OSError as failure:
        raise StandbyError(
            exits.NOT_DONE, f'could not clean up archive "{request.archive}": {say.reason(failure)}', "Nothing is removed."
        ) from failure
    say.debug(f'keeping {oldest_kept} and later in archive "{request.archive}"')
    old = prune.cleanable(names, oldest_kept, request.extension, request.backups)
    if request.keep:
        kept = set(sorted({name[8:24] for name in old})[-request.keep :])
        old = [name for name in old if name[8:24] not in kept]
    if request.dry_run:
        for name in old:
            show(os.path.join(request.archive, name))
        return 0
    return _Removal(request, oldest_kept).run(names, old)


def _segment(oldest_kept: str) -> str:
    """The segment that a file's name begins with, which alone counts; as SetWALFileNameForCleanup() of pg_archivecleanup."""
    if wal.kind(oldest_kept) not in (wal.SEGMENT, wal.PARTIAL, wal.BACKUP_HISTORY):
        raise StandbyError(
            exits.NOT_DONE,
            f'"{oldest_kept}" is not the name of a segment, partial segment or backup history file',
            "Nothing is removed.",
            "archive_cleanup_command gives it as %r.",
        )
    return oldest_kept[:24]


def _oldest_of_all(request: Request, oldest_kept: str) -> str:
    """The oldest segment that the one who calls or any other known standby may need; warns of those that say nothing any more."""
    others = [reader for reader in readers.known(request.archive) if reader.name != request.reader]
    for reader in others:
        if request.silent_after and reader.silent > request.silent_after:
            duration = _duration(reader.silent)
            say.warning(
                f'standby "{reader.name}" has left no restart point in archive "{request.archive}" for {duration}',
                f"What it may need, from {reader.point} on, is kept, and the archive grows.",
                f'If there is no such standby any more, remove "{os.path.join(readers.folder(request.archive), reader.name)}".',
            )
    return min([oldest_kept, *(reader.point for reader in others)], key=lambda point: point[8:])


def _duration(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} hours"


class _Removal:
    """Removing files, as long as nothing speaks against it."""

    def __init__(self, request: Request, oldest_kept: str) -> None:
        self.request = request
        self.oldest_kept = oldest_kept
        self.failed: list[str] = []
        self.why = ""

    def run(self, names: "list[str]", old: "list[str]") -> int:
        """Remove ``old``, in their order, and what killed makers left of files as old among ``names``; return the status."""
        removed = 0
        for name in old:
            if prune.is_paused(self.request.removal_pause):
                say.log(f'removal from archive "{self.request.archive}" is paused: "{self.request.removal_pause}" is there')
                break
            path = os.path.join(self.request.archive, name)
            problem = self._told_before(path) if self.request.before_removal else ""
            if problem:
                say.warning(
                    f'"{self.request.before_removal}" {problem} for "{path}"',
                    "This file and those after it are kept; it is called again the next time.",
                )
                return exits.NOT_DONE
            removed += self._remove(path)
        else:
            for name in names:
                stem, suffix, _ = name.partition(place.SUFFIX)
                if suffix and prune.cleanable([stem], self.oldest_kept, backups=True):
                    place.remove_left_over(os.path.join(self.request.archive, name))
        if removed:
            say.debug(f'removed {removed} files from archive "{self.request.archive}"')
        if self.failed:
            say.warning(
                f'could not remove {len(self.failed)} files from archive "{self.request.archive}", from '
                f"{os.path.basename(self.failed[0])} on: {self.why}",
                "The archive grows.",
                "Let the server's user write to the archive.",
            )
            return exits.NOT_DONE
        return 0

    def _told_before(self, path: str) -> str:
        """Run the program that is to see a file before it goes; what is wrong, if anything is."""
        import subprocess

        assert self.request.before_removal is not None
        try:
            status = subprocess.run([self.request.before_removal, path], check=False, stdin=subprocess.DEVNULL).returncode
        except OSError as failure:
            return f"could not be run: {say.reason(failure)}"
        return f"ended with status {status}" if status else ""

    def _remove(self, path: str) -> bool:
        try:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                say.debug(f'removed "{path}"')
                return True
        except FileNotFoundError:
            pass
        except OSError as failure:
            self.failed.append(path)
            self.why = self.why or say.reason(failure)
        return False

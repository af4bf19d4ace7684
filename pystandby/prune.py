"""Which segments of the archive no restart can need any more, and removing them. Never run before a segment was delivered."""

import os

from pystandby import archive, say, wal
from pystandby.memory import FOLDER


def cutoff(asked: str, restart: "str | None", keep: int, segment_size: int) -> "str | None":
    """The oldest segment to keep; None to remove nothing.

    ``asked`` is the segment just delivered, ``restart`` RESTARTWALFILE (%r) or None, ``keep`` the NUMFILES of -k, which counts
    only without ``restart``, ``segment_size`` in bytes. As pg_standby's SetWALFileNameForCleanup(), but right across the boundary
    of the log number, where that kept one too many.
    """
    if restart is not None:
        if wal.kind(restart) != wal.SEGMENT or restart == wal.NO_RESTART_POINT:
            return None
        # Later than what is asked for, by either order: this %r cannot be trusted.
        if restart > asked or restart[8:] > asked[8:]:
            return None
        return restart
    return wal.neighbour(asked, -keep, segment_size) if keep > 0 else None


def removable(names: "list[str]", oldest_kept: str) -> "list[str]":
    """The segments, plain or compressed, among ``names`` that sort before the oldest kept without their timelines, oldest first.

    No other file.
    """
    after_timeline = oldest_kept[8:]
    old = [name for name in names if name[8:24] < after_timeline and wal.kind(archive.bare(name)) == wal.SEGMENT]
    old.sort(key=lambda name: name[8:])
    return old


def cleanable(names: "list[str]", oldest_kept: str, extension: str = "", backups: bool = False) -> "list[str]":
    """As removable(), but partial segments and compressed files as well, and with ``backups`` backup history files; oldest first.

    ``extension`` is one more ending that a name may have. As CleanupPriorWALFiles() in
    src/bin/pg_archivecleanup/pg_archivecleanup.c, which knows no endings but the one it is given.
    """
    kinds = (wal.SEGMENT, wal.PARTIAL, *((wal.BACKUP_HISTORY,) if backups else ()))
    old: list[tuple[str, str]] = []
    for name in names:
        bare = name.removesuffix(extension) if extension else name
        if wal.kind(bare) is None:
            bare = archive.bare(name)
        if wal.kind(bare) in kinds and bare[8:] < oldest_kept[8:]:
            old.append((bare[8:], name))
    return [name for _, name in sorted(old)]


def is_paused(pause_file: "str | None") -> bool:
    """Whether the file of --removal-pause is there, or cannot be ruled out; False where none is named."""
    if pause_file is None:
        return False
    try:
        os.lstat(pause_file)
    except FileNotFoundError:
        return False
    except OSError as failure:
        say.warning(
            f'whether "{pause_file}" is there is not known: {say.reason(failure)}', "Nothing is removed from the archive."
        )
    return True


def prune(directory: str, oldest_kept: str) -> int:
    """Remove what is older than ``oldest_kept`` from an archive, and return how many segments that were.

    Nothing where other standbys have left their restart points (readers.py): "pystandby archive-cleanup" counts them all.
    Raises nothing: the segment is delivered, and a full archive is no reason to take that back.
    """
    if os.path.isdir(os.path.join(directory, FOLDER, "readers")):
        say.debug(f'old segments are left in archive "{directory}": other standbys read it too')
        return 0
    try:
        names = os.listdir(directory)
    except OSError as failure:
        say.warning(f'could not list archive "{directory}" to remove old segments: {say.reason(failure)}')
        return 0
    removed = 0
    failed: list[str] = []
    why = ""
    for name in removable(names, oldest_kept):
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            continue
        except OSError as failure:
            failed.append(name)
            why = why or say.reason(failure)
            continue
        removed += 1
        say.debug(f'removed old segment {name} from archive "{directory}"')
    if failed:
        say.warning(
            f'could not remove {len(failed)} old segments from archive "{directory}", from {failed[0]} on: {why}',
            "The restore is not affected; the archive grows.",
            "Let the server's user write to the archive, or leave out %r and -k and let another program remove old segments.",
        )
    return removed

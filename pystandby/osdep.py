"""What differs between operating systems: open files, copying in the kernel, locks, signals, and who is alive. No policy.

The only module that asks for sys.platform; what is for Windows alone is in osdep_windows, under the same names.
"""

import errno
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

O_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
O_BINARY = getattr(os, "O_BINARY", 0)
# Opening a FIFO or a device that somebody left under a name of ours must not wait for its other end.
O_READ = os.O_RDONLY | O_CLOEXEC | O_BINARY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)

OWN_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Failures that say something about this machine and nothing about the file: no descriptors left, no memory left."""

CLOCK_BEHIND = 60.0
"""Seconds by which the clock of another machine, a file server, may be behind ours: younger files have to be seen at rest."""

_CHUNK = 1 << 20

BYTE_ORDER = sys.byteorder

COPIES_SET_SIZE_FIRST = sys.platform == "win32"
"""Whether the usual copy of this system gives a file its final size before its content, as Windows' copy does."""

SHUTDOWN_SIGNALS_US = sys.platform != "win32"
"""Whether a server that shuts down ends its restore_command itself, by a signal to the process group."""

HEARTBEAT = 3600.0 if SHUTDOWN_SIGNALS_US else 0.25
"""Seconds between two looks at whether the server goes down, at most: where no signal says so, it waits for us meanwhile."""

HAS_USER_SIGNALS = sys.platform != "win32"
"""Whether there is a SIGUSR1, which pg_standby's users know as fast failover."""

SHARED_FOLDERS = sys.platform != "win32"
"""Whether a mode can say that everybody may write to a folder."""


waiting_shell = 0
"""The process id of the shell that waits for us (contrib/linux/pystandby), which ends us when SIGUSR1 comes to it, and tells
another of us; 0 without one."""

user_signal_came = False
"""Whether SIGUSR1 came to that shell before we were there."""


LONGEST_SOCKET_PATH = 0 if sys.platform == "win32" else 107 if sys.platform == "linux" else 103
"""sun_path of struct sockaddr_un, less its closing NUL; PostgreSQL refuses to start with a longer one. 0: there are none."""

LIBRARY_PATH = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
"""The variable that names folders of libraries."""

SHELL_QUOTES, SHELL_ESCAPE, SHELL_PUNCTUATION = ('"', "", "<>|&") if sys.platform == "win32" else ("'\"", "\\", "();<>|&")
"""What the shell that runs a server's commands takes for itself: cmd.exe has backslashes in names, and /bin/sh before blanks."""

PROGRAM_ENDING = ".exe" if sys.platform == "win32" else ""
"""What the name of a program's file ends in."""


class SourceError(OSError):
    """A copy failed because its source could not be read; every other OSError of copy() is the destination's."""


def use_standard_descriptors() -> None:
    """Open the null device for each of stdin, stdout and stderr that is closed.

    Else the next file opened gets the number of stderr, and a warning is written into a segment.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def find_packages() -> None:
    """Look for packages wherever Python does: the executable starts it without, knowing only where ours is (-S).

    To be called before a dependency is imported: pip leaves one where it finds it, which may be the system's or a .pth file's.
    """
    if sys.flags.no_site:
        import site

        site.main()


def read_small(path: str, size: int) -> "bytes | None":
    """The first ``size`` bytes of a file, or fewer; None where it cannot be read. Does not wait for a FIFO's other end."""
    try:
        descriptor = open_file(path, O_READ)
        try:
            return os.read(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError:
        return None


def copy(source: int, target: int, size: int) -> int:
    """Copy what two descriptors stand at, ``size`` bytes or fewer if the source ends before, and return how many.

    In the kernel where it can be done, a reflink first: never a link, because the server overwrites what it recycles.
    Raises SourceError, or OSError where the target cannot be written.
    """
    copied = 0
    for way in _WAYS:
        try:
            while copied < size:
                count = way(source, target, size - copied)
                if count == 0:
                    break
                copied += count
        except OSError as failure:
            if failure.errno in _FULL:
                raise
            continue
        if copied >= size:
            return copied
    while copied < size:
        try:
            chunk = os.read(source, min(_CHUNK, size - copied))
        except OSError as failure:
            raise SourceError(failure.errno, failure.strerror) from failure
        if not chunk:
            break
        write(target, chunk)
        copied += len(chunk)
    return copied


def write(target: int, data: bytes) -> None:
    """Write all of some bytes. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def read(source: int, size: int) -> bytes:
    """Read up to ``size`` bytes, shorter only at the end of the file. Raises SourceError."""
    try:
        data = os.read(source, size)
        while 0 < len(data) < size:
            more = os.read(source, size - len(data))
            if not more:
                break
            data += more
    except OSError as failure:
        raise SourceError(failure.errno, failure.strerror) from failure
    return data


def sync_folder(path: str) -> None:
    """Make the names in a folder durable. Raises OSError.

    Where the system cannot do that for folders it is left out, as PostgreSQL does (fsync_fname_ext() in src/common/file_utils.c).
    """
    try:
        descriptor = os.open(path, O_READ)
    except (PermissionError, IsADirectoryError):
        return
    try:
        os.fsync(descriptor)
    except OSError as failure:
        if failure.errno not in (errno.EBADF, errno.EINVAL):
            raise
    finally:
        os.close(descriptor)


_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


if sys.platform == "win32":
    from pystandby.osdep_windows import *  # noqa: F403 - as every module asks this one for them

    # Windows copies only by name, which could not be verified before it is published; reading and writing it is.
    _WAYS: "tuple[Callable[[int, int, int], int], ...]" = ()

else:
    # signal itself imports enum, at half a start of Python.
    import _signal  # type: ignore[import-not-found]
    import fcntl

    _FICLONE = 0x40049409

    def _reflink(source: int, target: int, size: int) -> int:
        if os.lseek(source, 0, os.SEEK_CUR) or os.lseek(target, 0, os.SEEK_CUR) or os.fstat(source).st_size != size:
            raise OSError(errno.EINVAL, "not a whole file")
        fcntl.ioctl(target, _FICLONE, source)
        return size

    def _sendfile(source: int, target: int, size: int) -> int:
        return os.sendfile(target, source, None, size)  # None: at the descriptor's own position

    _WAYS = (_reflink, *((os.copy_file_range,) if hasattr(os, "copy_file_range") else ()), _sendfile)

    def open_file(path: str, flags: int, mode: int = 0o777) -> int:
        """As os.open(), which leaves others free to rename and remove the file. Raises OSError."""
        return os.open(path, flags, mode)

    def path_problem(path: str) -> str:
        """What is wrong with the name of a file, whatever there is on the disk: nothing here."""
        return ""

    def replace(source: str, target: str) -> None:
        """As os.replace(): a file that is open can be replaced. Raises OSError."""
        os.replace(source, target)

    def remove(path: str) -> None:
        """As os.unlink(): a file that is open can be removed. Raises OSError."""
        os.unlink(path)

    def remove_folder(path: str) -> None:
        """As os.rmdir(). Raises OSError."""
        os.rmdir(path)

    def is_in_use(failure: OSError) -> bool:
        """False: nobody can keep others from reading a file that they may read."""
        return False

    def is_open_for_writing(path: str) -> bool:
        """False: files are open for writing to others at any time, and to tell takes a right that a server has not."""
        return False

    _NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EMLINK, errno.EOPNOTSUPP)

    def rename_new(source: str, target: str) -> None:
        """Rename a file to a name that must be free. Raises FileExistsError where it is taken, and OSError.

        rename() would replace what two makers gave the same name in the same moment; link() does not.
        """
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as failure:
            if failure.errno not in _NO_LINKS:
                raise
            # A file system without links.
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
            os.rename(source, target)
            return
        try:
            os.unlink(source)
        except FileNotFoundError:
            # Whoever came next took it for what somebody left.
            pass

    def set_modified(path: str, descriptor: int, modified: int) -> None:
        """Give an open file a modification time, in nanoseconds. Raises OSError."""
        os.utime(path, ns=(modified, modified))

    def sync_file(path: str, descriptor: int) -> None:
        """Make the content of an open file durable. Raises OSError."""
        os.fsync(descriptor)

    def lock(descriptor: int) -> bool:
        """Lock an open file for this process; False if another has it, or where files cannot be locked."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def startup_process(postmaster: "int | None") -> "int | None":
        """The process id of the server's startup process: our process group's leader, which is its session's leader too.

        Also of one that has ended.

        Without exec in restore_command our parent is a shell that outlives the server.
        """
        return os.getpgrp()

    def started(pid: int) -> "str | None":
        """When a process started, in words of the operating system that no later process of that id shares; None: it has gone.

        Where /proc does not say, the word is empty for every process that is alive.
        """
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                # The command's name, in parentheses, may hold anything: count from behind it. State is field 3, start time 22.
                fields = file.read(4096).rpartition(b")")[2].split()
            # A zombie has ended; only its parent has not looked yet.
            return None if fields[0] in (b"Z", b"X") else fields[19].decode()
        except ProcessLookupError:
            return None
        except (OSError, IndexError):
            pass
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return None
        except PermissionError:
            pass
        return ""

    def boot() -> str:
        """What tells this run of the operating system from others; empty where it does not say."""
        try:
            with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
                return file.read(64).decode("ascii", "replace").strip()
        except OSError:
            return ""

    def own_user() -> int:
        """The user that this process acts as."""
        return os.geteuid()

    def is_root() -> bool:
        """Whether nothing is forbidden to us."""
        return os.geteuid() == 0

    def find_user(name: str) -> "tuple[int, int] | None":
        """The numbers of a user and of its group; None: there is no such user."""
        import pwd

        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        return entry.pw_uid, entry.pw_gid

    def give_path(path: str, user: int, group: int) -> None:
        """Let a file or folder belong to a user and group, which takes root. Raises OSError."""
        os.chown(path, user, group)

    def kill(pid: int) -> None:
        """End a process at once. Raises OSError."""
        os.kill(pid, _signal.SIGKILL)

    def give(descriptor: int, user: int, group: int) -> None:
        """Let an open file belong to a user and group, which takes root. Raises OSError."""
        os.fchown(descriptor, user, group)

    def let_everybody_read(descriptor: int) -> None:
        """Let everybody read an open file, whatever the umask. Raises OSError."""
        os.fchmod(descriptor, 0o644)

    class ActingAs:
        """While in it, root acts as another user, to see what that user would see; others stay who they are.

        With that user's groups, as a server of that user's has them: an archive is often let be read by a group alone.
        """

        def __init__(self, user: int) -> None:
            self._user = user
            self._before: tuple[int, list[int]] | None = None

        def __enter__(self) -> None:
            if os.geteuid() != 0:
                return
            self._before = (os.getegid(), os.getgroups())
            import pwd

            try:
                entry = pwd.getpwuid(self._user)
                os.setgroups(os.getgrouplist(entry.pw_name, entry.pw_gid))
                os.setegid(entry.pw_gid)
            except (KeyError, OSError):
                # A user without a name, as in a container, or a root that may not: then as ourselves in this.
                pass
            os.seteuid(self._user)

        def __exit__(self, *_: object) -> None:
            if self._before is None:
                return
            os.seteuid(0)
            try:
                os.setegid(self._before[0])
                os.setgroups(self._before[1])
            except OSError:
                pass
            self._before = None

    def on_user_signal(handler: "Callable[[], None]") -> None:
        """Call ``handler`` on SIGUSR1, whose default action would take the server down (138), and at once if it came before."""
        _signal.signal(_signal.SIGUSR1, lambda number, frame: handler())
        if user_signal_came:
            handler()

    def pass_user_signal_on() -> bool:
        """Send SIGUSR1 to the shell that waits for us, unless it has told us; whether that was done."""
        if not waiting_shell or user_signal_came or os.getppid() != waiting_shell:
            return False
        os.kill(waiting_shell, _signal.SIGUSR1)
        return True

    def heed_quit() -> None:
        """Die of SIGQUIT, the postmaster's immediate shutdown, which a shell has its background commands ignore."""
        _signal.signal(_signal.SIGQUIT, _signal.SIG_DFL)

    class UserSignalHeld:
        """While threads are started, which inherit it: SIGUSR1 is for the main thread, the one that Python's handlers run in.

        Another that took it would leave the main thread waiting, and the handler with it.
        """

        def __enter__(self) -> None:
            _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGUSR1})

        def __exit__(self, *_: object) -> None:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGUSR1})

    def signal_postmaster(pid: int) -> None:
        """Send SIGUSR1, which has the postmaster look for a promote file. Raises OSError."""
        os.kill(pid, _signal.SIGUSR1)

    def start_helper(work: "Callable[[], None]", elsewhere: "Callable[[], tuple[str, dict[str, str]]]") -> None:
        """Do ``work`` in a process that outlives us, holds none of our files open, and ends with it. Raises OSError.

        ``elsewhere`` is for systems that cannot fork.
        """
        if os.fork() != 0:
            return
        try:
            # In a container the postmaster may be process 1, which our end is reported to, and which takes death by a signal
            # for the crash of a server process.
            for number in (_signal.SIGTERM, _signal.SIGQUIT, _signal.SIGINT):
                _signal.signal(number, lambda *_: os._exit(0))
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGUSR1})
            # The server's log waits for its last writer, and inotify's watches for their last holder.
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.closerange(3, 1024)
            work()
        finally:
            # Never up the stack: there the restore goes on that made us.
            os._exit(0)

    def end_helper(pid: int, kill: bool) -> None:
        """Ask a process of our process group to end, or ``kill`` it; another that has got its number since is left alone."""
        try:
            if pid > 0 and os.getpgid(pid) == os.getpgrp():
                os.kill(pid, _signal.SIGKILL if kill else _signal.SIGTERM)
        except OSError:
            pass

    def free_bytes(path: str) -> int:
        """How many bytes we may still write to the file system of a path. Raises OSError."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def may_be_open_for_writing(path: str, descriptor: int) -> bool:
        """Whether somebody may have a file open for writing that ``descriptor`` has open for reading; called in the main thread.

        Linux gives the file's owner a read lease only where nobody has (fcntl(2)). Who opens it meanwhile has SIGIO sent to us.
        """
        try:
            _signal.signal(_signal.SIGIO, _signal.SIG_IGN)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except (OSError, ValueError, AttributeError):
            # Written to, somebody else's file, another operating system or file system.
            return True
        return False

    def changed_at(status: os.stat_result, descriptor: int = -1) -> "float | None":
        """When a file's content or name last changed, in seconds since the epoch by the file system's clock.

        The inode change time cannot be set back, as cp -p and rsync -t set the modification time.
        """
        return max(status.st_mtime, status.st_ctime)

    def clock_behind(path: str) -> float:
        """Seconds by which the clock of a file's file system may be behind ours: it may be another machine's."""
        return CLOCK_BEHIND

    def write_message(text: str, on_terminal: bool) -> None:
        """Write a message to stderr, with the names of files in it, in any encoding or none, as they are."""
        os.write(2, os.fsencode(text))

    def zone(local: time.struct_time) -> str:
        """The name of the local time zone."""
        return local.tm_zone

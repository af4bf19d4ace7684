"""osdep's half for Windows, which has what the other half has, and to which the same names lead.

A module of its own, so that no start elsewhere reads it in.
"""

# What subprocess and multiprocessing make their calls of Windows with. ctypes has more of them, and costs a quarter of a
# start of Python.
import _winapi
import errno
import msvcrt
import os
import sys
import time

from pystandby import osdep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ActingAs",
    "UserSignalHeld",
    "boot",
    "changed_at",
    "clock_behind",
    "end_helper",
    "find_user",
    "free_bytes",
    "give",
    "give_path",
    "heed_quit",
    "is_in_use",
    "is_open_for_writing",
    "is_root",
    "kill",
    "let_everybody_read",
    "lock",
    "may_be_open_for_writing",
    "on_user_signal",
    "open_file",
    "own_user",
    "pass_user_signal_on",
    "path_problem",
    "remove",
    "remove_folder",
    "rename_new",
    "replace",
    "set_modified",
    "signal_postmaster",
    "start_helper",
    "started",
    "startup_process",
    "sync_file",
    "write_message",
    "zone",
]

_ERROR_ACCESS_DENIED = 5
_ERROR_SHARING_VIOLATION = 32
_ERROR_LOCK_VIOLATION = 33
_ERROR_DIR_NOT_EMPTY = 145
_MAY_BE_HELD = (_ERROR_ACCESS_DENIED, _ERROR_SHARING_VIOLATION, _ERROR_LOCK_VIOLATION, _ERROR_DIR_NOT_EMPTY)

_FILE_APPEND_DATA = 0x4
_FILE_FLAG_BACKUP_SEMANTICS = 0x02000000
_SHARE_READ, _SHARE_WRITE, _SHARE_DELETE = 1, 2, 4
_CREATE_NEW, _CREATE_ALWAYS, _OPEN_EXISTING, _OPEN_ALWAYS, _TRUNCATE_EXISTING = 1, 2, 3, 4, 5

_HELD = 1.0
"""Seconds for which a file that somebody has open is tried again: scanners and indexers have each new one for a moment.
PostgreSQL's own pgrename() (src/port/dirmod.c) does so for ten; here the caller tries again, and may be told to go."""

_LOCKED_BYTE = 0x7FFFFFF0
"""The byte that a lock is on. Others cannot read it, so it is one that no file of ours has."""


def open_file(path: str, flags: int, mode: int = 0o777) -> int:
    """As os.open(), but others may rename and remove the file meanwhile, as they may elsewhere. Raises OSError.

    Whose number tells a file that another program has for itself (is_in_use()); os.open()'s does not.
    """
    access = 0 if flags & os.O_WRONLY else _winapi.GENERIC_READ
    if flags & (os.O_WRONLY | os.O_RDWR):
        access |= _FILE_APPEND_DATA if flags & os.O_APPEND else _winapi.GENERIC_WRITE
    if flags & os.O_CREAT:
        disposition = _CREATE_NEW if flags & os.O_EXCL else _CREATE_ALWAYS if flags & os.O_TRUNC else _OPEN_ALWAYS
    else:
        disposition = _TRUNCATE_EXISTING if flags & os.O_TRUNC else _OPEN_EXISTING
    return _open(path, access, _SHARE_READ | _SHARE_WRITE | _SHARE_DELETE, disposition, flags)


def _open(path: str, access: int, share: int, disposition: int, flags: int) -> int:
    if "\0" in path:
        raise ValueError("embedded null character")
    # The flag opens folders too, as open() does elsewhere.
    handle = _winapi.CreateFile(path, access, share, 0, disposition, _FILE_FLAG_BACKUP_SEMANTICS, 0)
    try:
        return msvcrt.open_osfhandle(handle, flags & (os.O_RDWR | os.O_WRONLY | os.O_APPEND) | os.O_BINARY)
    except OSError:
        _winapi.CloseHandle(handle)
        raise


def is_in_use(failure: OSError) -> bool:
    """Whether a file could not be opened or read because another program has it, or a part of it, for itself."""
    if isinstance(failure, osdep.SourceError):
        # Of what could be opened a read is denied by a lock only.
        return failure.errno == errno.EACCES
    return failure.winerror in (_ERROR_SHARING_VIOLATION, _ERROR_LOCK_VIOLATION)


def is_open_for_writing(path: str) -> bool:
    """Whether another program has a file open for writing, or for itself. False where that cannot be told."""
    try:
        os.close(_open(path, _winapi.GENERIC_READ, _SHARE_READ | _SHARE_DELETE, _OPEN_EXISTING, 0))
    except OSError as failure:
        return is_in_use(failure)
    return False


def path_problem(path: str) -> str:
    """What is wrong with the name of a file, whatever there is on the disk; empty if nothing is."""
    if '"' in path:
        return 'has a quotation mark in it: before a closing one, a backslash is written twice, as in "C:\\archive\\\\"'
    stem = os.path.basename(path).partition(".")[0].rstrip(" ").upper()
    if stem in _DEVICES or (stem[:-1] in ("COM", "LPT") and stem[-1:] in "123456789"):
        return "is the name of a device"
    return ""


_DEVICES = ("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$")
"""Names that a file cannot have, in any folder and with any ending, beside COM1 and the like."""


def replace(source: str, target: str) -> None:
    """As os.replace(), tried again for a moment where somebody has one of the two files open. Raises OSError."""
    _persist(lambda: os.replace(source, target))


def rename_new(source: str, target: str) -> None:
    """Rename a file to a name that must be free. Raises FileExistsError where it is taken, and OSError."""
    _persist(lambda: os.rename(source, target))


def remove(path: str) -> None:
    """As os.unlink(), tried again for a moment where somebody has the file open. Raises OSError."""
    _persist(lambda: os.unlink(path))


def remove_folder(path: str) -> None:
    """As os.rmdir(), tried again for a moment: a file that was removed stays while somebody has it open. Raises OSError."""
    _persist(lambda: os.rmdir(path))


def _persist(work: "Callable[[], None]") -> None:
    until = time.monotonic() + _HELD
    while True:
        try:
            return work()
        except OSError as failure:
            if failure.winerror not in _MAY_BE_HELD or time.monotonic() >= until:
                raise
        time.sleep(0.01)


def set_modified(path: str, descriptor: int, modified: int) -> None:
    """Give an open file a modification time, in nanoseconds, which stays when it is closed. Raises OSError."""
    import ctypes

    # By the handle that wrote to it: whatever another one sets is overwritten when that is closed.
    time_of = ctypes.c_uint64(modified // 100 + _EPOCH)
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
    if not ctypes.windll.kernel32.SetFileTime(handle, None, None, ctypes.byref(time_of)):
        raise ctypes.WinError()


_EPOCH = 116444736000000000
"""1970 in units of 100 nanoseconds since 1601, which Windows counts in."""


def sync_file(path: str, descriptor: int) -> None:
    """Make the content of a file durable that is open for reading. Raises OSError."""
    # FlushFileBuffers() takes a handle that may write.
    writable = open_file(path, os.O_RDWR)
    try:
        os.fsync(writable)
    finally:
        os.close(writable)


def lock(descriptor: int) -> bool:
    """Lock an open file for this process; False if another has it, or where files cannot be locked."""
    try:
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, at, os.SEEK_SET)
    except OSError:
        return False
    return True


def startup_process(postmaster: "int | None") -> "int | None":
    """The process id of the server's startup process: that child of the postmaster which we descend from; None if none is.

    Without a postmaster, whoever started cmd.exe: a server that went down while its command was being started has left
    nothing else to know it by, and the command would wait for ever.
    """
    process = os.getpid()
    # cmd.exe, and before Python itself what starts it: pystandby.exe, a venv's python.exe.
    for _ in range(16):
        parent = _parent(process)
        if parent is None:
            return None
        if parent == postmaster:
            return process
        if postmaster is None and _is_shell(process):
            since, shell_since = started(parent), started(process)
            # Windows gives a number to the next process soon: one that is younger than its child is another.
            return _NOBODY if since and shell_since and int(since) > int(shell_since) else parent
        process = parent
    return None


_NOBODY = 0
"""The number of a process that nobody can ask for, so that it has gone."""


def _is_shell(pid: int) -> bool:
    try:
        handle = _winapi.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid)
    except OSError:
        return False
    try:
        return os.path.basename(_image(handle)) == "cmd.exe"
    except OSError:
        return False
    finally:
        _winapi.CloseHandle(handle)


def _parent(pid: int) -> "int | None":
    import ctypes

    try:
        handle = _winapi.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid)
    except OSError:
        return None
    try:
        # PROCESS_BASIC_INFORMATION, as os.getppid() reads it since Python 3.13; the last is the parent.
        answer = (ctypes.c_size_t * 6)()
        query = ctypes.windll.ntdll.NtQueryInformationProcess
        status = query(ctypes.c_void_p(handle), 0, answer, ctypes.sizeof(answer), None)
    finally:
        _winapi.CloseHandle(handle)
    return int(answer[5]) or None if status == 0 else None


_QUERY_LIMITED_INFORMATION = 0x1000
_SYNCHRONIZE = 0x100000


def started(pid: int) -> "str | None":
    """When a process started, in words of the operating system that no later process of that id shares; None: it has gone.

    The word is empty for a process of somebody else's, of whom only that much is known.
    """
    try:
        handle = _winapi.OpenProcess(_QUERY_LIMITED_INFORMATION | _SYNCHRONIZE, False, pid)
    except OSError as failure:
        return "" if failure.winerror == _ERROR_ACCESS_DENIED else None
    try:
        # It stays known for as long as somebody has a handle of it.
        if _winapi.WaitForSingleObject(handle, 0) != _winapi.WAIT_TIMEOUT:
            return None
        import ctypes

        times = (ctypes.c_uint64 * 4)()
        at = [ctypes.byref(times, 8 * number) for number in range(4)]
        known = ctypes.windll.kernel32.GetProcessTimes(ctypes.c_void_p(handle), *at)
        return str(times[0]) if known else ""
    finally:
        _winapi.CloseHandle(handle)


def boot() -> str:
    """What tells this run of the operating system from others: nothing here, and started() is enough."""
    return ""


def own_user() -> int:
    """Files have no numeric owner on Windows: as stat() says there."""
    return 0


def is_root() -> bool:
    """Windows has no root; its PostgreSQL gives up an administrator's rights by itself."""
    return False


def find_user(name: str) -> "tuple[int, int] | None":
    """None: Windows has no numbers of users."""
    return None


def give_path(path: str, user: int, group: int) -> None:
    """Nothing: see own_user()."""


def kill(pid: int) -> None:
    """End a process at once. Raises OSError."""
    os.kill(pid, 9)


def give(descriptor: int, user: int, group: int) -> None:
    """Files have no numeric owner on Windows."""


def let_everybody_read(descriptor: int) -> None:
    """Nor a mode that says who may read them."""


class ActingAs:
    """Nothing to become: see own_user()."""

    def __init__(self, user: int) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def on_user_signal(handler: "Callable[[], None]") -> None:
    """Windows has no SIGUSR1."""


def pass_user_signal_on() -> bool:
    """False: see on_user_signal()."""
    return False


def heed_quit() -> None:
    """Windows has no SIGQUIT."""


class UserSignalHeld:
    """Nothing to hold: see on_user_signal()."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def signal_postmaster(pid: int) -> None:
    """Send SIGUSR1 to a postmaster, as pg_ctl does. Raises OSError.

    PostgreSQL's signals are messages of one byte, which the other end sends back, on a pipe of each process's own
    (pgkill() in src/port/kill.c, pg_signal_thread() in src/backend/port/win32/signal.c).
    """
    import ctypes

    signal, answer, count = (ctypes.c_ubyte * 1)(_PG_SIGUSR1), (ctypes.c_ubyte * 1)(), ctypes.c_uint32()
    call = ctypes.WinDLL("kernel32", use_last_error=True).CallNamedPipeW
    pipe = ctypes.c_wchar_p(f"\\\\.\\pipe\\pgsignal_{pid}")
    if not call(pipe, signal, 1, answer, 1, ctypes.byref(count), _PIPE_TIMEOUT):
        raise ctypes.WinError(ctypes.get_last_error())
    if count.value != 1 or answer[0] != _PG_SIGUSR1:
        raise OSError(errno.ESRCH, f"process {pid} does not take signals as a server does")


_PG_SIGUSR1 = 30
"""What PostgreSQL calls SIGUSR1 where the system has none (src/include/port/win32_port.h)."""

_PIPE_TIMEOUT = 1000
"""Milliseconds for which a pipe that is busy is waited for, as PostgreSQL does."""


def start_helper(work: "Callable[[], None]", elsewhere: "Callable[[], tuple[str, dict[str, str]]]") -> None:
    """Do ``work`` in a process that outlives us, holds none of our files open, and ends with it. Raises OSError.

    Windows cannot fork: a Python of its own runs the code that ``elsewhere`` returns, with these variables in its environment
    and our sys.path. It begins in our current directory, which it should leave: nobody can remove one that somebody is in.
    """
    import subprocess

    code, variables = elsewhere()
    # A venv's python.exe is one process more, that only waits for another.
    python = getattr(sys, "_base_executable", "") or sys.executable
    # Without a handle of ours, or the server's log would wait for its last writer; no console of its own, nor ours.
    flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    how = ["-E"] * sys.flags.ignore_environment + ["-S"] * sys.flags.no_site
    process = subprocess.Popen(
        [python, *how, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        close_fds=True,
        creationflags=flags,
        env={**os.environ, **variables},
    )
    # It is to outlive us, and a warning that it does would be no news.
    process.returncode = 0


def end_helper(pid: int, kill: bool) -> None:
    """End a process of ours, which start_helper() started; another that has got its number since is left alone."""
    if pid <= 0 or pid == os.getpid():
        return
    try:
        handle = _winapi.OpenProcess(_QUERY_LIMITED_INFORMATION | _TERMINATE, False, pid)
    except OSError:
        return
    try:
        # Neither has anything to do that may not be broken off.
        if _image(handle) == _image(_winapi.GetCurrentProcess()):
            _winapi.TerminateProcess(handle, 0)
    except OSError:
        pass
    finally:
        _winapi.CloseHandle(handle)


_TERMINATE = 0x1


def _image(process: int) -> str:
    """The path of the program that a process runs. Raises OSError."""
    import ctypes

    path = ctypes.create_unicode_buffer(32768)
    size = ctypes.c_uint32(len(path))
    query = ctypes.windll.kernel32.QueryFullProcessImageNameW
    if not query(ctypes.c_void_p(process), 0, path, ctypes.byref(size)):
        raise ctypes.WinError()
    return os.path.normcase(path.value)


def free_bytes(path: str) -> int:
    """How many bytes we may still write to the file system of a path. Raises OSError."""
    import shutil

    return shutil.disk_usage(path).free


def may_be_open_for_writing(path: str, descriptor: int) -> bool:
    """Whether somebody may have a file open for writing that ``descriptor`` has open for reading."""
    return is_open_for_writing(path)


def changed_at(status: os.stat_result, descriptor: int = -1) -> "float | None":
    """When a file that is open, if it is, last changed, in seconds since the epoch by the file system's clock.

    Its change time cannot be set back, as copy and robocopy set the modification time; stat() leaves it out. None where it
    is not known, as on FAT.
    """
    if descriptor < 0:
        return None
    import ctypes

    # FILE_BASIC_INFO: creation, last access, last write, change, attributes.
    answer = (ctypes.c_int64 * 5)()
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
    if not ctypes.windll.kernel32.GetFileInformationByHandleEx(handle, 0, answer, ctypes.sizeof(answer)) or answer[3] <= 0:
        return None
    return max(status.st_mtime, (answer[3] - _EPOCH) / 1e7)


def clock_behind(path: str) -> float:
    """Seconds by which the clock of a file's file system may be behind ours: none for a disk of this machine's."""
    import ctypes

    drive = os.path.splitdrive(os.path.realpath(path))[0]
    kind = ctypes.windll.kernel32.GetDriveTypeW(ctypes.c_wchar_p(f"{drive}\\"))
    return 0.0 if kind == _DRIVE_FIXED else osdep.CLOCK_BEHIND


_DRIVE_FIXED = 3


def write_message(text: str, on_terminal: bool) -> None:
    """Write a message to stderr, as the server's startup process writes its own: in the system's ANSI code page.

    Outside of databases that is the server's encoding for messages (pg_bind_textdomain_codeset() in
    src/backend/utils/mb/mbutils.c), in which it reads our command line from its settings, too; it converts for a console
    only (write_console() in src/backend/utils/error/elog.c). What the code page lacks is written with a backslash.
    """
    if on_terminal and sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
        return
    import codecs

    os.write(2, codecs.mbcs_encode(text, "backslashreplace")[0])


def zone(local: time.struct_time) -> str:
    """The offset of the local time from UTC: Windows has long names for its zones, in its own language."""
    minutes = (local.tm_gmtoff or 0) // 60
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02}{f':{rest:02}' if rest else ''}"

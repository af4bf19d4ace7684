"""A copy as Windows' own copy, robocopy and the like make it, piece by piece on demand: the final size first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

SHARED, READABLE, EXCLUSIVE, LOCKED = "shared", "readable", "exclusive", "locked"
"""What others may do with the file meanwhile: everything; read it, as with copy; nothing; open it, and read none of it."""

FORWARD, BACKWARD, ENDS_FIRST = "forward", "backward", "ends first"
"""The order of the pieces; the last leaves the middle, where neither the first page nor the last shows that it is missing."""

PIECES = 8

_PROGRAM = """
import ctypes, msvcrt, os, sys
source, target, others, order, pieces = sys.argv[1:]
pieces = int(pieces)
with open(source, "rb") as file:
    data = file.read()
create = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
create.restype = ctypes.c_void_p
create.argtypes = (ctypes.c_wchar_p, *[ctypes.c_uint32] * 2, ctypes.c_void_p, *[ctypes.c_uint32] * 2, ctypes.c_void_p)
READ, WRITE, DELETE = 1, 2, 4
shares = {"shared": READ | WRITE | DELETE, "readable": READ, "exclusive": 0, "locked": READ | WRITE | DELETE}
CREATE_NEW, GENERIC_READ_AND_WRITE = 1, 0xC0000000
handle = create(target, GENERIC_READ_AND_WRITE, shares[others], None, CREATE_NEW, 0, None)
if handle in (None, ctypes.c_void_p(-1).value):
    raise ctypes.WinError(ctypes.get_last_error())
descriptor = msvcrt.open_osfhandle(handle, os.O_RDWR | os.O_BINARY)
os.ftruncate(descriptor, len(data))
os.lseek(descriptor, 0, os.SEEK_SET)
if others == "locked":
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, len(data))
numbers = list(range(pieces))
if order == "backward":
    numbers.reverse()
if order == "ends first":
    numbers = [0, pieces - 1, *numbers[1:-1]]
size = len(data) // pieces
print("made", flush=True)
for number in numbers:
    if not sys.stdin.readline():
        break
    os.lseek(descriptor, number * size, os.SEEK_SET)
    os.write(descriptor, data[number * size : (number + 1) * size])
    print(number, flush=True)
else:
    sys.stdin.readline()
if others == "locked":
    os.lseek(descriptor, 0, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_UNLCK, len(data))
os.close(descriptor)
"""


class SlowCopy:
    """The copy of one file by a process of its own; for a with statement, whose end ends it wherever it is."""

    def __init__(self, source: Path, target: Path, others: str = SHARED, order: str = FORWARD) -> None:
        command = [sys.executable, "-c", _PROGRAM, str(source), str(target), others, order, str(PIECES)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._until("made")

    def __enter__(self) -> SlowCopy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with self._process:
            pass

    def write(self, pieces: int = PIECES) -> None:
        """Have it write so many pieces more."""
        assert self._process.stdin is not None
        for _ in range(pieces):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            self._until("")

    def close(self) -> None:
        """Have it close the file, in the order that a program does, and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0

    def _until(self, said: str) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the copy has ended"
        assert not said or line.strip() == said

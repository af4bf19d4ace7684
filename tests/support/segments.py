"""WAL segments made by hand, for tests that need no server: valid in all but most of their records' checksums.

Packed with struct from what PostgreSQL's headers say (src/include/access/xlog_internal.h, xlogrecord.h), on purpose without a
look at pystandby.wal: a mistake there must not be made here as well. Little endian, as every machine that these tests run on.

    segments.full("000000010000000000000005")           every page used, the last record cut off by the segment's end
    segments.switched("000000010000000000000005")       ended by pg_switch_wal(), with the tail that this version leaves
    segments.unfinished("000000010000000000000005")     still being written by a server: zeros behind the last record
    segments.recycled("0000000100...05", "00...02")     the same in a recycled file: an old segment's pages behind it
    segments.zeros_from(segment, 8192)                  the copy of a whole one that is not through yet
"""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

MB = 1 << 20

PAGE = 8192

MAGIC = {
    "9.3": 0xD075,
    "9.4": 0xD07E,
    "9.5": 0xD087,
    "9.6": 0xD093,
    "10": 0xD097,
    "11": 0xD098,
    "12": 0xD101,
    "13": 0xD106,
    "14": 0xD10D,
    "15": 0xD110,
    "16": 0xD113,
    "17": 0xD116,
    "18": 0xD118,
}
"""XLOG_PAGE_MAGIC by version of PostgreSQL."""

VERSIONS = tuple(MAGIC)

SYSTEM_IDENTIFIER = 7_400_123_456_789_012_345

FIRST_IS_CONTINUED, LONG_HEADER, REMOVABLE = 1, 2, 4

SHORT_HEADER_SIZE, LONG_HEADER_SIZE = 24, 40

_SHORT_HEADER = struct.Struct("<HHIQI4x")
_LONG_HEADER = struct.Struct("<HHIQI4xQII")
_RECORD_HEADER = struct.Struct("<IIQBBHI")
_OLD_RECORD_HEADER = struct.Struct("<IIIBB2xQI4x")

_SMALLEST_RECORD = 64
_LARGEST_RECORD = 3 * PAGE


def name(number: int, timeline: int = 1, size: int = MB) -> str:
    """The name of the segment with this number: the 0-based count of segments since the beginning of WAL."""
    per_log = (1 << 32) // size
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def number(segment_name: str, size: int = MB) -> int:
    """The number of the segment with this name."""
    return int(segment_name[8:16], 16) * ((1 << 32) // size) + int(segment_name[16:], 16)


def full(
    segment_name: str,
    *,
    size: int = MB,
    version: str = "16",
    system_identifier: int = SYSTEM_IDENTIFIER,
    page: int = PAGE,
    continued: int = 1000,
    carried: int = 500,
    old_timeline: int = 0,
    old_pages: int = 0,
    seed: int = 0,
) -> bytes:
    """A segment whose every page is used.

    ``continued`` is how many bytes of a record begun in the segment before it starts with, ``carried`` how many of its own last
    record are left to the next one. Its first ``old_pages`` pages bear ``old_timeline``, as in the first of a new timeline.
    """
    writer = _Writer(segment_name, size, version, system_identifier, page, old_timeline, old_pages, seed)
    writer.continue_record(continued)
    writer.fill_to(size, carried)
    return bytes(writer.content)


def switched(
    segment_name: str,
    *,
    size: int = MB,
    version: str = "16",
    system_identifier: int = SYSTEM_IDENTIFIER,
    page: int = PAGE,
    continued: int = 1000,
    switch_at: int | None = None,
    old_timeline: int = 0,
    old_pages: int = 0,
    seed: int = 0,
) -> bytes:
    """A segment ended by XLOG_SWITCH at the offset ``switch_at`` (a multiple of 8, not inside a page header; default: a third).

    Behind it are zeros, and up to version 10 pages of a header and zeros.
    """
    if switch_at is None:
        switch_at = size // 3 // page * page + 4000
    writer = _Writer(segment_name, size, version, system_identifier, page, old_timeline, old_pages, seed)
    writer.continue_record(continued)
    writer.fill_to(switch_at)
    writer.record(writer.record_header_size, manager=0, info=0x40)
    if VERSIONS.index(version) <= VERSIONS.index("10"):
        writer.empty_pages()
    return bytes(writer.content)


def unfinished(
    segment_name: str,
    *,
    size: int = MB,
    version: str = "16",
    system_identifier: int = SYSTEM_IDENTIFIER,
    page: int = PAGE,
    continued: int = 1000,
    used: int | None = None,
    seed: int = 0,
) -> bytes:
    """A segment that a server is still writing: records up to the offset ``used`` (see ``switch_at``), then zeros."""
    writer = _Writer(segment_name, size, version, system_identifier, page, 0, 0, seed)
    writer.continue_record(continued)
    writer.fill_to(size // 3 // page * page + 4000 if used is None else used)
    return bytes(writer.content)


def recycled(
    segment_name: str,
    old_name: str,
    *,
    size: int = MB,
    version: str = "16",
    system_identifier: int = SYSTEM_IDENTIFIER,
    page: int = PAGE,
    used: int | None = None,
    seed: int = 0,
) -> bytes:
    """A segment still being written into the recycled file of an older one, whose pages stand from the first unused page on."""
    new = unfinished(
        segment_name, size=size, version=version, system_identifier=system_identifier, page=page, used=used, seed=seed
    )
    old = full(old_name, size=size, version=version, system_identifier=system_identifier, page=page, seed=seed + 1)
    end = -(-len(new.rstrip(b"\0")) // page) * page
    return new[:end] + old[end:]


def zeros_from(content: bytes, offset: int) -> bytes:
    """What a copy that sets the size first has made of a file when it has come to this offset."""
    return content[:offset] + bytes(len(content) - offset)


def history(*left: tuple[int, int]) -> bytes:
    """A timeline history file: for each timeline before, the LSN at which it was left."""
    return b"".join(b"%d\t%X/%X\tno recovery target specified\n\n" % (old, at >> 32, at & 0xFFFFFFFF) for old, at in left)


def backup_history(segment_name: str) -> bytes:
    """A backup history file."""
    return f"START WAL LOCATION: 0/2000028 (file {segment_name})\nSTOP WAL LOCATION: 0/2000100 (file {segment_name})\n".encode()


def put(folder: Path, file_name: str, content: bytes) -> Path:
    """Put a file into an archive as a good archive_command does: whole, by one rename."""
    path = folder / file_name
    temporary = folder / f"put.{os.getpid()}.{file_name}"
    temporary.write_bytes(content)
    temporary.replace(path)
    return path


def crc32c(content: bytes) -> int:
    """The checksum of PostgreSQL's records since 9.5; bit by bit."""
    checksum = 0xFFFFFFFF
    for byte in content:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


class _Writer:
    """Writes records one behind the other, and the page headers between and within them."""

    def __init__(
        self,
        segment_name: str,
        size: int,
        version: str,
        system_identifier: int,
        page: int,
        old_timeline: int,
        old_pages: int,
        seed: int,
    ) -> None:
        self.content = bytearray(size)
        self._at = 0
        self._size = size
        self._page = page
        self._magic = MAGIC[version]
        self._timeline = int(segment_name[:8], 16)
        self._address = number(segment_name, size) * size
        self._system_identifier = system_identifier
        self._old_timeline = old_timeline
        self._old_pages = old_pages
        self._previous = max(self._address - 2 * PAGE, 0)
        self._is_old = version in {"9.3", "9.4"}
        self.record_header_size = 32 if self._is_old else 24
        self._random = random.Random(f"{segment_name} {version} {seed}")

    def continue_record(self, length: int) -> None:
        """Write the rest of a record that the segment before began; none for 0."""
        if length:
            self._header(length, FIRST_IS_CONTINUED)
            self._put(self._random.randbytes(length))

    def record(self, length: int, manager: int = 10, info: int = 0) -> None:
        """Write one record of a length in bytes, header included; what does not fit is the next segment's."""
        if length < self.record_header_size:
            raise ValueError(f"there is no record of {length} bytes")
        if self._at % self._page == 0:
            self._header(0, 0)
        position = self._address + self._at
        # In Python checksums are slow: only that of a record without data, XLOG_SWITCH, is right (and before 9.5 none is).
        checksum = self._random.getrandbits(32)
        if length == _RECORD_HEADER.size:
            checksum = crc32c(_RECORD_HEADER.pack(length, 745, self._previous, info, manager, 0, 0)[:20])
        if self._is_old:
            data = length - self.record_header_size
            head = _OLD_RECORD_HEADER.pack(length, 745, data, info, manager, self._previous, checksum)
        else:
            head = _RECORD_HEADER.pack(length, 745, self._previous, info, manager, 0, checksum)
        self._previous = position
        self._put(head + self._random.randbytes(length - len(head)))

    def fill_to(self, offset: int, carried: int = 0) -> None:
        """Write records of many lengths, the last of which ends at an offset, or ``carried`` bytes later."""
        while (room := self._room(offset)) > 0:
            length = self._random.choice((80, 120, 200, 500, 1500, 8200, _LARGEST_RECORD))
            if room - length < _SMALLEST_RECORD or room <= _LARGEST_RECORD:
                self.record(room + carried)
            else:
                # The next one starts at the next multiple of 8.
                self.record(length - self._random.randrange(8))

    def empty_pages(self) -> None:
        """Give every page that is left a header and nothing else."""
        self._at += -self._at % self._page
        while self._at < self._size:
            self._header(0, REMOVABLE)
            self._at += -self._at % self._page

    def _room(self, offset: int) -> int:
        """How many bytes of records lie between here and an offset, the page headers left out."""
        room = offset - self._at
        first = -(-self._at // self._page)
        for start in range(first * self._page, offset, self._page):
            room -= SHORT_HEADER_SIZE if start else LONG_HEADER_SIZE
        return room

    def _header(self, remaining: int, info: int) -> None:
        timeline = self._old_timeline if self._at // self._page < self._old_pages else self._timeline
        address = self._address + self._at
        if self._at:
            head = _SHORT_HEADER.pack(self._magic, info, timeline, address, remaining)
        else:
            info |= LONG_HEADER
            head = _LONG_HEADER.pack(
                self._magic, info, timeline, address, remaining, self._system_identifier, self._size, self._page
            )
        self.content[self._at : self._at + len(head)] = head
        self._at += len(head)

    def _put(self, data: bytes) -> None:
        """Write the bytes of a record whose page header, if it is at one, is written."""
        left = memoryview(data)
        while left and self._at < self._size:
            if self._at % self._page == 0:
                self._header(len(left), FIRST_IS_CONTINUED)
            count = min(len(left), self._page - self._at % self._page)
            self.content[self._at : self._at + count] = left[:count]
            self._at += count
            left = left[count:]
        self._at = min(-(-self._at // 8) * 8, self._size)

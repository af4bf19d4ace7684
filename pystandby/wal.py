"""WAL file names, segment arithmetic, timeline histories and page headers, as pure functions on str and bytes.

Rests on src/include/access/xlog_internal.h and xlogrecord.h of PostgreSQL 9.3 to 18.
"""

# struct itself is a file more to find and read at every start.
from _struct import Struct

SEGMENT = "segment"
PARTIAL = "partial segment"
HISTORY = "timeline history file"
BACKUP_HISTORY = "backup history file"

_HEX = "0123456789ABCDEF"

NO_RESTART_POINT = "0" * 24
"""%r before the first restartpoint is known and at the end of recovery: remove nothing."""

MIN_SEGMENT_SIZE = 1 << 20
MAX_SEGMENT_SIZE = 1 << 30


def _is_hex(text: str) -> bool:
    return not text.strip(_HEX)


def kind(name: str) -> "str | None":
    """What a file of this name holds: SEGMENT, PARTIAL, HISTORY or BACKUP_HISTORY; None if it is no name of a WAL file.

    As IsXLogFileName(), IsPartialXLogFileName(), IsTLHistoryFileName() and IsBackupHistoryFileName().
    """
    if len(name) == 24 and _is_hex(name):
        return SEGMENT
    if len(name) == 16 and name[8:] == ".history" and _is_hex(name[:8]):
        return HISTORY
    if len(name) == 32 and name[24:] == ".partial" and _is_hex(name[:24]):
        return PARTIAL
    if len(name) == 40 and name[24] == "." and name[33:] == ".backup" and _is_hex(name[:24]) and _is_hex(name[25:33]):
        return BACKUP_HISTORY
    return None


def timeline(name: str) -> int:
    """The timeline of a segment or history file."""
    return int(name[:8], 16)


def segment_number(name: str, segment_size: int) -> int:
    """How many segments of this size (bytes) lie before the named one, on any timeline; as XLogFromFileName()."""
    return int(name[8:16], 16) * (0x100000000 // segment_size) + int(name[16:24], 16)


def segment_name(timeline_id: int, number: int, segment_size: int) -> str:
    """The name of a segment by its number; as XLogFileName()."""
    per_log = 0x100000000 // segment_size
    return f"{timeline_id:08X}{number // per_log:08X}{number % per_log:08X}"


def neighbour(name: str, distance: int, segment_size: int) -> "str | None":
    """The segment ``distance`` after (negative: before) the named one on its timeline; None before the first, after the last."""
    number = segment_number(name, segment_size) + distance
    return segment_name(timeline(name), number, segment_size) if 0 <= number < (1 << 64) // segment_size else None


def is_segment_size(size: int) -> bool:
    """Whether a server can have segments of this size in bytes: a power of two from 1 MB to 1 GB (IsValidWalSegSize())."""
    return MIN_SEGMENT_SIZE <= size <= MAX_SEGMENT_SIZE and size & (size - 1) == 0


def history_switch_points(content: bytes) -> "dict[int, int]":
    """Where each timeline that a history file lists was left, as {timeline: LSN}; what cannot be read is passed over.

    As readTimeLineHistory() in src/backend/access/transam/timeline.c: TLI, LSN as X/X, reason, separated by white space. A line
    without its end is passed over as well: in a file that is being copied its LSN may lack digits.
    """
    points: dict[int, int] = {}
    for line in content.split(b"\n")[:-1]:
        words = line.split()
        if len(words) < 2 or words[0][:1] == b"#":
            continue
        high, _, low = words[1].partition(b"/")
        try:
            points[int(words[0])] = int(high, 16) << 32 | int(low, 16)
        except ValueError:
            continue
    return points


# Page headers: XLogPageHeaderData, XLogLongPageHeaderData. The page address is the same 64 bits wide since 9.3.

FIRST_IS_CONTINUED = 0x0001
LONG_HEADER = 0x0002
OVERWRITES_CONTINUED = 0x0008
"""XLP_FIRST_IS_OVERWRITE_CONTRECORD: the record that should go on here was given up after a crash, and another begins."""

ALL_PAGE_INFO = 0x000F

SHORT_HEADER_SIZE = 24
LONG_HEADER_SIZE = 40

SHORT_HEADER = Struct("=HHIQI")
_LONG_HEADER = Struct("=HHIQI4xQII")

MAGIC = {
    0xD075: "9.3", 0xD07E: "9.4", 0xD087: "9.5", 0xD093: "9.6", 0xD097: "10", 0xD098: "11", 0xD101: "12", 0xD106: "13",
    0xD10D: "14", 0xD110: "15", 0xD113: "16", 0xD116: "17", 0xD118: "18",
}  # fmt: skip
"""XLOG_PAGE_MAGIC by version of PostgreSQL."""


def version_name(number: int) -> str:
    """A major version as PostgreSQL writes it: "9.3" for 903, "16" for 1600."""
    return f"{number // 100}.{number % 100}" if number < 1000 else str(number // 100)


NEWEST_KNOWN = 18
"""The newest PostgreSQL whose page headers are known here."""

MAGIC_9_3 = 0xD075

_OLD_RECORD_MAGIC = (MAGIC_9_3, 0xD07E)


class FirstPage:
    """The long header at the beginning of a segment."""

    __slots__ = ("address", "block_size", "info", "magic", "remaining", "segment_size", "system_identifier", "timeline")

    def __init__(self, head: bytes) -> None:
        (self.magic, self.info, self.timeline, self.address, self.remaining, self.system_identifier, self.segment_size,
         self.block_size) = _LONG_HEADER.unpack_from(head)  # fmt: skip


def declared_segment_size(head: bytes) -> int:
    """The size in bytes that the first bytes of a segment say its cluster's segments have; 0 where they do not tell."""
    page = FirstPage(head) if len(head) >= LONG_HEADER_SIZE else None
    told = page is not None and page.info & LONG_HEADER != 0 and is_segment_size(page.segment_size)
    return page.segment_size if page is not None and told else 0


# Records: XLogRecord. Its fields stood elsewhere before 9.5, and were eight bytes longer.

RECORD = Struct("=I4xQBB2xI")
"""xl_tot_len, xl_prev, xl_info, xl_rmid and xl_crc."""

RECORD_LENGTH = Struct("=I")
"""The first field of a record: its length in bytes, header included."""

_OLD_RECORD = Struct("=I8xBB2xQ")

SWITCH = 0x40
"""XLOG_SWITCH of resource manager 0: the rest of the segment is unused."""


def record_header_size(magic: int) -> int:
    """The bytes of a record that hold its length, kind and predecessor, in pages of this magic."""
    return 32 if magic in _OLD_RECORD_MAGIC else 24


def record_header(magic: int, raw: bytes) -> "tuple[int, int, bool]":
    """The total length in bytes, the LSN of the record before, and whether it is a whole XLOG_SWITCH."""
    if magic in _OLD_RECORD_MAGIC:
        length, info, manager, previous = _OLD_RECORD.unpack_from(raw)
        return length, previous, manager == 0 and info & 0xF0 == SWITCH
    length, previous, info, manager, checksum = RECORD.unpack_from(raw)
    is_switch = manager == 0 and info & 0xF0 == SWITCH
    # It has no data, so its checksum tells at once whether it is torn: a server that found it so would stop, and promote, here.
    return length, previous, is_switch and length == RECORD.size and crc32c(raw[: RECORD.size - 4]) == checksum


_CRC32C_POLYNOMIAL = 0x82F63B78

_crc32c_table: "list[int]" = []


def crc32c(data: "bytes | bytearray | memoryview", crc: int = 0) -> int:
    """CRC-32C of ``data``, or of what has the checksum ``crc`` and ``data`` behind it: PostgreSQL's records bear it since 9.5.

    A byte at a time, as src/port/pg_crc32c_sb8.c does at the ends: 0.1 ms a kilobyte. The package crc32c has a function of the
    same parameters that is a thousand times as fast.
    """
    if not _crc32c_table:
        _crc32c_table.extend([0] * 256)
        # The table is linear: an entry of several bits is the sum of theirs.
        entry, bit = 1, 128
        while bit:
            entry = entry >> 1 ^ (_CRC32C_POLYNOMIAL if entry & 1 else 0)
            for other in range(0, 256, 2 * bit):
                _crc32c_table[other + bit] = _crc32c_table[other] ^ entry
            bit >>= 1
    table = _crc32c_table
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF

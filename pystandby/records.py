"""Records across pages: finding the one around an offset of a segment, and whether its checksum is right.

What tells a hole from data of zeros, where the page headers around it are right. Records by src/include/access/xlogrecord.h and
ValidXLogRecord() in src/backend/access/transam/xlogreader.c, since 9.5; before, their checksums are not known here.
"""

from pystandby import wal

TYPE_CHECKING = False
if TYPE_CHECKING:
    Content = bytes | bytearray | memoryview

_BUDGET = 256 << 10
"""Bytes of records whose checksum is computed at most, at 0.1 ms a kilobyte; what goes beyond is taken to be right."""

_HEADER = 24
_CRC_AT = 20


def first_damaged(content: "Content", offsets: "list[int]") -> "int | None":
    """The first of some offsets, in rising order, that lies in a record with a wrong checksum; None if none is known to."""
    first = wal.FirstPage(bytes(content[: wal.LONG_HEADER_SIZE]))
    if wal.record_header_size(first.magic) != _HEADER:
        return None
    spent = 0
    covered = -1
    for offset in offsets:
        if offset < covered:
            continue
        begin = begin_of(content, first.block_size, offset)
        if begin is None:
            continue
        length = _length(content, begin)
        if length < _HEADER:
            # The hole has swallowed the record's header.
            return offset
        spent += length
        if spent > _BUDGET:
            return None
        record, covered = _body(content, first.block_size, begin, length)
        if len(record) == length and not _is_right(record):
            return offset
    return None


def torn_end(content: "Content", following: bytes) -> bool:
    """Whether the last record of a full segment, which ends in the next one, has a wrong checksum.

    ``following`` is the beginning of the next segment. False where it does not suffice to tell.
    """
    first = wal.FirstPage(bytes(content[: wal.LONG_HEADER_SIZE]))
    if wal.record_header_size(first.magic) != _HEADER or len(following) < wal.LONG_HEADER_SIZE:
        return False
    begin = begin_of(content, first.block_size, first.segment_size - 1)
    if begin is None:
        return False
    length = _length(content, begin)
    if length < _HEADER or length > _BUDGET:
        return False
    record, _ = _body(content, first.block_size, begin, length)
    after = wal.FirstPage(following)
    missing = length - len(record)
    if after.address != first.address + first.segment_size or (missing > 0) != bool(after.info & wal.FIRST_IS_CONTINUED):
        return False
    if missing:
        if after.remaining != missing:
            return False
        record += _body(following, first.block_size, wal.LONG_HEADER_SIZE, missing)[0]
    return len(record) == length and not _is_right(record)


def begin_of(content: "Content", block: int, offset: int) -> "int | None":
    """Where the record around an offset begins; None if that is in the segment before."""
    page = offset // block
    while True:
        start = page * block
        _, info, _, _, remaining = wal.SHORT_HEADER.unpack_from(content, start)
        body = start + (wal.LONG_HEADER_SIZE if page == 0 else wal.SHORT_HEADER_SIZE)
        if not info & wal.FIRST_IS_CONTINUED:
            remaining = 0
        if offset < body + remaining:
            if page == 0:
                return None
            page -= 1
            offset = start - 1
            continue
        begin = body + _aligned(remaining)
        while True:
            length = _length(content, begin)
            if length < _HEADER or begin + _aligned(length) > offset:
                return begin
            begin += _aligned(length)


def _body(content: "Content", block: int, begin: int, length: int) -> "tuple[bytes, int]":
    """The bytes of a record without the page headers in between, as many as there are, and the offset behind them.

    Fewer too where a page does not continue the record: a crash has left it unfinished, and its checksum wrong, for good.
    """
    parts: list[bytes] = []
    while length > 0 and begin < len(content):
        end = min(begin // block * block + block, begin + length)
        part = bytes(content[begin:end])
        parts.append(part)
        length -= len(part)
        begin = end
        if length > 0 and begin % block == 0 and begin < len(content):
            _, info, _, _, remaining = wal.SHORT_HEADER.unpack_from(content, begin)
            if not info & wal.FIRST_IS_CONTINUED or remaining != length:
                break
            begin += wal.SHORT_HEADER_SIZE
    return b"".join(parts), begin


def _length(content: "Content", begin: int) -> int:
    return wal.RECORD_LENGTH.unpack(bytes(content[begin : begin + 4]))[0] if begin + 4 <= len(content) else 0


def _aligned(length: int) -> int:
    return (length + 7) & ~7


def _is_right(record: bytes) -> bool:
    """Whether a record bears the checksum of its data and of its header, in this order."""
    (stated,) = wal.RECORD_LENGTH.unpack(record[_CRC_AT:_HEADER])
    return bool(wal.crc32c(record[_HEADER:] + record[:_CRC_AT]) == stated)

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
        begin = _begin(content, first.block_size, offset)
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
    begin = _begin(content, first.block_size, first.segment_size - 1)
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


def _begin(content: "Content", block: int, offset: int) -> "int | None":
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


class Break(Exception):
    """The records cannot be followed past the LSN ``lsn``, and why, in words that fit behind a segment's name."""

    def __init__(self, lsn: int, reason: str) -> None:
        super().__init__(reason)
        self.lsn = lsn
        self.reason = reason


class _Begun:
    """A record that goes on in the next segment, as far as it has been read. ``head`` is its header, whole or not."""

    __slots__ = ("checksum", "head", "length", "lsn", "read")

    def __init__(self, lsn: int, length: int) -> None:
        self.lsn = lsn
        self.length = length
        self.read = 0
        self.head = b""
        self.checksum = 0


class Reader:
    """Follows records from segment to segment, by the rules of XLogDecodeNextRecord() (src/.../transam/xlogreader.c).

    follow() is given one segment after the other. It reads what crosses from one into the next, checksum included; with
    ``every_record`` all records, else of the others only where each page's first one comes from, which its header must agree
    with. ``checksum`` is wal.crc32c or a faster one.
    """

    __slots__ = ("_begun", "_checksum", "_every_record", "_last", "_skipped", "position", "reached")

    def __init__(self, checksum: "Checksum", every_record: bool = False) -> None:
        self._checksum = checksum
        self._every_record = every_record
        self.position: int | None = None
        """The LSN at which the next segment must begin; None where any may come."""
        self.reached: int | None = None
        """The LSN behind the last whole record, or where one was lost; None before there is any."""
        self._last: int | None = None
        """The LSN of the last whole record, which the next one names; None where that is not known."""
        self._begun: _Begun | None = None
        self._skipped = 0
        """Bytes still to come of a record whose beginning is not there to be read."""

    def copy(self) -> "Reader":
        """Another one at the same place, for what a second timeline goes on with."""
        other = Reader(self._checksum, self._every_record)
        other.position, other.reached, other._last, other._skipped = self.position, self.reached, self._last, self._skipped
        if self._begun is not None:
            begun = other._begun = _Begun(self._begun.lsn, self._begun.length)
            begun.read, begun.head, begun.checksum = self._begun.read, self._begun.head, self._begun.checksum
        return other

    def follow(self, content: "Content", end: int, lineage: "list[tuple[int, int]]") -> None:
        """Read the next segment, which ready.judge_page() has found whole; ``end`` is the offset behind its records.

        ``lineage`` has the timelines that its pages may be of, each with the LSN at which it begins, in rising order; empty where
        that is not known. Raises Break, after which the next segment is read as the first one is.
        """
        first = wal.FirstPage(bytes(content[: wal.LONG_HEADER_SIZE]))
        if self.position != first.address:
            self._forget()
        try:
            with memoryview(content) as view:
                self._follow(view, first, end, lineage)
            self.position = first.address + first.segment_size
        except Break as found:
            self._forget()
            self.reached = found.lsn
            raise

    def _forget(self) -> None:
        self.position = self.reached = self._last = self._begun = None
        self._skipped = 0

    def _follow(self, view: memoryview, first: wal.FirstPage, end: int, lineage: "list[tuple[int, int]]") -> None:
        block, size = first.block_size, first.segment_size
        if wal.record_header_size(first.magic) != _HEADER:
            return
        unknown = self.position is None
        page = 0
        while page < size:
            # The page's header, then the rest of a record that it begins with.
            at = page + (wal.SHORT_HEADER_SIZE if page else wal.LONG_HEADER_SIZE)
            following = page + block
            info, remaining = self._enter(view, first, page, lineage)
            if unknown and page == 0:
                self._skipped = remaining
            if self._begun is not None and info & wal.OVERWRITES_CONTINUED:
                # A server that crashed in the middle of it has gone on behind it; the record before stays the last one.
                self._begun = None
            if self._begun is not None:
                begun = self._begun
                if not info & wal.FIRST_IS_CONTINUED or remaining != begun.length - begun.read:
                    said = f"{remaining} bytes" if info & wal.FIRST_IS_CONTINUED else "nothing"
                    raise Break(
                        begun.lsn,
                        f"has a record at {_lsn(begun.lsn)} that is not finished: {begun.length - begun.read} bytes of it are to "
                        f"come at {_lsn(first.address + page)}, where the page header announces {said}",
                    )
                count = min(remaining, following - at)
                self._add(view, at, at + count)
                at += _aligned(count)
                if begun.read == begun.length and self._finish(first.address + at):
                    return
            elif self._skipped:
                if not info & wal.FIRST_IS_CONTINUED or remaining != self._skipped:
                    raise Break(
                        first.address + page,
                        f"has a page header at {_lsn(first.address + page)} that does not agree with the page before",
                    )
                count = min(remaining, following - at)
                self._skipped -= count
                at += _aligned(count)
                if not self._skipped:
                    self.reached = first.address + at
            elif info & wal.FIRST_IS_CONTINUED or remaining:
                raise Break(
                    first.address + page,
                    f"has a page header at {_lsn(first.address + page)} that announces the rest of a record, where none goes on",
                )
            if info & wal.OVERWRITES_CONTINUED and not self._begins_with(view, at, _OVERWRITE_CONTRECORD):
                raise Break(
                    first.address + page,
                    f"has a page header at {_lsn(first.address + page)} that speaks of a record given up after a crash, and no "
                    "record says so",
                )
            if at < following:
                if not self._every_record:
                    # What lies between the segment's first record and its last is judged page by page.
                    return self._skim(view, first, page, at, end, lineage)
                if self._read(view, first, at, following):
                    return None
            page = following
        return None

    def _enter(self, view: memoryview, first: wal.FirstPage, page: int, lineage: "list[tuple[int, int]]") -> "tuple[int, int]":
        """Check a page's header, at an offset, and return its xlp_info and xlp_rem_len."""
        magic, info, timeline, address, remaining = wal.SHORT_HEADER.unpack_from(view, page)
        here = first.address + page
        wrong = ""
        if magic != first.magic:
            wrong = f"the magic {magic:04X}"
        elif info & ~wal.ALL_PAGE_INFO or bool(info & wal.LONG_HEADER) != (page == 0):
            wrong = f"the info bits {info:04X}"
        elif address != here:
            wrong = f"the address {_lsn(address)}"
        elif lineage and timeline != _timeline_at(lineage, here):
            wrong = f"timeline {timeline} instead of {_timeline_at(lineage, here)}"
        if wrong:
            raise Break(here, f"has a page header at {_lsn(here)} with {wrong}")
        return info, remaining

    def _read(self, view: memoryview, first: wal.FirstPage, at: int, end: int) -> bool:
        """Read the records that begin on a page, from an offset to the page's end; whether the last one is an XLOG_SWITCH."""
        checksum, unpack, base, last = self._checksum, wal.RECORD.unpack_from, first.address, self._last
        while at < end:
            if end - at < _HEADER:
                self._last = last
                self._begin_record(view, base, at, end)
                return False
            length, previous, info, manager, stated = unpack(view, at)
            behind = at + length
            if behind > end:
                self._last = last
                self._begin_record(view, base, at, end)
                return False
            if length < _HEADER or (previous != last if last is not None else previous >= base + at):
                self._last = last
                self._refuse(base + at, length, previous)
            if checksum(view[at : at + _CRC_AT], checksum(view[at + _HEADER : behind])) != stated:
                raise _wrong_checksum(base + at)
            last = base + at
            at = (behind + 7) & ~7
            if manager == 0 and info & 0xF0 == wal.SWITCH:
                self._last, self.reached = last, base + first.segment_size
                return True
        self._last, self.reached = last, base + at
        return False

    def _begin_record(self, view: memoryview, base: int, at: int, end: int) -> None:
        """Take up a record at an offset that goes on behind ``end``, the end of its page."""
        (length,) = wal.RECORD_LENGTH.unpack_from(view, at)
        self.reached = base + at
        if length < _HEADER:
            self._refuse(base + at, length, None)
        self._begun = _Begun(base + at, length)
        self._add(view, at, end)

    def _add(self, view: memoryview, at: int, end: int) -> None:
        """Read a part of the record that was begun."""
        begun = self._begun
        assert begun is not None
        begun.read += end - at
        if len(begun.head) < _HEADER:
            more = min(end, at + _HEADER - len(begun.head))
            begun.head += bytes(view[at:more])
            at = more
            if len(begun.head) == _HEADER:
                length, previous, _, _, _ = wal.RECORD.unpack(begun.head)
                if previous != self._last if self._last is not None else previous >= begun.lsn:
                    self._refuse(begun.lsn, length, previous)
        begun.checksum = self._checksum(view[at:end], begun.checksum)

    def _finish(self, behind: int) -> bool:
        """Check the record that was begun and has been read to its end, before the LSN ``behind``; whether it ends the segment."""
        begun = self._begun
        assert begun is not None
        _, _, info, manager, stated = wal.RECORD.unpack(begun.head)
        if self._checksum(begun.head[:_CRC_AT], begun.checksum) != stated:
            raise _wrong_checksum(begun.lsn)
        self._begun = None
        self._last, self.reached = begun.lsn, behind
        return bool(manager == 0 and info & 0xF0 == wal.SWITCH)

    def _refuse(self, lsn: int, length: int, previous: "int | None") -> "NoReturn":
        if length == 0:
            raise Break(lsn, f"has no record at {_lsn(lsn)}: the rest is not written")
        if length < _HEADER:
            raise Break(lsn, f"has a record at {_lsn(lsn)} of {length} bytes, which is less than its header")
        wanted = "an earlier one" if self._last is None else _lsn(self._last)
        raise Break(
            lsn,
            f"has a record at {_lsn(lsn)} that does not follow the one before it: it names {_lsn(previous or 0)} instead of {wanted}",
        )

    @staticmethod
    def _begins_with(view: memoryview, at: int, kind: int) -> bool:
        """Whether there is a record of resource manager 0 and of this kind at an offset."""
        if at + _HEADER > len(view):
            return False
        _, _, info, manager, _ = wal.RECORD.unpack_from(view, at)
        return bool(manager == 0 and info & 0xF0 == kind)

    def _skim(
        self, view: memoryview, first: wal.FirstPage, page: int, at: int, end: int, lineage: "list[tuple[int, int]]"
    ) -> None:
        """Go on from the segment's first record, at an offset of a page, to its last, by the pages in between."""
        block, base = first.block_size, first.address
        if at < end and at + _HEADER <= page + block:
            length, previous, _, _, _ = wal.RECORD.unpack_from(view, at)
            if length < _HEADER or (previous != self._last if self._last is not None else previous >= base + at):
                self._refuse(base + at, length, previous)
        carried = self._leaves(view, block, at, page + block)
        for number in range(page // block + 1, -(-end // block)):
            self._cross(view, first, number * block, carried, lineage)
            carried = self._goes_on(view, block, number * block)
        begin = _begin(view, block, end - 1)
        if begin is None or begin < at:
            # Nothing begins here but what has ended the segment before.
            return
        length = _length(view, begin)
        self.reached = base + begin
        if length < _HEADER:
            self._refuse(base + begin, length, None)
        self._last = None
        self._begin_record(view, base, begin, min((begin // block + 1) * block, begin + length))
        begun = self._begun
        assert begun is not None
        at = (begin // block + 1) * block
        while begun.read < length and at < first.segment_size:
            part = at + wal.SHORT_HEADER_SIZE
            self._add(view, part, min(at + block, part + length - begun.read))
            at += block
        if len(begun.head) == _HEADER and begun.read < length:
            self._last = wal.RECORD.unpack(begun.head)[1]
        if begun.read == length:
            self._finish(base + _aligned(end))
            if end < first.segment_size or not self._goes_on_behind(view, begin):
                self.reached = base + first.segment_size

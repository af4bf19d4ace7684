"""Follows records through segments, and from one into the next, as a server that replays them does.

Where pg_waldump and a server come to the end of WAL, by the rules of XLogDecodeNextRecord() and XLogReaderValidatePageHeader()
(src/backend/access/transam/xlogreader.c), so does Reader. Records as they are since 9.5.
"""

from __future__ import annotations

from collections.abc import Callable

from pystandby import records, wal
from pystandby.ready import lsn as _lsn

Checksum = Callable[[bytes | bytearray | memoryview, int], int]
"""Takes data and the checksum of what stands before them, as wal.crc32c() does."""

_HEADER = wal.RECORD.size
_CRC_AT = 20


class Break(Exception):  # noqa: N818 - the end of WAL is no error where it is the newest
    """The records end at the LSN ``lsn``, and why, in words that fit behind a segment's name.

    ``is_end`` tells what a server leaves behind the last thing that it wrote from damage: nothing comes behind it.
    """

    def __init__(self, lsn: int, reason: str, is_end: bool = False) -> None:
        super().__init__(reason)
        self.lsn = lsn
        self.reason = reason
        self.is_end = is_end


class _Begun:
    """A record that goes on on the next page, as far as it has been read. ``head`` is its header, whole or not."""

    __slots__ = ("checksum", "head", "length", "lsn", "read")

    def __init__(self, lsn: int, length: int) -> None:
        self.lsn = lsn
        self.length = length
        self.read = 0
        self.head = b""
        self.checksum = 0


class Reader:
    """Reads one segment after the other. ``checksum`` is wal.crc32c, or a faster function of the same parameters."""

    __slots__ = ("_begun", "_checksum", "_last", "_skipped", "position", "reached")

    def __init__(self, checksum: Checksum) -> None:
        self._checksum = checksum
        self._forget()

    def _forget(self) -> None:
        self.position: int | None = None
        """The LSN at which the next segment must begin; None where any may come."""
        self.reached: int | None = None
        """The LSN behind the last whole record; None before there is any."""
        self._last: int | None = None
        """The LSN of the last whole record, which the next one names; None where that is not known."""
        self._begun: _Begun | None = None
        self._skipped = 0
        """Bytes still to come of a record whose beginning is not there to be read."""

    def copy(self) -> Reader:
        """Another one at the same place, for what a second timeline goes on with."""
        other = Reader(self._checksum)
        other.position, other.reached, other._last, other._skipped = self.position, self.reached, self._last, self._skipped
        if self._begun is not None:
            begun = other._begun = _Begun(self._begun.lsn, self._begun.length)
            begun.read, begun.head, begun.checksum = self._begun.read, self._begun.head, self._begun.checksum
        return other

    def follow(self, content: bytearray, end: int = 0) -> None:
        """Read the next segment, of whose first 40 bytes ready.judge_head() says that they are right. Raises Break.

        With ``end``, the offset behind the last record by ready.judge_pages(), only what crosses from one segment into the next:
        the first record and the last. After Break the next segment is read as the first one was.
        """
        first = wal.FirstPage(bytes(content[: wal.LONG_HEADER_SIZE]))
        if self.position != first.address:
            self._forget()
        if wal.record_header_size(first.magic) == _HEADER:
            try:
                with memoryview(content) as view:
                    self._follow(view, first, end)
            except Break:
                self._forget()
                raise
        self.position = first.address + first.segment_size

    def _follow(self, view: memoryview, first: wal.FirstPage, end: int) -> None:
        block, page = first.block_size, 0
        if self.position is None:
            self._skipped = first.remaining if first.info & wal.FIRST_IS_CONTINUED else 0
        while page < first.segment_size:
            at, is_over = self._continue(view, first, page)
            if is_over:
                return
            if at < page + block and end:
                last = self._leap(view, first, at, end)
                if last > at:
                    page, at = last // block * block, last
                end = 0
            if at < page + block and self._read(view, first, at, page + block):
                return
            page += block

    def _leap(self, view: memoryview, first: wal.FirstPage, at: int, end: int) -> int:
        """Check what the first record at an offset says of the one before it, and return where the segment's last one begins."""
        if at + _HEADER <= (at // first.block_size + 1) * first.block_size:
            length, previous, _, _, _ = wal.RECORD.unpack_from(view, at)
            if length:
                self._check(view, first, at, length, previous)
        last = records.begin_of(view, first.block_size, end - 1)
        if last is None or last <= at:
            return at
        self._last = None
        return last

    def _continue(self, view: memoryview, first: wal.FirstPage, page: int) -> tuple[int, bool]:
        """Read a page's header and the rest of a record that goes on there; return the offset behind, and whether all ends there.

        With XLOG_SWITCH all does: the rest of the segment is unused.
        """
        at = page + (wal.SHORT_HEADER_SIZE if page else wal.LONG_HEADER_SIZE)
        here = first.address + page
        info, remaining = self._enter(view, first, page)
        if self._begun is not None and info & wal.OVERWRITES_CONTINUED:
            # A server that crashed in the middle of it has gone on behind it. The new record names the one before it.
            if self._last is None and len(self._begun.head) == _HEADER:
                self._last = wal.RECORD.unpack(self._begun.head)[1]
            self._begun = None
        announced = remaining if info & wal.FIRST_IS_CONTINUED else 0
        begun = self._begun
        missing = begun.length - begun.read if begun is not None else self._skipped
        if announced != missing:
            lsn = begun.lsn if begun is not None else here
            what = f"{missing} bytes of the record at {_lsn(lsn)}" if begun is not None else f"{missing} bytes of a record"
            raise Break(lsn, f"does not go on at {_lsn(here)} with {what}: its page header announces {announced}")
        count = min(missing, page + first.block_size - at)
        if begun is not None:
            self._add(view, at, at + count)
        else:
            self._skipped -= count
        at += (count + 7) & ~7
        if begun is not None and begun.read == begun.length:
            return at, self._finish(first, at)
        return at, False

    def _enter(self, view: memoryview, first: wal.FirstPage, page: int) -> tuple[int, int]:
        """Check a page's header, at an offset, and return its xlp_info and xlp_rem_len."""
        magic, info, _, address, remaining = wal.SHORT_HEADER.unpack_from(view, page)
        here = first.address + page
        wrong = ""
        if address != here:
            wrong = f"the address {_lsn(address)}" if magic or address else "zeros"
        elif magic != first.magic:
            wrong = f"the magic {magic:04X}"
        elif info & ~wal.ALL_PAGE_INFO or bool(info & wal.LONG_HEADER) != (page == 0):
            wrong = f"the info bits {info:04X}"
        if wrong:
            lsn = self._begun.lsn if self._begun is not None else here
            is_end = address != here and not _goes_on(view, first, page)
            raise Break(lsn, f"has no page at {_lsn(here)}, but a header with {wrong}" if magic else _nothing(here), is_end)
        return info, remaining

    def _read(self, view: memoryview, first: wal.FirstPage, at: int, end: int) -> bool:
        """Read the records that begin on a page, from an offset to the page's end; whether the last one is an XLOG_SWITCH."""
        checksum, unpack, base = self._checksum, wal.RECORD.unpack_from, first.address
        while at < end:
            if end - at < _HEADER:
                self._begin_record(view, first, at, end)
                return False
            length, previous, info, manager, stated = unpack(view, at)
            behind = at + length
            if length < _HEADER or previous != self._last:
                self._check(view, first, at, length, previous)
            if behind > end:
                self._begin_record(view, first, at, end)
                return False
            if checksum(view[at : at + _CRC_AT], checksum(view[at + _HEADER : behind], 0)) != stated:
                raise _wrong_checksum(base + at)
            self._last = base + at
            at = (behind + 7) & ~7
            if manager == 0 and info & 0xF0 == wal.SWITCH:
                self.reached = base + first.segment_size
                return True
            self.reached = base + at
        return False

    def _begin_record(self, view: memoryview, first: wal.FirstPage, at: int, end: int) -> None:
        """Take up a record at an offset that goes on behind ``end``, the end of its page."""
        (length,) = wal.RECORD_LENGTH.unpack_from(view, at)
        if length < _HEADER:
            self._check(view, first, at, length, 0)
        self.reached = first.address + at
        self._begun = _Begun(first.address + at, length)
        self._add(view, at, end)

    def _add(self, view: memoryview, at: int, end: int) -> None:
        """Read a part of the record that was begun. Its checksum is that of its data, and then of its header."""
        begun = self._begun
        assert begun is not None
        begun.read += end - at
        if len(begun.head) < _HEADER:
            more = min(end, at + _HEADER - len(begun.head))
            begun.head += bytes(view[at:more])
            at = more
            if len(begun.head) == _HEADER:
                previous = wal.RECORD.unpack(begun.head)[1]
                if not self._may_follow(begun.lsn, previous):
                    raise self._does_not_follow(begun.lsn, previous)
        begun.checksum = self._checksum(view[at:end], begun.checksum)

    def _finish(self, first: wal.FirstPage, behind: int) -> bool:
        """Check the record that was begun and has been read, up to an offset; whether it is an XLOG_SWITCH."""
        begun = self._begun
        assert begun is not None
        _, _, info, manager, stated = wal.RECORD.unpack(begun.head)
        if self._checksum(begun.head[:_CRC_AT], begun.checksum) != stated:
            raise _wrong_checksum(begun.lsn)
        self._begun = None
        self._last = begun.lsn
        is_switch = bool(manager == 0 and info & 0xF0 == wal.SWITCH)
        self.reached = first.address + (first.segment_size if is_switch else behind)
        return is_switch

    def _may_follow(self, lsn: int, previous: int) -> bool:
        return previous == self._last if self._last is not None else previous < lsn

    def _check(self, view: memoryview, first: wal.FirstPage, at: int, length: int, previous: int) -> None:
        """Check what a record's header, at an offset, says of its length and of the record before it."""
        lsn = first.address + at
        if length == 0:
            page = at // first.block_size * first.block_size
            is_end = not any(view[at : page + first.block_size]) and not _goes_on(view, first, page)
            raise Break(lsn, _nothing(lsn), is_end)
        if length < _HEADER:
            raise Break(lsn, f"has a record of {length} bytes at {_lsn(lsn)}, which is less than a record's header")
        if not self._may_follow(lsn, previous):
            raise self._does_not_follow(lsn, previous)

    def _does_not_follow(self, lsn: int, previous: int) -> Break:
        wanted = "an earlier one" if self._last is None else _lsn(self._last)
        return Break(
            lsn, f"has a record at {_lsn(lsn)} that does not follow the one before it: it names {_lsn(previous)}, not {wanted}"
        )


def _goes_on(view: memoryview, first: wal.FirstPage, page: int) -> bool:
    """Whether a later page of the segment is there, so that what ends before it is a hole."""
    block = first.block_size
    return any(
        wal.SHORT_HEADER.unpack_from(view, later)[3] == first.address + later
        for later in range(page + block, first.segment_size, block)
    )


def _nothing(lsn: int) -> str:
    return f"has no record at {_lsn(lsn)}: the rest is not written"


def _wrong_checksum(lsn: int) -> Break:
    return Break(lsn, f"has a record at {_lsn(lsn)} with a wrong checksum")

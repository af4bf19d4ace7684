"""Is this segment whole? A verdict on the bytes of a file, without touching a file.

A server replays what it gets up to the first byte that is not WAL, takes that for the end of WAL, and promotes. The size of a
file says nothing: a copy that sets the final size first looks finished while its tail is zeros. So the page headers are read,
all of them, and the records of the last page, by the rules of XLogReaderValidatePageHeader() and of XLOG_SWITCH
(src/backend/access/transam/xlogreader.c).
"""

from pystandby import wal

WHOLE = "whole"
"""Complete, by all that can be seen."""

DOUBTFUL = "doubtful"
"""Complete, unless it has a tear that only the CRC of a record tells: in the last one, or a hole between two page headers."""

UNFINISHED = "unfinished"
"""Still being written, as far as one can see: a later look may find it whole."""

WRONG = "wrong"
"""Will never become this segment."""

UNKNOWN = "unknown"
"""The format is not known: only size and stability can be judged."""


class Verdict:
    """What a file is, one of the states above, and why, in words that fit behind its name.

    ``end`` is the offset behind its last record, where judge_pages() found nothing against it.
    """

    __slots__ = ("end", "reason", "segment_size", "state", "zeros")

    def __init__(self, state: str, reason: str = "", segment_size: int = 0, zeros: bool = False, end: int = 0) -> None:
        self.state = state
        self.reason = reason
        self.segment_size = segment_size
        self.zeros = zeros
        self.end = end


def judge_head(
    head: bytes, size: int, name: str, system_identifier: "int | None" = None, server_version: "int | None" = None
) -> Verdict:
    """Judge a segment by its first 40 bytes and its size in bytes.

    ``name`` is the segment's; ``system_identifier`` that of the server's global/pg_control, and ``server_version`` its PG_VERSION
    times 100 plus the minor of old (903 for 9.3, 1800 for 18), each None where unknown. Returns WHOLE where nothing speaks
    against it so far: judge_pages() has the last word.
    """
    if len(head) < wal.LONG_HEADER_SIZE:
        return Verdict(UNFINISHED, f"has {size} bytes so far, which is less than a page header")
    page = wal.FirstPage(head)
    if not any(head) or (page.magic in wal.MAGIC and (page.segment_size == 0 or page.block_size == 0)):
        return Verdict(UNFINISHED, "begins with zeros: its first page is not written yet")
    problem = _misfit(page, name, system_identifier)
    if problem:
        if server_version is not None and not 903 <= server_version < (wal.NEWEST_KNOWN + 1) * 100:
            if wal.is_segment_size(size):
                return Verdict(UNKNOWN, f"has a page header that is not known here: it {problem}", size)
            return Verdict(UNFINISHED, f"has {size} bytes, which is no segment's size")
        return Verdict(WRONG, problem)
    written_by = wal.MAGIC.get(page.magic)
    if written_by and server_version is not None and written_by != wal.version_name(server_version):
        return Verdict(
            WRONG,
            f"is WAL of PostgreSQL {written_by} (page magic {page.magic:04X}), and this server's version is "
            f"{wal.version_name(server_version)}",
        )
    if size < page.segment_size:
        return Verdict(UNFINISHED, f"has {size} of {page.segment_size} bytes", page.segment_size)
    if size > page.segment_size:
        return Verdict(WRONG, f"is too long: {size} bytes instead of {page.segment_size}", page.segment_size)
    return Verdict(WHOLE, segment_size=page.segment_size)


def _misfit(page: wal.FirstPage, name: str, system_identifier: "int | None") -> str:
    """What in a long page header does not agree with the segment's name and cluster; empty if all does."""
    if page.info & wal.LONG_HEADER == 0 or not wal.is_segment_size(page.segment_size):
        return f"is not WAL of this platform (page magic {page.magic:04X}, segment size {page.segment_size})"
    if page.block_size & (page.block_size - 1) or not 1024 <= page.block_size <= 65536:
        return f"is not WAL of this platform (page magic {page.magic:04X}, page size {page.block_size})"
    address = wal.segment_number(name, page.segment_size) * page.segment_size
    if page.address != address:
        other = wal.segment_name(page.timeline, page.address // page.segment_size, page.segment_size)
        return f"holds another segment: the WAL at {lsn(page.address)} (segment {other}), not at {lsn(address)}"
    if page.timeline > wal.timeline(name) or page.timeline == 0:
        return f"is of timeline {page.timeline}, not of timeline {wal.timeline(name)}"
    if system_identifier is not None and page.system_identifier != system_identifier:
        return f"is of another cluster: its system identifier is {page.system_identifier}, this server's {system_identifier}"
    return ""


def judge_pages(content: "bytes | bytearray | memoryview", name: str, at_rest: bool = False) -> Verdict:
    """Judge a segment by all its page headers and the records of its last used page.

    ``content`` is the whole file (a mapping will do), which judge_head() found nothing against. About 0.5 ms for 16 MB. Unless it
    is ``at_rest``, not changed for longer than a copy pauses, sectors of zeros are looked for as well, at 2 ms more: ``zeros`` of
    a DOUBTFUL verdict says that there are some, which may be data, or what a copy out of order has yet to fill.
    """
    first = wal.FirstPage(bytes(content[: wal.LONG_HEADER_SIZE]))
    size, block = first.segment_size, first.block_size
    pages = size // block
    # Strided views compare one field of every page at once, in C: what keeps this at a millisecond.
    with memoryview(content) as view, view.cast("Q") as longs, view.cast("I") as words:
        addresses = longs[1 :: block // 8].tolist()
        heads = words[:: block // 4].tolist()
        timelines = words[1 :: block // 4].tolist()
    right = _leading_right_pages(first, addresses, heads, timelines, name)
    if right == 0:
        return Verdict(WRONG, "has a first page that does not agree with its name", size)
    for number in range(right, pages):
        if addresses[number] == first.address + number * block:
            return Verdict(UNFINISHED, f"has no page at offset {right * block} yet, while a later page is there", size)
        # Only 9.3 leaves what a recycled segment held before behind XLOG_SWITCH; 9.4 and later fill it.
        if (heads[number] or timelines[number] or addresses[number]) and first.magic != wal.MAGIC_9_3:
            return Verdict(UNFINISHED, f"has no page at offset {right * block} yet, while old WAL stands behind it", size)
    last = right - 1
    if right == pages:
        # PostgreSQL up to 10 gives the unused pages behind XLOG_SWITCH headers of their own.
        while last > 0 and _is_header_only(content, last * block, block):
            last -= 1
    end = _last_record(content, last, block, first)
    if end.broken:
        return Verdict(UNFINISHED, f"breaks off at offset {end.offset}: {end.broken}", size)
    hole = _hole(content, end.offset)
    if hole is not None:
        return Verdict(UNFINISHED, f"has a hole at offset {hole}: the checksum of the record there is wrong", size)
    if end.reaches_end_of_page:
        if last == pages - 1:
            if end.is_switch:
                return Verdict(WHOLE, segment_size=size, end=end.offset)
            zeros = not any(content[size - 8 : size]) or (not at_rest and _has_zero_sector(content, size))
            return Verdict(DOUBTFUL, segment_size=size, zeros=zeros, end=size)
        if not end.is_switch:
            return Verdict(UNFINISHED, f"breaks off at offset {(last + 1) * block}: the rest is not written yet", size)
    elif not end.is_switch:
        return Verdict(UNFINISHED, f"breaks off at offset {end.offset}: the rest is not written yet", size)
    if not _is_zero(content, end.offset, (last + 1) * block):
        return Verdict(UNFINISHED, f"has something other than zeros behind its end at offset {end.offset}", size)
    if not at_rest and _has_zero_sector(content, end.offset):
        return Verdict(DOUBTFUL, segment_size=size, zeros=True, end=end.offset)
    return Verdict(WHOLE, segment_size=size, end=end.offset)


def _leading_right_pages(
    first: wal.FirstPage, addresses: "list[int]", heads: "list[int]", timelines: "list[int]", name: str
) -> int:
    """How many pages from the first on have the magic, address and timeline that they must have."""
    pages = len(addresses)
    right = pages
    expected = list(range(first.address, first.address + pages * first.block_size, first.block_size))
    if addresses != expected:
        right = next(i for i in range(pages) if addresses[i] != expected[i])
    # magic and info share 32 bits; which half is which depends on the byte order, as the header itself does.
    magic_shift, info_shift = (0, 16) if _LITTLE_ENDIAN else (16, 0)
    # There are few different ones, where a look at each page would take a tenth of a millisecond.
    for head in set(heads[1:right]):
        if head >> magic_shift & 0xFFFF != first.magic or head >> info_shift & wal.LONG_HEADER:
            right = min(right, heads.index(head, 1))
    if timelines[:right] != [first.timeline] * right:
        # The first segment of a new timeline begins with pages copied from the old one.
        newest = first.timeline
        for number in range(right):
            if not newest <= timelines[number] <= wal.timeline(name):
                return number
            newest = timelines[number]
    return right


_LITTLE_ENDIAN = memoryview(b"\1\0\0\0").cast("I")[0] == 1


_SECTOR = 512

_ZEROS = bytes(65536)


def _is_zero(content: "bytes | bytearray | memoryview", start: int, end: int) -> bool:
    """Whether a part of a page, which has at most 64 kB, is all zeros."""
    return content[start:end] == _ZEROS[: end - start]


def _has_zero_sector(content: "bytes | bytearray | memoryview", end: int) -> bool:
    """Whether 512 bytes at a multiple of 512 before ``end`` are all zeros, as a hole that a copy has yet to fill would be."""
    with memoryview(content) as view, view.cast("Q") as longs:
        first_words = longs[: end // _SECTOR * (_SECTOR // 8) : _SECTOR // 8].tolist()
    sector = -1
    for _ in range(first_words.count(0)):
        sector = first_words.index(0, sector + 1)
        if _is_zero(content, sector * _SECTOR, (sector + 1) * _SECTOR):
            return True
    return False


_HOLE = 4096
"""The smallest hole that is looked for at any time: what file systems and their caches write at once."""


def _hole(content: "bytes | bytearray | memoryview", end: int) -> "int | None":
    """The offset of the first 4 kB of zeros before ``end`` that are not data of their record; None if there are none."""
    with memoryview(content) as view, view.cast("Q") as longs:
        first_words = longs[: end // _HOLE * (_HOLE // 8) : _HOLE // 8].tolist()
    if 0 not in first_words:
        return None
    zeros = [
        number * _HOLE
        for number, word in enumerate(first_words)
        if word == 0 and _is_zero(content, number * _HOLE, (number + 1) * _HOLE)
    ]
    if not zeros:
        return None
    from pystandby import records

    return records.first_damaged(content, zeros)


def _is_header_only(content: "bytes | bytearray | memoryview", start: int, block: int) -> bool:
    """Whether a page has a header that announces nothing, and zeros behind it."""
    _, info, _, _, remaining = wal.SHORT_HEADER.unpack_from(content, start)
    if info & wal.FIRST_IS_CONTINUED or remaining:
        return False
    return _is_zero(content, start + wal.SHORT_HEADER_SIZE, start + block)


class _End:
    """Where the records of a page end: at which offset of the file, after what kind of record, and what is odd about it."""

    __slots__ = ("broken", "is_switch", "offset", "reaches_end_of_page")

    def __init__(self, offset: int, is_switch: bool = False, at_end: bool = False, broken: str = "") -> None:
        self.offset = offset
        self.is_switch = is_switch
        self.reaches_end_of_page = at_end
        self.broken = broken


def _last_record(content: "bytes | bytearray | memoryview", number: int, block: int, first: wal.FirstPage) -> _End:
    """Follow the records of a page from its first to its last."""
    start = number * block
    end = start + block
    _, info, _, _, remaining = wal.SHORT_HEADER.unpack_from(content, start)
    offset = start + (wal.LONG_HEADER_SIZE if number == 0 else wal.SHORT_HEADER_SIZE)
    header_size = wal.record_header_size(first.magic)
    is_switch = False
    previous: int | None = None
    if info & wal.FIRST_IS_CONTINUED:
        if remaining == 0:
            return _End(offset, broken="a continued record without a length")
        if offset + remaining > end:
            return _End(end, at_end=True)
        if remaining < header_size and number > 0:
            is_switch = _switch_split_over(content, number, block, first, remaining)
        offset += (remaining + 7) & ~7
    elif remaining:
        return _End(offset, broken="a remaining length without a continued record")
    while offset < end:
        (length,) = wal.RECORD_LENGTH.unpack(bytes(content[offset : offset + 4]))
        if length == 0:
            return _End(offset, is_switch)
        if length < header_size:
            return _End(offset, broken=f"a record of {length} bytes")
        if offset + header_size > end:
            return _End(end, at_end=True)
        _, before, is_switch = wal.record_header(first.magic, bytes(content[offset : offset + header_size]))
        here = first.address + offset
        if before >= here or (previous is not None and before != previous):
            return _End(offset, broken="a record that does not follow the one before it")
        previous = here
        if offset + length > end:
            return _End(end, at_end=True)
        offset += (length + 7) & ~7
    return _End(end, is_switch, at_end=True)


def _switch_split_over(
    content: "bytes | bytearray | memoryview", number: int, block: int, first: wal.FirstPage, remaining: int
) -> bool:
    """Whether the record that ends with ``remaining`` bytes at the top of a page is an XLOG_SWITCH begun on the page before."""
    header_size = wal.record_header_size(first.magic)
    begun = header_size - remaining
    if begun <= 0 or begun % 8:
        return False
    top = number * block
    head = bytes(content[top - begun : top]) + bytes(
        content[top + wal.SHORT_HEADER_SIZE : top + wal.SHORT_HEADER_SIZE + remaining]
    )
    length, before, is_switch = wal.record_header(first.magic, head)
    return is_switch and length == header_size and before < first.address + top


def lsn(position: int) -> str:
    """A WAL position as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"

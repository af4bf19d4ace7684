"""WAL file names, segment arithmetic, timeline histories, headers: against what PostgreSQL's own sources and servers say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import segments

from pystandby import wal

SIZES = [1 << power for power in range(20, 31)]

# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("000000010000000000000005", wal.SEGMENT),
        ("0000000A000000FF000000FE", wal.SEGMENT),
        ("000000000000000000000000", wal.SEGMENT),
        ("FFFFFFFFFFFFFFFFFFFFFFFF", wal.SEGMENT),
        ("00000002.history", wal.HISTORY),
        ("0000000F.history", wal.HISTORY),
        ("000000010000000000000005.partial", wal.PARTIAL),
        ("000000010000000000000005.00000028.backup", wal.BACKUP_HISTORY),
        ("", None),
        ("00000001000000000000000", None),
        ("0000000100000000000000055", None),
        ("00000001000000000000000a", None),
        ("00000001000000000000000g", None),
        ("00000001 00000000000000 5", None),
        ("+00000010000000000000005", None),
        ("0x0000010000000000000005", None),
        ("00000001000000000000000\n", None),
        ("000000010000000000000005\n", None),
        ("\u06600000001000000000000000\u0665", None),
        ("000000010000000000000005.Partial", None),
        ("000000010000000000000005.gz", None),
        ("0000000a.history", None),
        ("0000002.history", None),
        ("000000002.history", None),
        (".history", None),
        ("000000010000000000000005.0000002G.backup", None),
        ("000000010000000000000005.28.backup", None),
        ("000000010000000000000005_00000028.backup", None),
        ("RECOVERYXLOG", None),
        ("../000000010000000000000", None),
    ],
)
def test_kind(name: str, kind: str | None) -> None:
    assert wal.kind(name) == kind


@given(st.text(alphabet="0123456789ABCDEFabcdefG./\n\u0665", max_size=42))
def test_kind_of_anything_but_a_segment_is_not_segment(name: str) -> None:
    is_segment = len(name) == 24 and all(letter in "0123456789ABCDEF" for letter in name)
    assert (wal.kind(name) == wal.SEGMENT) == is_segment


# Arithmetic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "name", "following"),
    [
        # Seen on real servers of these segment sizes.
        (16 << 20, "000000010000000A000000FF", "000000010000000B00000000"),
        (1 << 20, "000000010000000A00000FFF", "000000010000000B00000000"),
        (64 << 20, "000000010000000A0000003F", "000000010000000B00000000"),
        (1 << 30, "000000010000000A00000003", "000000010000000B00000000"),
        (16 << 20, "000000010000000A000000FE", "000000010000000A000000FF"),
        (1 << 20, "000000010000000A000000FF", "000000010000000A00000100"),
        (16 << 20, "0000000200000000000000FF", "000000020000000100000000"),
        (16 << 20, "00000001000000FF000000FF", "000000010000010000000000"),
    ],
)
def test_neighbours(size: int, name: str, following: str) -> None:
    assert wal.neighbour(name, 1, size) == following
    assert wal.neighbour(following, -1, size) == name
    assert wal.neighbour(name, 0, size) == name


def test_nothing_lies_before_the_first_segment() -> None:
    assert wal.neighbour("000000010000000000000002", -2, 16 << 20) == "000000010000000000000000"
    assert wal.neighbour("000000010000000000000002", -3, 16 << 20) is None
    assert wal.neighbour("000000010000000000000000", -1, 1 << 20) is None


@given(st.integers(1, 0xFFFFFFFF), st.integers(0, (1 << 64) - 1), st.sampled_from(SIZES))
def test_name_and_number(timeline: int, position: int, size: int) -> None:
    number = position // size
    name = wal.segment_name(timeline, number, size)
    assert wal.kind(name) == wal.SEGMENT
    assert wal.segment_number(name, size) == number
    assert wal.timeline(name) == timeline
    # As pg_walfile_name() forms it, with printf.
    assert name == f"{timeline:08X}{number * size >> 32:08X}{(number * size & 0xFFFFFFFF) // size:08X}"


@given(st.integers(0, 1 << 63), st.integers(0, 1 << 20), st.sampled_from(SIZES))
def test_neighbours_are_in_the_order_of_their_names(position: int, distance: int, size: int) -> None:
    name = wal.segment_name(3, position // size, size)
    other = wal.neighbour(name, distance, size)
    assert other is not None
    assert (other > name) == (distance > 0)
    assert wal.neighbour(other, -distance, size) == name


def test_segment_sizes() -> None:
    assert [size for size in range(1 << 19, (1 << 30) + (1 << 20), 1 << 19) if wal.is_segment_size(size)] == SIZES
    for size in (0, 1, -1, -(1 << 20), (1 << 20) + 1, (1 << 24) - 1, 1 << 31):
        assert not wal.is_segment_size(size)


# Timeline histories ---------------------------------------------------------------------------------------------------


def test_history_switch_points() -> None:
    # As PostgreSQL 18 writes it after two failovers.
    content = b"1\t0/6000098\tno recovery target specified\n\n2\t1/A0001C8\tbefore 2000-01-01 00:00:00+00\n"
    assert wal.history_switch_points(content) == {1: 0x6000098, 2: 0x1_0A0001C8}
    assert wal.history_switch_points(segments.history((1, 0x6000098), (2, 0x1_0A0001C8))) == {1: 0x6000098, 2: 0x1_0A0001C8}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"# 1\t0/3000000\tx\n",
        b"   # 1 0/3",
        b"1",
        b"1\t",
        b"x\t0/3\n",
        b"1\t0-3\n",
        b"1\t/\n",
        b"1\tz/3\n",
        bytes(100),
        b"\xff\xfe",
    ],
)
def test_what_is_no_history_has_no_switch_points(content: bytes) -> None:
    assert wal.history_switch_points(content) == {}


@given(st.binary(max_size=200))
def test_no_history_file_is_too_odd(content: bytes) -> None:
    for timeline, position in wal.history_switch_points(content).items():
        assert isinstance(timeline, int)
        assert isinstance(position, int)


# Headers --------------------------------------------------------------------------------------------------------------


def test_magic() -> None:
    assert {version: magic for magic, version in wal.MAGIC.items()} == segments.MAGIC
    assert max(int(version) for version in wal.MAGIC.values() if "." not in version) == wal.NEWEST_KNOWN


@pytest.mark.parametrize("version", segments.VERSIONS)
def test_headers(version: str) -> None:
    content = segments.switched("0000000300000012000000AB", version=version, continued=0, switch_at=40, page=8192)
    page = wal.FirstPage(content[:40])
    assert page.magic == segments.MAGIC[version]
    assert page.info == wal.LONG_HEADER
    assert page.timeline == 3
    assert page.address == 0x12_0AB00000
    assert page.remaining == 0
    assert page.system_identifier == segments.SYSTEM_IDENTIFIER
    assert page.segment_size == segments.MB
    assert page.block_size == 8192
    size = wal.record_header_size(page.magic)
    assert size == (32 if version in {"9.3", "9.4"} else 24)
    length, before, is_switch = wal.record_header(page.magic, content[40 : 40 + size])
    assert (length, is_switch) == (size, True)
    assert before < page.address


@pytest.mark.parametrize("version", segments.VERSIONS)
def test_a_record_that_is_no_switch(version: str) -> None:
    content = segments.full("000000010000000000000005", version=version, continued=0)
    size = wal.record_header_size(segments.MAGIC[version])
    length, _, is_switch = wal.record_header(segments.MAGIC[version], content[40 : 40 + size])
    assert not is_switch
    assert size < length <= 3 * 8192


def test_the_checksum_of_records() -> None:
    # The check value of CRC-32C.
    assert segments.crc32c(b"123456789") == 0xE3069283
    assert wal.crc32c(b"123456789") == 0xE3069283

"""Segments of 1 MB to 1 GB on real servers: their names across the boundary of the log number, -k, look-ahead, verification."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import segments
from support.command import Standby
from support.installations import installation_named
from support.servers import MB, Server, Stock, _scene, archive_command, eventually

from pystandby import exits, spool, wal
from pystandby.cluster import temporary_folder

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

SIZES = [(1, "16"), (16, "18"), (64, "16"), (1024, "18")]
"""Megabytes, and on which server."""

LOG = 0xA
"""The log number before the boundary."""

sizes = pytest.mark.parametrize(("size_mb", "server"), SIZES, ids=lambda value: f"{value}MB" if isinstance(value, int) else "")


def make_primary(folder: Path, size_mb: int, server: str, last: int | None = None) -> Server:
    """Make a server with segments of a size, the first one ``last`` before the boundary of the log number; not started."""
    primary = Server(installation_named(server), folder, "primary")
    # Segments of zeros take no time and no room where they are holes.
    primary.initdb("--set", "wal_init_zero=off", segment_mb=size_mb)
    if last is not None:
        first = f"00000001{LOG:08X}{4096 // size_mb - last:08X}"
        program = primary.installation.program("pg_resetwal")
        subprocess.run([program, "-l", first, "-D", primary.data_directory], check=True, stdout=subprocess.DEVNULL)
    return primary


# --- arithmetic ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SIZES, ids=lambda value: f"{value[0]}MB")
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Server, int]]:
    """A server to be asked for names, and the size of its segments in bytes."""
    size_mb, server = request.param
    folder = temporary_folder()
    primary = make_primary(folder, size_mb, server)
    try:
        primary.begin()
        yield primary, size_mb * MB
    finally:
        primary.abort()
        shutil.rmtree(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 2**64 - 1) | st.builds(lambda n, d: n * 2**20 + d, st.integers(1, 2**40), st.integers(-2, 2))))
def test_names_are_the_servers_own(running: tuple[Server, int], positions: list[int]) -> None:
    """pg_walfile_name and pg_split_walfile_name, at any LSN, most of all around the boundaries of logs and segments."""
    server, size = running
    # At a boundary up to version 16 it is the segment before that is named.
    positions = [position | 1 for position in positions]
    lsns = ",".join(f"'{position >> 32:X}/{position & 0xFFFFFFFF:X}'" for position in positions)
    rows = server.sql(
        "SELECT pg_walfile_name(lsn), (pg_split_walfile_name(pg_walfile_name(lsn))).segment_number "
        f"FROM unnest(ARRAY[{lsns}]::pg_lsn[]) WITH ORDINALITY AS given (lsn, n) ORDER BY n"
    )
    for position, (name, number) in zip(positions, rows, strict=True):
        ours = wal.segment_name(1, position // size, size)
        assert ours == name
        assert wal.segment_number(ours, size) == number
        assert wal.kind(ours) == wal.SEGMENT
        following = wal.neighbour(ours, 1, size)
        if following is None:
            assert position // size == 2**64 // size - 1, "only the last of all has none after it"
        else:
            assert following == wal.segment_name(1, position // size + 1, size)
            assert wal.neighbour(following, -1, size) == ours


# --- a standby -------------------------------------------------------------------------------------------------------


def sparsely(source: Path, target: Path, size: int | None = None) -> None:
    """Copy a file, with holes in place of its zeros, whole at once; ``size``: with nothing but zeros from there on."""
    part = target.with_name(f".{target.name}.part")
    subprocess.run(["cp", "--sparse=always", source, part], check=True)
    if size is not None:
        whole = part.stat().st_size
        os.truncate(part, size)
        os.truncate(part, whole)
    part.replace(target)


def used(segment: Path) -> int:
    """How many bytes of a segment come before the zeros at its end: in its first 256 kB, here."""
    with segment.open("rb") as file:
        return len(file.read(1 << 18).rstrip(b"\0"))


def make_sized_stock(folder: Path, size_mb: int, server: str) -> Stock:
    """A base backup before the boundary of the log number, and two segments across it, or five of the smaller sizes."""
    archive = folder / "archive"
    archive.mkdir(mode=0o700)
    primary = make_primary(folder, size_mb, server, last=3)
    command = archive_command(archive).replace("cp %p", "cp --sparse=always %p")
    primary.configure({"archive_mode": True, "archive_command": command, "max_wal_size": f"{4 * size_mb}MB"})
    try:
        primary.begin()
        primary.sql("CREATE TABLE ledger (id bigserial PRIMARY KEY, note text NOT NULL)")
        primary.take_base_backup(folder / "backup")
        names, rows = [], []
        for number in range(1, 3 if size_mb == 1024 else 6):
            primary.sql(f"INSERT INTO ledger (note) SELECT md5(i::text) FROM generate_series(1, {100 * number}) i")
            ((name,),) = primary.sql("SELECT pg_walfile_name(pg_switch_wal() - 1)")
            names.append(str(name))
            rows.append(primary.rows())
        eventually((archive / names[-1]).exists, f"{names[-1]} is archived", tell=primary.tell)
    finally:
        primary.abort()
        shutil.rmtree(primary.data_directory, ignore_errors=True)
    return Stock(primary.installation, folder, size_mb, tuple(names), tuple(rows), {}, 0)


def segments_in(archive: Path) -> list[str]:
    return sorted(path.name for path in archive.iterdir() if wal.kind(path.name) == wal.SEGMENT)


def until_kept(archive: Path, names: list[str]) -> None:
    eventually(lambda: segments_in(archive) == names, f"{names} are kept", tell=lambda: str(segments_in(archive)))


@sizes
def test_across_the_boundary_of_the_log_number(size_mb: int, server: str) -> None:
    """Replay from before it to behind it, with look-ahead and -k, a torn segment, and a failover."""
    size = size_mb * MB
    folder = temporary_folder()
    try:
        stock = make_sized_stock(folder, size_mb, server)
        assert {name[8:16] for name in stock.names} == {f"{LOG:08X}", f"{LOG + 1:08X}"}
        for before, after in pairwise(stock.names):
            assert wal.neighbour(before, 1, size) == after
        for scene in _scene(stock):
            *whole, last = segments_in(stock.archive)
            assert last == stock.names[-1]
            for name in whole:
                sparsely(stock.archive / name, scene.archive / name)
            sparsely(stock.archive / last, scene.archive / last, used(stock.archive / last) // 2)
            command = scene.restore_command("-k", "1", "--look-ahead", "8").removesuffix(" %r")
            standby = scene.standby(restore_command=command, settings={"recovery_prefetch": "off"}).begin(connections=False)
            standby.until_log(f'{last}" ')
            standby.until_log("It is taken to be still on its way")
            standby.until_rows(stock.rows[-2])
            # -k: the one before the one asked for last, and that.
            until_kept(scene.archive, [*whole[-2:], last])
            sparsely(stock.archive / last, scene.archive / last)
            following = wal.neighbour(last, 1, size)
            standby.until_waiting(str(following))
            scene.trigger()
            standby.until_promoted(stock.rows[-1])
            history = (standby.data_directory / "pg_wal" / "00000002.history").read_text().split()[1]
            high, _, low = history.partition("/")
            assert wal.segment_name(1, (int(high, 16) << 32 | int(low, 16)) // size, size) == following
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("size_mb", "bound"), [(1, 8), (16, 8), (64, 8), (128, 4), (1024, 1)])
def test_what_the_spool_holds_at_most(size_mb: int, bound: int) -> None:
    assert spool.bound(8, size_mb * MB) == bound
    assert spool.bound(0, size_mb * MB) == 0


# --- timelines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_mb", [1, 16, 64, 1024])
def test_a_fork_is_put_into_the_right_segment(standby: Standby, size_mb: int) -> None:
    """The last byte before a segment, and the first one of it, across the boundary of the log number."""
    size = size_mb * MB
    number = (LOG + 1) * (4096 // size_mb)
    here = wal.segment_name(1, number, size)
    # Sparse, and nothing but a header that tells the size.
    head = segments.switched(here, size=MB)[:40]
    sized = bytearray(head)
    sized[32:36] = size.to_bytes(4, "little")
    with (standby.archive / str(wal.neighbour(here, -1, size))).open("wb") as file:
        file.write(sized)
    for left, status in (((number + 1) * size - 1, exits.NEW_TIMELINE), (number * size, exits.NEW_TIMELINE)):
        standby.put("00000002.history", segments.history((1, left)))
        shutil.rmtree(standby.data.wal / ".pystandby", ignore_errors=True)
        assert standby.ask(here, "--on-new-timeline", "stop").status == status
    standby.put("00000002.history", segments.history((1, (number + 1) * size)))
    assert standby.ask(here, "--on-new-timeline", "stop", "-w", "1", "-s", "1").status == exits.END_OF_RECOVERY

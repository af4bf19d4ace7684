"""Is this segment whole? On real WAL of many versions, on thousands of torn variants of it, and through the executable."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from support import injected, real_wal, segments, torn
from support.command import Result, Standby, run
from support.real_wal import CRASHED, NEW_TIMELINE, PARTIAL, RECYCLED, RealWal

from pystandby import exits, ready
from pystandby.ready import DOUBTFUL, UNFINISHED, UNKNOWN, WHOLE, WRONG, Verdict

ARCHIVES = ((10, 16), (13, 1), (15, 1), (16, 1), (18, 1), (18, 16))
"""Version of PostgreSQL, and MB of a segment: 1 to have many of them, 16 because nearly everybody has it."""

LEAST_VARIANTS = 2500
"""Torn variants made of each archive of 1 MB segments."""

SMALL = [archive for archive in ARCHIVES if archive[1] == 1]

NAME = segments.name(5, size=16 * segments.MB)
NEXT = segments.name(6, size=16 * segments.MB)
"""With 1 MB segments these are other numbers, and as good."""

MB16 = 16 * segments.MB

NOT_WHOLE = exits.ARCHIVE_UNAVAILABLE
"""With --wait never, of a segment that is there and not whole: it is not absent, so recovery does not end there."""


@pytest.fixture
def wal(request: pytest.FixtureRequest, shared_folder: Path) -> RealWal:
    """What a real cluster has written."""
    return real_wal.archive(shared_folder, *request.param)


def each(archives: Sequence[tuple[int, int]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("wal", archives, indirect=True, ids=lambda archive: f"{archive[0]}-{archive[1]}MB")


def judge(content: bytes, name: str, wal: RealWal) -> Verdict:
    """The verdict that a restore comes to."""
    verdict = ready.judge_head(content[:40], len(content), name, wal.system_identifier, wal.version * 100)
    return ready.judge_pages(content, name) if verdict.state == WHOLE else verdict


def waits(verdict: Verdict) -> bool:
    """Whether a file that has just been written would be looked at a second time, a second later."""
    return verdict.state == DOUBTFUL and verdict.zeros


def is_handed_over(verdict: Verdict) -> bool:
    return verdict.state in (WHOLE, DOUBTFUL)


# --- real WAL: whole, unfinished, torn ---------------------------------------------------------------------------------


@each(ARCHIVES)
def test_every_whole_segment_is_handed_over(wal: RealWal) -> None:
    refused = {}
    for file in wal.whole:
        verdict = judge(file.read(), file.name, wal)
        assert verdict.segment_size == wal.segment_mb << 20
        if not is_handed_over(verdict):
            refused[file.name] = verdict.reason
    assert not refused
    assert len(wal.whole) > (60 if wal.segment_mb == 1 else 6)
    assert len(wal.of(NEW_TIMELINE)) == 1


@each(ARCHIVES)
def test_the_archives_have_what_is_hard_to_judge(wal: RealWal) -> None:
    """Without these the tests on them would prove nothing."""
    wholes = wholes_of(wal)
    full = [segment for segment, _ in wholes if segment.is_full]
    switched = [segment for segment, _ in wholes if not segment.is_full]
    assert full
    assert switched
    for file in wal.of(NEW_TIMELINE):
        timelines = {struct.unpack_from("<I", file.read(), page * torn.PAGE + 4)[0] for page in range(3)}
        assert 1 in timelines, "the first segment of a new timeline begins with pages of the old one"
    if wal.segment_mb == 1:
        ends = {segment.used % torn.PAGE for segment in switched}
        assert any(24 < end <= 24 + 16 for end in ends), "an XLOG_SWITCH that is split over two pages"
        assert len(ends) > 30
        # Zeros that are WAL: the data of a record.
        assert any(bytes(4096) in segment.content[: segment.used] for segment in full)


@each(ARCHIVES)
def test_no_unfinished_segment_is_handed_over(wal: RealWal) -> None:
    for what in (PARTIAL, CRASHED):
        assert len(wal.of(what)) == 1
        for file in wal.of(what):
            assert judge(file.read(), file.name, wal).state == UNFINISHED, file
    assert wal.of(RECYCLED)
    for file in wal.of(RECYCLED):
        assert judge(file.read(), file.name, wal).state in (UNFINISHED, WRONG), file


def wholes_of(wal: RealWal) -> list[tuple[torn.Whole, real_wal.WalFile]]:
    files = wal.whole
    contents = [file.read() for file in files]
    followers = [*contents[1:], None]
    return [(torn.whole(content, follower), file) for content, follower, file in zip(contents, followers, files, strict=True)]


@each(ARCHIVES)
def test_torn_variants(wal: RealWal) -> None:
    """At least 10,000 of all archives together. What may be doubted, and is then looked at again, is the blind spot."""
    assert len(SMALL) * LEAST_VARIANTS >= 10_000
    seen: Counter[str] = Counter()
    blind = 0
    wrong: list[str] = []
    older = b""
    wholes = wholes_of(wal)
    for segment, file in wholes:
        blind_from = torn.last_record(segment) if segment.is_full else len(segment.content)
        for variant in torn.variants(segment, older or bytes(len(segment.content)), 5 if wal.segment_mb == 1 else 3, file.name):
            seen[variant.kind] += 1
            verdict = judge(variant.content, file.name, wal)
            if not is_handed_over(verdict):
                continue
            # The blind spot: cut within the last record, which goes on in the next segment.
            if variant.kind in (torn.CUT, torn.CUT_OLD) and variant.at > blind_from and verdict.state == DOUBTFUL:
                blind += 1
                assert verdict.zeros or any(variant.content[-8:])
            elif variant.kind in torn.HOLES_INSIDE_PAGES and waits(verdict):
                blind += 1
            else:
                wrong.append(f"{variant.kind} at {variant.at} of {file.name} ({segment.used} used): {verdict.state}")
        older = segment.content
    assert not wrong, f"{len(wrong)} of {sum(seen.values())} handed over: {wrong[:20]}"
    assert sum(seen.values()) >= LEAST_VARIANTS or wal.segment_mb > 1
    assert set(seen) == set(torn.KINDS)
    assert min(seen.values()) > len(wholes)
    # Only what lies in a segment's last record, or is a hole inside a page, may be left to a second look.
    assert blind < sum(seen.values()) / 4


@each(SMALL)
def test_holes_of_4_kb_are_found_in_files_at_rest_too(wal: RealWal) -> None:
    """What an archive's host that lost power leaves for good: the checksum of the record tells it from data of zeros.

    Not in records longer than 256 kB, nor in one that began in the segment before: these archives have a few such.
    """
    found = missed = 0
    for segment, file in wholes_of(wal):
        for variant in torn.variants(segment, bytes(len(segment.content)), 3, file.name):
            if variant.kind != torn.BLOCK_HOLE or not variant.at:
                continue
            verdict = ready.judge_pages(variant.content, file.name, at_rest=True)
            if verdict.state == UNFINISHED:
                found += 1
            else:
                missed += 1
                assert segment.is_full, f"missed in {file.name} at {variant.at}, where all records are short"
    assert found > 100
    assert missed < found / 20


@each([(10, 16), (18, 16)])
def test_judging_a_segment_looks_at_headers_only(wal: RealWal) -> None:
    """Relative to copying it once, which a loop over its bytes in Python would exceed a thousand times.

    4 kB of zeros in it take longer: whether they are data, the checksum of their record tells.
    """
    judged_fast = 0
    for file in wal.whole:
        content = file.read()
        judged = _seconds(partial(ready.judge_pages, content, file.name, True))
        copied = _seconds(partial(bytearray, content))
        has_zeros = any(not content[at : at + 4096].strip(b"\0") for at in range(0, torn.whole(content, None).used, 4096))
        limit = (100 if has_zeros else 12) * copied
        assert judged < limit, f"{file.name}: {judged * 1000:.1f} ms, copying {copied * 1000:.1f} ms"
        judged_fast += not has_zeros
    assert judged_fast > 4


def _seconds(work: Callable[[], object]) -> float:
    """The shortest time of several."""
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


# --- what pg_waldump, which checks every record's checksum, says of the same files -------------------------------------


@each([(16, 1), (18, 1)])
def test_pg_waldump_reads_what_is_whole_to_its_end(wal: RealWal, tmp_path: Path) -> None:
    """The other way round: wherever pg_waldump finds the end of WAL inside, nothing is handed over without a second look."""
    chance = random.Random(wal.version)
    older = wal.whole[0].read()
    for segment, file in chance.sample(wholes_of(wal), 40):
        if not _records_begin_in(segment.content):
            continue
        assert pg_waldump(segment.content, file.name, wal.version, tmp_path), file
        for variant in chance.sample(list(torn.variants(segment, older, 3, file.name)), 3):
            if not pg_waldump(variant.content, file.name, wal.version, tmp_path):
                assert judge(variant.content, file.name, wal).state != WHOLE, (variant.kind, variant.at, file)


def pg_waldump(content: bytes, name: str, version: int, folder: Path) -> bool:
    """Whether pg_waldump comes to the end of a segment."""
    (folder / name).write_bytes(content)
    program = real_wal.installation(version).program("pg_waldump")
    answer = subprocess.run([program, "--quiet", folder / name], check=False, capture_output=True, text=True)
    (folder / name).unlink()
    assert answer.returncode in (0, 1)
    return answer.returncode == 0


def _records_begin_in(content: bytes) -> bool:
    """Whether any record begins in a segment: pg_waldump gives up on one that is the middle of a single record."""
    info, remaining = struct.unpack_from("<H", content, 2)[0], struct.unpack_from("<I", content, 16)[0]
    return not info & 1 or remaining < len(content) // 2


# --- through the executable: what a server is given ---------------------------------------------------------------------


@each(ARCHIVES)
def test_a_server_is_given_whole_segments(wal: RealWal, tmp_path: Path) -> None:
    standby = Standby(tmp_path, version=str(wal.version))
    (standby.data.path / "global" / "pg_control").write_bytes(struct.pack("<Q", wal.system_identifier))
    chance = random.Random(f"{wal.version}")
    for file in [*chance.sample(wal.whole, 6), *wal.of(NEW_TIMELINE)]:
        standby.put(file.name, file.read())
        answer = standby.ask(file.name)
        assert answer == Result(0, "", ""), file
        assert standby.delivered() == file.read()
    assert standby.data.left_behind() == []


@each([(18, 1)])
def test_a_server_is_given_no_torn_segment(wal: RealWal, tmp_path: Path) -> None:
    """One of each kind: waited for, and given when it is whole."""
    standby = Standby(tmp_path, version=str(wal.version))
    (standby.data.path / "global" / "pg_control").write_bytes(struct.pack("<Q", wal.system_identifier))
    chance = random.Random(f"{wal.version}")
    wholes = [(segment, file) for segment, file in wholes_of(wal) if 2 * torn.PAGE < segment.used < 1 << 20]
    older = wal.whole[0].read()
    for kind in (torn.CUT, torn.CUT_OLD, torn.SHORT, torn.PAGE_HOLE, torn.OLD_PAGES):
        segment, file = chance.choice(wholes)
        # Not of the first page: another segment's will never become this one.
        variant = next(made for made in torn.variants(segment, older, 40, kind) if made.kind == kind and made.at)
        standby.put(file.name, variant.content)
        with standby.begin(file.name, "-s", "60") as waiting:
            waiting.until_says("It is taken to be still on its way, and waited for.")
            waiting.until_watching()
            assert not waiting.has_ended
            assert standby.delivered() is None, kind
            standby.put(file.name, segment.content)
            assert waiting.result().status == exits.DELIVERED
        assert standby.delivered() == segment.content
        standby.restored.unlink()


@pytest.mark.parametrize("version", segments.VERSIONS)
def test_every_version_of_headers(tmp_path: Path, version: str) -> None:
    name = segments.name(5)
    standby = Standby(tmp_path, version=version)
    for made in (segments.full, segments.switched):
        content = standby.put(name, made(name, version=version))
        assert standby.ask(name) == Result(0, "", "")
        assert standby.delivered() == content
    standby.restored.unlink()
    for torn_one in (
        segments.unfinished(name, version=version),
        segments.recycled(name, segments.name(2), version=version),
        segments.zeros_from(segments.full(name, version=version), 3 * segments.PAGE),
    ):
        standby.put(name, torn_one)
        assert standby.ask(name, "--wait", "never").status == NOT_WHOLE
        assert standby.delivered() is None


def test_version_9_3_leaves_old_wal_behind_a_switch(tmp_path: Path) -> None:
    """Only from 9.4 on is the rest of a switched segment filled with zeros."""
    name = segments.name(5)
    standby = Standby(tmp_path, version="9.3")
    content = bytearray(segments.switched(name, version="9.3", switch_at=40000))
    older = segments.full(segments.name(2), version="9.3")
    content[5 * segments.PAGE :] = older[5 * segments.PAGE :]
    standby.put(name, bytes(content))
    assert standby.ask(name) == Result(0, "", "")
    assert standby.delivered() == bytes(content)
    standby.restored.unlink()
    # Without the switch the same is a segment that is still being written.
    standby.put(name, segments.recycled(name, segments.name(2), version="9.3"))
    assert standby.ask(name, "--wait", "never").status == NOT_WHOLE


@pytest.mark.parametrize("page", [1024, 4096, 16384, 65536])
def test_other_page_sizes(standby: Standby, page: int) -> None:
    """--with-wal-blocksize: PostgreSQL can be built with 1 to 64 kB."""
    name = segments.name(5)
    for made in (segments.full, segments.switched):
        content = standby.put(name, made(name, page=page))
        assert standby.ask(name).status == exits.DELIVERED
        assert standby.delivered() == content
    standby.put(name, segments.zeros_from(content, page * 5))
    assert standby.ask(name, "--wait", "never").status == NOT_WHOLE


@pytest.mark.parametrize("megabytes", [2, 64, 256])
def test_other_segment_sizes(standby: Standby, megabytes: int) -> None:
    size = megabytes << 20
    name = segments.name(5, size=size)
    content = standby.put(name, segments.switched(name, size=size, switch_at=50_000 // 8 * 8))
    assert standby.ask(name).status == exits.DELIVERED
    assert standby.delivered() == content


# --- the blind spot: a tear within the last record ----------------------------------------------------------------------


def in_the_blind_spot() -> tuple[bytes, bytes]:
    """A whole segment, and a copy of it whose last bytes, within a record that goes on in the next segment, are zeros."""
    content = segments.full(NAME, size=MB16, carried=4000)
    last = torn.last_record(torn.Whole(content, len(content)))
    cut = segments.zeros_from(content, (last + len(content)) // 2)
    verdict = ready.judge_pages(cut, NAME)
    assert verdict.state == DOUBTFUL, "else this would prove nothing"
    assert verdict.zeros
    return content, cut


def test_in_the_blind_spot_a_file_that_changes_is_not_handed_over(standby: Standby) -> None:
    content, cut = in_the_blind_spot()
    path = standby.archive / NAME
    path.write_bytes(cut)
    stop = threading.Event()

    def write_on() -> None:
        with path.open("r+b") as file:
            while not stop.wait(0.05):
                os.pwrite(file.fileno(), cut[:8], 0)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        with standby.begin(NAME, "-s", "1", "-d") as waiting:
            # Longer than a file must have rested, by design: what is waited for here is that nothing happens.
            time.sleep(2.5)
            assert not waiting.has_ended
            assert standby.delivered() is None
            standby.put(NAME, content)
            stop.set()
            assert waiting.result().status == exits.DELIVERED
    finally:
        stop.set()
        writer.join()
    assert standby.delivered() == content


def test_in_the_blind_spot_a_file_at_rest_is_handed_over(standby: Standby) -> None:
    """The documented limit: nothing but the checksum of its last record, whose end is in the next segment, tells."""
    _, cut = in_the_blind_spot()
    standby.put(NAME, cut)
    with standby.begin(NAME, "-s", "60") as waiting:
        begun = time.monotonic()
        assert waiting.result().status == exits.DELIVERED
        assert time.monotonic() - begun < 30, "waits for a moment, not for the next look"
    assert standby.delivered() == cut


def test_in_the_blind_spot_old_bytes_at_the_end_need_a_second_look(standby: Standby) -> None:
    """Without zeros at its end it must rest for a moment; here the copy goes on in just that moment."""
    content = segments.full(NAME, size=MB16, carried=4000)
    last = torn.last_record(torn.Whole(content, len(content)))
    older = segments.full(segments.name(4, size=MB16), size=MB16, seed=3)
    at = (last + len(content)) // 2
    cut = content[:at] + older[at:]
    verdict = ready.judge_pages(cut, NAME)
    assert (verdict.state, verdict.zeros) == (DOUBTFUL, False)
    path = segments.put(standby.archive, NAME, cut)
    (standby.folder / "rest").write_bytes(content[at:])
    # Of the future, so that it has not rested however long the program takes to start.
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    program = injected.program(
        standby.folder,
        f"""
        def sleep(seconds, real=time.sleep):
            with open({str(path)!r}, "r+b") as file:
                file.seek({at})
                file.write(open({str(standby.folder / "rest")!r}, "rb").read())
            real(seconds)
            time.sleep = real
        time.sleep = sleep
        """,
    )
    answer = run(*standby.command(NAME, "-s", "1"), cwd=standby.data.path, program=program)
    assert answer.status == exits.DELIVERED
    assert standby.delivered() == content


# --- what will never become this segment: refused, with the reason ------------------------------------------------------


def changed(offset: int, layout: str, value: int, content: bytes | None = None) -> bytes:
    """A whole segment with one field of its first page header changed."""
    made = bytearray(segments.full(NAME, size=MB16) if content is None else content)
    struct.pack_into(layout, made, offset, value)
    return bytes(made)


WRONG_SEGMENTS = {
    "another segment": (
        segments.full(NEXT, size=MB16),
        f"holds another segment: the WAL at 0/6000000 (segment {NEXT}), not at 0/5000000",
    ),
    "an earlier segment": (
        segments.full(segments.name(4, size=MB16), size=MB16),
        "holds another segment: the WAL at 0/4000000",
    ),
    "of a later timeline": (
        segments.full(segments.name(5, timeline=2, size=MB16), size=MB16),
        "is of timeline 2, not of timeline 1",
    ),
    "of another cluster": (
        segments.full(NAME, size=MB16, system_identifier=42),
        f"is of another cluster: its system identifier is 42, this server's {segments.SYSTEM_IDENTIFIER}",
    ),
    "of another version": (
        segments.full(NAME, size=MB16, version="15"),
        "is WAL of PostgreSQL 15 (page magic D110)",
    ),
    "random bytes": (random.Random(1).randbytes(MB16), "is not WAL of this platform (page magic"),
    "text": (b"not WAL\n" * (MB16 // 8), "is not WAL of this platform (page magic"),
    "with an odd segment size": (
        changed(32, "<I", 3 * segments.MB),
        "is not WAL of this platform (page magic D113, segment size",
    ),
    "with an odd page size": (changed(36, "<I", 100), "is not WAL of this platform (page magic D113, page size"),
    "too long": (segments.full(NAME, size=MB16) + b"x", f"is too long: {MB16 + 1} bytes instead of {MB16}"),
    "too long by zeros": (segments.full(NAME, size=MB16) + bytes(MB16), f"is too long: {2 * MB16} bytes instead of {MB16}"),
    "big-endian": (struct.pack(">HHIQI4xQII", 0xD113, 2, 1, 5 * MB16, 0, 1, MB16, 8192) + bytes(MB16 - 40), "is not WAL of"),
}


@pytest.mark.parametrize("what", WRONG_SEGMENTS)
def test_a_wrong_segment_is_refused_with_the_reason(standby: Standby, what: str) -> None:
    """The message says what was found, what a server would have done with it, and the option that overrules."""
    content, reason = WRONG_SEGMENTS[what]
    standby.put(NAME, content)
    answer = standby.ask(NAME)
    assert answer.status == exits.WRONG_SEGMENT
    assert f'segment "{standby.archive / NAME}" {reason}' in answer.stderr
    assert "take that for the end of WAL, and promote" in answer.stderr
    assert "--verify size" in answer.stderr
    assert standby.delivered() is None
    assert standby.data.left_behind() == []


@pytest.mark.parametrize("what", WRONG_SEGMENTS)
def test_a_wrong_segment_does_not_replace_what_is_there(standby: Standby, what: str) -> None:
    standby.restored.write_bytes(b"left over")
    standby.put(NAME, WRONG_SEGMENTS[what][0])
    assert standby.ask(NAME).status == exits.WRONG_SEGMENT
    assert standby.delivered() in (None, b"left over")


def test_a_first_page_of_another_magic_than_the_rest_is_not_handed_over(standby: Standby) -> None:
    standby.put(NAME, changed(0, "<H", 0xBEEF))
    assert standby.ask(NAME, "--wait", "never").status != exits.DELIVERED
    assert standby.delivered() is None


def test_the_first_segment_of_a_new_timeline_begins_with_the_old(standby: Standby) -> None:
    name = segments.name(5, timeline=3, size=MB16)
    content = standby.put(name, segments.full(name, size=MB16, old_timeline=2, old_pages=7))
    assert standby.ask(name).status == exits.DELIVERED
    assert standby.delivered() == content


def test_a_timeline_that_goes_back_within_a_segment_is_no_whole_one(standby: Standby) -> None:
    content = bytearray(segments.full(segments.name(5, timeline=2, size=MB16), size=MB16))
    struct.pack_into("<I", content, 100 * segments.PAGE + 4, 1)
    standby.put(segments.name(5, timeline=2, size=MB16), bytes(content))
    assert standby.ask(segments.name(5, timeline=2, size=MB16), "--wait", "never").status == NOT_WHOLE


def test_without_pg_control_any_cluster_s_segment_will_do(standby: Standby) -> None:
    """Unreadable, or no server: what cannot be known is not held against a segment."""
    (standby.data.path / "global" / "pg_control").unlink()
    content = standby.put(NAME, segments.full(NAME, size=MB16, system_identifier=42))
    assert standby.ask(NAME).status == exits.DELIVERED
    assert standby.delivered() == content


# --- --verify, and servers of other versions ----------------------------------------------------------------------------

TORN = segments.zeros_from(segments.full(NAME, size=MB16), 5 * segments.PAGE)


@pytest.mark.parametrize("verify", [(), ("--verify", "auto"), ("--verify", "pages"), ("--verify=pages",)])
def test_under_a_server_pages_are_verified(standby: Standby, verify: tuple[str, ...]) -> None:
    standby.put(NAME, TORN)
    answer = standby.ask(NAME, "--wait", "never", *verify)
    assert answer.status == NOT_WHOLE
    assert standby.delivered() is None


@pytest.mark.parametrize("verify", ["size", "none"])
def test_verify_size_and_none_look_at_no_pages(standby: Standby, verify: str) -> None:
    for content in (TORN, WRONG_SEGMENTS["random bytes"][0], WRONG_SEGMENTS["another segment"][0], bytes(MB16)):
        standby.put(NAME, content)
        assert standby.ask(NAME, "--verify", verify) == Result(0, "", "")
        assert standby.delivered() == content


def test_verify_size_waits_for_the_size_and_refuses_more(standby: Standby) -> None:
    whole = segments.full(NAME, size=MB16)
    standby.put(NAME, whole[: MB16 - 1])
    assert standby.ask(NAME, "--verify", "size", "--wait", "never").status == NOT_WHOLE
    standby.put(NAME, whole + b"x")
    answer = standby.ask(NAME, "--verify", "size")
    assert answer.status == exits.WRONG_SEGMENT
    assert "is too long" in answer.stderr


def test_verify_none_delivers_whatever_is_there(standby: Standby) -> None:
    content = standby.put(NAME, b"encrypted")
    assert standby.ask(NAME, "--verify", "none").status == exits.DELIVERED
    assert standby.delivered() == content


@pytest.mark.parametrize("version", ["19", "20", "9.2", "8.4"])
def test_a_header_that_does_not_fit_under_a_server_of_another_age_is_judged_by_size(tmp_path: Path, version: str) -> None:
    standby = Standby(tmp_path, version=version)
    content = standby.put(NAME, random.Random(2).randbytes(MB16))
    answer = standby.ask(NAME, "-s", "1")
    assert answer.status == exits.DELIVERED
    assert standby.delivered() == content
    assert answer.stderr.count("WARNING:") == 1
    assert "has a page header that is not known here" in answer.stderr
    assert "--verify size" in answer.stderr


@pytest.mark.parametrize("version", ["19", "9.2"])
def test_under_a_server_of_another_age_less_than_a_segment_is_waited_for(tmp_path: Path, version: str) -> None:
    standby = Standby(tmp_path, version=version)
    standby.put(NAME, random.Random(2).randbytes(MB16 - 8192))
    assert standby.ask(NAME, "--wait", "never").status == NOT_WHOLE
    assert standby.delivered() is None


@pytest.mark.parametrize("version", ["19", "16"])
def test_an_unknown_magic_in_a_header_that_fits_is_judged_by_its_own_header(tmp_path: Path, version: str) -> None:
    """A fork, or the next version: the header says where the pages are, and every page must have the same magic."""
    standby = Standby(tmp_path, version=version)
    content = bytearray(segments.full(NAME, size=MB16, version="18"))
    for page in range(0, MB16, segments.PAGE):
        struct.pack_into("<H", content, page, 0xD11F)
    standby.put(NAME, bytes(content))
    assert standby.ask(NAME).status == exits.DELIVERED
    assert standby.delivered() == bytes(content)
    standby.restored.unlink()
    standby.put(NAME, segments.zeros_from(bytes(content), 7 * segments.PAGE))
    assert standby.ask(NAME, "--wait", "never").status == NOT_WHOLE
    assert standby.delivered() is None


@pytest.mark.parametrize("what", ["torn", *WRONG_SEGMENTS])
def test_by_hand_a_person_is_warned_and_gets_it_by_size(tmp_path: Path, what: str) -> None:
    """No server, so no harm: as pg_standby, but not in silence."""
    archive = tmp_path / "archive"
    archive.mkdir()
    content = TORN if what == "torn" else WRONG_SEGMENTS[what][0]
    segments.put(archive, NAME, content)
    answer = run(archive, NAME, tmp_path / "here", cwd=tmp_path)
    if what in ("too long", "too long by zeros"):
        assert answer.status == exits.WRONG_SEGMENT
        return
    assert answer.status == exits.DELIVERED
    assert (tmp_path / "here").read_bytes() == content
    if what in ("of another cluster", "of another version"):
        # Whose it should be, nobody can tell.
        assert answer.stderr == ""
    else:
        assert answer.stderr.count("WARNING:") == 1
        assert "A server would not be given it" in answer.stderr
        assert "--verify pages" in answer.stderr


def test_by_hand_verify_pages_refuses(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    segments.put(archive, NAME, TORN)
    assert run(archive, NAME, tmp_path / "here", "--verify", "pages", "--wait", "never", cwd=tmp_path).status == NOT_WHOLE
    assert not (tmp_path / "here").exists()


def test_every_verdict_has_its_words() -> None:
    """What a person is told of each state begins as a sentence about the file does."""
    for content, expected in ((TORN, UNFINISHED), (bytes(MB16), UNFINISHED), (WRONG_SEGMENTS["text"][0], WRONG)):
        verdict = ready.judge_head(content[:40], len(content), NAME)
        if verdict.state == WHOLE:
            verdict = ready.judge_pages(content, NAME)
        assert verdict.state == expected
        assert verdict.reason.split()[0] in ("has", "is", "holds", "breaks", "begins")
    verdict = ready.judge_head(b"x" * 40, MB16, NAME, server_version=1900)
    assert verdict.state == UNKNOWN

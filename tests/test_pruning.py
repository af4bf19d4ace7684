"""Removing from the archive what no restart needs: RESTARTWALFILE and -k."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import segments
from support.command import (
    RECOVERYXLOG,
    Argument,
    DataDirectory,
    Result,
    Standby,
    StartupProcess,
    command_line,
    run,
    session,
    wait_until,
)

from pystandby import prune

MB = segments.MB

ENDINGS = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".lz4")

NO_SEGMENTS = [
    "000000010000000000000001.gz.tmp",
    "000000010000000000000001.zip",
    "00000001000000000000000a.gz",
    "000000010000000000000001.partial.gz",
    "00000002.history.gz",
    "000000010000000000000001.partial",
    "000000010000000000000001.00000028.backup",
    "00000001000000000000000a",
    "00000001000000000000001",
    "0000000100000000000000001",
    "00000002.history",
    "000000010000000000000001.tmp",
    ".000000010000000000000001",
    "README",
]
"""None of them is exactly 24 upper-case hex digits, compressed or not; all of them sort before what is asked for."""


class Asked(Standby):
    """A standby whose every call is one of a server that lives on until the child, which does the removing, has ended."""

    def ask(self, name: str, *options: Argument, restart: str | None = None, to: Argument = RECOVERYXLOG) -> Result:
        words = self.command(name, *options, restart=restart, to=to)
        with self.server() as server:
            result = self._ask(server, words)
            if result.status == 0 and self.restored.exists():
                # What the child had to say is said by the server's next call.
                self.restored.unlink()
                again = self._ask(server, words)
                assert again.status == 0, again
                result = Result(0, result.stdout + again.stdout, result.stderr + again.stderr)
        return result

    @staticmethod
    def _ask(server: StartupProcess, words: list[Argument]) -> Result:
        result = server.run(*words)
        wait_until(lambda: not any(b"pystandby" in command_line(pid) for pid in session(server.pid)), "the child has ended")
        return result


@pytest.fixture(params=["by the call", "by the child"])
def standby(request: pytest.FixtureRequest, tmp_path: Path) -> Standby:
    if request.param == "by the child":
        return Asked(tmp_path)
    # Whoever looks ahead leaves removing to the child.
    alone = Standby(tmp_path)
    alone.options = ["--look-ahead", "0"]
    return alone


class Pruned:
    """An archive of empty files but for the one asked for, and what is left after one restore."""

    def __init__(self, standby: Standby, names: list[str], asked: str, size: int = MB) -> None:
        self.standby = standby
        self.asked = asked
        for name in names:
            (standby.archive / name).touch()
        standby.put(asked, segments.full(asked, size=size))
        self.names = set(standby.archived())

    def by(self, *options: str, restart: str | None = None) -> set[str]:
        """Restore, and return the names that are gone."""
        result = self.standby.ask(self.asked, *options, restart=restart)
        assert result == (0, "", ""), result
        assert self.standby.delivered() is not None
        return self.names - set(self.standby.archived())


def names(first: int, last: int, timeline: int = 1, size: int = MB) -> list[str]:
    """The segments from one number to another, that included."""
    return [segments.name(number, timeline, size) for number in range(first, last + 1)]


# RESTARTWALFILE -------------------------------------------------------------------------------------------------------


def test_what_is_older_than_restartwalfile_goes(standby: Standby) -> None:
    archive = Pruned(standby, [*names(0, 12), *NO_SEGMENTS], segments.name(10))
    assert archive.by(restart=segments.name(7)) == set(names(0, 6))


def test_compressed_ones_go_as_well(standby: Standby) -> None:
    compressed = [f"{segments.name(number)}{ending}" for number, ending in enumerate(ENDINGS)]
    kept = [f"{segments.name(7)}{ending}" for ending in ENDINGS]
    archive = Pruned(standby, [*compressed, *kept, segments.name(1), *NO_SEGMENTS], segments.name(10))
    assert archive.by(restart=segments.name(7)) == {*compressed, segments.name(1)}


def test_restartwalfile_itself_need_not_be_there(standby: Standby) -> None:
    archive = Pruned(standby, [*names(3, 6), *names(8, 9)], segments.name(10))
    assert archive.by(restart=segments.name(7)) == set(names(3, 6))


def test_nothing_older_is_there(standby: Standby) -> None:
    archive = Pruned(standby, names(7, 9), segments.name(10))
    assert archive.by(restart=segments.name(7)) == set()


def test_the_timeline_does_not_count(standby: Standby) -> None:
    # As the original: what lies before the restart point is needed on no timeline.
    others = [*names(5, 9, timeline=1), *names(5, 9, timeline=2), *names(5, 9, timeline=3), *names(5, 9, timeline=0xFFFFFFFF)]
    archive = Pruned(standby, others, segments.name(10, timeline=2))
    gone = archive.by(restart=segments.name(7, timeline=2))
    assert gone == {name for name in others if name[8:] < segments.name(7)[8:]}
    assert len(gone) == 8


def test_restartwalfile_of_an_older_timeline(standby: Standby) -> None:
    archive = Pruned(standby, [*names(5, 9), *names(8, 9, timeline=2)], segments.name(10, timeline=2))
    assert archive.by(restart=segments.name(8, timeline=1)) == set(names(5, 7))


@pytest.mark.parametrize(
    "restart",
    [
        "0" * 24,
        "00000001000000000000000",
        "0000000100000000000000077",
        "00000001000000000000000a",
        "00000001000000000000000G",
        "000000010000000000000007.partial",
        "000000010000000000000007.00000028.backup",
        "00000002.history",
        "%r",
        "x",
        "../../etc",
    ],
)
def test_nothing_goes_for_zeros_or_a_malformed_restartwalfile(standby: Standby, restart: str) -> None:
    archive = Pruned(standby, names(0, 9), segments.name(10))
    assert archive.by(restart=restart) == set()


@pytest.mark.parametrize(
    "restart",
    [
        segments.name(11),
        segments.name(4096),
        "FFFFFFFFFFFFFFFFFFFFFFFF",
        segments.name(7, timeline=2),
        segments.name(11, timeline=0),
    ],
)
def test_nothing_goes_for_a_restartwalfile_later_than_the_segment(standby: Standby, restart: str) -> None:
    archive = Pruned(standby, names(0, 12), segments.name(10))
    assert archive.by(restart=restart) == set()


def test_restartwalfile_is_the_segment_itself(standby: Standby) -> None:
    archive = Pruned(standby, names(5, 12), segments.name(10))
    assert archive.by(restart=segments.name(10)) == set(names(5, 9))


def test_across_the_log_number(standby: Standby) -> None:
    for size in (MB, 16 * MB):
        per_log = (1 << 32) // size
        alike = type(standby)(standby.folder / str(size))
        alike.options = standby.options
        archive = Pruned(alike, names(per_log - 3, per_log + 3, size=size), segments.name(per_log + 2, size=size), size)
        assert archive.by(restart=segments.name(per_log, size=size)) == set(names(per_log - 3, per_log - 1, size=size))


def test_nothing_goes_when_nothing_is_delivered(standby: Standby) -> None:
    for name in names(0, 9):
        (standby.archive / name).touch()
    before = standby.archived()
    restart = segments.name(7)
    assert standby.ask(segments.name(10), "-w", "1", "-s", "1", restart=restart).status == 1
    assert standby.ask(segments.name(10), "--wait", "never", restart=restart).status == 1
    standby.pull_trigger("fast")
    assert standby.ask(segments.name(10), "-t", standby.trigger, restart=restart).status == 1
    assert standby.archived() == before
    standby.put(segments.name(10), segments.full(segments.name(11)))
    assert standby.ask(segments.name(10), restart=restart).status == 206
    standby.put(segments.name(10))
    assert standby.ask(segments.name(10), "-r", "0", restart=restart, to="pg_wal/missing/RECOVERYXLOG").status == 204
    assert standby.archived() == [*before, segments.name(10)]


def test_nothing_goes_with_a_history_file(standby: Standby) -> None:
    for name in names(0, 9):
        (standby.archive / name).touch()
    standby.put("00000002.history", segments.history((1, 0x1000000)))
    backup = "000000010000000000000002.00000028.backup"
    standby.put(backup, segments.backup_history(segments.name(2)))
    before = standby.archived()
    for name in ("00000002.history", backup):
        assert standby.ask(name, "-k", "1", restart=segments.name(7), to="pg_wal/RECOVERYHISTORY") == (0, "", "")
        assert standby.ask(name, "-k", "1", to="pg_wal/RECOVERYHISTORY") == (0, "", "")
    assert standby.archived() == before


# -k -------------------------------------------------------------------------------------------------------------------


def test_keep(standby: Standby) -> None:
    archive = Pruned(standby, [*names(0, 12), *NO_SEGMENTS], segments.name(10))
    assert archive.by("-k", "3") == set(names(0, 6))


@pytest.mark.parametrize("size", [MB, 16 * MB])
@pytest.mark.parametrize("beyond", range(-1, 5))
def test_keep_across_the_log_number(standby: Standby, size: int, beyond: int) -> None:
    # 16 MB: 00000000000000FF is followed by 0000000100000000; 1 MB: 0000000000000FFF is.
    boundary = (1 << 32) // size
    asked = boundary + beyond
    archive = Pruned(standby, names(boundary - 8, boundary + 8, size=size), segments.name(asked, size=size), size)
    assert archive.by("-k", "3") == set(names(boundary - 8, asked - 4, size=size))


def test_keep_more_than_there_ever_were(standby: Standby) -> None:
    archive = Pruned(standby, names(0, 12), segments.name(10))
    for count in ("10", "11", "1000", "2147483647"):
        assert archive.by("-k", count) == set()


def test_keep_nothing_means_remove_nothing(standby: Standby) -> None:
    archive = Pruned(standby, names(0, 12), segments.name(10))
    assert archive.by("-k", "0") == set()


def test_keep_with_restartwalfile_is_ignored(standby: Standby) -> None:
    archive = Pruned(standby, names(0, 12), segments.name(10))
    assert archive.by("-k", "1", restart="0" * 24) == set()
    assert archive.by("-k", "9", restart=segments.name(4)) == set(names(0, 3))


def test_keep_takes_other_timelines_by_their_number(standby: Standby) -> None:
    others = [*names(5, 9, timeline=1), *names(5, 9, timeline=3)]
    archive = Pruned(standby, others, segments.name(10, timeline=2))
    assert archive.by("-k", "2") == {name for name in others if name[8:] < segments.name(8)[8:]}


# What cannot be removed -----------------------------------------------------------------------------------------------


def test_a_read_only_archive(standby: Standby) -> None:
    assert os.geteuid(), "to root no folder is read-only: run the tests as an ordinary user"
    for name in names(0, 9):
        (standby.archive / name).touch()
    content = standby.put(segments.name(10))
    before = standby.archived()
    standby.archive.chmod(0o500)
    try:
        result = standby.ask(segments.name(10), restart=segments.name(7))
        assert_warned(result, "could not remove 7 old segments")
        assert "Permission denied" in result.stderr
        assert standby.archived() == before
    finally:
        standby.archive.chmod(0o700)
    assert standby.delivered() == content


def test_an_archive_that_cannot_be_listed(standby: Standby) -> None:
    assert os.geteuid(), "to root every folder can be listed: run the tests as an ordinary user"
    content = standby.put(segments.name(10))
    standby.archive.chmod(0o300)
    try:
        result = standby.ask(segments.name(10), restart=segments.name(7))
        assert_warned(result, "could not list archive")
    finally:
        standby.archive.chmod(0o700)
    assert standby.delivered() == content


def test_one_that_cannot_be_removed_does_not_keep_the_others(standby: Standby) -> None:
    archive = Pruned(standby, names(2, 9), segments.name(10))
    (standby.archive / segments.name(1)).mkdir()
    result = standby.ask(archive.asked, restart=segments.name(7))
    assert_warned(result, "could not remove 1 old segment")
    assert archive.names - set(standby.archived()) == set(names(2, 6))
    assert (standby.archive / segments.name(1)).is_dir()


def test_a_link_is_removed_and_not_what_it_leads_to(standby: Standby) -> None:
    target = standby.folder / "target"
    target.write_bytes(b"somebody's")
    (standby.archive / segments.name(3)).symlink_to(target)
    archive = Pruned(standby, [], segments.name(10))
    assert archive.by(restart=segments.name(7)) == {segments.name(3)}
    assert target.read_bytes() == b"somebody's"


def test_an_archive_that_other_standbys_read_is_left_alone(standby: Standby) -> None:
    archive = Pruned(standby, names(0, 9), segments.name(10))
    other = run("archive-cleanup", "--reader", "other", standby.archive, segments.name(2), cwd=standby.folder)
    assert other == (0, "", "")
    assert standby.archived() == sorted([".pystandby", *names(2, 10)])
    assert archive.by(restart=segments.name(7)) == set(names(0, 1))


# Who asks -------------------------------------------------------------------------------------------------------------


def test_a_person_prunes_as_with_pg_standby(standby: Standby) -> None:
    Pruned(standby, names(0, 9), segments.name(10))
    elsewhere = standby.folder / "elsewhere"
    elsewhere.mkdir()
    assert run(standby.archive, segments.name(10), "copy", segments.name(7), cwd=elsewhere) == (0, "", "")
    assert standby.archived() == names(7, 10)


def test_pg_rewind_prunes_nothing(standby: Standby) -> None:
    Pruned(standby, names(0, 9), segments.name(10))
    target = DataDirectory(standby.folder / "target")
    destination = target.wal / segments.name(10)
    assert run("-k", "1", standby.archive, segments.name(10), destination, cwd=standby.folder) == (0, "", "")
    assert run(standby.archive, segments.name(10), destination, segments.name(7), cwd=standby.folder) == (0, "", "")
    assert standby.archived() == names(0, 10)


def test_what_is_removed_can_be_seen_with_debug(standby: Standby) -> None:
    Pruned(standby, names(0, 2), segments.name(3))
    result = standby.ask(segments.name(3), "-d", "-k1")
    assert result.status == 0
    for name in names(0, 1):
        assert f"removed old segment {name}" in result.stderr


# In-process -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 21), st.sampled_from([MB, 16 * MB, 64 * MB, 1 << 30]))
def test_keep_counts_segments(number: int, keep: int, size: int) -> None:
    oldest = prune.cutoff(segments.name(number, 5, size), None, keep, size)
    if keep == 0 or keep > number:
        assert oldest is None
    else:
        assert oldest == segments.name(number - keep, 5, size)


_NAMES = st.builds(segments.name, st.integers(0, 300), st.integers(1, 3), st.just(16 * MB))


_COMPRESSED = st.builds("".join, st.tuples(_NAMES, st.sampled_from(ENDINGS)))


@given(st.lists(st.one_of(_NAMES, _COMPRESSED, st.sampled_from(NO_SEGMENTS)), unique=True), _NAMES)
def test_removable(there: list[str], oldest: str) -> None:
    expected = {name for name in there if name not in NO_SEGMENTS and name[8:24] < oldest[8:]}
    found = prune.removable(there, oldest)
    assert set(found) == expected
    # The oldest first: should it be cut short, no hole is left.
    assert [name[8:24] for name in found] == sorted(name[8:24] for name in found)


@given(_NAMES, _NAMES)
def test_nothing_is_removed_that_a_restart_needs(asked: str, restart: str) -> None:
    oldest = prune.cutoff(asked, restart, 0, 16 * MB)
    assert oldest in (None, restart)
    if oldest is not None:
        assert restart[8:] <= asked[8:]
        assert prune.removable([asked, restart], oldest) == []


def assert_warned(result: Result, message: str) -> None:
    assert result.status == 0
    assert f"WARNING:  {message}" in result.stderr
    assert "ERROR" not in result.stderr


def test_prune_of_a_folder_that_is_gone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert prune.prune(str(tmp_path / "gone"), segments.name(7)) == 0
    assert "WARNING:  could not list archive" in capfd.readouterr().err

"""archive_cleanup_command: what every standby has passed is removed, and nothing else, whatever goes wrong."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import segments
from support.command import PYSTANDBY, Argument, Installation, Result, run
from support.matrix import scenario
from support.servers import Scene, Server, eventually

from pystandby import prune
from pystandby.cluster import choose_installation

pytest_plugins = ["support.servers"]

N = [segments.name(number) for number in range(12)]

OTHERS = ["00000002.history", "notes.txt", f"{N[1]}x", f"{N[1]}.foo", f"{N[1]}.part", "backup", f".{N[1]}", N[1].lower() + "a"]
"""What is no WAL file of a known form is nobody's business."""

ENDINGS = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".lz4")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.mkdir()
    return path


def fill(archive: Path, *names: str) -> None:
    for name in names:
        (archive / name).write_text(name)


def clean(archive: Path, *words: Argument) -> Result:
    """Run archive_cleanup_command = 'pystandby archive-cleanup OPTIONS ARCHIVE %r'; the last word is %r."""
    *options, oldest_kept = words
    return run("archive-cleanup", *options, archive, oldest_kept, cwd=archive.parent)


def left(archive: Path) -> list[str]:
    return sorted(name for name in os.listdir(archive) if name != ".pystandby")


# What is removed ------------------------------------------------------------------------------------------------------


def test_older_segments_of_every_timeline(archive: Path) -> None:
    newer = [segments.name(number, timeline=3) for number in (2, 4, 5, 6)]
    fill(archive, *N, *newer, *OTHERS)
    assert clean(archive, N[5]) == (0, "", "")
    assert left(archive) == sorted([*N[5:], *newer[2:], *OTHERS])
    assert clean(archive, N[5]) == (0, "", "")


def test_partial_and_compressed_ones(archive: Path) -> None:
    forms = [f"{name}{partial}{ending}" for name in N for partial in ("", ".partial") for ending in ("", *ENDINGS)]
    fill(archive, *forms)
    assert clean(archive, N[5]) == (0, "", "")
    assert left(archive) == sorted(name for name in forms if name[:24] >= N[5])


def test_backup_history_files_on_request(archive: Path) -> None:
    backups = [f"{name}.00000028.backup" for name in N]
    fill(archive, *N, *backups)
    assert clean(archive, N[5]).status == 0
    assert left(archive) == sorted([*N[5:], *backups])
    assert clean(archive, "-b", N[5]).status == 0
    assert left(archive) == sorted([*N[5:], *backups[5:]])


@pytest.mark.parametrize("ending", [".partial", ".00000028.backup"])
def test_the_cut_off_may_be_a_file_of_that_segment(archive: Path, ending: str) -> None:
    fill(archive, *N, f"{N[5]}{ending}")
    assert clean(archive, f"{N[5]}{ending}").status == 0
    assert left(archive) == sorted([*N[5:], f"{N[5]}{ending}"])


def test_another_ending(archive: Path) -> None:
    fill(archive, N[1], f"{N[1]}.enc", f"{N[1]}.gz", f"{N[1]}.partial.enc", f"{N[9]}.enc", "x.enc")
    assert clean(archive, "-x", ".enc", N[5]).status == 0
    assert left(archive) == sorted([f"{N[9]}.enc", "x.enc"])


@pytest.mark.parametrize("version", [16, 18])
def test_the_cut_off_may_have_that_ending(archive: Path, version: int) -> None:
    for cut in (f"{N[5]}.enc", f"{N[5]}.partial.enc"):
        fill(archive, *N)
        reference: list[Argument] = [_reference(version), "-n", "-x", ".enc", archive, cut]
        told = subprocess.run(reference, capture_output=True, text=True, check=True).stdout
        assert sorted(told.splitlines()) == [str(archive / name) for name in N[:5]]
        assert clean(archive, "-x", ".enc", cut) == (0, "", "")
        assert left(archive) == N[5:]
    assert clean(archive, cut).status == 1


def test_nothing_before_the_first_restart_point(archive: Path) -> None:
    fill(archive, *N)
    assert clean(archive, "0" * 24) == (0, "", "")
    assert left(archive) == N


@pytest.mark.parametrize(("keep", "first"), [(0, 5), (1, 4), (3, 2), (5, 0), (99, 0)])
def test_keep(archive: Path, keep: int, first: int) -> None:
    fill(archive, *N, f"{N[2]}.partial", f"{N[3]}.gz", segments.name(4, timeline=2))
    assert clean(archive, "-k", str(keep), N[5]).status == 0
    assert [name for name in left(archive) if len(name) == 24 and name.startswith("00000001")] == N[first:]
    assert (f"{N[2]}.partial" in left(archive)) == (first <= 2)
    assert (segments.name(4, timeline=2) in left(archive)) == (first <= 4)


def test_what_killed_makers_left(archive: Path) -> None:
    """Half files of pystandby archive, of a primary that never came back."""
    fill(archive, *N, f"{N[2]}.pystandby", f"{N[2]}.pystandby.4711", f"{N[7]}.pystandby")
    assert clean(archive, N[5]).status == 0
    assert left(archive) == sorted([*N[5:], f"{N[7]}.pystandby"])


def _reference(version: int) -> Path:
    return choose_installation(str(version)).bindir / "pg_archivecleanup"


_POSITIONS = [segments.name(number, timeline) for number in (0, 1, 2, 254, 255, 256, 257) for timeline in (1, 2, 9)]
_FORMS = st.sampled_from(["", ".partial", ".00000028.backup", ".x", ".gz", ".gzz", ".partial.gz", "0", ".GZ", ".history"])
_NAMES = st.lists(st.tuples(st.sampled_from([*_POSITIONS, "00000002", "0" * 23, "g" * 24]), _FORMS).map("".join), max_size=20)
_CUTS = st.tuples(st.sampled_from(_POSITIONS), st.sampled_from(["", ".partial", ".00000028.backup"])).map("".join)


@pytest.mark.parametrize("version", [16, 18])
def test_the_same_as_pg_archivecleanup(version: int) -> None:
    """With the one ending that it is told of; pystandby knows those of compressed files by itself."""
    reference = _reference(version)
    backups_known = version >= 17

    @given(_NAMES, _CUTS, st.booleans())
    @example([f"{_POSITIONS[0]}.partial.gz"], _POSITIONS[5], True)
    def same(names: list[str], cut: str, backups: bool) -> None:
        backups = backups and backups_known
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), *names)
            options = ["-n", "-x", ".gz", *(["-b"] if backups else [])]
            told = subprocess.run([reference, *options, folder, cut], capture_output=True, text=True, check=True).stdout
            expected = sorted(os.path.basename(line) for line in told.splitlines())
            assert sorted(prune.cleanable(os.listdir(folder), cut[:24], "", backups)) == expected

    same()


# Dry run --------------------------------------------------------------------------------------------------------------


def test_a_dry_run_names_what_it_would_remove(archive: Path) -> None:
    fill(archive, *N, f"{N[2]}.gz", f"{N[2]}.pystandby", *OTHERS)
    before = left(archive)
    ran = archive.parent / "ran"
    hook = archive.parent / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    result = clean(archive, "-n", "--reader", "one", "--before-removal", hook, N[3])
    assert result == (0, "".join(f"{archive}/{name}\n" for name in [N[0], N[1], N[2], f"{N[2]}.gz"]), "")
    assert left(archive) == before
    assert not ran.exists()
    assert not (archive / ".pystandby").exists()


# Several standbys -------------------------------------------------------------------------------------------------------


def readers(archive: Path) -> dict[str, str]:
    folder = archive / ".pystandby" / "readers"
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_only_what_all_have_passed(archive: Path) -> None:
    fill(archive, *N)
    assert clean(archive, "--reader", "a", N[3]) == (0, "", "")
    assert left(archive) == N[3:]
    assert clean(archive, "--reader", "b", N[8]) == (0, "", "")
    assert left(archive) == N[3:]
    assert clean(archive, "--reader", "a", N[6]) == (0, "", "")
    assert left(archive) == N[6:]
    # One that does not say who it is counts the others all the same.
    assert clean(archive, N[9]) == (0, "", "")
    assert left(archive) == N[6:]
    assert readers(archive) == {"a": f"{N[6]}\n", "b": f"{N[8]}\n"}
    # A standby made anew from an older backup.
    assert clean(archive, "--reader", "b", N[1]) == (0, "", "")
    assert clean(archive, "--reader", "a", N[11]) == (0, "", "")
    assert left(archive) == N[6:]


def test_one_that_has_no_restart_point_yet(archive: Path) -> None:
    fill(archive, *N)
    assert clean(archive, "--reader", "new", "0" * 24) == (0, "", "")
    assert clean(archive, "--reader", "a", N[6]) == (0, "", "")
    assert left(archive) == N


def test_timelines_do_not_count(archive: Path) -> None:
    fill(archive, *N)
    assert clean(archive, "--reader", "promoted", segments.name(4, timeline=2)).status == 0
    assert clean(archive, "--reader", "a", N[6]).status == 0
    assert left(archive) == N[4:]


def test_one_that_says_nothing_any_more_is_named_and_kept_for(archive: Path) -> None:
    fill(archive, *N)
    assert clean(archive, "--reader", "gone", N[3]).status == 0
    os.utime(archive / ".pystandby" / "readers" / "gone", (1, 1))
    result = clean(archive, "--reader", "a", N[6])
    assert result.status == 0
    assert f'WARNING:  standby "gone" has left no restart point in archive "{archive}" for ' in result.stderr
    assert f"from {N[3]} on, is kept" in result.stderr
    assert f'remove "{archive}/.pystandby/readers/gone"' in result.stderr
    assert left(archive) == N[3:]
    assert clean(archive, "--reader", "a", "--silent-after", "0", N[6]) == (0, "", "")
    assert clean(archive, "--reader", "a", "--silent-after", "2147483647", N[6]) == (0, "", "")
    # A person has removed it.
    (archive / ".pystandby" / "readers" / "gone").unlink()
    assert clean(archive, "--reader", "a", N[6]) == (0, "", "")
    assert left(archive) == N[6:]


@pytest.mark.parametrize("content", ["", "x", N[3] + "x", "0" * 23, "\udcff"])
def test_one_that_cannot_be_read_keeps_everything(archive: Path, content: str) -> None:
    fill(archive, *N)
    assert clean(archive, "--reader", "b", N[1]).status == 0
    (archive / ".pystandby" / "readers" / "b").write_bytes(content.encode(errors="surrogateescape"))
    result = clean(archive, "--reader", "a", N[6])
    assert result.status == 1
    assert 'ERROR:  restart point of standby "b" cannot be read' in result.stderr
    assert left(archive) == N[1:]
    (archive / ".pystandby" / "readers" / "b").chmod(0)
    assert clean(archive, N[6]).status == 1
    assert left(archive) == N[1:]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x", ".hidden", "a b", "ä", "-x", "a\nb", "_"])
def test_what_is_no_name_of_a_standby(archive: Path, name: str) -> None:
    fill(archive, *N)
    result = clean(archive, f"--reader={name}", N[6])
    assert result.status == 1
    assert result.stderr.count("ERROR:") == 1
    assert left(archive) == N
    assert not (archive / ".pystandby").exists()


def test_a_restart_point_that_cannot_be_left(archive: Path) -> None:
    assert os.geteuid(), "to root no folder is read-only: run the tests as an ordinary user"
    fill(archive, *N)
    archive.chmod(0o500)
    try:
        result = clean(archive, "--reader", "a", N[6])
    finally:
        archive.chmod(0o700)
    assert result.status == 1
    assert "Permission denied" in result.stderr
    assert left(archive) == N


# What holds it back -----------------------------------------------------------------------------------------------------


def test_a_pause_file(archive: Path) -> None:
    fill(archive, *N)
    pause = archive.parent / "pause"
    pause.symlink_to("/nowhere")
    result = clean(archive, "--removal-pause", pause, "--reader", "a", N[6])
    assert result.status == 0
    assert f'LOG:  removal from archive "{archive}" is paused: "{pause}" is there' in result.stderr
    assert left(archive) == N
    # What it needs is known to the others all the same.
    assert readers(archive) == {"a": f"{N[6]}\n"}
    pause.unlink()
    assert clean(archive, "--pause-file", pause, N[6]) == (0, "", "")
    assert left(archive) == N[6:]


def test_a_pause_file_that_cannot_be_looked_for(archive: Path) -> None:
    fill(archive, *N)
    result = clean(archive, "--removal-pause", archive / N[0] / "pause", N[6])
    assert "WARNING:  whether" in result.stderr
    assert left(archive) == N


def hook(archive: Path, text: str) -> Path:
    path = archive.parent / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_program_sees_each_file_before_it_goes(archive: Path) -> None:
    fill(archive, *N)
    kept = archive.parent / "kept"
    kept.mkdir()
    program = hook(archive, f'cp "$1" {kept}/ && echo "$1" >>{kept}/order')
    assert clean(archive, "--before-removal", program, N[4]) == (0, "", "")
    assert (kept / "order").read_text() == "".join(f"{archive}/{name}\n" for name in N[:4])
    assert all((kept / name).read_text() == name for name in N[:4])
    assert left(archive) == N[4:]


def test_a_program_that_fails_keeps_that_file_and_later_ones(archive: Path) -> None:
    fill(archive, *N)
    program = hook(archive, f'test "$1" != {archive}/{N[2]} || exit 3')
    result = clean(archive, "--before-removal", program, N[6])
    assert result.status == 1
    assert f'WARNING:  "{program}" ended with status 3 for "{archive}/{N[2]}"' in result.stderr
    assert left(archive) == N[2:]
    # Nor one that is not there, or is killed; nor one that pauses it half-way.
    result = clean(archive, "--before-removal", "/no/such/program", N[6])
    assert result.status == 1
    assert "could not be run: No such file or directory" in result.stderr
    assert clean(archive, "--before-removal", hook(archive, "kill -9 $$"), N[6]).status == 1
    assert left(archive) == N[2:]
    pause = archive.parent / "pause"
    assert clean(archive, "--before-removal", hook(archive, f"touch {pause}"), "--removal-pause", pause, N[6]).status == 0
    assert left(archive) == N[3:]


# What fails ---------------------------------------------------------------------------------------------------------------


def test_an_archive_that_is_away(archive: Path) -> None:
    archive.rmdir()
    result = clean(archive, "--reader", "a", N[6])
    assert result.status == 1
    assert f'could not clean up archive "{archive}": No such file or directory' in result.stderr
    assert not archive.exists()


def test_files_that_cannot_be_removed(archive: Path) -> None:
    fill(archive, *N)
    archive.chmod(0o500)
    try:
        result = clean(archive, N[6])
    finally:
        archive.chmod(0o700)
    assert result.status == 1
    assert f'WARNING:  could not remove 6 files from archive "{archive}", from {N[0]} on: Permission denied' in result.stderr
    (archive / N[0]).unlink()
    (archive / N[0]).mkdir()
    assert clean(archive, N[6]).status == 0
    assert left(archive) == [N[0], *N[6:]]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["{a}"],
        ["{a}", "x"],
        ["{a}", "00000002.history"],
        ["{a}", f"{N[3]}.gz"],
        ["{a}", N[3].lower() + "a"],
        [N[3], "{a}"],
        ["{a}", N[3], "more"],
        ["-z", "{a}", N[3]],
        ["--keep", "-1", "{a}", N[3]],
        ["--keep", "x", "{a}", N[3]],
        ["", N[3]],
        ["{a}", ""],
    ],
)
def test_usage_error(archive: Path, words: list[str]) -> None:
    fill(archive, *N)
    result = run("archive-cleanup", *(word.format(a=archive) for word in words), cwd=archive.parent)
    assert result.status == 1
    assert result.stderr.count("ERROR:") == 1
    assert left(archive) == N


@pytest.mark.parametrize("missing", ["click", "pystandby/archive_cleanup.py", "pystandby/readers.py", "pystandby/prune.py"])
def test_a_damaged_installation(archive: Path, missing: str) -> None:
    fill(archive, *N)
    broken = Installation(archive.parent / "broken")
    (broken.site / missing).unlink()
    result = broken.run("archive-cleanup", archive, N[3], cwd=archive.parent)
    assert result.status == 1
    assert "ERROR:" in result.stderr
    assert left(archive) == N


# Real servers ---------------------------------------------------------------------------------------------------------------


def cleaning(scene: Scene, name: str, *options: str) -> Server:
    """A standby that cleans up the archive at its restartpoints, and says who it is."""
    standby = scene.standby(name=name, restore_command=scene.restore_command().removesuffix(" %r"), settings=scene.seen_at_once)
    command = f"{PYSTANDBY} archive-cleanup -d --reader {name} {' '.join(options)} {scene.archive} %r"
    standby.reconfigure({"archive_cleanup_command": command})
    return standby.begin()


@pytest.mark.timeout(300)
@scenario("pystandby archive-cleanup")
def test_two_standbys_on_one_archive(scene: Scene) -> None:
    """One that comes late finds all that it needs, since it was made known when it was made."""
    stock = scene.stock
    scene.feed(to=stock.last)
    assert clean(scene.archive, "--reader", "second", stock.names[0]) == (0, "", "")
    first = cleaning(scene, "first")
    first.until_rows(stock.rows[stock.last])
    first.sql("CHECKPOINT")
    first.until_log(f"keeping {stock.names[0]} and later")
    point = (scene.archive / ".pystandby" / "readers" / "first").read_text().strip()
    # Segment 3 has the checkpoint.
    assert point in stock.names[1:5]
    assert left(scene.archive) == list(stock.names)
    second = cleaning(scene, "second")
    second.until_rows(stock.rows[stock.last])
    second.sql("CHECKPOINT")
    second.until_log(f"keeping {point} and later")
    kept = list(stock.names[stock.names.index(point) :])
    eventually(lambda: left(scene.archive) == kept, "what both have passed is removed", tell=second.tell)
    # Both can be started again with what is left.
    for standby in (first, second):
        standby.stop("fast")
        standby.begin()
        standby.until_rows(stock.rows[stock.last])


@pytest.mark.timeout(300)
def test_a_failure_is_a_warning_to_the_server(scene: Scene) -> None:
    scene.feed(to=4)
    standby = cleaning(scene, "first", "--no-such-option")
    standby.until_rows(scene.stock.rows[4])
    standby.sql("CHECKPOINT")
    standby.until_log("WARNING:  archive_cleanup_command")
    assert standby.rows() == scene.stock.rows[4]
    assert left(scene.archive) == list(scene.stock.names[:5])

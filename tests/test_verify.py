"""pystandby verify: real servers' archives are sound, damage is found where pg_waldump finds it, and bad input is said."""

from __future__ import annotations

import functools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import crc32c
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import real_wal, segments
from support.branches import LATEST, make_branch, start_of
from support.command import DEADLINE, PYSTANDBY, Argument, Result, environment, run
from support.compressed import ENDINGS, compress
from support.installations import installation_named
from support.real_wal import ARCHIVED, CRASHED, PARTIAL, RECYCLED, RealWal
from support.servers import Scene, eventually

from pystandby import inventory, osdep, verify, walreader

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

ARCHIVES = ((10, 16), (11, 1), (12, 1), (13, 1), (14, 1), (15, 1), (16, 1), (17, 64), (18, 1), (18, 16))
"""Version of PostgreSQL, and MB of a segment."""

SERVERS = {15: "debian15", 16: "16", 18: "18"}
"""Installations that have a pg_waldump, by version."""


def check(*arguments: Argument) -> Result:
    return run("verify", *arguments, as_server=False, deadline=240)


def found(*arguments: Argument) -> tuple[Result, dict[str, Any]]:
    """The result, and the only archive in what --json prints."""
    result = check("--json", *arguments)
    assert result.stderr == "", result.stderr
    content = json.loads(result.stdout)
    assert content["format"] == 1
    assert content["sound"] == (result.status == 0)
    (archive,) = content["archives"]
    return result, archive


def problems(*arguments: Argument) -> list[tuple[str, str]]:
    """File and message of each thing that is wrong."""
    result, archive = found(*arguments)
    listed = archive["problems"]
    assert result.status == (1 if listed else 0)
    return [(problem["file"], problem["message"]) for problem in listed]


@functools.cache
def archive_of(folder: Path, version: int, segment_mb: int) -> RealWal:
    return real_wal.archive(folder, version, segment_mb)


def folder_of(wal: RealWal) -> Path:
    return Path(wal.of(ARCHIVED)[0].path).parent


@pytest.fixture
def wal(request: pytest.FixtureRequest, shared_folder: Path) -> RealWal:
    """What a real cluster has written; of version 16 unless a test says which."""
    return archive_of(shared_folder, *getattr(request, "param", (16, 1)))


each_version = pytest.mark.parametrize("wal", ARCHIVES, indirect=True, ids=lambda archive: f"{archive[0]}-{archive[1]}MB")


@pytest.fixture
def archive(wal: RealWal, tmp_path: Path) -> Path:
    """A copy of a real archive, to be damaged."""
    return Path(shutil.copytree(folder_of(wal), tmp_path / "archive"))


def names(folder: Path, timeline: int = 1) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if len(path.name) == 24 and path.name.startswith(f"{timeline:08X}"))


# Sound archives -------------------------------------------------------------------------------------------------------


@each_version
@pytest.mark.parametrize("options", [(), ("--records",)], ids=["default", "records"])
def test_a_sound_archive(wal: RealWal, options: tuple[str, ...]) -> None:
    folder = folder_of(wal)
    result, archive = found(*options, folder)
    assert archive["problems"] == []
    assert result.status == 0
    size = wal.segment_mb << 20 if wal.version > 10 else 16 << 20
    assert (archive["system_identifier"], archive["version"]) == (str(wal.system_identifier), str(wal.version))
    assert archive["segment_size"] == size
    # It goes from the first segment, over the fork, to the end of the last one.
    first, last = names(folder)[0], names(folder, 2)[-1]
    assert archive["ranges"] == [
        {
            "timeline": 2,
            "first_segment": first,
            "from": lsn_text(segments.number(first, size) * size),
            "to": lsn_text((segments.number(last, size) + 1) * size),
            "segments": len(names(folder)) + len(names(folder, 2)),
        }
    ]


def lsn_text(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


@each_version
def test_the_segment_current_at_a_crash_is_no_damage(wal: RealWal, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(folder_of(wal), archive, ignore=lambda _, listed: [name for name in listed if name.startswith("00000002")])
    (crashed,) = wal.of(CRASHED)
    shutil.copy(crashed.path, archive / crashed.name)
    for options in ((), ("--records",)):
        result, said = found(*options, archive)
        assert (result.status, said["problems"]) == (0, [])
        assert any(re.search(f"{crashed.name}, the newest of its timeline, is not full", str(note)) for note in said["notes"])


@each_version
def test_recycled_files_are_named(wal: RealWal, tmp_path: Path) -> None:
    recycled = wal.of(RECYCLED)[0]
    shutil.copy(recycled.path, tmp_path / recycled.name)
    ((file, message),) = problems(tmp_path)
    assert file == recycled.name
    assert "holds another segment" in message or "begins with zeros" in message


def test_the_report_for_a_person(wal: RealWal) -> None:
    result = check(folder_of(wal))
    lines = result.stdout.splitlines()
    assert (result.status, result.stderr) == (0, "")
    assert lines[-1] == "  sound"
    assert f"{folder_of(wal)}: PostgreSQL 16, segments of 1 MB, system identifier {wal.system_identifier}" in lines
    assert any(re.fullmatch(r"  timeline 2, since 0/\w+ of timeline 1: \d segments, \w{24} to \w{24}", line) for line in lines)
    assert len(lines) == 5 + len(wal.of(PARTIAL))


def test_files_by_themselves(wal: RealWal) -> None:
    listed = names(folder_of(wal))
    paths = [folder_of(wal) / name for name in listed]
    assert problems("--records", *paths[3:6]) == []
    assert problems(paths[3], paths[3], paths[5]) == [(listed[4], "is missing")]


@pytest.mark.parametrize("ending", ENDINGS)
def test_compressed_files(wal: RealWal, tmp_path: Path, ending: str) -> None:
    listed = names(folder_of(wal))[:3]
    for name in listed:
        (tmp_path / f"{name}{ending}").write_bytes(compress((folder_of(wal) / name).read_bytes(), ending))
    assert problems("--records", tmp_path) == []
    path = tmp_path / f"{listed[1]}{ending}"
    path.write_bytes(path.read_bytes()[:-200])
    ((file, message),) = problems("--records", tmp_path)
    assert file == path.name
    assert "is not whole" in message


def test_a_plain_file_beside_a_compressed_one(archive: Path) -> None:
    name = names(archive)[0]
    (archive / f"{name}.gz").write_bytes(b"nonsense")
    _, said = found(archive)
    assert said["problems"] == []
    assert f"1 file beside another form of the same file, which a restore takes instead: {name}.gz" in said["notes"]


# Damage, and pg_waldump -----------------------------------------------------------------------------------------------


def lsns(text: str, size: int) -> list[int]:
    """The LSNs in an error of pg_waldump: as such, and up to 15 as a segment with an offset."""
    positions = [int(high, 16) << 32 | int(low, 16) for high, low in re.findall(r"\b([0-9A-F]+)/([0-9A-F]+)\b", text)]
    for name, offset in re.findall(r'(?:segment|file) "?([0-9A-F]{24})"?, offset (\d+)', text):
        positions.append(segments.number(name, size) * size + int(offset))
    return positions


def record_lsns(printed: str) -> list[int]:
    """Where the records begin that pg_waldump has printed."""
    return [int(low, 16) for low in re.findall(r"lsn: 0/([0-9A-F]+), prev", printed)]


def dump(waldump: Path, folder: Path, window: list[str]) -> subprocess.CompletedProcess[str] | None:
    """Have pg_waldump read some segments; None where it still reads after 3 seconds of CPU, for which it needs a hundredth."""
    limited = ["sh", "-c", 'ulimit -t 3; exec "$@"', "sh"]
    command: list[str | Path] = [*limited, waldump, "-p", folder, window[0], window[-1]]
    told = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", errors="replace")
    return None if told.returncode in (-signal.SIGXCPU, -signal.SIGKILL) else told


KINDS = ("flip", "flip a header", "zero a page", "zero 512 bytes", "copy a page", "zero the rest", "cut", "swap", "remove")

EXPLAINED = (
    "has something other than zeros behind its end",
    "while old WAL stands behind it",
    "while a later page is there",
    "is of another cluster",
    "is not WAL of this platform",
    "of timeline",
    "of 1048576 bytes",
    "a remaining length without a continued record",
    "has a header",
)
"""What verify finds beyond pg_waldump, which looks neither behind the last record nor at what the long header says."""


def damage(folder: Path, name: str, other: str, kind: str, where: float) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    block = 8192
    page = int(where * (len(content) // block)) * block
    at = int(where * len(content))
    if kind == "flip":
        content[at] ^= 1 << at % 8
    elif kind == "flip a header":
        content[page + at % 48] ^= 1 << at % 7
    elif kind == "zero a page":
        content[page : page + block] = bytes(block)
    elif kind == "zero 512 bytes":
        content[at // 512 * 512 : at // 512 * 512 + 512] = bytes(512)
    elif kind == "copy a page":
        source = (page + 5 * block) % len(content)
        content[page : page + block] = content[source : source + block]
    elif kind == "zero the rest":
        content[at:] = bytes(len(content) - at)
    elif kind == "cut":
        del content[at:]
    elif kind == "swap":
        content, mine = bytearray((folder / other).read_bytes()), bytes(content)
        (folder / other).write_bytes(mine)
    if kind == "remove":
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("version", sorted(SERVERS))
def test_agrees_with_pg_waldump(version: int, shared_folder: Path) -> None:
    source = folder_of(archive_of(shared_folder, version, 1))
    waldump = installation_named(SERVERS[version]).program("pg_waldump")
    size = 1 << 20
    outcomes = {"error": 0, "none": 0}
    sound: dict[str, list[int]] = {}  # by the first of the segments

    @settings(
        max_examples=60,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(KINDS),
        st.sampled_from((1, 1, 2)),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 3),
        st.floats(0, 1, exclude_max=True),
    )
    def compare(kind: str, timeline: int, start: float, which: int, where: float) -> None:
        listed = names(source, timeline)
        first = int(start * max(1, len(listed) - 3))
        window = listed[first : first + 4]
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            for name in [*window, *(["00000002.history"] if timeline == 2 else [])]:
                shutil.copy(source / name, folder / name)
            which = min(which, len(window) - 1)
            if kind == "remove":
                # Without the first or the last one it is a shorter archive, and a sound one.
                which = max(1, min(which, len(window) - 2))
            damage(folder, window[which], window[which - 1], kind, where)
            told = dump(waldump, folder, window)
            (files,) = inventory.groups([str(folder)])
            checked = verify.Verification(files, verify.best_checksum(True), every_record=True)
            checked.run()
            said = [(problem.lsn, problem.text) for problem in checked.problems]
            noted = [(max(lsns(note, size)), note) for note in checked.notes if "is not full" in note]
            if told is None:
                assert said, kind
            elif told.returncode:
                outcomes["error"] += 1
                assert said or noted, (kind, told.stderr)
                # Where it has read nothing, it does not say what is wrong.
                if told.stdout:
                    # It stopped at the record behind the last that it printed; the damage may lie anywhere in that.
                    if listed[first] not in sound:
                        undamaged = dump(waldump, source, window)
                        assert undamaged is not None
                        sound[listed[first]] = [*record_lsns(undamaged.stdout), (segments.number(window[-1], size) + 1) * size]
                    of_record = sound[listed[first]].index(record_lsns(told.stdout)[-1]) + 1
                    end_of_record = sound[listed[first]][of_record : of_record + 2][-1]
                    assert min(lsn for lsn, _ in said + noted if lsn is not None) <= end_of_record, (kind, told, said, noted)
            else:
                outcomes["none"] += 1
                assert noted == []
                # Nor before the first whole record.
                begin = record_lsns(told.stdout)[0]
                beyond = [text for lsn, text in said if lsn is None or lsn >= begin]
                assert all(any(text in message for text in EXPLAINED) for message in beyond), (kind, said)

    compare()
    assert min(outcomes.values()) > 5, outcomes


@pytest.mark.parametrize("version", sorted(SERVERS))
def test_stops_at_the_record_where_pg_waldump_stops(version: int, shared_folder: Path, tmp_path: Path) -> None:
    """A flipped byte of a record's data, in the middle of an archive: the same LSN, and the range before ends there."""
    wal = archive_of(shared_folder, version, 1)
    listed = names(folder_of(wal))[:4]
    for name in listed:
        shutil.copy(folder_of(wal) / name, tmp_path / name)
    waldump = installation_named(SERVERS[version]).program("pg_waldump")
    sound = subprocess.run([waldump, "-p", tmp_path, *listed[1:3]], check=True, capture_output=True, text=True).stdout
    records = record_lsns(sound)
    victim = next(lsn for lsn in records if lsn >> 20 == records[0] >> 20 and lsn % 8192 < 7000 and lsn > records[0] + 9000)
    path = tmp_path / f"{listed[0][:16]}{victim >> 20:08X}"
    content = bytearray(path.read_bytes())
    content[victim % (1 << 20) + 25] ^= 1
    path.write_bytes(content)
    told = subprocess.run([waldump, "-q", "-p", tmp_path, listed[0], listed[-1]], check=False, capture_output=True, text=True)
    assert max(lsns(told.stderr, 1 << 20)) == victim
    result, said = found("--records", tmp_path)
    assert result.status == 1
    assert said["problems"] == [
        {"file": path.name, "lsn": lsn_text(victim), "message": f"has a record at {lsn_text(victim)} with a wrong checksum"}
    ]
    ranges = said["ranges"]
    assert ranges[-1]["to"] == lsn_text(victim)
    assert ranges[-1]["first_segment"] == listed[0]


def test_a_gap(archive: Path) -> None:
    listed = names(archive)
    for name in listed[10:13]:
        (archive / name).unlink()
    (archive / listed[20]).unlink()
    assert problems(archive) == [(listed[10], f"to {listed[12]} are missing (3 segments)"), (listed[20], "is missing")]
    _, said = found(archive)
    assert [one["first_segment"] for one in said["ranges"]] == [listed[21], listed[13], listed[0]]


def test_a_gap_before_a_fork(archive: Path) -> None:
    listed = names(archive)
    (archive / listed[-1]).unlink()
    assert problems(archive) == [(listed[-1], "is missing")]
    # Where nothing of the earlier timelines is left there is no gap: they were removed.
    for name in listed[:-1]:
        (archive / name).unlink()
    assert problems(archive) == []


@pytest.mark.parametrize("options", [(), ("--records",)], ids=["default", "records"])
def test_a_timeline_that_ends_before_the_fork(archive: Path, options: tuple[str, ...]) -> None:
    """The newest segment of a timeline may be half full, but not where another timeline goes on behind it."""
    name = names(archive)[-1]
    last = bytearray((archive / name).read_bytes())
    # Nothing behind a record that ends somewhere in the middle, as where the server that wrote it crashed.
    reader = walreader.Reader(crc32c.crc32c)
    with pytest.raises(walreader.Break) as stop:
        reader.follow(bytearray(segments.zeros_from(bytes(last), len(last.rstrip(b"\0")) // 2)))
    size = len(last)
    (archive / name).write_bytes(segments.zeros_from(bytes(last), stop.value.lsn % size))
    result, said = found(*options, archive)
    assert result.status == 1
    ((problem),) = said["problems"]
    assert (problem["file"], problem["lsn"]) == (name, lsn_text(stop.value.lsn))
    assert not any(name in note for note in said["notes"])
    assert [one["to"] for one in said["ranges"]][-1] == lsn_text(stop.value.lsn)
    # Without the other timeline it is what a crash leaves.
    for other in [*names(archive, 2), "00000002.history"]:
        (archive / other).unlink()
    result, said = found(*options, archive)
    assert (result.status, said["problems"]) == (0, [])
    assert any(name in note for note in said["notes"])


def test_a_damaged_partial_segment(wal: RealWal, archive: Path) -> None:
    """As far as it goes it must be right, without --records as well: whoever renames it has a server replay it."""
    (partial,) = wal.of(PARTIAL)
    content = bytearray(partial.read())
    target = archive / f"{partial.name[:24]}.partial"
    target.write_bytes(content)
    assert problems(archive) == []
    middle = len(content.rstrip(b"\0")) // 2
    for at in range(middle, middle + 64):
        content[at] ^= 0xFF
    target.write_bytes(content)
    ((file, message),) = problems(archive)
    assert file == target.name
    assert re.search("wrong checksum|does not follow|has a record of|does not go on|has no page", message), message


def test_what_goes_while_it_is_read(archive: Path) -> None:
    """Pruning by the server, and a job that compresses, are no fault of the archive; what is missed later is."""
    listed = names(archive)
    files = inventory.groups([str(archive)])
    for name in listed[:3]:
        (archive / name).unlink()
    for name in listed[3:6]:
        (archive / f"{name}.gz").write_bytes(compress((archive / name).read_bytes(), ".gz"))
        (archive / name).unlink()
    pruned = verify.Verification(files[0])
    pruned.run()
    assert pruned.problems == []
    assert [run.first for run in pruned.newest_first] == [listed[3]]
    assert "3 files have been removed while the others were read" in pruned.notes
    # One from the middle, and the newest of all.
    files = inventory.groups([str(archive)])
    newest = names(archive, 2)[-1]
    (archive / listed[10]).unlink()
    (archive / newest).unlink()
    torn = verify.Verification(files[0])
    torn.run()
    assert [(problem.name, problem.text) for problem in torn.problems] == [
        (listed[10], "is missing"), (newest, "has been removed while the others were read")
    ]  # fmt: skip


def test_an_archive_that_is_unmounted_meanwhile(archive: Path) -> None:
    (files,) = inventory.groups([str(archive)])
    archive.rename(archive.parent / "away")
    gone = verify.Verification(files)
    gone.run()
    assert gone.problems


@pytest.mark.timeout(60)
def test_as_many_ranges_as_files(tmp_path: Path) -> None:
    """As of an archive of which half is missing."""
    (files,) = inventory.groups([str(tmp_path)])
    verification = verify.Verification(files)
    files.timeline(1)
    verification.runs = [verify.Run(1, segments.name(number), number, number + 1, 1) for number in range(0, 100_000, 2)]
    assert len(verification.newest_first) == 50_000


def test_names_that_would_move_the_cursor(archive: Path) -> None:
    (archive / "evil\x1b[2Jname").touch()
    result = check(archive)
    assert result.status == 0
    assert "\x1b" not in result.stdout
    assert "no server asks for: evil?[2Jname" in result.stdout


def test_a_missing_history_file(archive: Path) -> None:
    (archive / "00000002.history").unlink()
    assert problems(archive) == [("00000002.history", "is missing: no server can come to timeline 2 from an earlier one")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "names no timeline before its own"),
        (b"1\tnonsense\tx\n", "line 1 has no timeline and LSN"),
        (b"2\t0/3000000\tx\n", "says timeline 2 after 0"),
        (b"1\t0/3000000", "its last line has no end"),
    ],
)
def test_a_damaged_history_file(archive: Path, content: bytes, text: str) -> None:
    (archive / "00000002.history").write_bytes(content)
    assert any(file == "00000002.history" and text in message for file, message in problems(archive))


def test_a_segment_of_another_timeline(archive: Path) -> None:
    """What an old primary wrote behind the fork, under the name of the new timeline."""
    first, second = names(archive, 2)[:2]
    content = bytearray((archive / second).read_bytes())
    for page in range(0, len(content), 8192):
        if any(content[page : page + 8]):
            content[page + 4 : page + 8] = (1).to_bytes(4, sys.byteorder)
    (archive / second).write_bytes(content)
    ((file, message),) = problems(archive)
    assert file == second
    assert "holds WAL of timeline 1" in message
    assert first < second


def test_another_cluster_and_another_segment_size(archive: Path, shared_folder: Path) -> None:
    foreign = archive_of(shared_folder, 15, 1)
    name = next(name for name in names(archive)[5:] if (folder_of(foreign) / name).exists())
    shutil.copy(folder_of(foreign) / name, archive / name)
    other = archive_of(shared_folder, 18, 16)
    large = names(folder_of(other))[-1]
    shutil.copy(folder_of(other) / large, archive / "0000000100000000000000F0")
    listed = dict(problems(archive))
    assert f"is of another cluster: its system identifier is {foreign.system_identifier}" in listed[name]
    assert f"is of another cluster: its system identifier is {other.system_identifier}" in listed["0000000100000000000000F0"]


def test_backup_history_files(archive: Path) -> None:
    listed = names(archive)
    name = f"{listed[2]}.00000028.backup"

    def content(first: str, last: str) -> bytes:
        places = [
            f"{word} WAL LOCATION: 0/{segment[-3:]}00028 (file {segment})" for word, segment in (("START", first), ("STOP", last))
        ]
        return "\n".join([*places, "CHECKPOINT LOCATION: 0/28", ""]).encode()

    (archive / name).write_bytes(content(listed[2], listed[3]))
    _, said = found(archive)
    assert (said["problems"], [note for note in said["notes"] if "backup" in str(note)]) == ([], [])
    gone = f"{listed[0][:-2]}00"
    (archive / name).write_bytes(content(gone, listed[3]))
    assert any("segments of that base backup" in str(note) for note in found(archive)[1]["notes"])
    (archive / name).write_bytes(b"nonsense")
    assert problems(archive) == [(name, "does not say where a base backup began and ended")]


# Standbys -------------------------------------------------------------------------------------------------------------


def test_after_a_failover_and_a_standby_that_follows(scene: Scene) -> None:
    """What it says of how far a standby can be brought is where a real one comes to."""
    scene.feed(to=4)
    branch = make_branch(scene, scene.archive, at=None)
    branch.publish(scene)
    standby = scene.standby(settings={**LATEST, **scene.seen_at_once})
    result, said = found("--records", "--pgdata", standby.data_directory, scene.archive)
    assert (result.status, said["problems"]) == (0, [])
    (reach,) = said["ranges"]
    assert reach["timeline"] == 2
    assert reach["first_segment"] == scene.stock.names[0]
    plan = said["standby"]
    assert (plan["first_segment"], plan["to"], plan["timeline"]) == (scene.stock.names[0], reach["to"], 2)
    standby.begin()
    column = "pg_last_wal_replay_lsn()"
    eventually(lambda: str(standby.sql(f"SELECT {column}")[0][0]) == reach["to"], "it has come that far", tell=standby.tell)
    standby.stop()
    # Cleaned up as far as it has come, it can go on; without its segment it cannot.
    _, said = found("--pgdata", standby.data_directory, scene.archive)
    plan = said["standby"]
    control = subprocess.run(
        [standby.installation.program("pg_controldata"), standby.data_directory],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout
    (file,) = re.findall(r"REDO WAL file:\s+(\w+)", control)
    assert plan["first_segment"] == file
    (scene.archive / file).unlink()
    shutil.rmtree(standby.data_directory / "pg_wal")
    assert any(name == file for name, _ in problems("--pgdata", standby.data_directory, scene.archive))


def test_a_chain_of_timelines(scene16: Scene) -> None:
    """The first of them goes on behind the fork, as an old primary's that was not stopped in time."""
    size = scene16.stock.size
    within = scene16.stock.FULL[0]
    scene16.feed(to=within + 1)
    second = make_branch(scene16, scene16.archive, at=start_of(scene16, within) + size // 2)
    second.publish(scene16)
    third = make_branch(scene16, scene16.archive, timeline=3)
    third.publish(scene16)
    for options in ((), ("--records",)):
        _, said = found(*options, scene16.archive)
        assert said["problems"] == []
        assert [(one["timeline"], one["parent"], one["begins"]) for one in said["timelines"]] == [
            (1, None, None), (2, 1, lsn_text(second.forked_at)), (3, 2, lsn_text(third.forked_at))
        ]  # fmt: skip
        newest = said["ranges"][0]
        assert (newest["timeline"], newest["first_segment"]) == (3, scene16.stock.names[0])
        assert newest["to"] == lsn_text((segments.number(third.names[-1], size) + 1) * size)
        assert any(note.startswith(f"timeline 1 goes on behind {lsn_text(second.forked_at)}") for note in said["notes"])
    # Nothing of the second may be missing, whatever the first still has.
    (scene16.archive / second.names[0]).unlink()
    assert problems(scene16.archive) == [(second.names[0], "is missing")]


def test_a_data_directory_of_another_cluster(scene: Scene, wal: RealWal, tmp_path: Path) -> None:
    standby = scene.standby()
    listed = names(folder_of(wal))[:2]
    for name in listed:
        shutil.copy(folder_of(wal) / name, tmp_path / name)
    said = problems("--pgdata", standby.data_directory, tmp_path)
    assert [file for file, message in said if "is of another cluster" in message and "the standby's" in message] == listed


# Bad input ------------------------------------------------------------------------------------------------------------


def test_no_archive_and_no_data_directory(tmp_path: Path) -> None:
    for arguments in ((tmp_path / "absent",), ("--pgdata", tmp_path, tmp_path), (tmp_path, tmp_path / "absent")):
        result = check(*arguments)
        assert (result.status, result.stdout) == (2, "")
        assert result.stderr.count("ERROR:") == 1
        assert "Traceback" not in result.stderr


def test_an_empty_archive(tmp_path: Path) -> None:
    assert problems(tmp_path) == [(str(tmp_path), "holds no segment")]


def test_what_is_no_file(archive: Path) -> None:
    listed = names(archive)
    for name in listed[-5:]:
        (archive / name).rename(archive.parent / name)
    os.mkfifo(archive / listed[-5])
    (archive / listed[-4]).mkdir()
    (archive / listed[-3]).symlink_to(archive.parent / "absent")
    (archive / listed[-2]).symlink_to(archive / listed[-2])
    # A link to a file is as good as the file.
    (archive / listed[-1]).symlink_to(archive.parent / listed[-1])
    (archive / "00000003.history").mkdir()
    os.mkfifo(archive / f"{listed[0]}.00000028.backup")
    (archive / "notes.txt").write_text("of somebody's")
    said = dict(problems(archive))
    assert said[listed[-5]] == "is no regular file"
    assert said[listed[-4]] == "is a directory"
    assert "cannot be read" in said[listed[-3]]
    assert "cannot be read" in said[listed[-2]]
    assert said["00000003.history"] == "is a directory"
    assert said[f"{listed[0]}.00000028.backup"] == "is no regular file"
    assert len(said) == 6
    assert "1 file of a name that no server asks for: notes.txt" in found(archive)[1]["notes"]


@pytest.mark.skipif(osdep.own_user() == 0, reason="root can read everything")
def test_what_must_not_be_read(archive: Path) -> None:
    name = names(archive)[3]
    (archive / name).chmod(0)
    assert problems(archive) == [(name, "cannot be read: Permission denied")]


def test_files_of_nonsense(tmp_path: Path) -> None:
    contents = {"01": b"", "02": b"x", "03": os.urandom(1 << 20), "04": bytes(1 << 20), "05": b"\xff" * 4096}
    for number, content in contents.items():
        (tmp_path / f"{'0' * 7}1{'0' * 14}{number}").write_bytes(content)
    assert len(problems("--records", tmp_path)) == len(contents)


def test_without_the_package_crc32c(wal: RealWal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "crc32c", None)
    listed = names(folder_of(wal))[:2]
    assert verify.verify([str(folder_of(wal) / name) for name in listed], every_record=True) == 0
    said = capfd.readouterr()
    assert said.out.endswith("  sound\n")
    assert "checksums are computed by Python itself" in said.err
    assert '-m pip install crc32c"' in said.err


# A large archive ------------------------------------------------------------------------------------------------------

MANY = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a hundred thousand segments that have not been written yet."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(MANY):
        os.close(os.open(folder / segments.name(number), os.O_CREAT | os.O_WRONLY))
    return folder


def test_a_hundred_thousand_files(large: Path) -> None:
    """In 200 MB of memory."""
    result = run("-c", 'ulimit -d 204800; exec "$@"', "sh", PYSTANDBY, "verify", large, program=["sh"])
    # One line for all that have the same fault.
    first, last = segments.name(0), segments.name(MANY - 1)
    assert result.stdout.startswith(f"{first} to {last} ({MANY} files): has 0 bytes so far")
    assert (result.status, result.stderr) == (1, "")


def test_interrupted_on_a_terminal(large: Path) -> None:
    """There is a progress bar; Ctrl-C ends it with one line."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PYSTANDBY, "verify", large],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        start_new_session=True,
        env=environment(TERM="xterm"),
    )
    os.close(theirs)
    said = b""
    try:
        deadline = time.monotonic() + DEADLINE
        while b"Verifying" not in said:
            assert select.select([ours], [], [], max(0, deadline - time.monotonic()))[0], said
            said += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:
                break
            if not more:
                break
            said += more
        assert process.wait(DEADLINE) == 203
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    text = said.decode()
    assert "Verifying  [" in text
    assert text.count("ERROR:  interrupted") == 1
    assert "Traceback" not in text

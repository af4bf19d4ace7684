"""pystandby status: what it says of an archive and of a standby, held against what real servers say themselves."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import injected, segments
from support.command import PYSTANDBY, Argument, DataDirectory, Result, Standby, environment, run, start
from support.compressed import compress
from support.servers import DEADLINE, QUICKLY, Scene, Server, eventually, processes_in

from pystandby import journal

pytest_plugins = ["support.servers"]

NAMES = [segments.name(number) for number in range(20)]


def status(*words: Argument, cwd: Path | None = None) -> Result:
    return run("status", *words, cwd=cwd, env=environment(), as_server=False)


def answer_of(*words: Argument, cwd: Path | None = None) -> dict[str, Any]:
    result = status("--json", *words, cwd=cwd)
    assert (result.status, result.stderr) == (0, ""), result
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["version"] == 1
    assert abs(answer["at"] - time.time()) < DEADLINE
    return answer


def of_server(server: Server) -> dict[str, Any]:
    return answer_of("--pgdata", server.data_directory)


def standby_of(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = of_server(server)["standby"]
    return found


def lines_of(standby: Standby) -> list[tuple[str, str, str]]:
    events, damaged = journal.read(str(standby.data.wal / ".pystandby"))
    assert damaged == 0
    return [(event.kind, event.subject, event.detail) for event in events]


# What restores leave --------------------------------------------------------------------------------------------------


def test_a_restore_leaves_a_line(standby: Standby) -> None:
    standby.put(NAMES[5])
    os.utime(standby.archive / NAMES[5], (1_700_000_000, 1_700_000_000))
    before = time.time()
    assert standby.ask(NAMES[5], "--look-ahead", "0").status == 0
    (event,), damaged = journal.read(str(standby.data.wal / ".pystandby"))
    assert (event.kind, event.subject, event.arrived, damaged) == (journal.ARCHIVE, NAMES[5], 1_700_000_000, 0)
    assert before - 0.001 <= event.at <= time.time()


def test_a_wait_an_error_and_the_end_leave_a_line(standby: Standby) -> None:
    with standby.begin(NAMES[5], "-t", standby.trigger, "-s", "1") as waiting:
        waiting.until_watching(2)
        standby.pull_trigger("smart")
        assert waiting.result().status == 1
    standby.trigger.unlink()
    standby.put(NAMES[6], segments.full(NAMES[7]))
    wrong = standby.ask(NAMES[6])
    assert wrong.status >= 200
    wait, end, error = lines_of(standby)
    assert wait == (journal.WAIT, NAMES[5], "absent")
    assert end[:2] == (journal.END, NAMES[5])
    assert "says smart" in end[2]
    assert error[:2] == (journal.ERROR, str(wrong.status))
    assert error[2] in wrong.stderr


def test_a_server_that_asks_again_and_again_leaves_one_line(tmp_path: Path) -> None:
    standby = Standby(tmp_path, standby_mode=True)
    names = [segments.name(5, timeline=timeline) for timeline in (2, 1)]
    for _ in range(3):
        for name in names:
            assert standby.ask(name).status == 1
    told = [(journal.WAIT, name, "absent") for name in names]
    assert lines_of(standby) == told
    # That the archive is back is news.
    away = standby.folder / "away"
    standby.archive.rename(away)
    for name in 2 * names:
        standby.ask(name)
    told += [(journal.WAIT, name, "unavailable") for name in names]
    assert lines_of(standby) == told
    away.rename(standby.archive)
    for name in 2 * names:
        assert standby.ask(name).status == 1
    told += [(journal.WAIT, name, "absent") for name in names]
    assert lines_of(standby) == told


def test_history_files_and_people_leave_none(standby: Standby) -> None:
    standby.put("00000002.history", b"")
    standby.put(NAMES[5])
    assert standby.ask("00000002.history", to="pg_wal/RECOVERYHISTORY").status == 0
    assert standby.ask(NAMES[5], to=standby.folder / "by-hand").status == 0
    assert lines_of(standby) == []


@pytest.mark.parametrize("harm", ["folder", "fifo", "link", "device", "module"])
def test_a_restore_never_fails_over_its_line(standby: Standby, harm: str) -> None:
    content = standby.put(NAMES[5])
    folder = standby.data.wal / ".pystandby"
    folder.mkdir(mode=0o700)
    precious = standby.folder / "precious"
    precious.write_text("precious")
    program: Sequence[Argument] = (PYSTANDBY,)
    if harm == "folder":
        (folder / "journal").mkdir()
    elif harm == "fifo":
        os.mkfifo(folder / "journal")
    elif harm == "link":
        (folder / "journal").symlink_to(precious)
    elif harm == "device":
        program = injected.program(
            standby.folder, "_write = os.write\ndef write(d, b):\n    if b' archive ' in b: raise OSError(28, 'full')\n"
            "    return _write(d, b)\nos.write = write"
        )  # fmt: skip
    else:
        program = injected.program(standby.folder, "import sys\nsys.modules['pystandby.journal'] = None")
    command = standby.command(NAMES[5], "--look-ahead", "0")
    result = run(*command, cwd=standby.data.path, program=program)
    assert result.status == 0, result
    assert standby.delivered() == content
    assert "WARNING" not in result.stderr
    assert precious.read_text() == "precious"
    if harm not in ("folder", "fifo", "link"):
        assert lines_of(standby) == []


def test_a_journal_that_has_grown_is_put_aside(standby: Standby) -> None:
    folder = standby.data.wal / ".pystandby"
    folder.mkdir(mode=0o700)
    old = f"1700000000.000 archive {NAMES[1]} 1699999999\n"
    (folder / "journal").write_text(old * (journal.LARGEST // len(old) + 1))
    (folder / "journal.1").write_text(f"1600000000.000 archive {NAMES[0]} 1599999999\n")
    standby.put(NAMES[5])
    standby.put(NAMES[6])
    for name in NAMES[5:7]:
        assert standby.ask(name, "--look-ahead", "0").status == 0
    assert (folder / "journal.1").stat().st_size > journal.LARGEST
    assert len((folder / "journal").read_text().splitlines()) == 1
    assert [line[:2] for line in lines_of(standby)[-2:]] == [(journal.ARCHIVE, name) for name in NAMES[5:7]]


def test_what_a_restore_and_the_child_say_of_one_segment_counts_once(tmp_path: Path) -> None:
    said = [
        f"100.000 taken {NAMES[1]} 90", f"100.100 spool {NAMES[1]} 90", f"101.000 spool {NAMES[2]} 90",
        f"101.100 taken {NAMES[2]} 90", f"102.000 taken {NAMES[3]} 90", f"200.000 taken {NAMES[1]} 90",
    ]  # fmt: skip
    (tmp_path / "journal").write_text("\n".join([*said, ""]))
    events, _ = journal.read(str(tmp_path))
    assert [(event.kind, event.subject) for event in events] == [
        ("spool", NAMES[1]), ("spool", NAMES[2]), ("taken", NAMES[3]), ("taken", NAMES[1])
    ]  # fmt: skip


# An archive by itself -------------------------------------------------------------------------------------------------


def test_an_archive(standby: Standby) -> None:
    for number in (1, 2, 5, 6, 7, 9):
        standby.put(NAMES[number])
    standby.put("00000002.history", segments.history((1, 8 * segments.MB + 100)))
    for number in (8, 9):
        name = segments.name(number, timeline=2)
        standby.put(name, segments.full(name))
    standby.put(f"{NAMES[8]}.partial", b"")
    standby.put("000000010000000000000001.00000028.backup", segments.backup_history(NAMES[1]))
    standby.put(f"{NAMES[3]}.pystandby", b"")
    standby.put("notes.txt", b"")
    os.utime(standby.archive / segments.name(9, timeline=2), (1_700_000_000, 1_700_000_000))
    answer = answer_of("--archive", standby.archive)
    assert answer["standby"] is None
    assert answer["problems"] == []
    found = answer["archive"]
    assert found["segment_size"] == segments.MB
    assert (found["segments"], found["partial"], found["history"], found["backup_history"]) == (8, 1, 1, 1)
    assert (found["temporary"], found["other"], found["compressed"]) == (1, 1, 0)
    assert found["bytes"] == sum(path.stat().st_size for path in standby.archive.iterdir())
    assert found["timelines"] == [
        {"timeline": 1, "first": NAMES[1], "last": NAMES[9], "segments": 6},
        {"timeline": 2, "first": segments.name(8, timeline=2), "last": segments.name(9, timeline=2), "segments": 2},
    ]
    # Timeline 1 was left in segment 8, which timeline 2 has: what timeline 1 lacks there is no gap.
    assert found["gaps"] == [{"first": NAMES[3], "last": NAMES[4], "segments": 2, "ahead": True}]
    assert (found["oldest"], found["newest"]) == (NAMES[1], segments.name(9, timeline=2))
    assert found["newest_modified"] == 1_700_000_000
    assert 0 <= found["silence_seconds"] < DEADLINE
    table = status("--archive", standby.archive)
    assert table.status == 0
    assert f"{NAMES[3]} to {NAMES[4]}, 2 segments, missing" in table.stdout
    assert "\x1b" not in table.stdout


def test_a_compressed_archive(standby: Standby) -> None:
    for number in (1, 2, 3):
        standby.put(NAMES[number])
        subprocess.run(["gzip", standby.archive / NAMES[number]], check=True)
    found = answer_of("--archive", standby.archive)["archive"]
    assert (found["segments"], found["compressed"], found["segment_size"], found["gaps"]) == (3, 3, segments.MB, [])
    assert (found["oldest"], found["newest"], found["error"]) == (NAMES[1], NAMES[3], None)


def test_a_compressed_segment_that_is_being_written(standby: Standby) -> None:
    """It says nothing yet of whose it is: an archive of another cluster would be critical."""
    standby.put(NAMES[1])
    for content in (b"", compress(segments.full(NAMES[2]), ".gz")[:15]):
        segments.put(standby.archive, f"{NAMES[2]}.gz", content)
        found = answer_of("--pgdata", standby.data.path, "--archive", standby.archive)["archive"]
        assert (found["newest"], found["error"]) == (NAMES[2], None)


def test_a_codec_that_is_missing_is_named(standby: Standby) -> None:
    segments.put(standby.archive, f"{NAMES[2]}.zst", compress(segments.full(NAMES[2]), ".zst"))
    program = injected.program(standby.folder, "import sys\nsys.modules['zstandard'] = None\nsys.modules['compression'] = None")
    words = ("--json", "--pgdata", standby.data.path, "--archive", standby.archive)
    result = run("status", *words, env=environment(), as_server=False, program=program)
    assert "zstandard" in json.loads(result.stdout)["archive"]["error"], result


def test_an_empty_archive(standby: Standby) -> None:
    answer = answer_of("--archive", standby.archive)
    assert answer["archive"]["segments"] == 0
    assert answer["archive"]["newest"] is None
    assert status("--archive", standby.archive).status == 0
    check = status("--archive", standby.archive, "--check")
    assert check.status == 1
    assert check.stdout.startswith(f'PYSTANDBY WARNING - archive "{standby.archive}" holds no segment')


def test_a_timeline_without_its_history(standby: Standby) -> None:
    name = segments.name(3, timeline=3)
    standby.put(name, segments.full(name))
    assert "00000003.history" in answer_of("--archive", standby.archive)["problems"][0]


def test_a_compressed_history(standby: Standby) -> None:
    for number, timeline in ((1, 1), (2, 1), (3, 1), (4, 1), (3, 2), (4, 2)):
        name = segments.name(number, timeline=timeline)
        standby.put(name, segments.full(name))
    content = segments.history((1, 3 * segments.MB + 5000))
    segments.put(standby.archive, "00000002.history.gz", compress(content, ".gz"))
    # Up to the fork on the one, from there on the other; recovery is behind the first one.
    standby.data.wal.parent.joinpath("backup_label").write_text(f"START WAL LOCATION: 0/200028 (file {NAMES[2]})\n")
    answer = answer_of("--pgdata", standby.data.path, "--archive", standby.archive)
    assert not any("has no 00000002.history" in problem for problem in answer["problems"])
    assert answer["archive"]["history"] == 1
    assert answer["standby"]["outstanding_segments"] == 3


@pytest.mark.timeout(120)
def test_an_archive_of_which_half_is_missing(tmp_path: Path) -> None:
    """As many gaps as segments."""
    (tmp_path / NAMES[0]).write_bytes(segments.full(NAMES[0]))
    for number in range(2, 100_000, 2):
        os.close(os.open(tmp_path / segments.name(number), os.O_CREAT | os.O_WRONLY))
    gaps = answer_of("--archive", tmp_path)["archive"]["gaps"]
    assert len(gaps) == 49_999
    assert all(gap["ahead"] and gap["segments"] == 1 for gap in gaps)


def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    first = segments.full(NAMES[0])
    (tmp_path / NAMES[0]).write_bytes(first)
    for number in range(1, 100_000):
        if number != 70_000:
            os.close(os.open(tmp_path / segments.name(number), os.O_CREAT | os.O_WRONLY))
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = answer_of("--archive", tmp_path)["archive"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert (found["segments"], found["newest"]) == (99_999, segments.name(99_999))
    assert found["gaps"] == [{"first": segments.name(70_000), "last": segments.name(70_000), "segments": 1, "ahead": True}]
    # About two seconds of a processor, whoever else wants it.
    assert took < 30, took


def test_a_rate_leaves_out_what_is_no_replay(standby: Standby) -> None:
    folder = standby.data.wal / ".pystandby"
    folder.mkdir()
    lines = [f"{1700000000 + number}.0 archive {NAMES[number]} 1699999999" for number in range(5, 15)]
    # For an hour the server was down; it begins with an older segment again.
    lines += [f"{1700003600 + number}.0 archive {NAMES[number]} 1699999999" for number in range(12, 18)]
    # In standby mode it asks on several timelines, the last of them the one that it is on.
    lines += [f"1700003620.0 wait {segments.name(18, timeline=timeline)} absent" for timeline in (2, 1)]
    lines.append(f"1700009000.0 archive {segments.name(18, timeline=2)} 1700008999")
    (folder / "journal").write_text("".join(f"{line}\n" for line in lines))
    answer = answer_of("--pgdata", standby.data.path, "--archive", standby.archive)
    assert answer["standby"]["segments_per_second"] == 1.0


def test_a_journal_that_is_put_aside_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        journal.note(str(tmp_path), journal.ARCHIVE, NAMES[number])
    (tmp_path / "journal").rename(tmp_path / "journal.1")
    for number in range(3, 6):
        journal.note(str(tmp_path), journal.ARCHIVE, NAMES[number])
    read = journal._lines

    def lines(path: str, size: int, complain: bool = False) -> list[bytes]:
        found = read(path, size, complain)
        if path.endswith("journal.1") and len(os.listdir(tmp_path)) == 2:
            (tmp_path / "journal").replace(tmp_path / "journal.1")
        return found

    monkeypatch.setattr(journal, "_lines", lines)
    events, damaged = journal.read(str(tmp_path))
    assert (len(os.listdir(tmp_path)), damaged) == (1, 0)
    assert [event.subject for event in events] == NAMES[3:6]


@pytest.mark.root
@pytest.mark.parametrize("access", ["a group's", "not root's"])
def test_root_sees_what_the_servers_user_sees(access: str) -> None:
    assert os.geteuid() == 0
    import pwd

    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="psb-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        standby = Standby(folder / "standby")
        for number, timeline in ((2, 1), (3, 1), (3, 2)):
            standby.put(segments.name(number, timeline=timeline), segments.full(segments.name(number, timeline=timeline)))
        standby.put("00000002.history", segments.history((1, 3 * segments.MB + 5000)))
        program: Sequence[Argument] = (PYSTANDBY,)
        if access == "a group's":
            os.chown(standby.archive, 0, nobody.pw_gid)
            standby.archive.chmod(0o750)
        else:
            # A root as a file server has it, who is nobody there.
            os.chown(standby.archive, nobody.pw_uid, nobody.pw_gid)
            standby.archive.chmod(0o700)
            program = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", PYSTANDBY)
        os.chown(standby.data.path, nobody.pw_uid, nobody.pw_gid)
        standby.data.path.chmod(0o755)
        words = ("--json", "--pgdata", standby.data.path, "--archive", standby.archive)
        result = run("status", *words, env=environment(), as_server=False, program=program)
        assert (result.status, result.stderr) == (0, ""), result
        answer = json.loads(result.stdout)
        assert answer["archive"]["error"] is None
        assert answer["archive"]["segments"] == 3
        assert not any("has no 00000002.history" in problem for problem in answer["problems"]), answer["problems"]


# Bad input ------------------------------------------------------------------------------------------------------------


def test_nothing_to_look_at() -> None:
    result = status()
    assert result.status == 1
    assert "ERROR:  nothing to look at\n" in result.stderr
    assert "HINT:" in result.stderr
    check = status("--check")
    assert (check.status, check.stdout) == (3, "PYSTANDBY UNKNOWN - nothing to look at\n")


@pytest.mark.parametrize("words", [["--json"], [], ["--prometheus"]])
def test_an_archive_that_is_not_there(standby: Standby, words: list[str]) -> None:
    missing = standby.folder / "gone"
    result = status("--archive", missing, *words)
    assert result.status == 0
    assert "No such file or directory" in result.stdout or "pystandby_archive_up" in result.stdout
    assert result.stderr == ""
    check = status("--archive", missing, "--check")
    assert check.status == 1
    assert "No such file or directory" in check.stdout
    assert len(check.stdout.splitlines()) == 1


def test_what_is_no_data_directory(standby: Standby) -> None:
    result = status("--pgdata", standby.folder)
    assert result.status == 1
    assert "is not a data directory" in result.stderr
    check = status("--pgdata", standby.folder, "--check")
    assert check.status == 3
    assert "is not a data directory" in check.stdout


def test_a_foreign_archive_is_told_from_whatever_folder(standby: Standby, tmp_path: Path) -> None:
    other = DataDirectory(tmp_path / "other", system_identifier=12345)
    standby.put(NAMES[5])
    words = ("--pgdata", other.path, "--archive", standby.archive)
    for cwd in (None, standby.data.path, other.path):
        answer = answer_of(*words, cwd=cwd)
        assert "another" in answer["archive"]["error"] or "cluster" in answer["archive"]["error"]
        check = status(*words, "--check", cwd=cwd)
        assert check.status == 2
    own = answer_of("--pgdata", standby.data.path, "--archive", standby.archive, cwd=other.path)
    assert own["archive"]["error"] is None


def test_a_damaged_journal(standby: Standby) -> None:
    folder = standby.data.wal / ".pystandby"
    folder.mkdir()
    good = f"1700000000.000 archive {NAMES[5]} 1699999999"
    bad = [
        "", "x", "1700000000.0", f"17e8 archive {NAMES[5]}", f"1700000000.0 eaten {NAMES[5]}", "1700000000.0 archive ../../etc",
        "1700000000.0 error \u00b2 text", "1700000000.0 error x text", f"{'9' * 400} wait {NAMES[5]} absent", "\0" * 100,
    ]  # fmt: skip
    (folder / "journal").write_bytes(b"\xff\xfe \x80\n" + "\n".join([*bad, good, f"1700000001.0 wait {NAMES[6]} abs"]).encode())
    answer = answer_of("--pgdata", standby.data.path, "--archive", standby.archive)
    assert answer["standby"]["restored"]["segment"] == NAMES[5]
    assert any(re.match(r"10 lines of .*journal.* cannot be understood", problem) for problem in answer["problems"]), answer
    for words in ([], ["--check"], ["--prometheus"]):
        assert "Traceback" not in status("--pgdata", standby.data.path, "--archive", standby.archive, *words).stderr
    (folder / "journal").unlink()
    (folder / "journal").mkdir()
    answer = answer_of("--pgdata", standby.data.path, "--archive", standby.archive)
    assert any("cannot be read" in problem for problem in answer["problems"])


@pytest.mark.parametrize(
    "words",
    [["--json", "--check"], ["--follow", "--json"], ["--follow=0"], ["-w", "lag=5"], ["--check", "-w", "lag"],
     ["--check", "-w", "x=5"], ["--check", "-c", "lag=-1"], ["--check", "-w", "lag=5,"], ["here"], ["--pgdata"]],
)  # fmt: skip
def test_usage_error(standby: Standby, words: list[str]) -> None:
    result = status("--archive", standby.archive, *words)
    assert result.status == 200
    assert result.stderr.count("ERROR:") == 1


# For monitoring systems -----------------------------------------------------------------------------------------------


def test_gaps_and_silence_are_judged(standby: Standby) -> None:
    for number in (1, 2, 5):
        standby.put(NAMES[number])
        os.utime(standby.archive / NAMES[number], (time.time() - 1000, time.time() - 1000))
    words = ("--archive", standby.archive, "--check")
    result = status(*words)
    assert result.status == 2
    assert re.fullmatch(
        r"PYSTANDBY CRITICAL - 2 segments missing in the archive \| silence=1\d{3}s;;;0 gaps=2;1;1;0\n", result.stdout
    ), result.stdout
    assert status(*words, "-c", "gaps=3").status == 1
    assert status(*words, "-w", "gaps=0", "-c", "gaps=0").status == 0
    silent = status(*words, "-w", "gaps=0,silence=500", "-c", "gaps=0")
    assert silent.status == 1
    assert "nothing has come into the archive for 16 min" in silent.stdout
    assert status(*words, "-w", "silence=1500", "-c", "gaps=0,silence=900").status == 2


SAMPLE = re.compile(r'^([a-z_]+)\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)+)\} (-?[0-9.e+]+)$')


def samples(text: str) -> dict[str, float]:
    """What a text says, held to the text format: each sample after its HELP and TYPE, in this order."""
    found: dict[str, float] = {}
    assert text.endswith("\n")
    rows = text.splitlines()
    for told, kind, row in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        match = SAMPLE.match(row)
        assert match is not None, row
        assert told.startswith(f"# HELP {match[1]} ")
        assert kind == f"# TYPE {match[1]} gauge"
        assert match[1] not in found
        found[match[1]] = float(match[3])
    return found


def test_a_file_for_the_node_exporter(standby: Standby) -> None:
    archive = standby.folder / 'an "odd\\ one'
    standby.archive.rename(archive)
    segments.put(archive, NAMES[1], segments.full(NAMES[1]))
    segments.put(archive, NAMES[3], segments.full(NAMES[3]))
    target = standby.folder / "textfile" / "pystandby.prom"
    target.parent.mkdir()
    words = ("--pgdata", standby.data.path, "--archive", archive, f"--prometheus={target}")
    previous = os.umask(0o077)
    try:
        assert status(*words) == (0, "", "")
    finally:
        os.umask(previous)
    assert target.stat().st_mode & 0o777 == 0o644
    assert os.listdir(target.parent) == [target.name]
    found = samples(target.read_text())
    assert found["pystandby_archive_segments"] == 2
    assert found["pystandby_archive_up"] == 1
    assert found["pystandby_running"] == 0
    assert 'archive="' + str(archive).replace("\\", "\\\\").replace('"', '\\"') + '"' in target.read_text()
    # Whoever reads it meanwhile has the old one, whole: it is another file that takes its name.
    with target.open() as reader:
        assert status(*words).status == 0
        assert os.fstat(reader.fileno()).st_nlink == 0
        assert samples(reader.read()) == found
    failed = status("--archive", archive, "--prometheus", standby.folder / "no" / "such.prom")
    assert failed.status == 1
    assert "could not write" in failed.stderr
    os.mkfifo(standby.folder / "fifo")
    for path in (standby.folder / "fifo", target.parent):
        before = sorted(os.listdir(standby.folder))
        failed = status("--archive", archive, "--prometheus", path)
        assert failed.status == 1
        assert "it is not a plain file" in failed.stderr
        assert sorted(os.listdir(standby.folder)) == before


# Real servers ---------------------------------------------------------------------------------------------------------


def replayed(standby: Server) -> int:
    ((lsn,),) = standby.sql("SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint")
    assert isinstance(lsn, int)
    return lsn


def number_of(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def test_a_running_server_that_waits_and_catches_up(scene: Scene) -> None:
    names = scene.stock.names
    scene.feed(to=3)
    standby = scene.standby(settings=scene.seen_at_once).begin()
    standby.until_waiting(4)
    eventually(lambda: standby_of(standby)["waiting"], "the wait is known", tell=standby.tell)
    answer = of_server(standby)
    assert answer["problems"] == []
    found = answer["standby"]
    assert (found["state"], found["running"], found["mode"]) == ("waiting", True, "recovery")
    assert found["server_version"] == scene.stock.version
    assert (found["waiting"]["segment"], found["waiting"]["why"]) == (names[4], "absent")
    assert 0 <= found["waiting"]["seconds"] < DEADLINE
    assert found["restored"]["segment"] == names[3]
    assert number_of(found["replayed_lsn"]) == replayed(standby)
    assert (found["outstanding_segments"], found["outstanding_bytes"], found["lag_seconds"]) == (0, 0, 0)
    assert found["catch_up_seconds"] == 0
    assert found["look_ahead"]["restores"] == 4
    assert found["trigger"] == {"path": str(scene.trigger_file), "says": None, "ignored": None}
    assert (found["error"], found["outage"]["now"]) == (None, False)
    assert (answer["archive"]["segments"], answer["archive"]["newest"], answer["archive"]["gaps"]) == (4, names[3], [])
    well = status("--pgdata", standby.data_directory, "--check")
    assert well.status == 0, well
    assert re.match(rf"PYSTANDBY OK - 0 segments outstanding, waits for {names[4]} since .* \| ", well.stdout)
    # Held up by a gap, it has something to catch up with.
    scene.feed(5, 6, 7)
    os.utime(scene.archive / names[5], (time.time() - 500, time.time() - 500))
    answer = of_server(standby)
    assert answer["archive"]["gaps"] == [{"first": names[4], "last": names[4], "segments": 1, "ahead": True}]
    assert answer["standby"]["outstanding_segments"] == 3
    assert answer["standby"]["outstanding_bytes"] == 3 * scene.stock.size
    assert 500 <= answer["standby"]["lag_seconds"] < 500 + DEADLINE
    broken = status("--pgdata", standby.data_directory, "--check")
    assert broken.status == 2
    assert "1 segment missing in the archive" in broken.stdout
    assert "the oldest outstanding segment came 8 min" in broken.stdout
    scene.feed(4)
    standby.until_waiting(8)
    eventually(lambda: standby_of(standby)["outstanding_segments"] == 0, "it has caught up", tell=standby.tell)
    found = standby_of(standby)
    assert number_of(found["replayed_lsn"]) == replayed(standby) >= segments.number(names[7]) * scene.stock.size
    metrics = samples(status("--pgdata", standby.data_directory, "--prometheus").stdout)
    assert metrics["pystandby_running"] == metrics["pystandby_in_recovery"] == metrics["pystandby_archive_up"] == 1
    assert metrics["pystandby_outstanding_segments"] == metrics["pystandby_archive_missing_segments"] == 0
    # Nothing that has been looked at was changed.
    scene.trigger("smart")
    standby.until_promoted(scene.stock.rows[7])


def test_a_server_that_takes_no_connections(scene: Scene) -> None:
    """As a warm standby usually was: that it cannot be asked is no problem of anybody's."""
    scene.feed(to=3)
    standby = scene.standby(settings={"hot_standby": False}).begin(connections=False)
    standby.until_waiting(4)
    eventually(lambda: standby_of(standby)["waiting"], "the wait is known", tell=standby.tell)
    answer = of_server(standby)
    assert answer["problems"] == []
    found = answer["standby"]
    assert (found["state"], found["replayed_lsn"], found["outstanding_segments"]) == ("waiting", None, 0)
    assert answer["archive"]["segment_size"] == scene.stock.size


def test_an_archive_that_goes_and_comes_back(scene: Scene) -> None:
    scene.feed(to=2)
    standby = scene.standby().begin()
    standby.until_waiting(3)
    away = scene.folder / "away"
    before = time.time()
    scene.archive.rename(away)
    found = eventually(
        lambda: (said := standby_of(standby))["waiting"] and said["waiting"]["why"] == "unavailable" and said,
        "the outage is known",
        tell=standby.tell,
    )
    assert found["outage"]["now"] is True
    assert before - 1 <= found["outage"]["since"] <= time.time()
    assert found["outage"]["seconds"] < DEADLINE
    assert found["outstanding_segments"] is None
    words = ("--pgdata", standby.data_directory, "--check")
    check = status(*words, "-c", "outage=1")
    eventually(lambda: status(*words, "-c", "outage=1").status == 2, "the outage is critical", tell=lambda: check.stdout)
    assert "the archive has not been readable for" in status(*words, "-c", "outage=1").stdout
    away.rename(scene.archive)
    eventually(lambda: not standby_of(standby)["outage"]["now"], "the outage is over", tell=standby.tell)
    eventually(lambda: (standby_of(standby)["waiting"] or {}).get("why") == "absent", "it waits again", tell=standby.tell)
    found = standby_of(standby)
    assert found["outage"]["seconds"] is None
    assert before - 1 <= found["outage"]["since"] <= time.time()


def minimum_recovery_point(server: Server) -> int:
    text = subprocess.run(
        [server.installation.program("pg_controldata"), server.data_directory],
        env=environment(LC_ALL="C"), check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    match = re.search(r"^Minimum recovery ending location: +(\S+)$", text, re.MULTILINE)
    assert match is not None, text
    return number_of(match[1])


def test_a_stopped_server(scene: Scene) -> None:
    names = scene.stock.names
    scene.feed(to=4)
    standby = scene.standby().begin()
    standby.until_waiting(5)
    standby.stop("fast")
    scene.feed(5, 6, 7)
    answer = of_server(standby)
    found = answer["standby"]
    assert (found["state"], found["running"], found["mode"], found["waiting"]) == ("stopped", False, "recovery", None)
    assert found["restored"]["segment"] == names[4]
    assert (found["outstanding_segments"], found["replayed_lsn"]) == (3, None)
    check = status("--pgdata", standby.data_directory, "--check")
    assert check.status == 2
    assert "the server is not running" in check.stdout
    # Without what restores have left, pg_control tells.
    (standby.data_directory / "pg_wal" / ".pystandby" / "journal").unlink()
    for path in (standby.data_directory / "pg_wal" / "archive_status").iterdir():
        path.unlink()
    found = standby_of(standby)
    assert found["restored"] is None
    replayed_segments = minimum_recovery_point(standby) // scene.stock.size - segments.number(names[0])
    assert found["outstanding_segments"] == 8 - replayed_segments


def test_a_server_that_has_never_been_started(scene: Scene) -> None:
    scene.feed(to=4)
    standby = scene.standby()
    found = standby_of(standby)
    assert (found["state"], found["outstanding_segments"], found["restored"]) == ("stopped", 5, None)


def test_a_promoted_server(scene: Scene) -> None:
    scene.feed(to=4)
    standby = scene.standby().begin()
    standby.until_waiting(5)
    scene.trigger("smart")
    standby.until_promoted(scene.stock.rows[4])
    found = standby_of(standby)
    assert (found["state"], found["running"], found["mode"]) == ("promoted", True, None)
    assert (found["outstanding_segments"], found["waiting"], found["lag_seconds"]) == (None, None, None)
    assert found["restored"]["segment"] == scene.stock.names[4]
    check = status("--pgdata", standby.data_directory, "--check")
    assert check.status == 1
    assert "the server is not in recovery: it takes writes" in check.stdout
    assert status("--pgdata", standby.data_directory).status == 0


def test_a_server_that_was_stopped_by_a_wrong_segment(scene: Scene) -> None:
    scene.feed(to=4)
    scene.put(scene.stock.names[5], scene.stock.read(6))
    standby = scene.standby().begin(connections=False)
    log = standby.until_down()
    answer = of_server(standby)
    found = answer["standby"]
    assert (found["state"], found["running"]) == ("stopped", False)
    assert found["error"]["status"] >= 200
    assert found["error"]["is_last"] is True
    assert found["error"]["message"] in log
    assert "newest" in answer["archive"]["error"]
    check = status("--pgdata", standby.data_directory, "--check")
    assert check.status == 2
    assert found["error"]["message"] in check.stdout
    # Mended, and brought on.
    scene.put(scene.stock.names[5], scene.stock.read(5))
    standby.begin()
    standby.until_waiting(6)
    found = standby_of(standby)
    assert found["error"]["is_last"] is False
    assert found["restored"]["segment"] == scene.stock.names[5]


def test_standby_mode(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby(standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 3)
    found = standby_of(standby)
    assert (found["state"], found["mode"]) == ("waiting", "standby")
    assert (found["waiting"]["segment"], found["waiting"]["why"]) == (scene.stock.names[4], "absent")
    assert found["restored"]["segment"] == scene.stock.names[3]
    assert found["outstanding_segments"] == 0
    assert number_of(found["replayed_lsn"]) == replayed(standby)
    first = found["waiting"]["since"]
    standby.until_asked(4, 3)
    assert standby_of(standby)["waiting"]["since"] == first


def test_a_server_that_streams_waits_for_nothing(scene: Scene) -> None:
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    told = {**QUICKLY, "primary_conninfo": f"host={primary.socket_directory} port={primary.port} user=postgres"}
    standby = scene.standby(standby_mode=True, settings=told).begin()
    eventually(
        lambda: standby.sql("SELECT status FROM pg_stat_wal_receiver") == [("streaming",)], "it streams", tell=standby.tell
    )
    primary.sql("INSERT INTO ledger (note) SELECT repeat(md5(i::text), 8) FROM generate_series(1, 500) i")
    standby.until_rows(primary.rows())
    found = standby_of(standby)
    assert (found["state"], found["mode"], found["waiting"], found["outstanding_segments"]) == ("replaying", "standby", None, 0)
    assert found["restored"]["segment"] == scene.stock.names[-1]
    assert status("--pgdata", standby.data_directory, "--check").status == 0


def test_what_mv_takes_is_told_by_the_child(scene: Scene) -> None:
    scene.feed(to=scene.stock.last)
    command = "mv pg_wal/.pystandby/%f %p 2>/dev/null || exec " + scene.restore_command("--look-ahead", "4")
    standby = scene.standby(restore_command=command, settings=scene.seen_at_once).begin()
    standby.until_rows(scene.stock.rows[scene.stock.last])

    eventually(lambda: standby_of(standby)["waiting"] is not None, "it waits", tell=standby.tell)
    found = standby_of(standby)
    assert found["restored"]["segment"] == scene.stock.names[-1]
    assert found["outstanding_segments"] == 0
    # By whichever way each came, none is missing and none counted twice.
    events, _ = journal.read(str(standby.data_directory / "pg_wal" / ".pystandby"))
    given = [event.subject for event in events if event.kind in journal.RESTORED]
    by_log = sum(f"{name} restored" in standby.log_text() for name in scene.stock.names)
    assert len(given) == len(set(given)) >= by_log
    assert set(given) <= set(scene.stock.names)
    assert found["look_ahead"]["hits"] == sum(event.kind != journal.ARCHIVE for event in events if event.kind in journal.RESTORED)


def test_the_archive_of_a_primary(scene: Scene) -> None:
    primary = scene.primary().begin()
    told = "SELECT archived_count::int, last_archived_wal, extract(epoch from last_archived_time)::float FROM pg_stat_archiver"
    ((before, *_),) = primary.sql(told)
    assert isinstance(before, int)
    last = [primary.switch_wal() for _ in range(4)][2]

    eventually(lambda: str(primary.sql(told)[0][1]) >= last, "the segments are archived", tell=primary.tell)
    ((count, newest, at),) = primary.sql(told)
    assert isinstance(count, int)
    assert isinstance(at, float)
    found = answer_of("--archive", scene.archive)["archive"]
    assert (found["segments"], found["newest"], found["gaps"]) == (count - before, newest, [])
    # Of copies by cp, the file's time is that of the copy.
    assert abs(found["newest_modified"] - at) < 5
    assert found["segment_size"] == scene.stock.size


@pytest.mark.parametrize("words", [[], ["--json"], ["--prometheus"], ["--check"], ["--follow=1"]])
def test_a_reader_that_has_gone(standby: Standby, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = run("status", "--archive", standby.archive, *words, env=environment(), as_server=False, stdout=writer)
    finally:
        os.close(writer)
    assert (result.status, result.stderr) == (3 if words == ["--check"] else 0, "")


def test_follow_shows_it_again_and_ends_with_its_reader(standby: Standby) -> None:
    standby.put(NAMES[1])
    with start("status", "--archive", standby.archive, "--follow=1", as_server=False) as following:
        eventually(lambda: following.stdout.count("Archive") >= 2, "it is shown twice", tell=lambda: following.stderr)
        standby.put(NAMES[2])
        eventually(lambda: NAMES[2] in following.stdout, "what came is shown", tell=lambda: following.stdout)
        assert "\x1b" not in following.stdout
    assert processes_in(standby.folder) == {}


def test_follow_on_a_small_terminal(standby: Standby) -> None:
    """Lines that wrap take more than one of its rows: showing too many would scroll at each look."""
    standby.put(NAMES[1])
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 30, 0, 0))
    words: list[Argument] = [PYSTANDBY, "status", "--pgdata", standby.data.path, "--archive", standby.archive, "--follow", "1"]
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment())
    os.close(theirs)
    said = b""
    try:
        deadline = time.monotonic() + DEADLINE
        while said.count(b"\x1b[J") < 2:
            assert select.select([ours], [], [], max(0, deadline - time.monotonic()))[0], said
            said += os.read(ours, 4096)
    finally:
        process.send_signal(signal.SIGINT)
        ended = process.wait(DEADLINE)
        os.close(ours)
    assert ended == 0
    for frame in said.decode().split("\x1b[J")[:2]:
        lines = re.sub("\x1b\\[[0-9]*[A-Za-z]", "", frame).replace("\r", "").splitlines()
        rows = sum(max(1, -(-len(line) // 30)) for line in lines)
        assert 4 <= rows < 12, lines

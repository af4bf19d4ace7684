"""Compressed archives: what a restore makes of .gz, .bz2, .xz, .lzma, .zst and .lz4, whole, torn, wrong and without a codec."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import debian, segments
from support.command import (
    PYSTANDBY,
    RECOVERYHISTORY,
    Argument,
    DataDirectory,
    Installation,
    Result,
    Standby,
    StartupProcess,
    run,
    start,
    wait_until,
)
from support.compressed import CHECKED, ENDINGS, bomb, compress, expand
from support.servers import Scene
from test_imports import OURS, STANDARD, TOO_DEAR, ask, bare, imported, script
from test_look_ahead import child, spooled

from pystandby import archive, compression, exits, options, ready
from pystandby.cluster import shell_words

pytest_plugins = ["support.servers"]

NAME = segments.name(5)

NEXT = segments.name(6)

ON_ITS_WAY = "It is taken to be still on its way, and waited for."

CONTENT = segments.full(NAME)

SWITCHED = segments.switched(NAME)

METHODS = [ending[1:] for ending in ENDINGS if ending[1:] in options.COMPRESS]


def put(standby: Standby, name: str, ending: str, content: bytes | None = None) -> bytes:
    """Put a compressed file into the archive, whole at once; return what it holds."""
    content = segments.full(name) if content is None else content
    segments.put(standby.archive, name + ending, compress(content, ending))
    return content


def test_one_table_of_endings() -> None:
    assert set(archive.ENDINGS) == set(ENDINGS) == set(compression._DECODERS)
    assert {f".{method}" for method in options.COMPRESS} == set(compression._ENCODERS)
    assert len(METHODS) == len(options.COMPRESS)
    for ending in ENDINGS:
        compression.require(ending)
        assert archive.bare(f"{NAME}{ending}") == NAME
    for odd in (NAME, f"{NAME}.partial", "00000002.history", f"{NAME}.gz.tmp", f"{NAME}.GZ", "gz", ".gz.", ""):
        assert archive.bare(odd) == odd


# Whole ----------------------------------------------------------------------------------------------------------------

FILES = {
    NAME: CONTENT,
    NEXT: segments.switched(NEXT),
    "00000002.history": segments.history((1, 5 << 20)),
    f"{NAME}.00000028.backup": segments.backup_history(NAME),
    f"{NAME}.partial": segments.unfinished(NAME),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file(standby: Standby, name: str, ending: str) -> None:
    content = put(standby, name, ending, FILES[name])
    to = RECOVERYHISTORY if name.endswith(("history", "backup")) else "pg_wal/RECOVERYXLOG"
    assert standby.ask(name, to=to) == (0, "", "")
    assert (standby.data.path / to).read_bytes() == content
    assert standby.data.left_behind() == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_plain_wins(standby: Standby, ending: str) -> None:
    put(standby, NAME, ending, segments.full(NAME, seed=1))
    content = standby.put(NAME)
    assert standby.ask(NAME).status == 0
    assert standby.delivered() == content


@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 64 << 20])
@pytest.mark.parametrize("ending", [".gz", ".zst", ".lz4"])
def test_other_segment_sizes(standby: Standby, ending: str, size: int) -> None:
    name = segments.name(7, size=size)
    content = put(standby, name, ending, segments.switched(name, size=size))
    assert standby.ask(name, "-d").status == 0
    assert standby.delivered() == content


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst", ".lz4"])
def test_several_streams_and_padding(standby: Standby, ending: str) -> None:
    """As programs for several processors write them, and tapes pad them."""
    parts = [CONTENT[:300_000], CONTENT[300_000:300_001], CONTENT[300_001:]]
    made = b"".join(compress(part, ending) for part in parts)
    segments.put(standby.archive, NAME + ending, made + bytes(100_000))
    assert standby.ask(NAME).status == 0
    assert standby.delivered() == CONTENT


def test_one_archive_with_everything(standby: Standby) -> None:
    with standby.server() as server:
        for number, ending in enumerate(["", *ENDINGS, ""]):
            name = segments.name(number + 2)
            content = put(standby, name, ending) if ending else standby.put(name)
            assert server.run(*standby.command(name, "--look-ahead", "0")).status == 0
            assert standby.delivered() == content


def test_what_a_compressed_segment_imports(standby: Standby) -> None:
    put(standby, NAME, ".gz")
    modules, result = ask(standby, *standby.command(NAME))
    assert result.status == 0
    assert modules <= OURS | STANDARD | {"pystandby.compression", "zlib"}


@pytest.mark.parametrize("name", [NAME, "00000002.history"])
def test_absent_in_every_form(standby: Standby, name: str) -> None:
    put(standby, NEXT, ".gz")
    assert standby.ask(name, "--wait", "never").status == exits.NOT_IN_ARCHIVE


@pytest.mark.parametrize("ending", ENDINGS)
def test_it_is_woken_by_a_compressed_file(standby: Standby, ending: str) -> None:
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        content = put(standby, NAME, ending)
        assert waiting.result().status == 0
    assert standby.delivered() == content


def test_held_back_by_the_files_own_time(standby: Standby) -> None:
    content = put(standby, NAME, ".gz")
    with standby.begin(NAME, "--delay", "3600", "-d", "-s", "1") as waiting:
        waiting.until_says("is held back for")
        past = time.time() - 4000
        os.utime(standby.archive / f"{NAME}.gz", (past, past))
        assert waiting.result().status == 0
    assert standby.delivered() == content


def test_another_clusters_is_refused(standby: Standby) -> None:
    for ending in ENDINGS:
        other = Standby(Path(tempfile.mkdtemp(dir=standby.folder)))
        put(other, NAME, ending, segments.full(NAME, system_identifier=4711))
        result = other.ask(NAME)
        assert result.status == exits.WRONG_SEGMENT
        assert f'"{other.archive}/{NAME}{ending}" is of another cluster' in result.stderr
        assert other.delivered() is None
        assert other.data.left_behind() == []


# Torn -----------------------------------------------------------------------------------------------------------------


def torn(whole: bytes, chance: random.Random, flips: bool) -> bytes:
    """A file that has lost something: cut short, zeros behind, zeros in the middle, bits changed."""
    at = chance.choice([0, 1, chance.randrange(len(whole)), len(whole) - 1, len(whole) - chance.randrange(1, 20)])
    way = chance.choice(["short", "zeros", "hole", "flip"] if flips else ["short", "zeros"])
    if way == "short":
        return whole[:at]
    if way == "zeros":
        return whole[:at] + bytes(len(whole) - at)
    if way == "hole":
        return whole[:at] + bytes(min(4096, len(whole) - at)) + whole[at + 4096 :]
    return whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("content", [CONTENT, SWITCHED], ids=["full", "switched"])
def test_nothing_torn_is_handed_over(tmp_path: Path, ending: str, content: bytes) -> None:
    whole = compress(content, ending)
    chance = random.Random(f"{ending} {len(content)}")
    for _ in range(12):
        standby = Standby(Path(tempfile.mkdtemp(dir=tmp_path)))
        damaged = torn(whole, chance, flips=ending in CHECKED)
        segments.put(standby.archive, NAME + ending, damaged)
        result = standby.ask(NAME, "--wait", "never")
        if result.status:
            assert result.status in (exits.ARCHIVE_UNAVAILABLE, exits.WRONG_SEGMENT), result
            assert standby.delivered() is None
        else:
            # What was lost were bytes that say nothing: of a header, or zeros anyway.
            assert standby.delivered() == content
        assert standby.data.left_behind() == []
        shutil.rmtree(standby.folder)


@pytest.mark.parametrize("ending", [".zst", ".lz4"])
@pytest.mark.parametrize("noise", [False, True], ids=["WAL", "incompressible"])
def test_without_a_checksum_the_pages_tell(tmp_path: Path, ending: str, noise: bool) -> None:
    """Data that do not compress are stored as they are: zeros in them are what they are in a plain file."""
    content = segments.full(NAME, seed=3 if noise else 0)
    whole = compress(content, ending, checksum=False)
    chance = random.Random(ending)
    for _ in range(12):
        standby = Standby(Path(tempfile.mkdtemp(dir=tmp_path)))
        segments.put(standby.archive, NAME + ending, torn(whole, chance, flips=False))
        result = standby.ask(NAME, "--wait", "never")
        assert result.status in (0, exits.ARCHIVE_UNAVAILABLE, exits.WRONG_SEGMENT), result
        delivered = standby.delivered()
        if result.status:
            assert delivered is None
        elif delivered != content:
            # What is not caught in a plain file either, once it rests: zeros in the record that the segment's end cuts in two.
            assert delivered is not None
            assert ready.judge_pages(delivered, NAME, at_rest=True).state == ready.DOUBTFUL
            assert delivered.rstrip(b"\0") == content[: len(delivered.rstrip(b"\0"))]
            assert len(content) - len(delivered.rstrip(b"\0")) < 8192
        shutil.rmtree(standby.folder)


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_a_reader_gets_all_or_an_error(tmp_path: Path, ending: str, chance: random.Random) -> None:
    content = CONTENT[: chance.choice([1, 40, 8192, 100_000])]
    damaged = torn(compress(content, ending), chance, flips=ending in CHECKED)
    path = tmp_path / "file"
    path.write_bytes(damaged)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert b"".join(compression.expanded(descriptor, ending)) == content
    except compression.Damaged:
        pass
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, ending: str, raw: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(raw)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert b"".join(compression.expanded(descriptor, ending)) != b""
    except compression.Damaged:
        pass
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("way", ["grows", "zeros behind"])
@pytest.mark.parametrize("ending", [".gz", ".zst", ".lz4"])
def test_one_that_is_being_written_is_waited_for(standby: Standby, ending: str, way: str) -> None:
    whole = compress(CONTENT, ending)
    path = standby.archive / (NAME + ending)
    with path.open("wb", buffering=0) as file, standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        if way == "zeros behind":
            file.truncate(len(whole))
        for start_at in range(0, len(whole), len(whole) // 4 + 1):
            file.write(whole[start_at : start_at + len(whole) // 4 + 1])
            if start_at == 0:
                waiting.until_says(ON_ITS_WAY)
                assert standby.delivered() is None
        result = waiting.result()
    assert result.status == 0
    assert standby.delivered() == CONTENT
    assert result.stderr.count(ON_ITS_WAY) == result.stderr.count(f"{NAME} in the archive is whole") == 1, result.stderr
    assert f'segment "{path}" ' in result.stderr


def test_a_torn_history_file_is_not_said_to_be_absent(standby: Standby) -> None:
    content = segments.history((1, 5 << 20))
    whole = compress(content, ".gz")
    segments.put(standby.archive, "00000002.history.gz", whole[:-3])
    assert standby.ask("00000002.history", "--wait", "never", to=RECOVERYHISTORY).status == exits.ARCHIVE_UNAVAILABLE
    with standby.begin("00000002.history", "-s", "1", to=RECOVERYHISTORY) as waiting:
        waiting.until_says("is not whole: its gz data break off")
        segments.put(standby.archive, "00000002.history.gz", whole)
        assert waiting.result().status == 0
    assert standby.data.history.read_bytes() == content


def test_a_torn_last_segment_ends_a_smart_failover_before_it(standby: Standby) -> None:
    segments.put(standby.archive, f"{NAME}.gz", compress(CONTENT, ".gz")[:-100])
    standby.pull_trigger()
    result = standby.ask(NAME, "-s", "1", "-t", standby.trigger)
    assert result.status == exits.END_OF_RECOVERY
    assert "its gz data break off" in result.stderr
    assert standby.delivered() is None


def test_the_last_segment_of_a_dead_primary_may_be_compressed(standby: Standby) -> None:
    content = put(standby, NAME, ".gz", segments.unfinished(NAME))
    standby.pull_trigger()
    result = standby.ask(NAME, "-s", "1", "-t", standby.trigger)
    assert result.status == 0
    assert standby.delivered() == content


def test_a_smart_trigger_does_not_skip_one_before_compressed_ones(standby: Standby) -> None:
    put(standby, NAME, ".gz", segments.unfinished(NAME))
    put(standby, NEXT, ".zst")
    standby.pull_trigger()
    with standby.begin(NAME, "-s", "1", "-t", standby.trigger) as waiting:
        waiting.until_says("Later segments are there")
        content = put(standby, NAME, ".gz")
        assert waiting.result().status == 0
    assert standby.delivered() == content


# Too much -------------------------------------------------------------------------------------------------------------

# Files of 2 MB at most, and a gigabyte of memory: what goes beyond fails otherwise than expected.
LIMITED: list[Argument] = ["/bin/sh", "-c", 'ulimit -f 4096; ulimit -v 1200000; exec "$@"', "sh", PYSTANDBY]


@pytest.mark.parametrize("beginning", ["whole", "zeros", "another"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_bomb(standby: Standby, ending: str, beginning: str) -> None:
    first = {"whole": CONTENT, "zeros": b"", "another": segments.full(NEXT)}[beginning]
    raw = bomb(first, ending, 8 << 30)
    assert len(raw) < 40 << 20
    segments.put(standby.archive, NAME + ending, raw)
    result = run(*standby.command(NAME, "-r", "0", "--wait", "never"), cwd=standby.data.path, program=LIMITED)
    expected = exits.ARCHIVE_UNAVAILABLE if beginning == "zeros" else exits.WRONG_SEGMENT
    assert result.status == expected, result
    text = {"whole": "is too long: more than 1048576 bytes, decompressed", "zeros": "", "another": "holds another segment"}
    assert text[beginning] in result.stderr
    assert standby.delivered() is None
    assert standby.data.left_behind() == []


def test_a_history_file_that_is_a_bomb(standby: Standby) -> None:
    segments.put(standby.archive, "00000002.history.bz2", bomb(b"1\t0/5000000\tx\n", ".bz2", 8 << 30))
    words = standby.command("00000002.history", to=RECOVERYHISTORY)
    result = run(*words, cwd=standby.data.path, program=LIMITED)
    assert result.status == exits.WRONG_SEGMENT
    assert "is too long: more than 1048576 bytes, decompressed" in result.stderr
    assert standby.data.left_behind() == []


# No codec -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def without(tmp_path: Path) -> Installation:
    """An installation with what pystandby depends on, and without what is optional."""
    return Installation(tmp_path / "installation")


@pytest.mark.parametrize(("ending", "package"), [(".zst", "zstandard"), (".lz4", "lz4")])
@pytest.mark.parametrize("name", [NAME, "00000002.history"])
@pytest.mark.parametrize("mode", ["recovery", "standby"])
def test_a_missing_codec_is_not_absence(
    tmp_path: Path, without: Installation, name: str, ending: str, package: str, mode: str
) -> None:
    standby = Standby(tmp_path / "standby", standby_mode=mode == "standby")
    put(standby, name, ending, FILES[name])
    to = RECOVERYHISTORY if name.endswith("history") else "pg_wal/RECOVERYXLOG"
    for options_given in ([], ["--wait", "never"], ["--on-failure", "end-recovery", "-r", "0"]):
        result = without.run(*standby.command(name, *options_given, to=to), cwd=standby.data.path)
        assert result.status == exits.MODULE_MISSING, result
        assert result.stderr.count("ERROR:  ") == 1
        assert f'ERROR:  could not read "{standby.archive}/{name}{ending}": ' in result.stderr
        assert f'HINT:  Install it with "{without.python} -m pip install {package}", then start the server.' in result.stderr
        assert standby.data.left_behind() == []
    content = standby.put(name, FILES[name])
    assert without.run(*standby.command(name, to=to), cwd=standby.data.path) == (0, "", "")
    assert (standby.data.path / to).read_bytes() == content


def test_without_optional_codecs_the_others_work(standby: Standby, without: Installation) -> None:
    for ending in (".gz", ".bz2", ".xz", ".lzma"):
        content = put(standby, NAME, ending, segments.full(NAME, seed=len(ending)))
        assert without.run(*standby.command(NAME), cwd=standby.data.path) == (0, "", "")
        assert standby.delivered() == content
        (standby.archive / f"{NAME}{ending}").unlink()


def test_look_ahead_without_the_codec(standby: Standby, without: Installation) -> None:
    """The child leaves it to the call that asks for the segment to say so."""
    content = standby.put(NAME)
    put(standby, NEXT, ".zst")
    with standby.server() as server:
        assert server.run(*standby.command(NAME), program=[without.pystandby]) == (0, "", "")
        assert standby.delivered() == content
        wait_until(lambda: child(standby) == 0, "the child has gone")
        assert server.run(*standby.command(NEXT), program=[without.pystandby]).status == exits.MODULE_MISSING


def test_archiving_without_the_codec(primary: Primary, without: Installation) -> None:
    primary.write(NAME)
    result = without.run("archive", "--compress", "zst", primary.archive, f"pg_wal/{NAME}", NAME, cwd=primary.data.path)
    assert result.status == 1
    assert f"ERROR:  could not compress {NAME}: " in result.stderr
    assert f'HINT:  Install it with "{without.python} -m pip install zstandard"' in result.stderr
    assert primary.archived() == []
    # Nor is what cannot be read taken for the same, or for nothing.
    put_into(primary.archive, f"{NAME}.zst", compress(CONTENT, ".zst"))
    result = without.run("archive", primary.archive, f"pg_wal/{NAME}", NAME, cwd=primary.data.path)
    assert result.status == 1
    assert "cannot be compared" in result.stderr
    assert primary.archived() == [f"{NAME}.zst"]


# Look-ahead -----------------------------------------------------------------------------------------------------------

NAMES = [segments.name(number) for number in range(2, 14)]


def restored(server: StartupProcess, standby: Standby, name: str) -> bytes | None:
    result = server.run(*standby.command(name, "--look-ahead", "4", "-s", "1"))
    assert result.status == 0, result
    return standby.delivered()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_next_ones_are_decompressed_and_taken(standby: Standby, ending: str) -> None:
    contents = {name: put(standby, name, ending) for name in NAMES}
    with standby.server() as server:
        for name in NAMES:
            assert restored(server, standby, name) == contents[name]
            ahead = [later for later in NAMES if later > name][:4]
            wait_until(lambda ahead=ahead: set(ahead) <= set(spooled(standby)), f"{ahead} are ready")  # type: ignore[misc]
            for later in spooled(standby):
                assert (standby.data.wal / ".pystandby" / later).read_bytes() == contents[later]


def test_what_has_changed_in_the_archive_is_withdrawn(standby: Standby) -> None:
    for name in NAMES[:5]:
        put(standby, name, ".zst")
    with standby.server() as server:
        restored(server, standby, NAMES[0])
        wait_until(lambda: spooled(standby) == NAMES[1:5], "all are ready")
        other = put(standby, NAMES[1], ".zst", segments.full(NAMES[1], seed=7))
        assert restored(server, standby, NAMES[1]) == other
        # A plain one beside it counts from then on.
        plain = standby.put(NAMES[2], segments.full(NAMES[2], seed=8))
        assert restored(server, standby, NAMES[2]) == plain
        (standby.archive / f"{NAMES[3]}.zst").unlink()
        assert server.run(*standby.command(NAMES[3], "--wait", "never")).status == 1


def test_compressed_since_it_was_made_ready(standby: Standby) -> None:
    """As by gzip FILE, which keeps its time: still the same segment."""
    contents = {name: standby.put(name) for name in NAMES[:3]}
    with standby.server() as server:
        restored(server, standby, NAMES[0])
        wait_until(lambda: spooled(standby) == NAMES[1:3], "all are ready")
        for name in NAMES[1:3]:
            subprocess.run(["gzip", standby.archive / name], check=True)
        (standby.archive / NAMES[0]).unlink()
        assert standby.archived() == [f"{name}.gz" for name in NAMES[1:3]]
        for name in NAMES[1:3]:
            assert restored(server, standby, name) == contents[name]


# Archiving ------------------------------------------------------------------------------------------------------------


def put_into(folder: Path, name: str, content: bytes) -> None:
    segments.put(folder, name, content)


class Primary:
    """A server's data directory with something to archive, and two archives."""

    def __init__(self, folder: Path) -> None:
        self.data = DataDirectory(folder / "data")
        (self.data.path / "recovery.signal").unlink()
        self.archive = folder / "archive"
        self.second = folder / "second"
        self.archive.mkdir()
        self.second.mkdir()

    def write(self, name: str, content: bytes | None = None) -> bytes:
        content = segments.full(name) if content is None else content
        (self.data.wal / name).write_bytes(content)
        return content

    def put(self, name: str, *words: str | Path) -> Result:
        return run("archive", *words, *([] if len(words) > 2 else [self.archive]), f"pg_wal/{name}", name, cwd=self.data.path)

    def archived(self) -> list[str]:
        return sorted(os.listdir(self.archive))


@pytest.fixture
def primary(tmp_path: Path) -> Primary:
    return Primary(tmp_path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FILES)
def test_archiving(primary: Primary, name: str, method: str) -> None:
    content = primary.write(name, FILES[name])
    made = f"{name}.{method}"
    for words in (["--compress", method], [f"--compress={method}"], ["--compress", method]):
        assert primary.put(name, *words) == (0, "", "")
        assert primary.archived() == [made]
        assert expand((primary.archive / made).read_bytes(), f".{method}") == content
        assert (primary.archive / made).stat().st_mode & 0o777 == 0o600
    # What is there in another form is there.
    for words in ([], ["--compress", "gz"], ["--compress", "lz4"]):
        assert primary.put(name, *words) == (0, "", "")
        assert primary.archived() == [made]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_made_has_a_checksum(primary: Primary, method: str) -> None:
    primary.write(NAME)
    assert primary.put(NAME, "--compress", method).status == 0
    path = primary.archive / f"{NAME}.{method}"
    whole = path.read_bytes()
    chance = random.Random(method)
    for _ in range(200):
        at = chance.randrange(100, len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert b"".join(compression.expanded(descriptor, f".{method}")) == CONTENT
        except compression.Damaged:
            pass
        finally:
            os.close(descriptor)


def test_several_archives(primary: Primary) -> None:
    content = primary.write(NAME)
    gone = primary.archive.parent / "gone"
    words: list[Argument] = ["archive", "--compress", "zst", gone, primary.archive, primary.second, f"pg_wal/{NAME}", NAME]
    result = run(*words, cwd=primary.data.path)
    assert result.status == 1
    assert f'archive "{gone}" cannot be read' in result.stderr
    gone.mkdir()
    assert run(*words, cwd=primary.data.path) == (0, "", "")
    for folder in (gone, primary.archive, primary.second):
        assert os.listdir(folder) == [f"{NAME}.zst"]
        assert expand((folder / f"{NAME}.zst").read_bytes(), ".zst") == content


@pytest.mark.parametrize("there", ["", *ENDINGS])
@pytest.mark.parametrize("method", ["", *METHODS])
def test_other_bytes_are_an_error_in_every_form(primary: Primary, method: str, there: str) -> None:
    primary.write(NAME)
    other = segments.full(NAME, seed=1)
    put_into(primary.archive, NAME + there, compress(other, there) if there else other)
    result = primary.put(NAME, *(["--compress", method] if method else []))
    assert result.status == 1
    assert f"has another {NAME}{there}" in result.stderr
    assert f"{', compressed' if there else ''}, WAL at 0/500000 of timeline 1, system" in result.stderr
    assert primary.archived() == [f"{NAME}{there}"]


def test_other_bytes_beside_the_same(primary: Primary) -> None:
    content = primary.write(NAME)
    put_into(primary.archive, NAME, content)
    put_into(primary.archive, f"{NAME}.xz", compress(segments.full(NAME, seed=1), ".xz"))
    result = primary.put(NAME)
    assert result.status == 1
    assert f"has another {NAME}.xz" in result.stderr


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_broken_off_is_named(primary: Primary, ending: str) -> None:
    primary.write(NAME)
    put_into(primary.archive, NAME + ending, compress(CONTENT, ending)[:-9])
    result = primary.put(NAME, "--compress", "gz")
    assert result.status == 1
    assert f'archive "{primary.archive}" has {NAME}{ending}, which is not whole' in result.stderr
    assert "remove it from the archive" in result.stderr
    assert primary.archived() == [f"{NAME}{ending}"]


def test_a_killed_one_leaves_nothing_under_the_name(primary: Primary) -> None:
    content = primary.write(NAME, segments.full(segments.name(5, size=16 << 20), size=16 << 20))
    made = primary.archive / f"{NAME}.gz"
    left = primary.archive / f"{NAME}.gz.pystandby"
    with start("archive", "--compress", "gz", primary.archive, f"pg_wal/{NAME}", NAME, cwd=primary.data.path) as call:
        call.until(lambda: left.exists() and left.stat().st_size > 0, "the copy is being made")
        call.kill()
        call.process.wait()
    if not made.exists():
        assert primary.archived() == [left.name]
    assert primary.put(NAME, "--compress", "gz") == (0, "", "")
    assert primary.archived() == [made.name]
    assert expand(made.read_bytes(), ".gz") == content


def test_an_old_primary_is_refused_by_a_compressed_history(primary: Primary) -> None:
    primary.write(NAME)
    put_into(primary.archive, "00000002.history.zst", compress(segments.history((1, 5 << 20)), ".zst"))
    result = primary.put(NAME, "--compress", "zst")
    assert result.status == 1
    assert "has left timeline 1 at 0/500000" in result.stderr
    put_into(primary.archive, "00000002.history.zst", compress(segments.history((1, 5 << 20)), ".zst")[:-2])
    result = primary.put(NAME, "--compress", "zst")
    assert result.status == 1
    assert "its zst data break off" in result.stderr


def test_another_clusters_archive_is_refused(primary: Primary) -> None:
    primary.write(NAME)
    before = segments.name(4)
    put_into(primary.archive, f"{before}.lz4", compress(segments.full(before, system_identifier=4711), ".lz4"))
    result = primary.put(NAME, "--compress", "lz4")
    assert result.status == 1
    assert "belongs to another cluster" in result.stderr


@pytest.mark.parametrize(
    "words", [["--compress", "zip"], ["--compress="], ["--compress", ""], ["--compress"], ["--compress", "xz"]]
)
def test_other_methods_are_usage_errors(primary: Primary, words: list[str]) -> None:
    primary.write(NAME)
    result = primary.put(NAME, *words)
    assert result.status == 1
    assert "ERROR:  " in result.stderr
    assert "defect" not in result.stderr
    assert primary.archived() == []


def test_archiving_starts_as_lean_as_a_plain_one(primary: Primary) -> None:
    primary.write(NAME)
    words: list[Argument] = ["archive", "--compress", "gz", primary.archive, f"pg_wal/{NAME}", NAME]
    result = run(*words, program=script(), cwd=primary.data.path)
    assert result.status == 0
    found = imported(result) - bare()
    assert not found & TOO_DEAR
    assert {module for module in found if not module.startswith("pystandby")} <= STANDARD | {"zlib"}


# On real servers ------------------------------------------------------------------------------------------------------


def by_command_line(method: str, folder: Path) -> str:
    """An archive_command as people write it."""
    program = debian.program(*{"gz": ("gzip", "gzip"), "zst": ("zstd", "zstd"), "lz4": ("lz4", "lz4")}[method])
    variables = [f"{name}={value}" for name, value in program.environment.items()]
    part, name = f"{shell_words(folder)}/.%f.part", f"{shell_words(folder)}/%f.{method}"
    return f"{shell_words('env', *variables, program.path)} < %p > {part} && mv {part} {name}"


def archive_by(scene: Scene, command: str) -> None:
    """Have the stock's segments archived by an archive_command."""
    for name in scene.stock.names:
        words = command.replace("%p", str(scene.stock.archive / name)).replace("%f", name)
        subprocess.run(words, shell=True, check=True, cwd=scene.folder)


def archive_verb(method: str, folder: Path) -> str:
    return shell_words(PYSTANDBY, "archive", "--compress", method, folder) + " %p %f"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("maker", ["pystandby", "command line"])
def test_a_warm_standby_and_a_smart_failover(scene: Scene, method: str, maker: str) -> None:
    command = by_command_line(method, scene.archive) if maker == "command line" else archive_verb(method, scene.archive)
    archive_by(scene, command)
    primary = scene.primary()
    primary.configure({"archive_command": command})
    primary.begin()
    standby = scene.standby().begin()
    primary.switch_wal()
    primary.switch_wal()
    rows = primary.rows()
    primary.stop("fast")
    assert rows == scene.stock.rows[-1] + 2
    assert {path.suffix for path in scene.archive.iterdir()} == {f".{method}"}
    scene.trigger()
    standby.until_promoted(rows)
    assert standby.data_directory.joinpath("pg_wal").exists()


def test_a_timeline_switch_with_everything_compressed(scene: Scene) -> None:
    """The new primary archives its history file compressed as well; another standby follows it by that."""
    command = archive_verb("zst", scene.archive)
    archive_by(scene, command)
    settings_of_new: dict[str, str | int | bool] = {"archive_mode": True, "archive_command": command}
    new = scene.standby(name="new", settings=settings_of_new).begin()
    scene.trigger()
    new.until_promoted(scene.stock.rows[-1])
    new.switch_wal()
    rows = new.rows()
    wait_until((scene.archive / "00000002.history.zst").exists, "the history file is archived")
    new.stop("fast")
    scene.trigger_file.unlink()
    other = scene.standby(name="other", settings={"recovery_target_timeline": "latest"}).begin()
    scene.trigger()
    other.until_promoted(rows, timeline=3)
    assert 'restored log file "00000002.history" from archive' in other.log_text()
    assert [name for name in os.listdir(scene.archive) if not name.endswith(".zst")] == []

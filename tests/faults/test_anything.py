"""Anything at all in a name, a header, a trigger file, an argument list or the files of a data directory.

A restore then ends as one of the statuses that its case allows, and with 1 to 125 only where that means what it says.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import segments, torn
from support.command import RECOVERYXLOG, Argument, Result, Standby, run

from pystandby import exits, ready
from pystandby.options import VERBS

pytestmark = pytest.mark.faults

NAME = segments.name(5)

CONTENT = segments.full(NAME)

SWITCHED = segments.switched(NAME)

FAILURES = frozenset(range(200, 256))

by_running_it = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Each example starts the program."""

in_process = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def fresh(folder: Path) -> Standby:
    """A standby of its own for each example: a fixture is made once for all of them."""
    return Standby(Path(tempfile.mkdtemp(dir=folder)))


def no_nul(text: str) -> bool:
    return "\0" not in text


# What a command line and a file name may hold: any bytes but NUL.
WORDS = st.one_of(
    st.text(max_size=40).filter(no_nul),
    st.binary(max_size=40).filter(lambda raw: b"\0" not in raw).map(os.fsdecode),
).filter(lambda text: text < "\ud800" or _can_be_passed(text))


def _can_be_passed(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return no_nul(text)


WORDS = WORDS.filter(_can_be_passed)


# --- names --------------------------------------------------------------------------------------------------------------

IS_WAL_NAME = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history", re.ASCII)

ODD_NAMES = (
    "..", ".", "/", "../../etc/passwd", f"../{NAME}", f"./{NAME}", f"{NAME}/", f"/{NAME}", f"{NAME}/../{NAME}", f"{NAME}\n",
    f" {NAME}", f"{NAME} ", NAME.lower() + "a", NAME[:-1], f"{NAME}0", f"{NAME}.gz", f"{NAME}.partial.partial", "archive_status",
    "RECOVERYXLOG", "%f", "$0", "", "\u0660" * 24, "00000001.HISTORY", "0000000G.history", "00000001.history.ready", "*",
    "?" * 24,
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=repr)
def test_odd_names_are_refused(standby: Standby, name: str) -> None:
    """A slash or ".." as NEXTWALFILE would reach out of the archive."""
    standby.put(NAME, CONTENT)
    segments.put(standby.folder, NAME, CONTENT)
    result = standby.ask(name, "--wait", "never")
    assert result.status == exits.USAGE
    assert standby.delivered() is None
    assert "is not the name of a WAL file" in result.stderr or "NEXTWALFILE must not be empty" in result.stderr


@by_running_it
@given(WORDS)
def test_any_name(folder: Path, name: str) -> None:
    standby = fresh(folder)
    result = run("--wait", "never", "--", standby.archive, name, RECOVERYXLOG, cwd=standby.data.path)
    if IS_WAL_NAME.fullmatch(name):
        assert result.status == exits.NOT_IN_ARCHIVE
    else:
        assert result.status == exits.USAGE, (name, result)
    assert standby.delivered() is None
    assert os.listdir(standby.archive) == []


@by_running_it
@given(WORDS, WORDS)
def test_any_archive_and_destination(folder: Path, archive: str, destination: str) -> None:
    """Neither need exist; the answer is a failure, and never the end of recovery."""
    standby = fresh(folder)
    destination = destination.lstrip("/")
    words = ["--wait", "never", "-r", "0", "--", archive, NAME, destination]
    result = run(*words, cwd=standby.data.path)
    if archive and destination and os.path.isdir(standby.data.path / archive):
        assert result.status == exits.NOT_IN_ARCHIVE
    else:
        assert result.status in FAILURES, (archive, destination, result)


# --- argument lists -----------------------------------------------------------------------------------------------------

_OPTION_WORDS = """
    -c -d -l -k -k5 -r -r0 -s -s1 -s0 -s61 -t -tfailover -w -w9 -V -? -x - -- -dd -dcl -ds2 -sd 5 0x10 = --=
    --help --version --keep --keep=1 --keep=-1 --keep=1_0 --sleep=9999999999999 --watch --poll --wait --wait=always
    --wait=sometimes --verify --verify=none --verif=none --verify= --stable=0 --stable --look-ahead=3 --promote
    --on-failure=abort --on-failure=promote --on-new-timeline=stop --trust-trigger --trigger --no-such
    archive demo trigger restore
"""

OPTION_WORDS = (*_OPTION_WORDS.split(), "", "\u0663")


@by_running_it
@given(st.lists(st.one_of(st.sampled_from(OPTION_WORDS), WORDS), max_size=5), st.randoms(use_true_random=False))
@example([], None)
@example(["--"], None)
def test_any_arguments(folder: Path, odd: list[str], chance: object) -> None:
    """A right command line with anything strewn in: restored, or a usage error, or another failure."""
    standby = fresh(folder)
    standby.put(NAME, CONTENT)
    words: list[Argument] = list(standby.command(NAME, restart=segments.name(4)))
    for word in odd:
        words.insert(chance.randrange(len(words) + 1) if chance is not None else 0, word)  # type: ignore[attr-defined]
    if words[0] in ("demo", "archive", "archive-cleanup", "recovery-end", "trigger", "status", "verify", "check"):
        words.insert(0, "-d")
    result = run(*words, cwd=standby.data.path)
    assert result.status == 0 or result.status in FAILURES, (words, result)
    informative = result.stdout.startswith(("pystandby ", "Usage")) or "pystandby is PostgreSQL's" in result.stdout
    if result.status == 0 and not informative:
        assert standby.delivered() == CONTENT, words


@by_running_it
@given(st.lists(st.one_of(st.sampled_from(OPTION_WORDS), WORDS), max_size=3).filter(lambda words: "demo" not in words[:1]))
def test_only_odd_arguments(folder: Path, words: list[str]) -> None:
    standby = fresh(folder)
    result = run(*words, cwd=standby.data.path)
    # The other verbs are no restores: 1 is a failure there.
    failed = result.status in FAILURES or (result.status == 1 and words[0] in VERBS)
    assert failed or (result.status == 0 and result.stdout), (words, result)


# --- headers and contents -----------------------------------------------------------------------------------------------


def deliverable(result: Result, standby: Standby, content: bytes) -> None:
    """What may come of asking for a file that is there, without waiting."""
    assert result.status in (exits.DELIVERED, exits.ARCHIVE_UNAVAILABLE, exits.WRONG_SEGMENT), result
    assert standby.delivered() == (content if result.status == exits.DELIVERED else None)


@by_running_it
@given(st.binary(min_size=0, max_size=60))
def test_any_first_bytes(folder: Path, head: bytes) -> None:
    standby = fresh(folder)
    content = head + CONTENT[len(head) :]
    standby.put(NAME, content)
    deliverable(standby.ask(NAME, "--wait", "never"), standby, content)


@by_running_it
@given(st.binary(max_size=3000))
def test_any_short_file(folder: Path, content: bytes) -> None:
    standby = fresh(folder)
    standby.put(NAME, content)
    result = standby.ask(NAME, "--wait", "never")
    assert result.status in (exits.ARCHIVE_UNAVAILABLE, exits.WRONG_SEGMENT)
    assert standby.delivered() is None


HEADERS = st.tuples(
    st.one_of(st.sampled_from([*segments.MAGIC.values(), 0, 0xFFFF]), st.integers(0, 0xFFFF)),  # magic
    st.one_of(st.integers(0, 15), st.integers(0, 0xFFFF)),  # info
    st.one_of(st.integers(0, 3), st.integers(0, 0xFFFFFFFF)),  # timeline
    st.one_of(st.just(5 << 20), st.integers(0, (1 << 64) - 1)),  # page address
    st.one_of(st.integers(0, 20000), st.integers(0, 0xFFFFFFFF)),  # remaining
    st.one_of(st.just(segments.SYSTEM_IDENTIFIER), st.integers(0, (1 << 64) - 1)),
    st.one_of(st.just(1 << 20), st.integers(0, 33).map(lambda bits: min(1 << bits, 0xFFFFFFFF)), st.integers(0, 0xFFFFFFFF)),
    st.one_of(st.just(8192), st.integers(0, 20).map(lambda bits: 1 << bits), st.integers(0, 0xFFFFFFFF)),
)


@in_process
@given(
    HEADERS, st.sampled_from([CONTENT, SWITCHED]), st.integers(0, 2 << 20), st.sampled_from([None, 903, 1600, 1800, 1900, 802])
)
def test_any_header(header: tuple[int, ...], content: bytes, size: int, version: int | None) -> None:
    """Nothing is raised, and what is handed over had every field right."""
    head = struct.pack("<HHIQI4xQII", *header)
    content = (head + content[40:])[:size] if size % 2 else head + content[40:]
    verdict = ready.judge_head(content[:40], len(content), NAME, segments.SYSTEM_IDENTIFIER, version)
    assert verdict.state in (ready.WHOLE, ready.UNFINISHED, ready.WRONG, ready.UNKNOWN)
    assert verdict.reason or verdict.state == ready.WHOLE
    if verdict.state == ready.WHOLE:
        assert (header[3], header[5], header[6], len(content)) == (5 << 20, segments.SYSTEM_IDENTIFIER, 1 << 20, 1 << 20)
        assert header[2] == 1
        found = ready.judge_pages(content, NAME)
        assert found.state in (ready.WHOLE, ready.DOUBTFUL, ready.UNFINISHED, ready.WRONG)
        if found.state in (ready.WHOLE, ready.DOUBTFUL):
            assert header[0] == segments.MAGIC["16"]


@in_process
@given(
    st.sampled_from([CONTENT, SWITCHED]),
    st.lists(st.tuples(st.integers(0, (1 << 20) - 1), st.binary(min_size=1, max_size=64)), min_size=1, max_size=8),
    st.integers(0, 127),
)
def test_any_damage(content: bytes, damage: list[tuple[int, bytes]], page: int) -> None:
    """Nothing is raised, and a page header that is damaged is seen, wherever in what is used."""
    damaged = bytearray(content)
    for at, raw in damage:
        damaged[at : at + len(raw)] = raw[: len(damaged) - at]
    verdict = ready.judge_head(bytes(damaged[:40]), len(damaged), NAME, segments.SYSTEM_IDENTIFIER)
    if verdict.state == ready.WHOLE:
        assert ready.judge_pages(damaged, NAME).state in (ready.WHOLE, ready.DOUBTFUL, ready.UNFINISHED, ready.WRONG)
    used = torn.whole(content, None).used if content is SWITCHED else len(content)
    damaged = bytearray(content)
    start = page * segments.PAGE % used // segments.PAGE * segments.PAGE
    field = damage[0][0] % 16
    damaged[start + field] ^= 1 + damage[0][1][0] % 255
    if field not in (2, 3):
        # All of magic, timeline and address; the flags may say what they like of records.
        verdict = ready.judge_head(bytes(damaged[:40]), len(damaged), NAME, segments.SYSTEM_IDENTIFIER)
        if verdict.state == ready.WHOLE:
            verdict = ready.judge_pages(damaged, NAME)
        assert verdict.state in (ready.UNFINISHED, ready.WRONG), (start, field)


# --- trigger files ------------------------------------------------------------------------------------------------------

BEGINNINGS = (b"smart", b"fast", b"SMART", b"Fast", b" fast", b"\xef\xbb\xbffast", b"fas")

TRIGGERS = st.one_of(st.binary(max_size=100), st.builds(bytes.__add__, st.sampled_from(BEGINNINGS), st.binary(max_size=9)))


@by_running_it
@given(TRIGGERS)
@example(b"")
@example(b"fast\r\n")
@example(b"fast" + bytes(5000))
def test_any_trigger_content(folder: Path, content: bytes) -> None:
    """Fast ends recovery although the segment is there; everything else lets it be delivered."""
    standby = fresh(folder)
    standby.put(NAME, CONTENT)
    standby.trigger.write_bytes(content)
    result = standby.ask(NAME, "-t", standby.trigger)
    if content.startswith(b"fast"):
        assert result.status == exits.END_OF_RECOVERY
        assert standby.trigger.read_bytes() == b""
        assert standby.delivered() is None
    else:
        assert result.status == exits.DELIVERED
        assert standby.trigger.read_bytes() == content
        assert standby.delivered() == CONTENT
        assert ("has invalid content" in result.stderr) == (not content.startswith(b"smart") and content != b"")


@by_running_it
@given(WORDS)
def test_any_trigger_path(folder: Path, path: str) -> None:
    standby = fresh(folder)
    standby.put(NAME, CONTENT)
    result = run(*standby.command(NAME), f"--trigger={path}", cwd=standby.data.path)
    assert result.status == (exits.DELIVERED if path else exits.USAGE), (path, result)


# --- what lies in the data directory ------------------------------------------------------------------------------------

DATA_FILES = (
    "PG_VERSION",
    "global/pg_control",
    "postmaster.pid",
    "recovery.conf",
    "pg_wal/.pystandby/refused",
    "pg_wal/.pystandby/said",
)

LINE_WORDS = b"16 9.3 99999999999999999999 standby_mode =on ' # stopping -1 0 \xff 000000010000000000000005".split()

LINES = st.lists(st.sampled_from(LINE_WORDS), max_size=12).map(b"\n".join)


@by_running_it
@given(st.sampled_from(DATA_FILES), st.one_of(st.binary(max_size=300), LINES))
def test_anything_in_the_data_directory(folder: Path, name: str, content: bytes) -> None:
    """Half-written, of another version, or garbage: the segment that is there is delivered, or refused with a reason."""
    standby = fresh(folder)
    standby.put(NAME, CONTENT)
    path = standby.data.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    result = standby.ask(NAME, "-r", "0")
    allowed = {exits.DELIVERED}
    if name == "global/pg_control":
        allowed.add(exits.WRONG_SEGMENT)  # its system identifier is now another one
    elif name == "PG_VERSION":
        allowed.add(exits.WRONG_SEGMENT)  # of another version
    elif name == "postmaster.pid":
        allowed |= {exits.SERVER_STOPPING, exits.SERVER_GONE}
    assert result.status in allowed, (name, content, result)
    assert standby.delivered() == (CONTENT if result.status == exits.DELIVERED else None)


@settings(by_running_it, max_examples=4)
@given(st.one_of(st.binary(min_size=1, max_size=200), st.binary(max_size=20).map(lambda raw: b"1\t" + raw + b"\tx\n")))
@example(b"1\tFFFFFFFFFFFFFFFFFFFFFFFF/0\tx\n")
@example(b"99999999999999999999999\t0/0\tx\n")
def test_anything_in_a_history_file(folder: Path, content: bytes) -> None:
    """Of the next timeline, beside a segment that has not come: it is waited for as long as asked, whatever the file says."""
    standby = fresh(folder)
    standby.put("00000002.history", content)
    result = standby.ask(NAME, "-s", "1", "-w", "1")
    assert result.status == exits.END_OF_RECOVERY
    assert "MAXWAITTIME" in result.stderr
    delivered = standby.ask("00000002.history", to="pg_wal/RECOVERYHISTORY")
    assert delivered.status == exits.DELIVERED
    assert standby.data.history.read_bytes() == content


@pytest.mark.parametrize("name", DATA_FILES)
@pytest.mark.parametrize("what", ["folder", "fifo", "link to itself", "unreadable", "huge"])
def test_odd_files_in_the_data_directory(standby: Standby, name: str, what: str) -> None:
    """Nothing there makes a restore hang, or end recovery."""
    standby.put(NAME, CONTENT)
    path = standby.data.path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "link to itself":
        path.symlink_to(path.name)
    elif what == "unreadable":
        path.write_text("16\n")
        path.chmod(0)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 30)
    result = standby.ask(NAME, "-r", "0")
    assert result.status == exits.DELIVERED or (result.status in FAILURES and what == "huge"), result
    if result.status == exits.DELIVERED:
        assert standby.delivered() == CONTENT
    shutil.rmtree(standby.data.path, ignore_errors=True)


@pytest.mark.parametrize("what", ["folder", "fifo", "link to itself", "link to nowhere", "socket", "device"])
def test_odd_files_in_the_archive(standby: Standby, what: str) -> None:
    """Under the name of the segment: refused, or waited for, and never the end of recovery."""
    path = standby.archive / NAME
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "link to itself":
        path.symlink_to(path.name)
    elif what == "link to nowhere":
        path.symlink_to("nowhere")
    elif what == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            here = os.getcwd()
            os.chdir(standby.archive)
            try:
                listener.bind(NAME)
            finally:
                os.chdir(here)
    else:
        path.symlink_to("/dev/zero")
    with standby.begin(NAME, "-s", "1", "-r", "0", "-d") as waiting:
        waiting.until(lambda: waiting.has_ended or "waiting for" in waiting.stderr or "WARNING" in waiting.stderr, "it says")
        if not waiting.has_ended:
            path.unlink()
            standby.put(NAME, CONTENT)
            assert waiting.result().status == exits.DELIVERED
            return
        assert waiting.result().status in FAILURES
        assert what not in ("link to nowhere", "link to itself")
    assert standby.delivered() is None

"""archive_command: what is in the archive is whole, durable, and never replaced; what is not archived, the server keeps."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from support import injected, segments
from support.command import PYSTANDBY, Argument, DataDirectory, Installation, Result, run, session, start, wait_until
from support.matrix import scenario
from support.servers import Scene, Server, eventually
from test_imports import STANDARD, TOO_DEAR, bare, imported, script, told

from pystandby import osdep

pytest_plugins = ["support.servers"]

NAME = segments.name(5)
BEFORE = segments.name(4)

OTHER_SYSTEM = segments.SYSTEM_IDENTIFIER + 1


class Primary:
    """A server's data directory with something to archive, and two archives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = DataDirectory(folder / "data")
        (self.data.path / "recovery.signal").unlink()
        self.archive = folder / "archive"
        self.second = folder / "second"
        self.archive.mkdir()
        self.second.mkdir()

    def write(self, name: str, content: bytes | None = None) -> bytes:
        """Put a finished file into pg_wal, by default a full segment of its name; return its content."""
        content = segments.full(name) if content is None else content
        (self.data.wal / name).write_bytes(content)
        return content

    def words(self, name: str, *archives: Path) -> list[Argument]:
        return ["archive", *(archives or (self.archive,)), f"pg_wal/{name}", name]

    def put(self, name: str, *archives: Path, program: list[Argument] | None = None) -> Result:
        """Run archive_command = 'pystandby archive ARCHIVE... %p %f'."""
        return run(*self.words(name, *archives), cwd=self.data.path, program=program or [PYSTANDBY])

    def archived(self, archive: Path | None = None) -> list[str]:
        return sorted(os.listdir(archive or self.archive))


@pytest.fixture
def primary(tmp_path: Path) -> Primary:
    return Primary(tmp_path)


def is_refused(result: Result, *texts: str) -> bool:
    """Whether a call ended with 1, and its one error has these texts."""
    assert result.status == 1, result
    assert result.stdout.startswith("pystandby archive is") or result.stdout == ""
    assert result.stderr.count("ERROR:  ") == 1, result.stderr
    assert "defect" not in result.stderr
    for text in texts:
        assert text in result.stderr, (text, result.stderr)
    return True


# What is archived -----------------------------------------------------------------------------------------------------

FILES = {
    NAME: segments.full(NAME),
    segments.name(6): segments.switched(segments.name(6)),
    f"{NAME}.partial": segments.unfinished(NAME),
    f"{NAME}.00000028.backup": segments.backup_history(NAME),
    "00000002.history": segments.history((1, 5 << 20)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file(primary: Primary, name: str) -> None:
    primary.write(name, FILES[name])
    assert primary.put(name) == (0, "", "")
    assert (primary.archive / name).read_bytes() == FILES[name]
    assert primary.archived() == [name]
    # The server's umask counts: WAL is nobody else's.
    assert (primary.archive / name).stat().st_mode & 0o777 == 0o600


def test_again(primary: Primary) -> None:
    # After a crash the server asks for what it has forgotten to have archived.
    for name, content in FILES.items():
        primary.write(name, content)
        assert primary.put(name) == (0, "", "")
        before = (primary.archive / name).stat()
        assert primary.put(name) == (0, "", "")
        assert (primary.archive / name).stat() == before or os.path.samestat((primary.archive / name).stat(), before)
    assert primary.archived() == sorted(FILES)


@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 64 << 20])
def test_other_segment_sizes(primary: Primary, size: int) -> None:
    names = [segments.name(number, size=size) for number in ((4 << 30) // size - 1, (4 << 30) // size)]
    for name in names:
        primary.write(name, segments.switched(name, size=size))
        assert primary.put(name) == (0, "", "")
    assert primary.archived() == sorted(names)


@pytest.mark.parametrize("version", segments.VERSIONS)
def test_every_version(primary: Primary, version: str) -> None:
    (primary.data.path / "PG_VERSION").write_text(f"{version}\n")
    content = primary.write(NAME, segments.full(NAME, version=version))
    assert primary.put(NAME) == (0, "", "")
    assert (primary.archive / NAME).read_bytes() == content


def test_several_archives(primary: Primary) -> None:
    content = primary.write(NAME)
    assert primary.put(NAME, primary.archive, primary.second) == (0, "", "")
    assert (primary.archive / NAME).read_bytes() == (primary.second / NAME).read_bytes() == content


def test_several_archives_of_which_one_is_away(primary: Primary) -> None:
    content = primary.write(NAME)
    gone = primary.folder / "gone"
    for order in ([gone, primary.archive], [primary.archive, gone]):
        assert is_refused(primary.put(NAME, *order), f'archive "{gone}" cannot be read', "HINT:  Mount it")
        # The others have it all the same; and the next time all is well.
        assert (primary.archive / NAME).read_bytes() == content
        assert not gone.exists(), "an archive is not made: that would be under a mount point"
    gone.mkdir()
    assert primary.put(NAME, gone, primary.archive) == (0, "", "")
    assert (gone / NAME).read_bytes() == content


def test_by_hand_from_elsewhere(primary: Primary) -> None:
    content = primary.write(NAME)
    assert run("archive", primary.archive, primary.data.wal / NAME, NAME, cwd=primary.folder) == (0, "", "")
    assert (primary.archive / NAME).read_bytes() == content


def test_debug(primary: Primary) -> None:
    primary.write(NAME)
    words = primary.words(NAME)
    for text in ("is archived in", "already"):
        result = run(words[0], "-d", *words[1:], cwd=primary.data.path)
        assert result.status == 0
        assert f"DEBUG:  {NAME} is" in result.stderr
        assert text in result.stderr


# What is there is never replaced ----------------------------------------------------------------------------------------


def test_other_bytes(primary: Primary) -> None:
    primary.write(NAME)
    theirs = segments.full(NAME, seed=1)
    segments.put(primary.archive, NAME, theirs)
    system = segments.SYSTEM_IDENTIFIER
    assert is_refused(
        primary.put(NAME),
        f"has another {NAME}",
        f"There: 1048576 bytes, WAL at 0/500000 of timeline 1, system {system}; here: 1048576 bytes, WAL at 0/500000",
        "HINT:  Two servers have written it.",
    )
    assert (primary.archive / NAME).read_bytes() == theirs
    assert primary.archived() == [NAME]


def test_another_clusters(primary: Primary) -> None:
    primary.write(NAME)
    segments.put(primary.archive, NAME, segments.full(NAME, system_identifier=OTHER_SYSTEM))
    assert is_refused(primary.put(NAME), f"system {OTHER_SYSTEM}; here:", "HINT:  Two clusters archive to one folder")


def test_another_history(primary: Primary) -> None:
    primary.write("00000002.history", segments.history((1, 5 << 20)))
    segments.put(primary.archive, "00000002.history", segments.history((1, 4 << 20)))
    assert is_refused(primary.put("00000002.history"), "HINT:  Two servers were promoted to the same timeline")


@pytest.mark.parametrize("left", [0, 1, 100, 8192, 500_000, (1 << 20) - 1])
@pytest.mark.parametrize("zeros", [True, False])
def test_what_cp_left_when_it_was_broken_off(primary: Primary, left: int, zeros: bool) -> None:
    content = primary.write(NAME)
    torn = content[:left] + (bytes(len(content) - left) if zeros else b"")
    segments.put(primary.archive, NAME, torn)
    assert is_refused(primary.put(NAME), "HINT:  It is the beginning of this very file", "remove it from the archive")
    assert (primary.archive / NAME).read_bytes() == torn


def test_a_switched_segment_is_not_torn(primary: Primary) -> None:
    # Its end is zeros as well; what another primary wrote on from the same beginning is no torn copy.
    primary.write(NAME)
    segments.put(primary.archive, NAME, segments.switched(NAME))
    result = primary.put(NAME)
    assert is_refused(result)
    assert "beginning of this very file" not in result.stderr


@pytest.mark.parametrize("make", ["mkdir", "mkfifo", "symlink"])
def test_what_is_no_file(primary: Primary, make: str) -> None:
    primary.write(NAME)
    getattr(os, make)(*(["/nowhere"] if make == "symlink" else []), primary.archive / NAME)
    assert is_refused(primary.put(NAME), f"could not archive {NAME}")
    assert primary.archived() == [NAME]


@pytest.mark.parametrize("same", [True, False])
def test_two_at_once(primary: Primary, same: bool) -> None:
    """Another one publishes the name while the first is about to: link() does not replace it, whatever it is."""
    content = primary.write(NAME)
    theirs = content if same else segments.full(NAME, seed=1)
    go = primary.folder / "go"
    held = injected.program(primary.folder, f"os.link = hanging(os.link, {str(primary.archive)!r}, {str(go)!r})")
    with start(*primary.words(NAME), cwd=primary.data.path, program=held) as first:
        wait_until(lambda: Path(f"{go}.reached").exists(), "the first has its copy")
        segments.put(primary.archive, NAME, theirs)
        go.touch()
        result = first.result()
    assert result == (0, "", "") if same else is_refused(result, f"has another {NAME}")
    assert (primary.archive / NAME).read_bytes() == theirs
    assert primary.archived() == [NAME]


def test_many_at_once(primary: Primary) -> None:
    content = primary.write(NAME)
    running = [start(*primary.words(NAME), cwd=primary.data.path) for _ in range(8)]
    try:
        assert [one.result() for one in running] == [(0, "", "")] * 8
    finally:
        for one in running:
            one.__exit__(None, None, None)
    assert (primary.archive / NAME).read_bytes() == content
    assert primary.archived() == [NAME]


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_links(primary: Primary, error: str) -> None:
    content = primary.write(NAME)
    program = injected.program(primary.folder, f"os.link = failing(os.link, {str(primary.archive)!r}, errno.{error})")
    assert primary.put(NAME, program=program) == (0, "", "")
    assert (primary.archive / NAME).read_bytes() == content
    assert primary.put(NAME, program=program) == (0, "", "")
    segments.put(primary.archive, NAME, b"other")
    assert is_refused(primary.put(NAME, program=program))
    assert primary.archived() == [NAME]


# Whose archive it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theirs", [BEFORE, segments.name(1), segments.name(9), segments.name(7, timeline=3)])
def test_an_archive_of_another_cluster(primary: Primary, theirs: str) -> None:
    segments.put(primary.archive, theirs, segments.full(theirs, system_identifier=OTHER_SYSTEM))
    for name, content in FILES.items():
        primary.write(name, content)
        assert is_refused(
            primary.put(name),
            f'archive "{primary.archive}" belongs to another cluster',
            f"Its {theirs} was written by system {OTHER_SYSTEM}",
            f"by system {segments.SYSTEM_IDENTIFIER}",
            "HINT:  Give each cluster an archive of its own",
        )
    assert primary.archived() == [theirs]


def test_what_is_not_to_be_read_says_nothing(primary: Primary) -> None:
    # A copy by another program that has only begun; the segments before it tell.
    segments.put(primary.archive, segments.name(9), bytes(1 << 20))
    segments.put(primary.archive, segments.name(8), b"")
    primary.write(NAME)
    assert primary.put(NAME) == (0, "", "")
    (primary.archive / NAME).unlink()
    segments.put(primary.archive, segments.name(3), segments.full(segments.name(3), system_identifier=OTHER_SYSTEM))
    assert is_refused(primary.put(NAME), "belongs to another cluster")


def test_a_file_that_is_not_of_this_server(primary: Primary) -> None:
    cases = {
        "holds another segment": segments.full(BEFORE),
        "is of another cluster": segments.full(NAME, system_identifier=OTHER_SYSTEM),
        "is of timeline 2": segments.full(segments.name(5, timeline=2)),
        "is too long": segments.full(NAME) + b"x",
        "has 1048575 of 1048576 bytes": segments.full(NAME)[:-1],
        "begins with zeros": bytes(1 << 20),
        "is empty": b"",
        "is not WAL": os.urandom(1 << 20),
    }
    for text, content in cases.items():
        primary.write(NAME, content)
        assert is_refused(primary.put(NAME), text)
    assert primary.archived() == []
    # Encrypted by a fork.
    content = primary.write(NAME, os.urandom(1 << 20))
    words = primary.words(NAME)
    assert run(words[0], "--verify", "none", *words[1:], cwd=primary.data.path) == (0, "", "")
    assert (primary.archive / NAME).read_bytes() == content


# Timelines: an old primary that nobody has stopped ----------------------------------------------------------------------

LEFT = 5 << 20
"""Where timeline 1 was left: at the beginning of segment 5."""


@pytest.mark.parametrize(("left", "accepted"), [(LEFT, False), (LEFT + 1, False), (LEFT + (1 << 20) - 8, False), (6 << 20, True)])
def test_a_timeline_that_was_left(primary: Primary, left: int, accepted: bool) -> None:
    segments.put(primary.archive, "00000002.history", segments.history((1, left)))
    content = primary.write(NAME)
    result = primary.put(NAME)
    if accepted:
        assert result == (0, "", "")
        return
    assert is_refused(
        result,
        f"has left timeline 1 at 0/{left:X}, before {NAME} ends",
        "00000002.history says that another server was promoted to timeline 2 there: this one is the old primary",
        "HINT:  Stop this server, and make it a standby again with pg_rewind",
    )
    assert primary.archived() == ["00000002.history"]
    # What is archived already is.
    segments.put(primary.archive, NAME, content)
    assert primary.put(NAME) == (0, "", "")


def test_what_the_new_primary_archives(primary: Primary) -> None:
    """Its history file, the last segment of the old timeline as .partial, its own segments; and what lies before."""
    new = segments.name(5, timeline=2)
    for name, content in [
        ("00000002.history", segments.history((1, LEFT + 80_000))),
        (f"{NAME}.partial", segments.unfinished(NAME)),
        (new, segments.full(new, old_timeline=1, old_pages=3)),
        (segments.name(6, timeline=2), None),
        (BEFORE, None),
    ]:
        primary.write(name, content)
        assert primary.put(name) == (0, "", ""), name
    primary.write(NAME)
    assert is_refused(primary.put(NAME), "has left timeline 1")


def test_a_grandchild_timeline(primary: Primary) -> None:
    # 2 left 1 at 9, 3 left 1 earlier: whoever follows the newest goes by 3.
    segments.put(primary.archive, "00000002.history", segments.history((1, 9 << 20)))
    segments.put(primary.archive, "00000003.history", segments.history((1, LEFT)))
    primary.write(NAME)
    assert is_refused(primary.put(NAME), "00000003.history says")


def test_a_history_that_has_nothing_to_do_with_it(primary: Primary) -> None:
    segments.put(primary.archive, "00000003.history", segments.history((2, LEFT)))
    segments.put(primary.archive, "00000002.history", b"")
    segments.put(primary.archive, "00000001.history", segments.history((1, 0)))
    primary.write(NAME)
    assert primary.put(NAME) == (0, "", "")


def test_a_history_that_cannot_be_read(primary: Primary) -> None:
    # Unknown is not absent.
    assert os.geteuid(), "to root no file is unreadable: run the tests as an ordinary user"
    segments.put(primary.archive, "00000002.history", segments.history((1, LEFT))).chmod(0)
    primary.write(NAME)
    assert is_refused(primary.put(NAME), "00000002.history is there and cannot be read")


# Durability, and being killed ---------------------------------------------------------------------------------------------

_COUNTED = """
import signal
_TOLD = {told!r}
_AT = {at}
_calls = 0

def counted(word, function):
    def counted_function(*arguments, **options):
        global _calls
        names = [name for name in _names(arguments) if name.startswith({archive!r})]
        if names:
            _calls += 1
            if _calls == _AT:
                # Half of what this would have done.
                if word == "sendfile":
                    function(arguments[0], arguments[1], arguments[2], arguments[3] // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            with open(_TOLD, "a") as file:
                file.write(word + " " + " ".join(map(os.path.basename, names)) + chr(10))
        return function(*arguments, **options)
    return counted_function

# So that a copy is made in steps that can be counted.
if hasattr(os, "copy_file_range"):
    os.copy_file_range = failing(os.copy_file_range, "/", errno.ENOSYS)
for _word in ("open", "fstat", "ftruncate", "sendfile", "fsync", "link", "unlink", "rename", "close", "listdir", "lstat"):
    setattr(os, _word, counted(_word, getattr(os, _word)))
"""


def counting(primary: Primary, at: int = 0) -> tuple[list[Argument], Path]:
    """A program that writes down each call of os that concerns the archive, and is killed at one of them."""
    written = primary.folder / "calls"
    written.unlink(missing_ok=True)
    code = _COUNTED.format(told=str(written), at=at, archive=str(primary.archive))
    return injected.program(primary.folder, code), written


def test_on_the_disk_before_it_has_its_name(primary: Primary) -> None:
    primary.write(NAME)
    program, written = counting(primary)
    assert primary.put(NAME, program=program) == (0, "", "")
    calls = written.read_text().splitlines()
    temporary = f"{NAME}.pystandby"
    order = [
        calls.index(call) for call in (f"open {temporary}", f"fsync {temporary}", f"link {temporary} {NAME}", "fsync archive")
    ]
    assert order == sorted(order), calls
    assert not [call for call in calls[order[1] : order[2]] if call.startswith(("sendfile", "write"))]
    # Once more: whoever put it there may not have got to the end.
    program, written = counting(primary)
    assert primary.put(NAME, program=program) == (0, "", "")
    calls = written.read_text().splitlines()
    assert calls.index(f"fsync {NAME}") < calls.index("fsync archive")


@pytest.mark.faults
@pytest.mark.parametrize("there", ["nothing", "the same", "left over", "left over with two names"])
def test_killed_at_any_moment(primary: Primary, there: str) -> None:
    """A file under its final name is whole, whenever the process dies; and the next call cleans up and is done."""
    content = primary.write(NAME)
    temporary = primary.archive / f"{NAME}.pystandby"
    at = 0
    while True:
        at += 1
        for path in primary.archive.iterdir():
            path.unlink()
        if there == "the same":
            (primary.archive / NAME).write_bytes(content)
        elif there == "left over":
            temporary.write_bytes(os.urandom(2 << 20))
        elif there == "left over with two names":
            (primary.archive / NAME).write_bytes(content)
            os.link(primary.archive / NAME, temporary)
        program, _ = counting(primary, at)
        result = primary.put(NAME, program=program)
        if (primary.archive / NAME).exists():
            assert (primary.archive / NAME).read_bytes() == content, at
        if result.status == 0:
            break
        assert result.status == -signal.SIGKILL, result
        assert set(primary.archived()) <= {NAME, temporary.name}
        assert primary.put(NAME) == (0, "", ""), at
        assert (primary.archive / NAME).read_bytes() == content
        assert primary.archived() == [NAME], at
    assert primary.archived() == [NAME]
    # Without a count there was nothing to be killed at.
    assert at > (8 if there in ("nothing", "left over") else 4)


def test_what_dead_makers_left_of_other_files(primary: Primary) -> None:
    """A primary that died in the middle never comes back to its file: the next call that lists the archive removes it."""
    kept = segments.put(primary.archive, segments.name(1), segments.full(segments.name(1)))
    os.link(kept, primary.archive / f"{segments.name(1)}.pystandby")
    (primary.archive / f"{segments.name(2)}.pystandby").write_bytes(b"half")
    (primary.archive / f"{segments.name(2)}.pystandby.4711").write_bytes(b"half")
    (primary.archive / "notes.pystandby").write_bytes(b"not ours")
    busy = primary.archive / f"{segments.name(3)}.pystandby"
    with busy.open("w") as file:
        assert osdep.lock(file.fileno())
        primary.write(NAME)
        assert primary.put(NAME) == (0, "", "")
    assert primary.archived() == sorted([segments.name(1), busy.name, NAME, "notes.pystandby"])
    assert kept.read_bytes() == segments.full(segments.name(1))


def test_a_second_name_of_an_archived_file_is_never_written_to(primary: Primary) -> None:
    """What is left by one who was killed between link() and unlink(), under each temporary name, by its own process id too."""
    content = primary.write(NAME)
    kept = segments.put(primary.archive, BEFORE, segments.full(BEFORE))
    os.link(kept, primary.archive / f"{NAME}.pystandby")
    program = injected.program(
        primary.folder,
        f"os.link({str(kept)!r}, {str(primary.archive / NAME)!r} + '.pystandby.' + str(os.getpid()))",
    )
    assert primary.put(NAME, program=program) == (0, "", "")
    assert (primary.archive / NAME).read_bytes() == content
    assert kept.read_bytes() == segments.full(BEFORE)


def test_sigterm_ends_it_at_once(primary: Primary) -> None:
    primary.write(NAME)
    go = primary.folder / "go"
    held = injected.program(primary.folder, f"os.link = hanging(os.link, {str(primary.archive)!r}, {str(go)!r})")
    with start(*primary.words(NAME), cwd=primary.data.path, program=held) as running:
        wait_until(lambda: Path(f"{go}.reached").exists(), "it has its copy")
        running.signal(signal.SIGTERM)
        assert running.result().status == -signal.SIGTERM
    assert primary.put(NAME) == (0, "", "")
    assert primary.archived() == [NAME]


@pytest.mark.parametrize("verb", ["archive", "archive-cleanup"])
def test_sigterm_to_the_launcher_ends_python_too(primary: Primary, verb: str) -> None:
    """What goes on as an orphan would work beside the archiver's next call, or remove what is wanted by then."""
    primary.write(NAME)
    (primary.archive / "00000001000000000000000A").touch()
    go = primary.folder / "go"
    call = "os.link" if verb == "archive" else "os.unlink"
    held = injected.program(primary.folder, f"{call} = hanging({call}, {str(primary.archive)!r}, {str(go)!r})")
    programs = primary.folder / "bin"
    programs.mkdir()
    shutil.copy(PYSTANDBY, programs)
    (programs / "pystandby-python").write_text(f'#!/bin/sh\nexec {shlex.join(map(str, held))} "$@"\n')
    (programs / "pystandby-python").chmod(0o755)
    words = primary.words(NAME) if verb == "archive" else [verb, primary.archive, "00000001000000000000000B"]
    with start(*words, cwd=primary.data.path, program=[programs / "pystandby"]) as running:
        wait_until(lambda: Path(f"{go}.reached").exists(), "it is in the middle of its work")
        running.signal(signal.SIGTERM)
        assert running.result().status == -signal.SIGTERM
        wait_until(lambda: session(running.pid) == [], "Python has ended too")


@pytest.mark.parametrize("link", ["hard", "symbolic", "folder"])
def test_a_link_to_the_file_in_pg_wal_is_no_copy(primary: Primary, link: str) -> None:
    """The server recycles what is archived, and overwrites it under every name that it has."""
    primary.write(NAME)
    archive = primary.archive
    if link == "hard":
        os.link(primary.data.wal / NAME, archive / NAME)
    elif link == "symbolic":
        (archive / NAME).symlink_to(primary.data.wal / NAME)
    else:
        archive = primary.folder / "link"
        archive.symlink_to(primary.data.wal)
    assert is_refused(primary.put(NAME, archive), "is a link, and no copy", "Remove the link")


# What fails ---------------------------------------------------------------------------------------------------------------


def test_an_archive_that_cannot_be_written(primary: Primary) -> None:
    primary.write(NAME)
    primary.archive.chmod(0o500)
    try:
        assert is_refused(primary.put(NAME), "Permission denied", "The file stays in pg_wal, and the server tries again.")
    finally:
        primary.archive.chmod(0o700)
    assert primary.put(NAME) == (0, "", "")


def test_no_room(primary: Primary) -> None:
    primary.write(NAME)
    limited: list[Argument] = ["/bin/sh", "-c", 'ulimit -f 100; exec "$@"', "sh", PYSTANDBY]
    assert is_refused(primary.put(NAME, program=limited), "File too large")
    assert primary.archived() == []


@pytest.mark.parametrize("call", ["os.fsync", "os.link", "os.listdir"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "ESTALE", "EDQUOT"])
def test_whatever_fails(primary: Primary, call: str, error: str) -> None:
    primary.write(NAME)
    program = injected.program(primary.folder, f"{call} = failing({call}, {str(primary.archive)!r}, errno.{error})")
    assert is_refused(primary.put(NAME, program=program), f'could not archive {NAME} in "{primary.archive}"')
    assert primary.archived() in ([], [NAME])
    assert primary.put(NAME) == (0, "", "")
    assert primary.archived() == [NAME]


def test_a_file_that_is_not_there(primary: Primary) -> None:
    assert is_refused(primary.put(NAME), f'"pg_wal/{NAME}" cannot be read: No such file or directory')


CASES: list[tuple[list[str], str]] = [
    (["archive"], "missing argument"),
    (["archive", "{a}"], "missing argument"),
    (["archive", "{a}", "pg_wal/{n}"], "missing argument"),
    (["archive", "{a}", "{n}", "pg_wal/{n}"], "HINT:  The order is: pystandby archive ARCHIVE... %p %f."),
    (["archive", "{a}", "pg_wal/{n}", "x"], '"x" is not the name of a WAL file'),
    (["archive", "{a}", "pg_wal/{n}", "../{n}"], "is not the name of a WAL file"),
    (["archive", "{a}", "", "{n}"], "must not be empty"),
    (["archive", "", "pg_wal/{n}", "{n}"], "must not be empty"),
    (["archive", "-x", "{a}", "pg_wal/{n}", "{n}"], 'unknown option "-x"'),
    (["archive", "--verify", "perhaps", "{a}", "pg_wal/{n}", "{n}"], "must be one of header, none"),
    (["archive", "--help", "{a}", "pg_wal/{n}", "{n}"], "help or version was asked for in place of an archive_command"),
    (["archive", "{a}", "pg_wal/{n}", "{n}", "-?"], "Nothing was archived."),
]


@pytest.mark.parametrize(("words", "text"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_usage_error(primary: Primary, words: list[str], text: str) -> None:
    primary.write(NAME)
    line = [word.format(a=primary.archive, n=NAME) for word in words]
    assert is_refused(run(*line, cwd=primary.data.path), text)
    assert primary.archived() == []


@pytest.mark.parametrize("name", ["archive", "archive-cleanup", "recovery-end"])
def test_a_restore_from_a_folder_of_that_name_does_not_end_recovery(primary: Primary, name: str) -> None:
    # As an archive_command it would end in 1.
    (primary.data.path / name).mkdir()
    for words in ([NAME, "pg_wal/RECOVERYXLOG"], [NAME, "pg_wal/RECOVERYXLOG", "0" * 24], ["-x", NAME, "pg_wal/RECOVERYXLOG"]):
        result = run(name, *words, cwd=primary.data.path)
        assert result.status == 200
        assert f'write "./{name}"' in result.stderr
    assert not (primary.data.wal / "RECOVERYXLOG").exists()


# No status but 0 and 1 ------------------------------------------------------------------------------------------------------

ARCHIVING = sorted(path.stem for path in Path(injected.PYTHON_SCRIPT.parent.parent).glob("lib/*/site-packages/pystandby/*.py"))


def test_a_damaged_module(primary: Primary) -> None:
    content = primary.write(NAME)
    broken = Installation(primary.folder / "broken")
    assert {"archiver", "launch", "osdep"} <= set(ARCHIVING)
    for module in ARCHIVING:
        path = broken.package / f"{module}.py"
        whole = path.read_bytes()
        for damaged in (None, b"(", b"1 // 0"):
            path.unlink(missing_ok=True)
            if damaged is not None:
                path.write_bytes(damaged)
            result = broken.run(*primary.words(NAME), cwd=primary.data.path)
            assert result.status in (0, 1), (module, result)
            assert result.status == 1 or (primary.archive / NAME).read_bytes() == content
            assert (result.status == 0) == (result.stderr == "")
            (primary.archive / NAME).unlink(missing_ok=True)
        path.write_bytes(whole)
    assert broken.run(*primary.words(NAME), cwd=primary.data.path) == (0, "", "")


@pytest.mark.parametrize(
    "raised", ["1 // 0", "raise SystemExit(0)", "raise SystemExit(255)", "raise MemoryError", "raise KeyboardInterrupt"]
)
def test_a_defect(primary: Primary, raised: str) -> None:
    primary.write(NAME)
    broken = Installation(primary.folder / "broken")
    with (broken.package / "archiver.py").open("a") as file:
        file.write(f"\n\ndef put(*arguments):\n    {raised}\n")
    result = broken.run(*primary.words(NAME), cwd=primary.data.path)
    assert result.status == 1
    assert "ERROR:" in result.stderr
    assert "restored" not in result.stderr


@pytest.mark.parametrize("verb", ["archive", "archive-cleanup", "recovery-end"])
@pytest.mark.parametrize("module", [[PYSTANDBY], [PYSTANDBY.with_name("python"), "-m", "pystandby"]])
def test_the_whole_package_is_missing(primary: Primary, verb: str, module: list[Path]) -> None:
    broken = Installation(primary.folder / "broken")
    (broken.package / "launch.py").unlink()
    program = [broken.bin / path.name if isinstance(path, Path) else path for path in module]
    words: list[Argument] = [verb, primary.archive, f"pg_wal/{NAME}", NAME]
    assert run(*words, program=program, cwd=primary.data.path).status == 1
    assert run(verb, NAME, "pg_wal/RECOVERYXLOG", program=program, cwd=primary.data.path).status == 202


@pytest.mark.parametrize("verb", ["archive", "archive-cleanup", "recovery-end"])
def test_no_launch_failure_is_above_125(primary: Primary, verb: str) -> None:
    """Without an interpreter, or half of the executable: 127 would take down a server that has just been promoted."""
    words: list[Argument] = [verb, primary.archive, f"pg_wal/{NAME}", NAME]
    broken = Installation(primary.folder / "broken")
    broken.python.unlink()
    assert broken.run(*words, cwd=primary.data.path).status == 1
    assert broken.run(verb, NAME, "pg_wal/RECOVERYXLOG", cwd=primary.data.path).status > 125
    broken.python.write_text("not a program")
    broken.python.chmod(0o755)
    assert broken.run(*words, cwd=primary.data.path).status == 1
    # As by the out-of-memory killer.
    broken.python.write_text("#!/bin/sh\nkill -9 $$\n")
    assert broken.run(*words, cwd=primary.data.path).status == 1
    (broken.bin / "pystandby-python").unlink()
    assert broken.run(*words, cwd=primary.data.path).status == 1


# What it costs the primary ----------------------------------------------------------------------------------------------------

OURS = {
    "pystandby",
    "pystandby.archive",
    "pystandby.archiver",
    "pystandby.argv",
    "pystandby.asker",
    "pystandby.exits",
    "pystandby.launch",
    "pystandby.options",
    "pystandby.osdep",
    "pystandby.place",
    "pystandby.ready",
    "pystandby.say",
    "pystandby.wal",
}


def test_what_it_imports(primary: Primary) -> None:
    primary.write(NAME)
    for _ in range(2):
        result = run(*primary.words(NAME), cwd=primary.data.path, program=script())
        assert result.status == 0
        assert told(result) == []
        modules = imported(result) - bare()
        assert {module for module in modules if module.startswith("pystandby")} == OURS
        assert modules - OURS <= STANDARD
        assert not modules & TOO_DEAR


# Real servers ---------------------------------------------------------------------------------------------------------------


def archiving(server: Server, *archives: Path, options: str = "") -> Server:
    """Have a server archive with the command under test."""
    folders = " ".join(map(str, archives))
    server.configure({"archive_mode": True, "archive_command": f"{PYSTANDBY} archive {options} {folders} %p %f"})
    return server


def until_archived(server: Server, segment: str) -> None:
    def archived() -> bool:
        return server.sql(f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver") == [(True,)]

    eventually(archived, f"{segment} is archived", tell=server.tell)


def write_and_switch(server: Server, rows: int = 2000) -> str:
    """Add rows, have them archived, and return the last segment with them."""
    server.sql(f"INSERT INTO ledger (note) SELECT repeat(md5(i::text), 8) FROM generate_series(1, {rows}) i")
    ((segment,),) = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    until_archived(server, str(segment))
    return str(segment)


@pytest.mark.timeout(300)
@scenario("pystandby archive")
def test_a_standby_lives_on_what_it_archives(scene: Scene) -> None:
    scene.feed(to=scene.stock.last)
    second = scene.folder / "second"
    second.mkdir()
    primary = archiving(scene.primary(), scene.archive, second).begin()
    standby = scene.standby(settings=scene.seen_at_once).begin()
    for _ in range(3):
        write_and_switch(primary)
        standby.until_rows(primary.rows())
    (archived,) = primary.sql("SELECT archived_count > 0, failed_count FROM pg_stat_archiver")
    assert archived == (True, 0)
    written = [name for name in os.listdir(second) if len(name) == 24]
    assert len(written) >= 3
    for name in written:
        assert (second / name).read_bytes() == (scene.archive / name).read_bytes()
    assert not [name for name in os.listdir(second) if "pystandby" in name]
    assert "archive command failed" not in primary.log_text()


@pytest.mark.timeout(300)
def test_the_old_primary_comes_back(scene: Scene) -> None:
    """After a failover to a standby that archives to the same folder, the old primary is started by mistake."""
    scene.feed(to=scene.stock.last)
    primary = archiving(scene.primary(), scene.archive).begin()
    standby = archiving(scene.standby(settings=scene.seen_at_once), scene.archive).begin()
    last = write_and_switch(primary)
    rows = primary.rows()
    standby.until_rows(rows)
    primary.stop("immediate")
    scene.trigger()
    standby.until_promoted(rows)
    first = write_and_switch(standby)
    assert first.startswith("00000002")
    assert (scene.archive / "00000002.history").exists()
    before = sorted(os.listdir(scene.archive))
    primary.begin()
    primary.sql("INSERT INTO ledger (note) VALUES ('lost')")
    primary.sql("SELECT pg_switch_wal()")
    primary.until_log("has left timeline 1 at")
    primary.until_log("archive command failed with exit code 1")
    assert "HINT:  Stop this server, and make it a standby again" in primary.log_text()
    # Its archiver goes on trying, and the new primary goes on archiving.
    assert "archiver process" not in primary.log_text().rpartition("database system was interrupted")[2]
    write_and_switch(standby)
    old = {name for name in set(os.listdir(scene.archive)) - set(before) if name.startswith("00000001")}
    assert not {name for name in old if name > last}


@pytest.mark.timeout(300)
def test_after_a_crash_the_server_archives_again_what_is_there(scene: Scene) -> None:
    scene.feed(to=scene.stock.last)
    primary = archiving(scene.primary(), scene.archive).begin()
    segment = write_and_switch(primary)
    primary.stop("immediate")
    # As if the crash had come before the archiver could note it.
    status = primary.data_directory / "pg_wal" / "archive_status"
    (status / f"{segment}.done").rename(status / f"{segment}.ready")
    primary.begin()
    eventually((status / f"{segment}.done").exists, "it is archived again", tell=primary.tell)
    assert "archive command failed" not in primary.log_text()


@pytest.mark.timeout(300)
def test_no_failure_ends_the_archiver(scene: Scene) -> None:
    """A typing error, and an archive that is away: the server says so, retries, and archives once it is mended."""
    primary = archiving(scene.primary(), scene.archive, options="--no-such-option").begin()
    primary.sql("INSERT INTO ledger (note) VALUES ('x')")
    ((segment,),) = primary.sql("SELECT pg_walfile_name(pg_switch_wal())")
    primary.until_log("archive command failed with exit code 1")
    away = scene.folder / "away"
    scene.archive.rename(away)
    archiving(primary, scene.archive)
    primary.sql("SELECT pg_reload_conf()")
    primary.until_log(f'archive "{scene.archive}" cannot be read: No such file or directory')
    away.rename(scene.archive)
    until_archived(primary, str(segment))
    assert "archiver process" not in primary.log_text()

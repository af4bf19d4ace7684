"""Trigger files that other users make: in a folder of everybody's none of theirs promotes, and no link of theirs leads us astray.

For most of it there must be other users: those tests run as root, pystandby as one user, and what is planted is another's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import injected, segments
from support.command import PYSTANDBY, Argument, Result, Standby, run, start

from pystandby import exits

pytestmark = pytest.mark.faults

NAME = segments.name(5)

SERVER, ATTACKER = 65534, 54321
"""Users; neither needs an entry anywhere."""

_AS_SERVER = f"import os, sys; os.setgroups([]); os.setgid({SERVER}); os.setuid({SERVER}); os.execv(sys.argv[1], sys.argv[1:])"

AS_SERVER: list[Argument] = [sys.executable, "-I", "-c", _AS_SERVER, PYSTANDBY]


@pytest.fixture
def site() -> Iterator[Standby]:
    """A data directory of the server's user, and a trigger in a folder like /tmp: everybody's, sticky, root's."""
    folder = Path(tempfile.mkdtemp(prefix="psb-planted-", dir="/tmp"))
    folder.chmod(0o755)
    standby = Standby(folder)
    for path in (standby.data.path, standby.archive):
        subprocess.run(["chown", "-R", f"{SERVER}:{SERVER}", path], check=True)
    standby.archive.chmod(0o755)
    standby.trigger.parent.chmod(0o1777)
    standby.put(NAME)
    yield standby
    shutil.rmtree(folder)


def ask(site: Standby, *options: Argument) -> Result:
    """As the server's user: the segment is there, so 1 means that a trigger was obeyed."""
    result = run(*site.command(NAME, "-t", site.trigger, *options), cwd=site.data.path, program=AS_SERVER)
    assert result.status in (exits.DELIVERED, exits.END_OF_RECOVERY), result
    assert (site.delivered() is not None) == (result.status == exits.DELIVERED)
    site.restored.unlink(missing_ok=True)
    return result


def plant(path: Path, owner: int, word: str = "fast", mode: int = 0o644) -> Path:
    path.write_text(word)
    path.chmod(mode)
    os.chown(path, owner, owner)
    return path


def is_ignored(result: Result, why: str) -> None:
    assert result.status == exits.DELIVERED, result
    assert "is ignored: it " + why in result.stderr
    assert result.stderr.count("WARNING:") == 1
    assert "HINT:  Make it as root or as the server's own user" in result.stderr


@pytest.mark.root
def test_in_a_folder_of_everybody_s_another_user_s_trigger_is_ignored(site: Standby) -> None:
    plant(site.trigger, ATTACKER)
    is_ignored(ask(site), f"belongs to user {ATTACKER}, in a directory that others may write to")
    assert site.trigger.read_text() == "fast"


@pytest.mark.root
def test_trust_trigger_obeys_it(site: Standby) -> None:
    plant(site.trigger, ATTACKER)
    assert ask(site, "--trust-trigger").status == exits.END_OF_RECOVERY


@pytest.mark.root
@pytest.mark.parametrize("owner", [0, SERVER], ids=["root", "server"])
def test_in_a_folder_of_everybody_s_root_s_and_the_server_s_own_count(site: Standby, owner: int) -> None:
    plant(site.trigger, owner)
    assert ask(site).status == exits.END_OF_RECOVERY


@pytest.mark.root
def test_a_trigger_by_root_that_the_server_cannot_write_still_works(site: Standby) -> None:
    """The administrator's: obeyed, not emptied, and that is said."""
    site.trigger.parent.chmod(0o755)
    plant(site.trigger, 0)
    result = ask(site)
    assert result.status == exits.END_OF_RECOVERY
    assert "could not be emptied" in result.stderr
    assert site.trigger.read_text() == "fast"


@pytest.mark.root
def test_an_empty_trigger_by_root_that_the_server_cannot_read_is_smart(site: Standby) -> None:
    plant(site.trigger, 0, "", 0o600)
    (site.archive / NAME).unlink()
    result = run(*site.command(NAME, "-t", site.trigger), cwd=site.data.path, program=AS_SERVER)
    assert result.status == exits.END_OF_RECOVERY


@pytest.mark.root
@pytest.mark.parametrize("owner", [0, SERVER], ids=["root", "server"])
def test_a_link_to_somebody_s_file_is_not_followed(site: Standby, owner: int) -> None:
    """Else a file of the server's own that happens to begin with "fast" could be named, and would be emptied."""
    precious = plant(site.data.path / "precious", owner, "fast asleep", 0o644)
    site.trigger.symlink_to(precious)
    os.lchown(site.trigger, ATTACKER, ATTACKER)
    is_ignored(ask(site), "is a symbolic link, in a directory that others may write to")
    assert precious.read_text() == "fast asleep"


@pytest.mark.root
def test_a_hard_link_to_a_file_of_the_server_s_is_not_obeyed(site: Standby) -> None:
    """It looks as if the server's user had made it."""
    precious = plant(site.data.path / "precious", SERVER, "fast asleep")
    os.link(precious, site.trigger)
    is_ignored(ask(site), "has another name elsewhere, in a directory that others may write to")
    assert precious.read_text() == "fast asleep"


@pytest.mark.root
@pytest.mark.parametrize("kind", ["fifo", "folder", "null device", "zero device"])
def test_what_is_no_plain_file_is_ignored(site: Standby, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(site.trigger)
    elif kind == "folder":
        site.trigger.mkdir()
    else:
        os.mknod(site.trigger, 0o666 | 0o020000, os.makedev(1, 3 if kind == "null device" else 5))
    if kind != "folder":
        os.chown(site.trigger, ATTACKER, ATTACKER)
    is_ignored(ask(site), "is not a plain file")


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o755, 0o700, 0o711, 0o777], ids=oct)
def test_in_a_folder_of_somebody_elses(site: Standby, mode: int) -> None:
    """Whoever owns a folder can write to it: /tmp/pg, made by another user before the administrator came to it."""
    os.chown(site.trigger.parent, ATTACKER, ATTACKER)
    site.trigger.parent.chmod(mode)
    plant(site.trigger, ATTACKER)
    result = ask(site)
    assert result.status == exits.DELIVERED, "planted, and obeyed"
    assert site.trigger.read_text() == "fast"


@pytest.mark.root
def test_a_folder_of_the_server_s_own_trusts_who_may_write_there(site: Standby) -> None:
    """Only root and the server's user may: whoever the file belongs to, one of them has put it there."""
    os.chown(site.trigger.parent, SERVER, SERVER)
    site.trigger.parent.chmod(0o755)
    plant(site.trigger, ATTACKER)
    assert ask(site).status == exits.END_OF_RECOVERY


@pytest.mark.root
def test_a_planted_trigger_is_said_once_while_it_waits(site: Standby) -> None:
    """And one of the server's own, made later, ends the wait."""
    (site.archive / NAME).unlink()
    plant(site.trigger, ATTACKER)
    words = site.command(NAME, "-s", "1", "-t", site.trigger, "-d")
    with start(*words, cwd=site.data.path, program=AS_SERVER) as waiting:
        waiting.until_says("is ignored")
        waiting.until_watching(2)
        site.trigger.unlink()
        plant(site.trigger.with_name("new"), SERVER).rename(site.trigger)
        result = waiting.result()
    assert result.status == exits.END_OF_RECOVERY
    assert result.stderr.count("is ignored") == 1


@pytest.mark.parametrize("swapped", ["link", "hard link", "another file", "gone"])
def test_what_is_put_in_its_place_after_the_look_is_not_emptied(standby: Standby, swapped: str) -> None:
    """A race that an attacker can try as often as they like, here always lost: what is emptied is what was read, or nothing."""
    standby.put(NAME)
    victim, other = standby.folder / "victim", standby.folder / "other"
    victim.write_text("precious")
    if swapped == "link":
        other.symlink_to(victim)
    elif swapped == "hard link":
        os.link(victim, other)
    else:
        other.write_text("precious")
    standby.pull_trigger("fast")
    program = injected.program(
        standby.folder,
        f"""
        def swap_and_open(path, flags, *rest, real=os.open):
            if path == {str(standby.trigger)!r} and flags & os.O_WRONLY:
                if {swapped == "gone"}:
                    os.unlink(path)
                else:
                    os.rename({str(other)!r}, path)
            return real(path, flags, *rest)
        os.open = swap_and_open
        """,
    )
    result = run(*standby.command(NAME, "-t", standby.trigger), cwd=standby.data.path, program=program)
    assert result.status == exits.END_OF_RECOVERY
    assert "could not be emptied" in result.stderr
    assert victim.read_text() == "precious"
    assert swapped == "gone" or standby.trigger.read_text() == "precious"
    assert standby.trigger.exists() == (swapped != "gone")


def test_a_link_at_the_destination_is_replaced_and_not_followed(standby: Standby) -> None:
    """As a left-over RECOVERYXLOG that was a link, or its temporary name."""
    content = standby.put(NAME)
    victim = standby.folder / "victim"
    victim.write_text("precious")
    for name in ("RECOVERYXLOG", "RECOVERYXLOG.pystandby"):
        (standby.data.wal / name).symlink_to(victim)
        assert standby.ask(NAME).status == exits.DELIVERED
        assert victim.read_text() == "precious"
        assert not standby.restored.is_symlink()
        assert standby.delivered() == content
        standby.restored.unlink()

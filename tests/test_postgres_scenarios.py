"""What PostgreSQL's own recovery tests (src/test/recovery/t) check with cp, checked with pystandby, in the mode that each uses.

Written anew; each names the test that it stands for.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess

import pytest
from support import segments
from support.branches import LATEST, make_branch, start_of, text_lsn
from support.command import run
from support.servers import MB, QUICKLY, Scene, Server, archive_command, eventually

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)


def conninfo(server: Server) -> str:
    return f"host={server.socket_directory} port={server.port} user=postgres"


def until_streaming(standby: Server) -> None:
    eventually(
        lambda: standby.sql("SELECT status FROM pg_stat_wal_receiver") == [("streaming",)], "it streams", tell=standby.tell
    )


def test_002_archiving(scene: Scene) -> None:
    """A standby of the archive alone; its commands run when they should; a second one finds the first one's history file."""
    scene.feed(to=3)
    cleaned, ended = scene.folder / "cleaned", scene.folder / "ended"
    first = scene.standby(
        name="first",
        standby_mode=True,
        settings={
            **QUICKLY,
            "archive_cleanup_command": f"echo %r > {cleaned}",
            "recovery_end_command": f"echo ended > {ended}",
        },
    )
    first.configure({"archive_mode": True, "archive_command": archive_command(scene.archive)})
    first.begin()
    first.until_rows(scene.stock.rows[3])
    scene.feed(to=6)
    first.until_rows(scene.stock.rows[6])
    first.sql("CHECKPOINT")
    eventually(cleaned.exists, "archive_cleanup_command has run", tell=first.tell)
    assert not ended.exists()
    first.promote(60)
    first.until_promoted(scene.stock.rows[6])
    eventually(ended.exists, "recovery_end_command has run", tell=first.tell)
    first.sql("SELECT pg_switch_wal()")
    eventually((scene.archive / "00000002.history").exists, "its history file is archived", tell=first.tell)
    second = scene.standby(
        name="second",
        standby_mode=True,
        settings={**QUICKLY, "recovery_end_command": f"{scene.folder}/no-such-command"},
    ).begin()
    second.until_log('restored log file "00000002.history" from archive')
    second.until_rows(first.rows())
    second.promote()
    second.until_log("selected new timeline ID: 3")
    eventually(lambda: "no-such-command" in second.log_text(), "its recovery_end_command fails", tell=second.tell)
    for server in (first, second):
        left = {path.name for path in (server.data_directory / "pg_wal").iterdir()}
        assert not left & {"RECOVERYXLOG", "RECOVERYHISTORY"}, left


@pytest.mark.parametrize("archive_mode", ["on", "always"])
def test_020_archive_status(scene: Scene, archive_mode: str) -> None:
    """A crashed primary's data directory without backup_label, copied cold: what is left to archive is the same as with cp."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    for _ in range(2):
        archived = primary.switch_wal()
    eventually(lambda: primary.sql("SELECT last_archived_wal FROM pg_stat_archiver") != [(None,)], "it archives")
    # From here on nothing can be archived.
    primary.configure({"archive_command": "false"})
    primary.sql("SELECT pg_reload_conf()")
    for _ in range(2):
        primary.switch_wal()
    rows = primary.rows()
    primary.abort()
    found = {}
    for name, command in {"cp": f"cp {scene.archive}/%f %p", "ours": scene.restore_command("--look-ahead", "8")}.items():
        standby = scene._server(name, primary.data_directory)
        standby.configure({"archive_mode": archive_mode})
        standby.make_standby(command, True, **QUICKLY)
        standby.begin()
        standby.until_rows(rows)
        standby.stop()
        status = standby.data_directory / "pg_wal" / "archive_status"
        found[name] = sorted(path.name for path in status.iterdir())
    assert found["ours"] == found["cp"]
    assert [name for name in found["ours"] if name.endswith(".ready")], archived


def test_025_stuck_on_old_timeline(scene: Scene) -> None:
    """A cascade whose archive gets the history file, and never a segment of the new timeline, must go on by streaming."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    first = scene.standby(name="first", standby_mode=True, settings={**QUICKLY, **LATEST, "primary_conninfo": conninfo(primary)})
    only_history = f"case %f in *.history) cp %p {scene.archive}/%f ;; esac"
    first.configure({"archive_mode": True, "archive_command": only_history})
    first.begin()
    until_streaming(first)
    cascade = scene.standby(
        "--look-ahead",
        "8",
        name="cascade",
        standby_mode=True,
        settings={**QUICKLY, **LATEST, "primary_conninfo": conninfo(first)},
    ).begin()
    until_streaming(cascade)
    primary.sql("INSERT INTO ledger (note) VALUES ('before')")
    cascade.until_rows(primary.rows())
    primary.stop("immediate")
    first.promote(60)
    eventually((scene.archive / "00000002.history").exists, "the history file is archived", tell=first.tell)
    first.sql("INSERT INTO ledger (note) VALUES ('after')")
    cascade.until_rows(first.rows())
    assert not list(scene.archive.glob("00000002" + "?" * 16))


def test_028_pitr_timelines(scene: Scene) -> None:
    """The target is in a segment that is there for the newer timeline only, beside a .partial; then on, to a third."""
    scene.feed(to=4)
    branch = make_branch(scene, scene.archive, at=start_of(scene, 4) + MB // 2)
    (scene.archive / scene.stock.names[4]).unlink()
    scene.put(f"{scene.stock.names[4]}.partial", scene.stock.read(4))
    branch.publish(scene)
    third = scene.folder / "third"
    third.mkdir()
    server = scene.standby(
        name="pitr",
        settings={
            **LATEST,
            "recovery_target_lsn": text_lsn(start_of(scene, 4) + MB // 4),
            "recovery_target_action": "promote",
        },
    )
    server.configure({"archive_mode": True, "archive_command": archive_command(third)})
    server.begin()
    eventually(lambda: not server.in_recovery(), "it is promoted", tell=server.tell)
    rows = server.rows()
    assert scene.stock.rows[3] < rows < branch.rows_before
    assert f'restored log file "00000002{scene.stock.names[4][8:]}" from archive' in server.log_text()
    server.sql("INSERT INTO ledger (note) VALUES ('on the third')")
    ((last,),) = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    assert str(last).startswith("00000003")
    eventually((third / str(last)).exists, "it is archived", tell=server.tell)
    server.stop()
    for path in third.iterdir():
        if path.name <= str(last) or path.name.endswith(".history"):
            scene.put(path.name, path.read_bytes())
    again = scene.standby(name="again", settings=LATEST).begin(connections=False)
    again.until_waiting(segments.name(segments.number(str(last)) + 1, timeline=3))
    scene.trigger()
    again.until_promoted(rows + 1, timeline=4)


def test_026_overwrite_contrecord(scene: Scene) -> None:
    """The primary crashes, and the segment in which its last record ends is lost: it goes on behind what there is of that.

    The archive then has a record that never ends, and a page that says so (XLP_FIRST_IS_OVERWRITE_CONTRECORD): all is whole.
    """
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    primary.sql(
        f"""DO $$ BEGIN
        WHILE {MB} - (pg_current_wal_insert_lsn() - '0/0')::int8 % {MB} > 16384 LOOP
            INSERT INTO ledger (note) SELECT repeat(md5(i::text), 8) FROM generate_series(1, 10) i;
        END LOOP; END $$"""
    )
    current = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"
    ((begun,),) = primary.sql(current)
    primary.sql("SELECT pg_logical_emit_message(true, 'test', repeat('xyzxz', 60000))")
    ((ended,),) = primary.sql(current)
    assert segments.number(str(ended)) == segments.number(str(begun)) + 1
    primary.stop("immediate")
    (primary.data_directory / "pg_wal" / str(ended)).unlink()
    primary.begin()
    rows = primary.rows() + 1
    last = primary.switch_wal()
    standby = scene.standby().begin(connections=False)
    standby.until_waiting(last)
    assert f'restored log file "{begun}"' in standby.log_text()
    assert "successfully skipped missing contrecord" in standby.log_text()
    for options in ([], ["--records"]):
        verified = run("verify", *options, scene.archive, as_server=False)
        assert verified.status == 0, verified
    scene.trigger()
    standby.until_promoted(rows)


@pytest.mark.parametrize("label", [True, False], ids=["with-label", "without-label"])
def test_042_low_level_backup(scene: Scene, label: bool) -> None:
    """Copied while it runs, between pg_backup_start and pg_backup_stop; without the label it begins with a crash recovery."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    with primary.connection() as connection:
        connection.execute("SELECT pg_backup_start('sample', true)")
        primary.sql("INSERT INTO ledger (note) VALUES ('during the backup')")
        primary.switch_wal()
        copy = scene.folder / "copy"
        # Files of a server at work go meanwhile, as archive_status/*.ready do: any backup tool goes on without them.
        words = ["cp", "-pR", str(primary.data_directory), str(copy)]
        copying = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        missed = copying.stderr.splitlines()
        assert all(line.endswith(": No such file or directory") for line in missed), missed
        assert copying.returncode == (1 if missed else 0), copying
        ((text,),) = connection.execute("SELECT labelfile FROM pg_backup_stop()").fetchall()
    for name in ("postmaster.pid", "postmaster.opts"):
        (copy / name).unlink(missing_ok=True)
    if label:
        shutil.rmtree(copy / "pg_wal")
        (copy / "pg_wal").mkdir(mode=0o700)
        (copy / "backup_label").write_text(str(text))
    rows = primary.rows()
    standby = scene._server("restored", copy)
    standby.make_standby(scene.restore_command("--look-ahead", "8"))
    standby.configure({"archive_mode": False})
    standby.begin(connections=False)
    standby.until_waiting(primary.switch_wal())
    assert ("starting backup recovery with redo LSN" in standby.log_text() or "BACKUP" in standby.log_text()) == label
    assert ("completed backup recovery" in standby.log_text()) == label
    scene.trigger()
    standby.until_promoted(rows + 1)


def test_043_no_contrecord_switch(scene: Scene) -> None:
    """The archive's last segment breaks off in zeros where a record goes on to the next page; one of two standbys is promoted.

    Both replay what is before it, and the other follows, though it meets the zeros once more on its way.
    """
    content = scene.stock.read(4)
    at = next(
        offset
        for offset in range(MB // 2, MB, 8192)
        # The page begins with the rest of a record.
        if struct.unpack_from("<H", content, offset + 2)[0] & 1
    )
    scene.feed(to=3)
    scene.put(scene.stock.names[4], segments.zeros_from(content, at))
    options = ("-s", "1")
    first = scene.standby(*options, name="first", standby_mode=True, settings={**QUICKLY, **LATEST}).begin()
    second = scene.standby(*options, name="second", standby_mode=True, settings={**QUICKLY, **LATEST}).begin()
    for standby in (first, second):
        standby.until_log("invalid magic number 0000")
        assert re.search(rf"invalid magic number 0000 .*segment {scene.stock.names[4]}.*, offset {at}", standby.log_text())
    assert first.rows() == second.rows()
    assert scene.stock.rows[3] < first.rows() < scene.stock.rows[4]
    first.promote(60)
    first.sql("SELECT pg_switch_wal()")
    first.sql("INSERT INTO ledger (note) SELECT 'on' FROM generate_series(1, 100)")
    second.configure({"primary_conninfo": conninfo(first)})
    second.sql("SELECT pg_reload_conf()")
    second.until_rows(first.rows())


def test_045_archive_restartpoint(scene: Scene) -> None:
    """Restartpoints again and again while many small segments come from the archive, with little room for them in pg_wal."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    primary.sql("CREATE TABLE load (data text)")
    for number in range(40):
        primary.sql("INSERT INTO load SELECT repeat(md5(i::text), 20) FROM generate_series(1, 100) i; SELECT pg_switch_wal()")
        if number % 10 == 0:
            primary.sql("CHECKPOINT")
    # Before the last segment: with wal_log_hints a query may write as much as another one.
    rows = primary.rows() + 1
    end = primary.switch_wal()
    eventually(lambda: primary.sql(f"SELECT last_archived_wal >= '{segments.name(segments.number(end) - 1)}' "
                                   "FROM pg_stat_archiver") == [(True,)], "all is archived", tell=primary.tell)  # fmt: skip
    settings: dict[str, str | int | bool] = {"max_wal_size": "2MB", "min_wal_size": "2MB", "checkpoint_timeout": "30s"}
    standby = scene.standby("--look-ahead", "8", settings=settings).begin()
    standby.until_waiting(end)
    # The load brings restartpoints of its own, and they the pruning.
    standby.until_log("recovery restart point at")
    scene.trigger()
    standby.until_promoted(rows)
    assert len(list((standby.data_directory / "pg_wal").glob("00000001*"))) < 30
    standby.sql("SELECT count(*) FROM load")

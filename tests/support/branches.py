"""New timelines for the tests: made by a server that is promoted, and held back until a test puts them into the archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support import segments
from support.servers import Scene, Server, archive_command, eventually

LATEST: dict[str, str | int | bool] = {"recovery_target_timeline": "latest"}
"""The default from 12 on."""


@dataclass(frozen=True)
class Branch:
    """A timeline that a server has begun: what it archived, and how many rows it had where it began and where it ended.

    ``forked_at`` is the LSN at which it left its parent.
    """

    timeline: int
    server: Server
    folder: Path
    history: str
    names: tuple[str, ...]
    forked_at: int
    rows_before: int
    rows: int

    def publish(self, scene: Scene, *names: str) -> None:
        """Put files of it, all unless told which, into the archive: the history file first."""
        for name in names or (self.history, *self.names):
            scene.put(name, (self.folder / name).read_bytes())


def text_lsn(position: int) -> str:
    """An LSN as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def start_of(scene: Scene, segment: int) -> int:
    """The LSN at which a segment of the stock begins."""
    return segments.number(scene.stock.names[segment], scene.stock.size) * scene.stock.size


def make_branch(scene: Scene, archive: Path, at: int | None = None, timeline: int = 2, name: str = "") -> Branch:
    """Have a server recover from ``archive`` with cp, all of it or up to the LSN ``at``, be promoted, and go on for a while.

    Its new timeline stands in a folder of its own.
    """
    name = name or f"branch{timeline}"
    folder = scene.folder / f"{name}-archive"
    folder.mkdir()
    settings: dict[str, str | int | bool] = dict(LATEST)
    if at is not None:
        settings |= {"recovery_target_lsn": text_lsn(at), "recovery_target_action": "promote"}
    server = scene.standby(name=name, restore_command=f"cp {archive}/%f %p", settings=settings)
    server.configure({"archive_mode": True, "archive_command": archive_command(folder)})
    server.begin()
    eventually(lambda: not server.in_recovery(), f"{name} is promoted", tell=server.tell)
    before = server.rows()
    server.sql("INSERT INTO ledger (note) SELECT 'of another timeline' FROM generate_series(1, 50)")
    ((last,),) = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    assert str(last).startswith(f"{timeline:08X}"), last
    rows = server.rows()
    history = folder / f"{timeline:08X}.history"
    eventually(lambda: history.exists() and (folder / str(last)).exists(), f"{last} is archived", tell=server.tell)
    server.stop()
    # What its shutdown archived behind that holds no rows, and no test waits for it.
    names = tuple(sorted(path.name for path in folder.iterdir() if len(path.name) == 24 and path.name <= str(last)))
    left = [line.split() for line in history.read_text().splitlines() if line.strip()][-1][1]
    high, _, low = left.partition("/")
    return Branch(timeline, server, folder, history.name, names, int(high, 16) << 32 | int(low, 16), before, rows)

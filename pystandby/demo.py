"""The demonstration: a real primary, a real warm standby whose restore_command is this pystandby, and a failover.

It shows on real servers what a person would otherwise have to believe: segments are archived, waited for and restored
while the primary works, a trigger file brings the standby up, and the rows are all there. Everything is made in a
temporary folder and removed again; nothing listens to the network.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from pystandby import osdep
from pystandby.cluster import (
    Account,
    Cluster,
    Installation,
    choose_installation,
    environment,
    give,
    ordinary_account,
    owned_folder,
    run_as,
    shell_words,
    temporary_folder,
)
from pystandby.exits import UNEXPECTED, StandbyError

SUCCESS, FAILURE, INTERRUPTED = 0, 1, 130
"""What demo() returns. No server reads it, so these are a shell's numbers, not those of exits.py."""

SEGMENT_MB = 2
"""Smaller than the usual 16, so that segments come several times a second from a load that leaves the machine usable.
"""

ROWS_PER_BATCH = 1000

BATCH_EVERY_S = 0.125

PATIENCE_S = 60
"""How long anything that should be done in a moment may take on a busy machine."""

SCHEMA = """
    CREATE TABLE ledger (batch int, item int, amount int NOT NULL, note text NOT NULL, PRIMARY KEY (batch, item));
    CREATE TABLE batches (batch int PRIMARY KEY, row_count bigint NOT NULL, amount_sum bigint NOT NULL);
    INSERT INTO batches VALUES (0, 0, 0)
"""

BATCH = """
    BEGIN;
    INSERT INTO ledger SELECT {batch}, i, 1, repeat(md5({batch} || ' ' || i), 6) FROM generate_series(1, {rows}) i;
    UPDATE ledger SET amount = amount + {batch} WHERE batch = {batch} - 1;
    INSERT INTO batches SELECT {batch}, count(*), sum(amount) FROM ledger;
    COMMIT
"""
"""One transaction. What it leaves in `batches` tells what the whole ledger must look like when it, and none after it,
has been replayed: so a standby brought up by a fast trigger can be judged without asking the primary."""

FINGERPRINT = """
    SELECT count(*) || ' ' || coalesce(sum({amount}), 0) || ' '
        || coalesce(md5(string_agg(md5(concat_ws(' ', batch, item, {amount}, note)), '' ORDER BY batch, item)), 'none')
    FROM ledger WHERE batch <= {batch}
"""


def demo(seconds: int = 15, fast: bool = False, postgres: str | None = None, keep: bool = False) -> int:
    """Run the demonstration, telling on stdout what happens; return 0 when the standby came up with the right rows.

    The primary is under load for `seconds`; then the standby is brought up by a smart trigger file, or a `fast` one.
    `postgres` is the major version, or the folder, of the PostgreSQL to use (default: the first that is found). With
    `keep` the folder with both clusters, the archive and the logs stays. Returns 1, with an ERROR on stderr, when
    something went wrong, and 130 after SIGINT or SIGTERM; in every case both servers are stopped.
    """
    with _Signals() as signals:
        show: _Demonstration | None = None
        try:
            if not osdep.LONGEST_SOCKET_PATH:
                raise StandbyError(
                    UNEXPECTED,
                    "the demonstration does not run on Windows",
                    "Its servers are reached through Unix sockets, and run under an ordinary user.",
                )
            account = ordinary_account()
            installation = choose_installation(postgres, account)
            program = _restore_program(account)
            with signals.deferred():
                show = _Demonstration(installation, account, program, max(1, seconds), fast, signals)
            show.run()
            status = SUCCESS
        except StandbyError as error:
            _report(error)
            status = FAILURE
        except BrokenPipeError:
            # Whoever read our output has gone; what Python has buffered for it must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            status = FAILURE
        except _Interrupted as interrupted:
            print(f"\nLOG:  stopping both servers: {interrupted}", file=sys.stderr)
            status = INTERRUPTED
        finally:
            signals.ignore()
            if show:
                show.clean_up(keep)
        if show and keep:
            with contextlib.suppress(BrokenPipeError):
                print(f"Kept, with both servers stopped: {show.folder}", flush=True)
        return status


class _Interrupted(BaseException):
    """A signal asked for the end. Not an Exception: nothing but demo() may catch it."""


class _Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into _Interrupted, except where a server would be lost sight of."""

    CAUGHT = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferring = False
        self._before: list[object] = []

    def __enter__(self) -> _Signals:
        self._before = [signal.signal(number, self._catch) for number in self.CAUGHT]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self.CAUGHT, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if not self._deferring:
            raise _Interrupted(self.received.name)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is only noted; at the end it is acted on."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.received:
            raise _Interrupted(self.received.name)

    def ignore(self) -> None:
        """From now on everything is being stopped already: an impatient second Ctrl-C must not leave half of it."""
        for number in self.CAUGHT:
            signal.signal(number, signal.SIG_IGN)


def _restore_program(account: Account | None) -> list[str]:
    """Return the command line of this pystandby, as a server that runs under `account` can start it."""
    beside = Path(sys.executable).parent / "pystandby"
    started = Path(sys.argv[0])
    if beside.is_file():
        program = [str(beside)]
    elif started.name == "pystandby" and started.is_file():
        program = [str(started.resolve())]  # pip install --user: the script is in another folder than Python
    else:
        program = [sys.executable, "-I", "-m", "pystandby"]
    problem = ""
    try:
        answer = subprocess.run(
            [*program, "--version"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE_S,
            cwd="/",
            env=environment(account),
            **run_as(account),
        )
        if answer.returncode != 0:
            problem = answer.stderr.strip() or f"status {answer.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        who = f"user {account.name}, as whom the servers run," if account else "the server"
        raise StandbyError(
            UNEXPECTED,
            f"{who} cannot start this pystandby",
            f"{' '.join(program)} --version: {problem}",
            f"Install pystandby, with the Python that it uses, where {account.name} can reach it, or run the "
            "demonstration as an ordinary user."
            if account
            else "Install pystandby, for example into a virtual environment.",
        )
    return program


def _report(error: StandbyError) -> None:
    print(f"\nERROR:  {error.message}", file=sys.stderr)
    if error.detail:
        print(f"DETAIL:  {error.detail}", file=sys.stderr)
    if error.hint:
        print(f"HINT:  {error.hint}", file=sys.stderr)


@dataclass
class _Demonstration:
    installation: Installation
    account: Account | None
    program: Sequence[str]
    seconds: int
    fast: bool
    signals: _Signals
    folder: Path = field(init=False)
    batch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder = temporary_folder(self.account)
        self.archive = owned_folder(self.folder / "archive", self.account)
        self.trigger = owned_folder(self.folder / "trigger", self.account) / "failover"
        self.primary = Cluster(self.installation, self.folder, "primary", self.account)
        self.standby = Cluster(self.installation, self.folder, "standby", self.account)
        self.view = _View(sys.stdout)

    def run(self) -> None:
        """Everything from the first server to the comparison of the rows."""
        self.make_primary()
        first = self.make_standby()
        print("Rows of the primary; segments archived, restored and outstanding; rows of the standby:", flush=True)
        began = time.monotonic()
        # The standby comes late, on purpose: so one sees it catch up, and then wait for each segment.
        self.work_until(began + self.seconds / 4, first)
        self.start(self.standby, connections=False)
        self.work_until(began + self.seconds, first)
        if self.fast:
            # What no segment has carried over yet is what a fast failover leaves behind.
            for _ in range(3):
                self.run_batch()
        else:
            self.archive_everything()
        seconds = self.fail_over(first)
        rows = self.compare_after_fast() if self.fast else self.compare_after_smart()
        figures = _Figures(self.archive, self.standby, first)
        self.view.end()
        for title, text in [*figures.lines(), ("failover", self.failover_line(seconds)), ("rows", rows)]:
            print(f"{title:12}{text}")
        print("The standby has taken over.", flush=True)

    def make_primary(self) -> None:
        who = f", as user {self.account.name}" if self.account else ""
        print(f"{self.installation}{who}; everything is in {self.folder}", flush=True)
        self.primary.initdb(segment_mb=SEGMENT_MB if self.installation.version >= 11 else None)
        archive = shell_words(self.archive)
        self.primary.configure(
            {
                "archive_mode": True,
                # Under a temporary name first: nobody must find a segment of which only a part is there.
                "archive_command": f"cp %p {archive}/.%f.part && mv {archive}/.%f.part {archive}/%f",
                "wal_level": "replica",
                "max_wal_senders": 4,
            }
        )
        self.start(self.primary)
        self.primary.psql(SCHEMA)
        print("primary     runs and archives", flush=True)

    def make_standby(self) -> str:
        """Take the base backup, make the standby of it, and return the name of the first segment that it needs."""
        self.primary.take_base_backup(self.standby.data_directory)
        label = (self.standby.data_directory / "backup_label").read_text(encoding="utf-8")
        found = re.search(r"START WAL LOCATION: .* \(file ([0-9A-F]{24})\)", label)
        if not found:
            raise StandbyError(UNEXPECTED, "there is no start of WAL in backup_label", label)
        restore_command = shell_words(*self.program, "-t", self.trigger, self.archive) + " %f %p"
        settings: dict[str, Any] = {
            "recovery_end_command": shell_words("rm", "-f", self.trigger),
            "archive_mode": False,  # or the new primary would archive into the old one's archive
        }
        if self.installation.version >= 15:
            # While restore_command waits, read-ahead keeps the rows of the last segment from being seen.
            settings["recovery_prefetch"] = False
        self.standby.make_standby(restore_command, **settings)
        print(f"standby     base backup taken; restore_command = '{restore_command}'", flush=True)
        return found[1]

    def start(self, cluster: Cluster, connections: bool = True) -> None:
        with self.signals.deferred():
            cluster.launch()
        cluster.wait_for_start(PATIENCE_S, connections)

    # --- the load

    def run_batch(self) -> None:
        self.batch += 1
        self.primary.psql(BATCH.format(batch=self.batch, rows=ROWS_PER_BATCH))

    def work_until(self, end: float, first: str) -> None:
        """Keep the primary under load until the monotonic time `end`, showing how things stand."""
        while time.monotonic() < end:
            next_batch = time.monotonic() + BATCH_EVERY_S
            self.run_batch()
            self.draw(first)
            time.sleep(max(0.0, min(next_batch, end) - time.monotonic()))

    def draw(self, first: str) -> None:
        if not self.view.is_due():
            return
        archived = _archived(self.archive, first)
        text = f"primary {self.batch * ROWS_PER_BATCH:6}  archived {len(archived):3}"
        if not self.standby.log.exists():
            self.view.draw(f"{text}  standby not started")
            return
        restored = _restored(self.standby.log_text())
        outstanding = len(set(archived) - restored.keys())
        try:
            rows = self.standby.psql("SELECT row_count FROM batches ORDER BY batch DESC LIMIT 1", deadline_s=PATIENCE_S)
        except StandbyError:
            if not self.standby.is_running():
                raise self.failure("the standby ended") from None
            rows = "-"  # not consistent yet, or the query was in the way of what is replayed
        self.view.draw(f"{text}  restored {len(restored):3}  outstanding {outstanding:2}  standby {rows:>6}")

    def archive_everything(self) -> None:
        """Have the primary archive all that it has written, and wait until it has."""
        segment = self.primary.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        self.primary.psql("SELECT pg_switch_wal()")
        deadline = time.monotonic() + PATIENCE_S
        while not (self.archive / segment).exists():
            if time.monotonic() > deadline or not self.primary.is_running():
                raise StandbyError(
                    UNEXPECTED,
                    f"the primary did not archive {segment}",
                    f"The end of its log:\n{self.primary.log_tail()}",
                )
            time.sleep(0.01)

    # --- the failover

    def fail_over(self, first: str) -> float:
        """Create the trigger file, wait until the standby takes writes, and return how long that took, in seconds."""
        new = self.trigger.with_suffix(".new")
        new.write_text("fast\n" if self.fast else "smart\n", encoding="utf-8")
        give(new, self.account)
        began = time.monotonic()
        new.rename(self.trigger)
        while True:
            try:
                self.standby.psql("CREATE TABLE written_after_failover AS SELECT now()", deadline_s=PATIENCE_S)
                return time.monotonic() - began
            except StandbyError as error:
                if not self.standby.is_running():
                    raise self.failure("the standby ended instead of taking over") from error
                if time.monotonic() > began + PATIENCE_S:
                    raise self.failure(
                        f"the standby does not take writes {PATIENCE_S} s after the trigger: {error.detail}"
                    ) from error
            self.draw(first)
            time.sleep(0.01)

    def failover_line(self, seconds: float) -> str:
        left = ", and the trigger file is still there" if self.trigger.exists() else ""
        return f"{'fast' if self.fast else 'smart'} trigger to first write: {seconds:.2f} s{left}"

    def compare_after_smart(self) -> str:
        question = FINGERPRINT.format(amount="amount", batch=self.batch)
        ours, theirs = self.primary.psql(question), self.standby.psql(question)
        if ours != theirs:
            raise self.failure(
                f"the rows differ: the primary has {ours}, the standby {theirs} (rows, sum of amounts, hash of all)"
            )
        count, _, fingerprint = ours.split()
        return f"{count} on both servers, identical in all columns (md5 {fingerprint[:12]}...)"

    def compare_after_fast(self) -> str:
        """Judge whether the standby has everything up to some transaction and nothing after it; say what it lacks."""
        last = int(self.standby.psql("SELECT max(batch) FROM batches"))
        # Amounts change in the next batch, so only the standby's own record of that moment can vouch for them ...
        found = self.standby.psql(
            "SELECT (SELECT count(*) FROM batches) - 1, count(*), coalesce(max(batch), 0), coalesce(sum(amount), 0) FROM ledger"
        )
        row_count, amount_sum = self.standby.psql(f"SELECT row_count, amount_sum FROM batches WHERE batch = {last}").split("|")
        expected = f"{last}|{row_count}|{last}|{amount_sum}"
        # ... while everything else can be compared with the primary.
        question = FINGERPRINT.format(amount="1", batch=last)
        ours, theirs = self.primary.psql(question), self.standby.psql(question)
        if found != expected or ours != theirs:
            raise self.failure(
                f"the standby's rows are not those of any moment: it has {found} where batch {last} left {expected}"
                f" (batches, rows, last batch, sum); up to there the primary has {ours}, the standby {theirs}"
            )
        left = (self.batch - last) * ROWS_PER_BATCH
        return (
            f"{row_count} on the standby: exactly the first {last} of {self.batch} transactions; {left} rows were left"
            " behind, as a fast trigger asks"
        )

    def failure(self, message: str) -> StandbyError:
        return StandbyError(
            UNEXPECTED,
            message,
            f"The end of the standby's log:\n{self.standby.log_tail(30)}\n"
            f"The end of the primary's log:\n{self.primary.log_tail(10)}",
        )

    def clean_up(self, keep: bool) -> None:
        """Stop both servers at once, and remove the folder unless it is to be kept."""
        with contextlib.suppress(OSError):
            self.view.end()
        for cluster in (self.standby, self.primary):
            try:
                # Nothing is lost by it: what is kept recovers when it is started again.
                cluster.stop("immediate")
            except (StandbyError, OSError, subprocess.SubprocessError) as error:
                print(f"WARNING:  {cluster.name} was killed: {error}", file=sys.stderr)
                cluster.kill()
        left = _wait_for_processes_in(self.folder)
        if left:
            print(f"WARNING:  these processes of the servers still run: {left}", file=sys.stderr)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.folder.exists():
                print(f'WARNING:  could not remove "{self.folder}"', file=sys.stderr)


# --- what there is to see --------------------------------------------------------------------------------------------


class _View:
    """One line that tells how things stand: drawn over itself on a terminal, a new one each second elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._began = time.monotonic()
        self._next = 0.0
        self._open = False

    def is_due(self) -> bool:
        """Tell whether it is time to draw again."""
        return time.monotonic() >= self._next

    def draw(self, text: str) -> None:
        """Show `text`, and the seconds since the beginning before it."""
        now = time.monotonic()
        every = 0.25 if self._terminal else 1
        self._next = now + every - (now - self._began) % every
        text = f"{now - self._began:3.0f} s  {text}"
        if self._terminal:
            # A line that wraps cannot be drawn over.
            text = text[: shutil.get_terminal_size().columns - 1]
            self._stream.write(f"\r\x1b[K{text}")
            self._open = True
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the last state standing; what is printed next begins on a line of its own."""
        if self._open:
            self._open = False
            self._stream.write("\n")
            self._stream.flush()


def _archived(archive: Path, first: str) -> dict[str, float]:
    """The segments in the archive from `first` on, in order, each with the time when it got its name there."""
    with os.scandir(archive) as entries:
        found = {
            entry.name: entry.stat().st_ctime
            for entry in entries
            if len(entry.name) == 24 and entry.name[:8] == first[:8] and entry.name >= first
        }
    return dict(sorted(found.items()))


_RESTORED = re.compile(r'^(\S+ \S+) UTC \[\d+\] LOG:  restored log file "([0-9A-F]{24})" from archive$', re.MULTILINE)


def _restored(log: str) -> dict[str, float]:
    """The segments that the server says it restored, in order, each with the time when it first did."""
    result: dict[str, float] = {}
    for moment, name in _RESTORED.findall(log):
        then = datetime.strptime(moment, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
        result.setdefault(name, then.timestamp())
    return result


class _Figures:
    """What the archive and the standby's log tell about the segments."""

    def __init__(self, archive: Path, standby: Cluster, first: str) -> None:
        self.archived = _archived(archive, first)
        self.restored = _restored(standby.log_text())
        self.megabytes = max((archive / name).stat().st_size for name in self.archived) >> 20
        self.caught_up: list[float] = []
        self.delivered: list[float] = []
        before = None
        for name, moment in self.restored.items():
            arrived = self.archived.get(name)
            if before is not None and arrived is not None:
                if arrived <= before:
                    # It was there already when the server had got the one before: this is replay and restore, no
                    # waiting.
                    self.caught_up.append(moment - before)
                else:
                    self.delivered.append(moment - arrived)
            before = moment

    def lines(self) -> list[tuple[str, str]]:
        """Return the figures as titles and texts."""
        came = f"{len(self.archived)} of {self.megabytes} MB archived since the base backup"
        return [
            ("segments", f"{came}, {len(self.restored)} restored"),
            (
                "catching up",
                f"{len(self.caught_up)} were there already: {_milliseconds(self.caught_up)} each, with replay",
            ),
            ("following", f"{len(self.delivered)} waited for: {_milliseconds(self.delivered)} from archive to server"),
        ]


def _milliseconds(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values) * 1000:.0f} ms (median; at most {max(values) * 1000:.0f})"


def _wait_for_processes_in(folder: Path, patience_s: float = 5) -> list[int]:
    """Wait until no process works in `folder`; return those that still do; without /proc nobody knows, so none."""
    deadline = time.monotonic() + patience_s
    while True:
        found = []
        for link in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if Path(os.readlink(link)).is_relative_to(folder):
                    found.append(int(link.parent.name))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)

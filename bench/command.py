"""The command line: what is measured how often, as whom, and where the report goes."""

from __future__ import annotations

import argparse
import os
import pickle
import shlex
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from bench import catch_up, chart, hot_path, large_archive, machine, pgpool, reaction, report, verification
from bench.report import Section
from bench.timing import end_all, progress
from bench.workload import SEGMENT, Workload
from pystandby.cluster import Account, Installation, choose_installation, ordinary_account, temporary_folder
from pystandby.exits import UNEXPECTED, StandbyError

PARTS = ("hot-path", "verification", "catch-up", "reaction", "large-archive", "pgpool")

PREFERRED = "16"

INTERRUPTED = 130

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Amounts:
    """How much is measured."""

    rounds: int
    segments: int
    catch_ups: int
    reactions: int
    waiting: float
    files: int
    large_rounds: int
    failovers: int


FULL = Amounts(rounds=60, segments=104, catch_ups=3, reactions=20, waiting=60, files=100_000, large_rounds=40, failovers=7)
QUICK = Amounts(rounds=20, segments=20, catch_ups=1, reactions=5, waiting=10, files=10_000, large_rounds=15, failovers=3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return 0 when everything was measured, whatever came out."""
    options = _parser().parse_args(arguments)
    try:
        account = ordinary_account()
        outcome = _as_account(account, lambda: _measure(options, account))
        if not isinstance(outcome, tuple):
            return outcome
        sections, described = outcome
        print(report.text(sections, described))
        _write(options, sections, described)
    except StandbyError as error:
        _tell(error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=...", description="Measure pystandby beside cp, a bare Python and peers."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer runs over less data, a minute and a half instead of six")
    add("--only", choices=PARTS, action="append", help="measure this part only; may be given several times")
    add("--rounds", type=int, help=f"runs of each restore ({FULL.rounds}; quick: {QUICK.rounds})")
    add("--catch-ups", type=int, help=f"catch-ups of each kind ({FULL.catch_ups}; quick: {QUICK.catch_ups})")
    add("--segments", type=int, help=f"segments of a catch-up ({FULL.segments}; quick: {QUICK.segments})")
    add("--postgres", metavar="VERSION|BINDIR", help=f"the PostgreSQL to use ({PREFERRED}, or else the first that is found)")
    add("--folder", type=Path, help="where to make the data, which are removed again: some 8 GB (the system's temporary folder)")
    add("--output", type=Path, default=Path("build"), help="where to write benchmarks.md and benchmarks.svg (build)")
    return parser


def _write(options: argparse.Namespace, sections: list[Section], described: list[tuple[str, str]]) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    page = report.markdown(sections, described, _command(options), "benchmarks.svg")
    for name, content in (("benchmarks.md", page), ("benchmarks.svg", chart.draw(sections))):
        path = options.output / name
        path.write_text(content, encoding="utf-8")
        progress(f"written: {path}")


def _command(options: argparse.Namespace) -> str:
    """The command that would measure the same elsewhere, where other folders are."""
    words = ["--quick"] if options.quick else []
    for part in options.only or ():
        words += ["--only", part]
    for name in ("rounds", "catch_ups", "segments", "postgres"):
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return "make bench" + (f' ARGS="{shlex.join(words)}"' if words else "")


def _tell(error: StandbyError) -> None:
    print(f"ERROR:  {error.message}", file=sys.stderr)
    for title, text in (("DETAIL", error.detail), ("HINT", error.hint)):
        if text:
            print(f"{title}:  {text}", file=sys.stderr)


# --- in a process of its own -----------------------------------------------------------------------------------------

Outcome = tuple[list[Section], list[tuple[str, str]]]


def _as_account(account: Account | None, work: Callable[[], Outcome]) -> Outcome | int:
    """Do ``work`` in a child that is an ordinary user for good, and leads a session as a startup process does.

    Returns its outcome, or an exit status where it has none. A signal to us ends the child, which cleans up.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # Until both know what to do about them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child == 0:
        os.close(reader)
        _be_child(account, work, os.fdopen(writer, "wb"))
    os.close(writer)

    def forward(_number: int, _frame: FrameType | None) -> None:
        os.kill(child, signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    if not content:
        return os.waitstatus_to_exitcode(status) or 1
    outcome: Outcome = pickle.loads(content)
    return outcome


def _be_child(account: Account | None, work: Callable[[], Outcome], pipe: BinaryIO) -> None:
    """Never return."""
    status = 1
    try:
        os.setsid()
        if account:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            os.environ["HOME"] = "/"
            os.environ.pop("TMPDIR", None)
        os.chdir("/")
        for number in SIGNALS:
            signal.signal(number, _interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        outcome = work()
        pipe.write(pickle.dumps(outcome))
        pipe.close()
        status = 0
    except StandbyError as error:
        _tell(error)
    except KeyboardInterrupt:
        print("LOG:  interrupted: everything is stopped and removed", file=sys.stderr)
        status = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """From now on everything is being stopped and removed: that must not be interrupted."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _measure(options: argparse.Namespace, account: Account | None) -> Outcome:
    """Make the data, measure what was asked for, and remove everything."""
    amounts = QUICK if options.quick else FULL
    rounds = options.rounds or amounts.rounds
    segments = options.segments or amounts.segments
    programs = hot_path.Programs(Path(sys.executable).with_name("pystandby"))
    if not programs.pystandby.exists():
        raise StandbyError(UNEXPECTED, f'pystandby is not installed beside "{sys.executable}"', hint='Use "make bench".')
    installation = _installation(options.postgres)
    folder = temporary_folder(prefix="psb-bench-", base=options.folder)
    parts = options.only or PARTS
    began = time.monotonic()
    neighbours = machine.Neighbours()
    try:
        _check_room(folder, segments)
        described = machine.describe(folder, installation, programs.interpreter)
        if account:
            described.append(("run as", account.name))
        workload = Workload(installation, folder)
        workload.make(max(segments, 12) if "catch-up" in parts else 12)
        sections = []
        copy_ms = 0.0
        if "hot-path" in parts or "verification" in parts:
            hot = hot_path.measure(programs, workload, folder, rounds)
            copy_ms = dict(hot.chart)[hot_path.COPY]
            sections.append(hot)
        if "verification" in parts:
            sections.append(verification.measure(workload, copy_ms, rounds))
        if "catch-up" in parts:
            sections.append(catch_up.measure(programs.pystandby, workload, folder, options.catch_ups or amounts.catch_ups))
        if "reaction" in parts:
            sections.append(reaction.measure(programs.pystandby, workload, folder, amounts.reactions, amounts.waiting))
        if "large-archive" in parts:
            sections.append(large_archive.measure(programs.pystandby, workload, folder, amounts.large_rounds, amounts.files))
        if "pgpool" in parts:
            sections.append(pgpool.measure(folder, amounts.failovers))
        described.append(("duration", f"{time.monotonic() - began:.0f} s in all"))
        described.append(("load during", neighbours.describe()))
        return sections, described
    finally:
        _ignore_signals()
        os.chdir("/")
        end_all()
        _end_processes_in(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            print(f'WARNING:  could not remove "{folder}"', file=sys.stderr)


def _installation(wanted: str | None) -> Installation:
    if wanted:
        return choose_installation(wanted)
    try:
        return choose_installation(PREFERRED)
    except StandbyError:
        return choose_installation()


def _check_room(folder: Path, segments: int) -> None:
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    # The archive, a copy of it, a standby's pg_wal, the tables on both servers.
    needed = 4 * segments * SEGMENT + (2 << 30)
    if free < needed:
        raise StandbyError(
            UNEXPECTED,
            f'there is too little room in "{folder.parent}"',
            f"{needed >> 20} MB are needed, {free >> 20} MB are free.",
            "Name another folder with --folder.",
        )


def _end_processes_in(folder: Path, patience_s: float = 5.0) -> None:
    """Let what still works in our folder, servers and children of pystandby, end; then kill it, by its process ids."""
    deadline = time.monotonic() + patience_s
    number = signal.SIGQUIT  # an immediate shutdown, to a postmaster
    while found := _processes_in(folder):
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        for process in found:
            try:
                os.kill(process, number)
            except (ProcessLookupError, PermissionError):
                pass
        if time.monotonic() > deadline + 1:
            print(f"WARNING:  these processes still run: {found}", file=sys.stderr)
            return
        time.sleep(0.2)


def _processes_in(folder: Path) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(name) != os.getpid():
                place = Path(os.readlink(f"/proc/{name}/cwd").removesuffix(" (deleted)"))
                # A zombie has no command line.
                if place.is_relative_to(folder) and Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
        except OSError:
            continue
    return found

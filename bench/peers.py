"""Other programs for the same task, where they are installed: how each is made to restore one segment from a local folder."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from bench.standby import DESTINATION, Standby
from bench.workload import Workload
from pystandby.cluster import environment

NOT_INSTALLED = "not installed"


def find_peers(standby: Standby, workload: Workload, name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The peers that can restore the named segment, with the command for the shell; and the others, with the reason."""
    able: list[tuple[str, str]] = []
    unable: list[tuple[str, str]] = []
    for title, program, command in (
        ("pg_standby", "pg_standby", _pg_standby),
        ("pgBackRest archive-get", "pgbackrest", _pgbackrest),
        ("barman-wal-restore, spool hit", "barman-wal-restore", _barman),
    ):
        found = shutil.which(program)
        try:
            if found is None:
                unable.append((title, NOT_INSTALLED))
            else:
                able.append((f"{title}{_version(found)}", command(found, standby, workload, name)))
        except (OSError, subprocess.SubprocessError) as failure:
            said = getattr(failure, "stdout", "") or getattr(failure, "stderr", "") or str(failure)
            unable.append((title, f"cannot be set up ({said.strip().splitlines()[0][:60].strip()})"))
    return able, unable


def _version(program: str) -> str:
    """The first word with a point in what it says of its version, in parentheses; nothing if there is none."""
    said = subprocess.run(
        [program, "--version"], check=False, capture_output=True, text=True, env=environment(), timeout=60
    ).stdout
    return next((f" ({part})" for part in said.split() if part[0].isdigit() and "." in part), "")


def _pg_standby(program: str, standby: Standby, _: Workload, name: str) -> str:
    return shlex.join([program, "-t", str(standby.trigger), str(standby.archive), name, DESTINATION, name])


def _pgbackrest(program: str, standby: Standby, workload: Workload, name: str) -> str:
    """Its repository, without compression, on the same file system."""
    place = standby.folder / "pgbackrest"
    start = [program, "--stanza=bench", f"--repo1-path={place}/repository", f"--pg1-path={workload.backup}", "--config=/dev/null"]
    start += ["--log-level-console=warn", "--log-level-file=off", f"--lock-path={place}/lock"]
    _run([*start, "--no-online", "stanza-create"])
    segment = workload.backup / "pg_wal" / name
    shutil.copy2(workload.archive / name, segment)
    _run([*start, "--compress-type=none", "archive-push", str(segment)])
    segment.unlink()
    start[3] = f"--pg1-path={standby.data}"
    return shlex.join([*start, "archive-get", name, DESTINATION])


def _barman(program: str, standby: Standby, workload: Workload, name: str) -> str:
    """Its quickest case, with no other host asked: the segment is in its spool."""
    spool = standby.folder / "barman"
    spool.mkdir()
    segment = shlex.quote(str(workload.archive / name))
    # The hit uses the file up, so a new one is linked there each time: 0.5 ms of what this takes.
    hit = shlex.join([program, "--parallel", "2", "--spool-dir", str(spool), "localhost", "bench", name, DESTINATION])
    return f"ln {segment} {shlex.quote(str(spool))}/{name} && exec {hit}"


def _run(command: list[str]) -> None:
    folder = Path("/")
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=environment(), timeout=60)

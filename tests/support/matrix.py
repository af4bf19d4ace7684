"""The matrix of servers and scenarios: what a standby must do on every version of PostgreSQL. PYTEST_DONT_REWRITE

    @scenario("smart failover")                         in a test module: the test belongs to this row of the matrix,
    def test_x(scene: Scene) -> None:                   and runs on those servers only where SCENARIOS says that the row exists

    pytest -m scenario --matrix FILE                    on every version, not on 16 and 18 alone
    pytest -m scenario --matrix FILE --without 10       but for this one

The run ends with a table. A server that is absent, and a cell without a test, make it fail. FILE gets the table as it stands
in docs/compatibility.md, when nothing was left out and nothing failed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pystandby.cluster import environment
from pystandby.exits import StandbyError
from support import npm_servers
from support.installations import DEBIANS, installation_named, version_of

COMMITTED_PAGE = Path("docs") / "compatibility.md"

FIRST_LINE, LAST_LINE = "<!-- This table is written by make test-matrix. -->", "<!-- Its end. -->"


@dataclass(frozen=True)
class Scenario:
    """A row: what happens, and the versions, both included, in which PostgreSQL has what it takes."""

    name: str
    since: int = min(npm_servers.VERSIONS)
    until: int = max(npm_servers.VERSIONS)

    def exists_in(self, version: int) -> bool:
        return self.since <= version <= self.until


SCENARIOS = (
    Scenario("base backup by the backup functions"),
    Scenario("base backup by the exclusive backup functions", until=14),
    Scenario("recovery.conf, standby_mode = off", until=11),
    Scenario("recovery.conf, standby_mode = on", until=11),
    Scenario("recovery.signal", since=12),
    Scenario("standby.signal", since=12),
    Scenario("the samples in contrib/linux"),
    Scenario("following a primary at work"),
    Scenario("queries while it waits (hot standby)"),
    Scenario("the last segment is seen before the next one comes"),
    Scenario("with recovery_prefetch the server opens one segment later", since=15),
    Scenario("smart failover"),
    Scenario("fast failover"),
    Scenario("fast failover in the middle of a catch-up"),
    Scenario("MAXWAITTIME"),
    Scenario("SIGUSR1"),
    Scenario("pg_ctl promote"),
    Scenario("pg_promote()", since=12),
    Scenario("recovery_end_command"),
    Scenario("primary killed, its last segment copied by hand"),
    Scenario("archive away while it waits"),
    Scenario("archive away in the middle of a catch-up"),
    Scenario("archive away from before the start"),
    Scenario("torn segment"),
    Scenario("a segment that can never become right"),
    Scenario("stop -m smart"),
    Scenario("stop -m fast"),
    Scenario("stop -m immediate"),
    Scenario("a waiting standby is started again"),
    Scenario("startup process killed"),
    Scenario("postmaster killed"),
    Scenario("restartpoints, and pruning by %r"),
    Scenario("archive_cleanup_command"),
    Scenario("recovery_target_time"),
    Scenario("recovery_target_name"),
    Scenario("recovery_target_lsn"),
    Scenario("recovery_target = immediate"),
    Scenario("a target in the last segment that there is"),
    Scenario("failover before the target is reached"),
    Scenario("restore_command with exec"),
    Scenario("restore_command with ||"),
    Scenario("restore_command with 2>>log"),
    Scenario("restore_command with %% for %"),
    Scenario("a single % in recovery_end_command"),
    Scenario("restore_command changed by a reload"),
    Scenario("look-ahead, taken by the shell"),
    Scenario("standby mode: streaming, archive, streaming"),
    Scenario("standby mode: --promote"),
    Scenario("standby mode: following another through its promotion"),
    Scenario("a new timeline in the archive"),
    Scenario("the same, recovery_target_timeline not set"),
    Scenario("a chain of three promotions"),
    Scenario("pystandby archive"),
    Scenario("pystandby archive-cleanup"),
    Scenario("pystandby recovery-end"),
    Scenario("pystandby trigger"),
)

NAMES = {one.name: one for one in SCENARIOS}


def scenario(*names: str) -> pytest.MarkDecorator:
    """The mark of a test that belongs to these rows; more tests may belong to the same."""
    for name in names:
        if name not in NAMES:
            raise ValueError(f"there is no scenario {name!r}")
    return pytest.mark.scenario(*names)


def all_servers() -> list[str]:
    """What a whole matrix runs on: npm's servers, and Debian's where this machine has it."""
    return [
        *(f"npm{version}" for version in npm_servers.VERSIONS),
        *(f"debian{version}" for version in (15,) if (DEBIANS / str(version) / "bin" / "postgres").exists()),
    ]


# --- pytest ----------------------------------------------------------------------------------------------------------


def add_options(parser: pytest.Parser) -> None:
    """Options for conftest.py to offer."""
    group = parser.getgroup("matrix", "servers and scenarios")
    group.addoption("--matrix", metavar="FILE", help="run on every server, and write the table of scenarios")
    group.addoption("--without", metavar="VERSION", action="append", default=[], help="leave this server out of the matrix")


def configure(config: pytest.Config) -> None:
    """Choose the servers, before a test module asks support.servers for them, and have the run end with the table."""
    config.addinivalue_line(
        "markers", "scenario(name...): a row of the matrix of servers and scenarios; see tests/support/matrix.py"
    )
    if not config.getoption("matrix") or hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(Run(Path(config.getoption("matrix")), config.getoption("without")), "pystandby-matrix")


def choose_tests(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests on servers that lack what their scenario needs; have each report tell what it is about."""
    kept, left_out = [], []
    for item in items:
        names = [name for mark in item.iter_markers("scenario") for name in mark.args]
        if not names:
            kept.append(item)
            continue
        callspec = getattr(item, "callspec", None)
        server = callspec.params.get("stock") if callspec else None
        if server is None:
            raise pytest.UsageError(f"{item.nodeid} belongs to a scenario, but does not use the fixture scene")
        # pytest has something else there when all servers are absent.
        if isinstance(server, str) and all(NAMES[name].exists_in(version_of(server)) for name in names):
            kept.append(item)
            item.user_properties += [("scenario", name) for name in names]
            item.user_properties.append(("server", server))
        else:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@dataclass
class _Cell:
    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


class Run:
    """The matrix of one run, in the process that starts the workers of pytest-xdist."""

    def __init__(self, file: Path, without: list[str]) -> None:
        self.file = file
        self.servers = all_servers()
        self.left_out = [server for server in self.servers if {server, re.sub(r"\D", "", server)} & set(without)]
        unknown = set(without) - set(self.servers) - {re.sub(r"\D", "", server) for server in self.servers}
        if unknown:
            raise pytest.UsageError(f"--without {' '.join(sorted(unknown))}: the servers are {' '.join(self.servers)}")
        self.releases: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self._find, [server for server in self.servers if server not in self.left_out]))
        self.cells: dict[tuple[str, str], _Cell] = defaultdict(_Cell)
        # Workers inherit it.
        os.environ["PYSTANDBY_TEST_POSTGRES"] = " ".join(server for server in self.servers if server in self.releases)

    def _find(self, server: str) -> None:
        try:
            found = installation_named(server)
            answer = subprocess.run(
                [found.program("postgres"), "--version"],
                check=True,
                capture_output=True,
                text=True,
                env=environment(libdir=found.libdir),
            )
            self.releases[server] = answer.stdout.split("(PostgreSQL) ")[1].split()[0]
        except (StandbyError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            self.absent[server] = str(error)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: dict[str, list[str]] = defaultdict(list)
        for name, value in report.user_properties:
            properties[name].append(str(value))
        for server in properties["server"]:
            for name in properties["scenario"]:
                cell = self.cells[name, server]
                if report.passed and report.when == "call":
                    cell.passed.add(report.nodeid)
                elif not report.passed:
                    # A scenario that is skipped was not tried: whatever the reason, its cell must say so.
                    cell.failed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and self.problems():
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        terminalreporter.section("servers and scenarios")
        for line in self.table():
            write(line)
        write("The figures are tests passed; - stands where PostgreSQL does not have what the scenario needs.")
        for problem in self.problems():
            write(f"ERROR:  {problem}", red=True)
        if self.left_out:
            write(f"WARNING:  left out as told: {' '.join(self.left_out)}")
        elif not self.problems():
            self.file.write_text("\n".join(self.markdown()) + "\n")

    def problems(self) -> list[str]:
        """Why this is not a matrix to be content with."""
        result = [f"{server} is absent: {why}" for server, why in sorted(self.absent.items())]
        for server in self.releases:
            for one in SCENARIOS:
                cell = self.cells[one.name, server]
                if one.exists_in(version_of(server)) and not cell.failed and not cell.passed:
                    result.append(f'no test of "{one.name}" ran on {server}')
                elif cell.failed:
                    result.append(f'"{one.name}" on {server}: {", ".join(sorted(cell.failed))}')
        return result

    def text(self, one: Scenario, server: str) -> str:
        """A cell in words."""
        cell = self.cells[one.name, server]
        if not one.exists_in(version_of(server)):
            return "-"
        if server in self.left_out:
            return "left out"
        if server in self.absent:
            return "ABSENT"
        if cell.failed:
            return "FAILED"
        return str(len(cell.passed)) if cell.passed else "NOT RUN"

    def table(self) -> list[str]:
        """The lines of the table for a terminal."""
        rows = [["", *(server.removeprefix("npm") for server in self.servers)]]
        rows.append(["release", *(self.releases.get(server, "?") for server in self.servers)])
        rows += [[one.name, *(self.text(one, server) for server in self.servers)] for one in SCENARIOS]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]

    def markdown(self) -> list[str]:
        """The lines of the table for the page. Without Debian's servers: it would depend on the machine."""
        servers = [server for server in self.servers if server.startswith("npm")]
        rows = [["scenario", *(self.releases[server] for server in servers)], ["---", *("---:" for _ in servers)]]
        rows += [[one.name.replace("|", "\\|"), *(self.text(one, server) for server in servers)] for one in SCENARIOS]
        return [FIRST_LINE, "", *(f"| {' | '.join(row)} |" for row in rows), "", LAST_LINE]

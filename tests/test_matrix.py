"""The matrix of servers and scenarios (support/matrix.py): that it cannot be green without what it stands for, and its page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import matrix, npm_servers
from support.matrix import COMMITTED_PAGE, FIRST_LINE, LAST_LINE, SCENARIOS

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> matrix.Run:
    """A run on 18 alone, of which nothing is known yet."""
    monkeypatch.setenv("PYSTANDBY_TEST_POSTGRES", "")
    return matrix.Run(tmp_path / "table", [server for server in matrix.all_servers() if server != "npm18"])


def report(
    run: matrix.Run, name: str, outcome: str = "passed", when: str = "call", test: str = "test_x", server: str = "npm18"
) -> None:
    """Tell of the end of a test of this scenario, as a worker does."""
    properties: list[tuple[str, object]] = [("scenario", name), ("server", server)]
    one = pytest.TestReport(test, (test, 0, test), {}, outcome, None, when, user_properties=properties)  # type: ignore[arg-type]
    run.pytest_runtest_logreport(one)


def report_all(run: matrix.Run) -> None:
    for one in SCENARIOS:
        if one.exists_in(18):
            report(run, one.name)


def test_the_committed_page_has_today_s_scenarios_and_servers() -> None:
    """make test-matrix writes it anew."""
    page = (ROOT / COMMITTED_PAGE).read_text()
    table = page.partition(FIRST_LINE)[2].partition(LAST_LINE)[0].strip().splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in table]
    assert rows[0][1:] == [".".join(release.split(".")[:2]) for release in npm_servers.VERSIONS.values()]
    assert [row[0].replace("\\|", "|") for row in rows[2:]] == [one.name for one in SCENARIOS]
    for one, row in zip(SCENARIOS, rows[2:], strict=True):
        for version, cell in zip(npm_servers.VERSIONS, row[1:], strict=True):
            assert re.fullmatch(r"[1-9]\d*" if one.exists_in(version) else "-", cell), (one.name, version)


def test_every_test_that_the_page_names_is_there() -> None:
    page = (ROOT / COMMITTED_PAGE).read_text()
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", page)
    assert len(named) > 5
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), test


def test_a_run_with_all_of_its_cells(run: matrix.Run) -> None:
    report_all(run)
    assert run.problems() == []
    lines = run.table()
    assert len(lines) == 2 + len(SCENARIOS)
    by_name = {one.name: line for one, line in zip(SCENARIOS, lines[2:], strict=True)}
    assert re.fullmatch(r"smart failover( +left out){8} +1( +left out)?", by_name["smart failover"])
    assert re.fullmatch(r"recovery\.signal( +-){2}( +left out){6} +1( +left out)?", by_name["recovery.signal"])
    assert re.fullmatch(
        r"recovery\.conf, standby_mode = off( +left out){2}( +-){7,}", by_name["recovery.conf, standby_mode = off"]
    )


def test_the_table_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSTANDBY_TEST_POSTGRES", "")
    run = matrix.Run(tmp_path / "table", [])
    for one in SCENARIOS:
        for server in run.servers:
            if one.exists_in(int(re.sub(r"\D", "", server))):
                report(run, one.name, server=server)
    assert run.problems() == []
    # As it is committed, but for the numbers.
    table = (ROOT / COMMITTED_PAGE).read_text().partition(FIRST_LINE)[2].partition(LAST_LINE)[0].strip().splitlines()
    assert [re.sub(r" [1-9]\d* \|", " 1 |", line) for line in table] == run.markdown()[2:-2]


def test_a_cell_without_a_test_is_a_failure(run: matrix.Run) -> None:
    for one in SCENARIOS[:-1]:
        if one.exists_in(18):
            report(run, one.name)
    assert run.problems() == [f'no test of "{SCENARIOS[-1].name}" ran on npm18']
    assert run.text(SCENARIOS[-1], "npm18") == "NOT RUN"


@pytest.mark.parametrize(
    ("outcome", "when"),
    [("failed", "call"), ("failed", "setup"), ("failed", "teardown"), ("skipped", "setup"), ("skipped", "call")],
)
def test_a_test_that_failed_or_was_skipped_fails_its_cell(run: matrix.Run, outcome: str, when: str) -> None:
    report_all(run)
    report(run, "smart failover", outcome, when, "test_y")
    assert run.problems() == ['"smart failover" on npm18: test_y']
    assert run.text(matrix.NAMES["smart failover"], "npm18") == "FAILED"


def test_what_is_left_out_is_a_server_s_name(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match="--without 9"):
        matrix.Run(tmp_path / "table", ["9"])


def test_a_scenario_that_is_not_in_the_list() -> None:
    with pytest.raises(ValueError, match="there is no scenario"):
        matrix.scenario("smart failovr")


def test_an_absent_server_is_a_failure(tmp_path: Path) -> None:
    """A whole run, on a machine without npm and with nothing fetched before; one server is left out by name."""
    table = tmp_path / "table"
    folder = tmp_path / "bin"
    folder.mkdir()
    without = [option for server in matrix.all_servers() if server.startswith("debian") for option in ("--without", server)]
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            f"--matrix={table}",
            "--without",
            "10",
            *without,
            "-m",
            "scenario",
            "-p",
            "no:cacheprovider",
        ],
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(folder), "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert answer.returncode == 1, answer.stdout + answer.stderr
    for version in range(11, 19):
        assert f"npm{version} is absent: npm is not installed" in answer.stdout
    assert "npm10 is absent" not in answer.stdout
    assert re.search(r"^smart failover +left out +ABSENT", answer.stdout, re.MULTILINE), answer.stdout
    assert "left out as told: npm10" in answer.stdout
    assert not re.search(r"\d (passed|failed|skipped)", answer.stdout), answer.stdout
    assert not table.exists()

"""pystandby report: a drawing that needs nothing else, right however many points there are."""

from __future__ import annotations

import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import segments
from support.command import Argument, Result, Standby, environment, run
from support.servers import Scene

pytest_plugins = ["support.servers"]

NAMES = [segments.name(number) for number in range(20)]

SVG = "{http://www.w3.org/2000/svg}"


def report(*words: Argument) -> Result:
    return run("report", *words, env=environment(), as_server=False)


class Drawing:
    """What a drawing shows, read from its paths: a value for each column that has one."""

    def __init__(self, path: Path) -> None:
        self.root = ElementTree.fromstring(path.read_text())
        assert self.root.tag == f"{SVG}svg"
        self.texts = ["".join(text.itertext()) for text in self.root.iter(f"{SVG}text")]
        ceilings = [text for text, y in self._labels() if y in (44.0, 234.0, 424.0)]
        self.ceilings = dict(zip(("came", "behind", "late"), ceilings, strict=False))
        self.ceilings["restored"] = self.ceilings.get("came", "")

    def _labels(self) -> list[tuple[str, float]]:
        found = self.root.iter(f"{SVG}text")
        return [("".join(text.itertext()), float(text.attrib["y"])) for text in found if text.attrib.get("text-anchor") == "end"]

    def path(self, kind: str) -> str:
        (path,) = [path for path in self.root.iter(f"{SVG}path") if kind in path.attrib["class"].split()]
        return path.attrib["d"]

    def bars(self, kind: str) -> list[float]:
        """The values of a kind of bars, as their heights show them."""
        return [float(height) / 150 * float(self.ceilings[kind]) for height in re.findall(r"v-([0-9.]+)h", self.path(kind))]

    def line(self) -> list[float]:
        """The values of the line of restores, one for each column."""
        floor = 40 + 150
        return [
            (floor - float(y)) / 150 * float(self.ceilings["restored"]) for y in re.findall(r"V([0-9.]+)h", self.path("restored"))
        ]


def drawing_of(target: Path, *words: Argument) -> Drawing:
    assert report(*words, "-o", target) == (0, "", "")
    return Drawing(target)


def test_nothing(standby: Standby) -> None:
    for ending in ("svg", "html"):
        target = standby.folder / f"report.{ending}"
        assert report("--archive", standby.archive, "-o", target) == (0, "", "")
        assert "Nothing has come, and nothing was restored." in target.read_text()
    Drawing(standby.folder / "report.svg")


def test_one(standby: Standby) -> None:
    standby.put(NAMES[5])
    came = int(time.time()) - 30
    os.utime(standby.archive / NAMES[5], (came, came))
    drawing = drawing_of(standby.folder / "report.svg", "--archive", standby.archive)
    assert drawing.ceilings["came"] == "1"
    assert drawing.bars("came") == [1]
    assert set(drawing.line()) == {0}
    # Its only server is not told of yet: nothing is outstanding for nobody.
    assert drawing.bars("behind") == []
    assert standby.ask(NAMES[5], "--look-ahead", "0").status == 0
    drawing = drawing_of(standby.folder / "report.svg", "--archive", standby.archive, "--pgdata", standby.data.path)
    assert drawing.bars("came") == [1]
    assert [value for value in drawing.line() if value] == [1]
    assert max(drawing.bars("behind")) == 1
    (late,) = re.findall(r"v-([0-9.]+)h", drawing.path("late"))
    assert drawing.ceilings["late"] == "50 s"
    assert 30 <= float(late) / 150 * 50 < 50


def test_a_hundred_thousand(standby: Standby) -> None:
    """Over 100000 s, of which the standby has restored the last 1000, each 20 s after it had come."""
    now = int(time.time())
    for number in range(100_000):
        path = standby.archive / segments.name(number)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.utime(path, (now - 100_000 + number,) * 2)
    standby.put(segments.name(0))
    os.utime(standby.archive / segments.name(0), (now - 100_000,) * 2)
    folder = standby.data.wal / ".pystandby"
    folder.mkdir()
    lines = (
        f"{now - 100_000 + number + 20}.0 archive {segments.name(number)} {now - 100_000 + number}\n"
        for number in range(99_000, 100_000)
    )
    (folder / "journal").write_text("".join(lines))
    began = time.monotonic()
    words = ("--archive", standby.archive, "--pgdata", standby.data.path)
    drawing = drawing_of(standby.folder / "report.svg", *words)
    took = time.monotonic() - began
    # About three seconds on an idle processor.
    assert took < 40, took
    assert abs(sum(drawing.bars("came")) - 100_000) < 500
    assert abs(sum(drawing.line()) - 1000) < 50
    assert (standby.folder / "report.svg").stat().st_size < 100_000
    # The last hour: what came before is not drawn.
    before = time.time() - now
    drawing = drawing_of(standby.folder / "report.svg", *words, "--hours", "1")
    assert 3600 - (time.time() - now) - 40 < sum(drawing.bars("came")) < 3600 - before + 40
    assert drawing.ceilings["behind"] == "20"
    assert round(max(drawing.bars("behind"))) in (20, 21)


class _Page(HTMLParser):
    """What a page refers to, and whether its tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [str(value) for name, value in attrs if name in ("src", "href", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [str(value) for name, value in attrs if name in ("src", "href", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_needs_nothing_else_and_believes_no_name(standby: Standby) -> None:
    archive = standby.folder / "<script>alert(1)<\\script>"
    standby.archive.rename(archive)
    segments.put(archive, NAMES[5], segments.full(NAMES[5]))
    folder = standby.data.wal / ".pystandby"
    folder.mkdir()
    (folder / "journal").write_bytes(b'1700000000.0 error 205 <b>\xff\x1b[1m & "quoted"\n')
    target = standby.folder / "report.html"
    assert report("--archive", archive, "--pgdata", standby.data.path, "-o", target) == (0, "", "")
    page = _Page()
    text = target.read_text()
    page.feed(text)
    assert (page.open, page.references) == ([], [])
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text
    assert "<b>" not in text
    assert "\x1b" not in text
    # A drawing by itself is read by the stricter rules of XML.
    assert report("--archive", archive, "--pgdata", standby.data.path, "-o", target.with_suffix(".svg")) == (0, "", "")
    ElementTree.parse(target.with_suffix(".svg"))
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [(["-o", "x.png"], 200, "ends neither in .html nor in .svg"), ([], 200, "-o"), (["-o", "no/such.svg"], 1, "could not write"),
     (["-o", "x.svg", "--hours", "0"], 200, "--hours")],
)  # fmt: skip
def test_bad_input(standby: Standby, words: list[str], status: int, text: str) -> None:
    result = report("--archive", standby.archive, *words)
    assert result.status == status
    assert text in result.stderr
    assert result.stderr.count("ERROR:") == 1
    assert report("-o", "x.svg").status == 1


def test_a_real_standby(scene: Scene) -> None:
    scene.feed(to=7)
    standby = scene.standby(settings=scene.seen_at_once).begin()
    standby.until_waiting(8)
    drawing = drawing_of(scene.folder / "report.svg", "--pgdata", standby.data_directory)
    assert round(sum(drawing.bars("came"))) == 8
    # Each was asked for once, or more than once when the server starts.
    assert round(sum(drawing.line())) == 8
    standby.stop("fast")
    assert report("--pgdata", standby.data_directory, "-o", scene.folder / "report.html").status == 0

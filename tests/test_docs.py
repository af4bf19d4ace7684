"""docs/ has a page for each verb that explains exactly the options that --help lists; the manual pages are made of these."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import debian
from support.command import run

import pystandby

DOCS = Path(__file__).resolve().parent.parent / "docs"

MANUAL = Path(sys.prefix) / "share" / "man" / "man1"
"""Where pip has put the pages that the wheel holds."""

VERBS = sorted(path.name[len("help-") : -len(".txt")] for path in Path(__file__).parent.glob("help-*.txt"))

WITHOUT_EXPLANATION = {"-?", "--help"}
"""What a page need not repeat."""


def help_of(verb: str) -> str:
    result = run(*([verb] if verb else []), "--help")
    assert result.status == 0, result
    return result.stdout


def options_in_help(verb: str) -> set[str]:
    found: set[str] = set()
    for short, long in re.findall(r"^  (?:(-\S), |    )(--[a-z-]+)", help_of(verb), re.MULTILINE):
        found |= {short, long} - {""}
    assert "--help" in found
    return found - WITHOUT_EXPLANATION


def tables_of(page: str) -> list[list[str]]:
    """The rows of all tables whose first column is headed "option"."""
    rows = []
    inside = False
    for line in (DOCS / page).read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        inside = line.startswith("|") and (inside or cells[0] == "option")
        if inside and cells[0] != "option" and not cells[0].startswith("---"):
            rows.append(cells)
    return rows


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_page_explains_the_options_that_help_lists(verb: str) -> None:
    rows = tables_of(f"{verb or 'restore'}.md")
    explained = {option for row in rows for option in re.findall(r"(?<![\w-])--?[a-zA-Z?][a-z-]*", row[0])} - WITHOUT_EXPLANATION
    assert explained == options_in_help(verb)
    assert all(len(row) == 2 and len(row[1]) > 10 for row in rows), rows


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_page_names_values_as_help_does(verb: str) -> None:
    """--sleep SLEEPTIME in the one, --sleep=SLEEPTIME in the other."""
    listed = dict(re.findall(r"^  (?:-\S, |    )(--[a-z-]+)(?:=(\S+))?", help_of(verb), re.MULTILINE))
    rows = [row[0].replace("\\|", "|") for row in tables_of(f"{verb or 'restore'}.md")]
    explained = {long: value for row in rows for long, value in re.findall(r"(--[a-z-]+)(?: ([^`,]+))?`", row)}
    assert explained == {long: value for long, value in listed.items() if long in explained}
    assert len(explained) >= len(listed) - 1


def test_a_page_for_each_verb_and_an_index_of_all_pages() -> None:
    index = (DOCS / "README.md").read_text()
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert {f"{verb}.md" for verb in VERBS} | {"restore.md"} <= pages
    assert set(re.findall(r"\]\(([a-z-]+\.md)\)", index)) == pages


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert len(links) > 20
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


# Manual pages ---------------------------------------------------------------------------------------------------------


def manual_page(verb: str) -> Path:
    return MANUAL / f"pystandby{f'-{verb}' if verb else ''}.1"


def test_a_manual_page_for_each_verb() -> None:
    assert {path.name for path in MANUAL.glob("pystandby*")} == {manual_page(verb).name for verb in ["", *VERBS]}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_manual_page_is_as_a_reader_gets_it(verb: str) -> None:
    """By mandoc, which finds fault with its source, and shows all of it."""
    mandoc = debian.program("mandoc", "mandoc")
    page = manual_page(verb)

    def ask(*words: str) -> str:
        env = {"LC_ALL": "C.UTF-8", **mandoc.environment}
        answer = subprocess.run([mandoc.path, *words, page], check=False, capture_output=True, text=True, env=env)
        return answer.stdout + answer.stderr

    # There is no date in it on purpose: the same source makes the same page.
    faults = [line for line in ask("-T", "lint", "-W", "warning").splitlines() if "missing date" not in line]
    assert faults == []
    shown = re.sub("_\b|.\b(?=.)", "", ask("-T", "utf8", "-O", "width=200"))
    title = f"PYSTANDBY{f'-{verb.upper()}' if verb else ''}(1)"
    assert shown.startswith(title)
    assert f"pystandby {pystandby.__version__}" in shown.splitlines()[-1]
    headings = re.findall(r"^([A-Z][A-Z -]+)$", shown, re.MULTILINE)
    assert headings[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert {"EXIT STATUS", "SEE ALSO"} <= set(headings)
    usage = help_of(verb).partition("Usage:\n  ")[2].partition("\n")[0]
    assert usage in shown
    for option in options_in_help(verb):
        assert re.search(rf"^ +(-\S, )?{option}\b", shown, re.MULTILINE), option
    # Nothing of either markup is left.
    assert not re.search(r"\]\(|\\f|\*\*|`", shown)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_groff_has_no_objection(verb: str) -> None:
    groff = debian.program("groff", "groff-base")
    words: list[str | Path] = [groff.path, "-ww", "-b", "-z", "-man", "-T", "utf8", manual_page(verb)]
    env = {"PATH": "/usr/bin:/bin", **groff.environment}
    if groff.root is not None:
        (share,) = groff.root.glob("usr/share/groff/[0-9]*")
        env |= {"GROFF_TMAC_PATH": f"{share}/tmac", "GROFF_FONT_PATH": f"{share}/font", "GROFF_BIN_PATH": f"{groff.root}/usr/bin"}
    answer = subprocess.run(words, check=False, capture_output=True, text=True, env=env)
    assert (answer.returncode, answer.stderr) == (0, "")

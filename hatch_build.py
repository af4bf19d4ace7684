"""What a wheel holds besides the package: the executable, and manual pages and shells' completions.

There is a wheel for every system, and one for each kind of Windows, which pip takes there: hatchling makes that one where
PYSTANDBY_WHEEL is set to its platform. The executable for Windows is compiled from contrib/windows/pystandby.c by PyPI's
ziglang, on any system.

Each page of docs/ whose title is "pystandby" or "pystandby VERB" becomes share/man/man1/pystandby[-VERB].1. So they cannot say
anything else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Not [project.scripts]: the wrapper that pip writes for those exits with 1 when the package cannot be imported (half upgraded, or
# Python replaced under its venv) or the interpreter cannot start (PYTHONHOME), and PostgreSQL takes 1 for "end of recovery" and
# promotes the standby.
SCRIPT = "contrib/linux/pystandby-python"
SHELL_SCRIPT = "contrib/linux/pystandby"
WINDOWS_SOURCE = "contrib/windows/pystandby.c"

COMPLETION = {
    "contrib/linux/completion/pystandby.bash": "share/bash-completion/completions/pystandby",
    "contrib/linux/completion/_pystandby": "share/zsh/site-functions/_pystandby",
    "contrib/linux/completion/pystandby.fish": "share/fish/vendor_completions.d/pystandby.fish",
}

WINDOWS_TARGETS = {"win_amd64": "x86_64-windows-gnu", "win_arm64": "aarch64-windows-gnu"}
"""zig's name of a platform by that in the name of a wheel."""


class Contents(BuildHookInterface[Any]):
    """The hook that pyproject.toml names for the wheel."""

    def dependencies(self) -> list[str]:
        """What the wheel that is asked for takes to be built, besides what every wheel does."""
        return ["ziglang>=0.13"] if self._platform else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Say what the wheel is to hold; ``version`` is not the program's."""
        folder = tempfile.TemporaryDirectory(prefix="pystandby-build-")
        self.folder = folder  # removed with the hook, when the wheel is there
        build_data["shared_scripts"][SCRIPT] = "pystandby-python"
        if self._platform:
            build_data["tag"] = f"py3-none-{self._platform}"
            executable = Path(folder.name) / "pystandby.exe"
            compile_for_windows(Path(self.root) / WINDOWS_SOURCE, executable, WINDOWS_TARGETS[self._platform])
            build_data["shared_scripts"][str(executable)] = executable.name
            return
        build_data["shared_scripts"][SHELL_SCRIPT] = "pystandby"
        build_data["shared_data"].update(COMPLETION)
        for name, text in pages(Path(self.root) / "docs", self.metadata.version).items():
            page = Path(folder.name) / f"{name}.1"
            page.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(page)] = f"share/man/man1/{page.name}"

    @property
    def _platform(self) -> str:
        platform = os.environ.get("PYSTANDBY_WHEEL", "")
        if platform and platform not in WINDOWS_TARGETS:
            raise ValueError(f"PYSTANDBY_WHEEL: {platform} is none of {', '.join(WINDOWS_TARGETS)}")
        return platform


def compile_for_windows(source: Path, executable: Path, target: str) -> None:
    """Make an executable for Windows, on any system. Raises CalledProcessError."""
    options = ["-target", target, "-municode", "-Os", "-s", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *options, "-o", executable, source], check=True)


def pages(folder: Path, version: str) -> dict[str, str]:
    """The manual pages, by name, that a folder of documents makes; ``version`` is the program's, for their footers."""
    sources: dict[str, str] = {}
    for path in sorted(folder.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        title = re.match(r"# (pystandby(?: [a-z-]+)?)\n", text)
        if title:
            sources[title[1].replace(" ", "-")] = text
    names = {f"{name.removeprefix('pystandby-')}.md": name for name in sources} | {"restore.md": "pystandby"}
    return {name: _Page(name, text, names, version).text() for name, text in sources.items()}


class _Page:
    """One page. ``names`` are the manual pages' names by file in docs/."""

    def __init__(self, name: str, text: str, names: dict[str, str], version: str) -> None:
        from markdown_it import MarkdownIt

        self.name = name
        self.names = names
        self.version = version
        self.tokens = MarkdownIt("commonmark").enable("table").parse(text)
        self.lines: list[str] = []

    def text(self) -> str:
        """The page in the macros of man(7)."""
        # Behind the title: what it is; among the first code how it is called.
        summary = next(token for token in self.tokens[3:] if token.type == "inline")
        sentence = re.split(r"[.:](?:\s|$)", _plain(summary))[0]
        calls = next(token for token in self.tokens if token.type == "code_block" and "[OPTION]" in token.content)
        heading = f'.TH {self.name.upper()} 1 "" "pystandby {self.version}" "pystandby"'
        self.lines += [heading, ".SH NAME", f"{_escaped(self.name)} \\- {_escaped(sentence)}", ".SH SYNOPSIS", ".nf"]
        for line in re.findall(r".*\[OPTION\].*", calls.content):
            command, _, words = line.partition(" [")
            self.lines.append(f"\\fB{_escaped(command)}\\fR [{_escaped(words)}")
        self.lines += [".fi", ".SH DESCRIPTION"]
        calls.content = re.sub(r"\n*.*\[OPTION\].*", "", calls.content)
        tokens = iter(self.tokens[3:])
        for token in tokens:
            self._block(token, tokens)
        others = sorted(name for name in set(self.names.values()) if name != self.name)
        self.lines += [".SH SEE ALSO", *(f".BR {_escaped(name)} (1){',' * (name != others[-1])}" for name in others)]
        return "\n".join(self.lines) + "\n"

    def _block(self, token: Any, tokens: Iterator[Any]) -> None:
        if token.type == "heading_open":
            title = _plain(next(tokens))
            self.lines.append(f".SH {_escaped(title.upper())}" if token.tag == "h2" else f".SS {_escaped(title)}")
        elif token.type == "paragraph_open":
            text = next(tokens)
            if [child.type for child in text.children or []] == ["image"]:
                # A picture by itself is for those who can see it.
                return
            if self.lines[-1][:3] not in (".SH", ".SS", ".IP"):
                self.lines.append(".PP")
            self._text(text)
        elif token.type in ("code_block", "fence") and token.content.strip():
            self.lines += [".PP"] if self.lines[-1][:3] not in (".SH", ".SS") else []
            self.lines += [".RS 4", ".nf", *map(_line, token.content.rstrip("\n").split("\n")), ".fi", ".RE"]
        elif token.type == "list_item_open":
            mark = f"{token.info}." if token.info else "\\(bu"
            self.lines.append(f".IP {mark} 3")
        elif token.type == "table_open":
            self._table(tokens)
        elif token.type not in (*_ENDS, "code_block"):
            raise ValueError(f"{self.name}: a manual page has no {token.type}")

    def _table(self, tokens: Iterator[Any]) -> None:
        """A row is a term and what it means; of more columns than two, each under its title."""
        titles: list[str] = []
        row: list[Any] = []
        for token in tokens:
            if token.type == "table_close":
                return
            if token.type == "inline":
                row.append(token)
            elif token.type == "tr_close":
                if titles:
                    self.lines.append(".TP")
                    self._text(row[0], bold=True)
                    for number, (title, cell) in enumerate(zip(titles[1:], row[1:], strict=True)):
                        if cell.content and len(row) > 2:
                            self.lines += [".br"] if number and not self.lines[-1].startswith(".TP") else []
                            self.lines.append(f"{_escaped(title)}:")
                        self._text(cell)
                titles = titles or [_plain(cell) for cell in row]
                row = []

    def _text(self, inline: Any, bold: bool = False) -> None:
        """Add running text; ``bold`` keeps it in one line, as a term."""
        words = "".join(self._inline(inline.children or []))
        if bold:
            words = words.replace("\n", " ")
        self.lines += [_guarded(line) for line in words.split("\n") if line]

    def _inline(self, tokens: list[Any]) -> Iterator[str]:
        fonts = {"strong_open": "\\fB", "em_open": "\\fI", "strong_close": "\\fR", "em_close": "\\fR"}
        target = ""
        for token in tokens:
            if token.type == "text":
                # The name of another page stands for the text of the link to it.
                yield "" if target in self.names else _escaped(token.content)
            elif token.type == "code_inline":
                yield f"\\fB{_escaped(token.content)}\\fR"
            elif token.type == "softbreak":
                yield "\n"
            elif token.type == "link_open":
                target = str(token.attrs["href"])
            elif token.type == "link_close":
                yield f"\\fB{_escaped(self.names[target])}\\fR(1)" if target in self.names else f" (docs/{_escaped(target)})"
                target = ""
            elif token.type in fonts:
                yield fonts[token.type]
            else:
                raise ValueError(f"{self.name}: a manual page has no {token.type}")


_ENDS = {
    "heading_close",
    "paragraph_close",
    "bullet_list_open",
    "bullet_list_close",
    "ordered_list_open",
    "ordered_list_close",
    "list_item_close",
}
"""Tokens of blocks that need no macro."""


def _plain(inline: Any) -> str:
    """The text of a token without its markup, in one line."""
    return "".join(" " if token.type == "softbreak" else token.content for token in inline.children or [])


def _escaped(text: str) -> str:
    """Text as troff shows it unchanged, where no line begins with it."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")


def _guarded(line: str) -> str:
    """A line that is no request, whatever it begins with."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _line(line: str) -> str:
    return _guarded(_escaped(line))

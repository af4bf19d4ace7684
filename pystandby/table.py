"""pystandby status for a person: a table made of status.Look.as_json(), in colours where a terminal shows them."""

import itertools
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_LABELS = 15
"""Characters of the column on the left."""

_GAPS = 3
"""Gaps that are named, of however many."""


def lines(answer: "dict[str, Any]") -> "list[str]":
    """The table, a line each."""
    shown: list[str] = []
    if answer["archive"] is not None:
        shown += _archive(answer["archive"])
    if answer["standby"] is not None:
        shown += ([""] if shown else []) + _standby(answer["standby"], answer["archive"])
    if answer["problems"]:
        shown += ["", *(click.style(f"WARNING:  {plain(problem)}", fg="yellow") for problem in answer["problems"])]
    return shown


def follow(look: "Callable[[], dict[str, Any]]", seconds: int) -> None:
    """Show the table anew every so many seconds, in place on a terminal, until interrupted."""
    on_terminal = sys.stdout.isatty()
    try:
        while True:
            began = time.monotonic()
            shown = [click.style(time.strftime("%Y-%m-%d %H:%M:%S"), dim=True), *lines(look())]
            if on_terminal:
                # Line by line over the last one: clearing the screen first would flicker.
                text = "".join(f"{line}\x1b[K\n" for line in _fitting(shown, *shutil.get_terminal_size()))
                click.echo(f"\x1b[H{text}\x1b[J", nl=False)
            else:
                click.echo("\n".join([*shown, ""]))
            took = time.monotonic() - began
            # An archive of a million files must not be listed all the time.
            time.sleep(max(seconds, 4 * took) - took)
    except KeyboardInterrupt:
        return


def _fitting(shown: "list[str]", width: int, height: int) -> "list[str]":
    """The first lines, as many as fit on a terminal that wraps long ones: it would scroll for more, and show the end of them."""
    rows = itertools.accumulate(max(1, -(-len(click.unstyle(line)) // width)) for line in shown)
    return [line for line, below in zip(shown, rows, strict=True) if below < height]


def duration(seconds: float) -> str:
    """A time span in the two largest units that it has: "3 min 20 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 and seconds != whole else f"{whole} s"
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, unit), (small, small_unit) in itertools.pairwise(units):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}{f' {rest} {small_unit}' if rest else ''}"
    return f"{whole} s"


def segments(count: float) -> str:
    """So many segments."""
    return f"{count:.0f} segment{'' if count == 1 else 's'}"


def amount(count: float) -> str:
    """A number of bytes in the largest unit that fits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" or count == int(count) else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def plain(text: str) -> str:
    """A text without what would move a terminal's cursor: names of files may hold anything, in any encoding or none."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _row(label: str, value: str, colour: str = "") -> str:
    value = plain(value)
    return f"  {label:<{_LABELS}}{click.style(value, fg=colour) if colour else value}"


def _clock(at: float, now: float) -> str:
    return time.strftime("%H:%M:%S" if abs(now - at) < 43200 else "%Y-%m-%d %H:%M:%S", time.localtime(at))


def _head(word: str, path: str, state: str, colour: str) -> str:
    return f"{click.style(word, bold=True)} {plain(path)}{': ' if state else ''}{click.style(state, fg=colour, bold=True)}"


def _archive(found: "dict[str, Any]") -> "list[str]":
    if "segments" not in found:
        return [_head("Archive", found["path"], "cannot be read", "red"), _row("error", found["error"], "red")]
    shown = [_head("Archive", found["path"], "wrong" if found["error"] else "", "red")]
    if found["error"]:
        shown.append(_row("error", found["error"], "red"))
    compressed = f", {found['compressed']} of them compressed" if found["compressed"] else ""
    shown.append(_row("segments", f"{found['segments']}{compressed}, {amount(found['bytes'])} in all files"))
    for timeline in found["timelines"]:
        text = f"{timeline['first']} to {timeline['last']}, {segments(timeline['segments'])}"
        shown.append(_row(f"timeline {timeline['timeline']}", text))
    words = {
        "history": "history files",
        "backup_history": "backup history files",
        "partial": "partial segments",
        "temporary": "copies being made",
        "other": "other files",
    }
    others = [f"{found[key]} {text}" for key, text in words.items() if found[key]]
    if others:
        shown.append(_row("beside them", ", ".join(others)))
    gaps = found["gaps"]
    if not gaps:
        shown.append(_row("gaps", "none"))
    for gap in gaps[:_GAPS]:
        missing = gap["first"] if gap["segments"] == 1 else f"{gap['first']} to {gap['last']}, {gap['segments']} segments,"
        place = "" if gap["ahead"] else ": behind the standby"
        shown.append(_row("gap", f"{missing} missing{place}", "red" if gap["ahead"] else "yellow"))
    if len(gaps) > _GAPS:
        shown.append(_row("", f"and {len(gaps) - _GAPS} gaps more", "red" if any(gap["ahead"] for gap in gaps) else "yellow"))
    if found["newest"] is not None:
        shown.append(_row("newest", f"{found['newest']}, {duration(found['silence_seconds'])} since the last arrival"))
    return shown


_COLOURS = {"replaying": "green", "waiting": "green", "ending recovery": "yellow", "promoted": "yellow"}


def _standby(found: "dict[str, Any]", archive: "dict[str, Any] | None") -> "list[str]":
    now = time.time()
    state = found["state"]
    shown = [_head("Standby", found["pgdata"], state, _COLOURS.get(state, "red"))]
    if found["server_version"] or found["mode"]:
        mode = f"{found['mode']} mode" if found["mode"] else "not in recovery"
        version = f", PostgreSQL {found['server_version']}" if found["server_version"] else ""
        shown.append(_row("mode", f"{mode}{version}"))
    waiting = found["waiting"]
    if waiting is not None:
        text = f"{waiting['segment']} ({waiting['why']}) for {duration(waiting['seconds'])}"
        shown.append(_row("waits for", text, "" if waiting["why"] in ("absent", "delayed", "settling") else "yellow"))
    restored = found["restored"]
    if restored is not None:
        source = {"archive": ", from the archive", "spool": ", made ready ahead", None: ""}[restored["source"]]
        text = f"{restored['segment']} at {_clock(restored['at'], now)}, {duration(restored['seconds'])} ago{source}"
        shown.append(_row("last restored", text))
    if found["replayed_lsn"] is not None:
        shown.append(_row("replayed up to", found["replayed_lsn"]))
    if found["outstanding_segments"] is not None:
        count = found["outstanding_segments"]
        text = f"{segments(count)}, {amount(found['outstanding_bytes'])}"
        if count:
            text += f", the oldest came {duration(found['lag_seconds'])} ago"
        shown.append(_row("outstanding", text))
    elif found["mode"] and archive is not None:
        shown.append(_row("outstanding", "not known", "yellow"))
    rate = found["segments_per_second"]
    if rate is not None:
        ready = found["catch_up_seconds"]
        text = f"{rate:.1f} segments a second" if rate >= 1 else f"{rate * 60:.1f} segments a minute"
        if ready is not None and found["outstanding_segments"]:
            text += f": caught up in {duration(ready)}"
        elif found["outstanding_segments"]:
            text += ": no more than what comes in"
        shown.append(_row("rate", text))
    ahead = found["look_ahead"]
    child = f"process {ahead['child']} at work" if ahead["child"] is not None else "no process at work"
    hits = f", {ahead['hits']} of {ahead['restores']} restores were hits" if ahead["restores"] else ""
    shown.append(_row("look-ahead", f"{segments(ahead['ready'])} ready, {child}{hits}"))
    shown += _trouble(found, now)
    return shown


def _trouble(found: "dict[str, Any]", now: float) -> "list[str]":
    shown = []
    trigger = found["trigger"]
    if trigger is not None:
        text, colour = "not there", ""
        if trigger["ignored"]:
            text, colour = f"there and ignored: it {trigger['ignored']}", "yellow"
        elif trigger["says"]:
            text, colour = f"says {trigger['says']}", "yellow"
        shown.append(_row("trigger", f"{trigger['path']}: {text}", colour))
    error = found["error"]
    if error is not None:
        fate = "" if error["is_last"] else "; segments were restored since"
        text = f"{error['message']} (status {error['status']}) at {_clock(error['at'], now)}{fate}"
        shown.append(_row("last error", text, "red" if error["is_last"] else ""))
    outage = found["outage"]
    if outage["now"]:
        since = f" for {duration(outage['seconds'])}" if outage["seconds"] else ""
        shown.append(_row("outage", f"the archive cannot be read{since}", "red"))
    elif outage["since"] is not None:
        shown.append(_row("last outage", f"began at {_clock(outage['since'], now)}"))
    return shown

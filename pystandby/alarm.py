"""pystandby status --check: one line and a status for a monitoring system, as the monitoring plugins' guidelines have them."""

from typing import TYPE_CHECKING, Any

from pystandby.table import duration, plain, segments

if TYPE_CHECKING:
    from collections.abc import Iterator

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3

WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")

_WORST_FIRST = (CRITICAL, WARNING, UNKNOWN, OK)

DEFAULTS: "dict[str, tuple[int, int]]" = {
    "segments": (0, 0),
    "lag": (300, 1800),
    "silence": (0, 0),
    "gaps": (1, 1),
    "outage": (60, 300),
}
"""What is judged: outstanding segments, the age of the oldest of them in seconds, seconds without an arrival, missing segments,
seconds without an archive; each with the value from which on it is a warning, and critical. 0: not judged."""

Limits = dict[str, tuple[int, int]]


def check(answer: "dict[str, Any]", limits: Limits) -> "tuple[int, str]":
    """The status and the line, which begins with a word and ends with performance data."""
    findings: list[tuple[int, str]] = list(_findings(answer))
    archive, standby = answer["archive"], answer["standby"]
    figures = _figures(archive, standby)
    for name, (warning, critical) in limits.items():
        value = figures.get(name)
        if value is None:
            continue
        level = CRITICAL if critical and value >= critical else WARNING if warning and value >= warning else OK
        if level != OK:
            findings.append((level, _TEXTS[name].format(duration(value) if name in _SECONDS else segments(value))))
    status = next(level for level in _WORST_FIRST if level == OK or any(found == level for found, _ in findings))
    said = [text for level in _WORST_FIRST for found, text in findings if found == level] or [_well(standby, archive)]
    perfdata = [
        f"{name}={value:.0f}{'s' if name in _SECONDS else ''};{warning or ''};{critical or ''};0"
        for name, (warning, critical) in limits.items()
        if (value := figures.get(name)) is not None
    ]
    # What is behind the bar is for graphs, and the text must not have one of its own.
    text = plain("; ".join(said).replace("|", "/").replace("\n", " "))
    return status, f"PYSTANDBY {WORDS[status]} - {text}{' | ' if perfdata else ''}{' '.join(perfdata)}"


_SECONDS = ("lag", "silence", "outage")

_TEXTS = {
    "segments": "{} outstanding",
    "lag": "the oldest outstanding segment came {} ago",
    "silence": "nothing has come into the archive for {}",
    "gaps": "{} missing in the archive",
    "outage": "the archive has not been readable for {}",
}


def _figures(archive: "dict[str, Any] | None", standby: "dict[str, Any] | None") -> "dict[str, float | None]":
    figures: dict[str, float | None] = {}
    if standby is not None:
        figures["segments"] = standby["outstanding_segments"]
        figures["lag"] = standby["lag_seconds"]
        figures["outage"] = standby["outage"]["seconds"] or 0
    if archive is not None and "segments" in archive:
        figures["silence"] = archive["silence_seconds"]
        figures["gaps"] = sum(gap["segments"] for gap in archive["gaps"] if gap["ahead"])
    return figures


def _findings(answer: "dict[str, Any]") -> "Iterator[tuple[int, str]]":
    """What is wrong whatever the limits are."""
    archive, standby = answer["archive"], answer["standby"]
    if archive is not None and archive["error"]:
        # One that is read by somebody, and is another's, will not become right by itself.
        yield CRITICAL if "segments" in archive else WARNING, f'archive "{archive["path"]}": {archive["error"]}'
    elif archive is not None and not archive["segments"]:
        yield WARNING, f'archive "{archive["path"]}" holds no segment'
    if standby is None:
        return
    state, error = standby["state"], standby["error"]
    if standby["mode"] is None:
        yield WARNING, "the server is not in recovery: it takes writes" if standby["running"] else "the server is not a standby"
        return
    if not standby["running"]:
        why = f": {error['message']}" if error is not None and error["is_last"] else ""
        yield CRITICAL, f"the server is not running{why}"
    elif state == "ending recovery":
        yield WARNING, "recovery is ending: the server is about to take writes"
    trigger = standby["trigger"]
    if trigger is not None and trigger["says"] and standby["running"]:
        yield WARNING, f"the trigger file says {trigger['says']}"
    if archive is None:
        yield UNKNOWN, answer["problems"][0] if answer["problems"] else "the archive is not known"
    elif standby["outstanding_segments"] is None and "segments" in archive:
        yield UNKNOWN, "how far the server is is not known"


def _well(standby: "dict[str, Any] | None", archive: "dict[str, Any] | None") -> str:
    if standby is None or standby["outstanding_segments"] is None:
        return (
            f"{segments(archive['segments'])} in the archive, none missing"
            if archive is not None
            else "nothing to find fault with"
        )
    waiting = standby["waiting"]
    what = f"waits for {waiting['segment']} since {duration(waiting['seconds'])}" if waiting is not None else standby["state"]
    return f"{segments(standby['outstanding_segments'])} outstanding, {what}"

"""pystandby status for Prometheus: the text format, and a file for the node exporter's textfile collector."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Value = float | int | bool | None


def text(answer: "dict[str, Any]") -> str:
    """The figures of status.Look.as_json(), a gauge each; what is not known is left out.

    Every series bears the archive and the data directory, so that several standbys of one machine can be told apart.
    """
    archive, standby = answer["archive"], answer["standby"]
    labels = []
    if archive is not None:
        labels.append(f'archive="{_escaped(archive["path"])}"')
    if standby is not None:
        labels.append(f'pgdata="{_escaped(standby["pgdata"])}"')
    shown = []
    for name, meaning, value in _gauges(answer["at"], archive, standby):
        if value is not None:
            series = f"pystandby_{name}"
            number = int(value) if isinstance(value, bool) else value
            shown += [f"# HELP {series} {meaning}", f"# TYPE {series} gauge", f"{series}{{{','.join(labels)}}} {number}"]
    return "\n".join([*shown, ""])


def _gauges(at: float, archive: "dict[str, Any] | None", standby: "dict[str, Any] | None") -> "Iterator[tuple[str, str, Value]]":
    yield "status_timestamp_seconds", "When these figures were taken.", at
    if archive is not None:
        yield "archive_up", "Whether the archive can be read, and is the standby's own.", archive["error"] is None
    if archive is not None and "segments" in archive:
        yield "archive_segments", "Segments in the archive.", archive["segments"]
        yield "archive_bytes", "Bytes of all files in the archive.", archive["bytes"]
        ahead = [gap["segments"] for gap in archive["gaps"] if gap["ahead"]]
        yield "archive_missing_segments", "Segments missing that the standby has yet to replay.", sum(ahead)
        yield "archive_newest_timestamp_seconds", "Modification time of the newest segment.", archive["newest_modified"]
        yield "archive_silence_seconds", "Seconds since a segment last came.", archive["silence_seconds"]
    if standby is None:
        return
    waiting, restored, error = standby["waiting"] or {}, standby["restored"] or {}, standby["error"] or {}
    trigger, outage, ahead_of = standby["trigger"], standby["outage"], standby["look_ahead"]
    yield "running", "Whether the server is running.", standby["running"]
    yield "in_recovery", "Whether the server is told to recover.", standby["mode"] is not None
    yield "waiting_seconds", "For how long the server has waited for a segment; 0 if it does not.", waiting.get("seconds", 0)
    yield "restored_timestamp_seconds", "When a segment was last restored.", restored.get("at")
    yield "outstanding_segments", "Segments in the archive that the server has yet to replay.", standby["outstanding_segments"]
    yield "outstanding_bytes", "The same in bytes of WAL.", standby["outstanding_bytes"]
    yield "lag_seconds", "Seconds since the oldest outstanding segment came; 0 if there is none.", standby["lag_seconds"]
    yield "segments_per_second", "Segments replayed in a second while there are some.", standby["segments_per_second"]
    yield "catch_up_seconds", "Seconds until all that is outstanding is replayed.", standby["catch_up_seconds"]
    yield "look_ahead_ready", "Segments that look-ahead has ready.", ahead_of["ready"]
    yield "look_ahead_hits", "Restores in the journal that were look-ahead's hits.", ahead_of["hits"]
    yield "restores", "Restores in the journal.", ahead_of["restores"]
    if trigger is not None:
        yield "trigger", "Whether the trigger file is there, and will be obeyed.", trigger["says"] is not None
    yield "error_timestamp_seconds", "When a restore last ended in an error.", error.get("at")
    yield "error", "Whether the last restore ended in an error.", bool(error.get("is_last"))
    yield "outage", "Whether the archive cannot be read now.", outage["now"]
    yield "outage_seconds", "For how long it cannot be read, as far as that is known.", outage["seconds"] or 0


def _escaped(value: str) -> str:
    """A label's value, as the text format has it; in UTF-8 whatever the file system's names are in."""
    plain = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

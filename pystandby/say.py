"""Messages for people, on stderr, in the form of PostgreSQL's own log: which is where they end up under a server.

Never fails: a full disk behind the log, a closed stderr or a pipe without a reader must not change what becomes of the segment.
"""

import os
import time

from pystandby import osdep

debugging = False
"""Whether debug() writes; set by -d."""

deferred: "list[tuple[str, str, str, str]] | None" = None
"""Where set, what is said is collected here: level, message, detail, hint. For a child whose stderr nobody reads any more."""

_on_terminal: "bool | None" = None


def debug(message: str) -> None:
    """Write a step of the work, with -d only."""
    if debugging:
        _write("DEBUG", message, "", "")


def log(message: str, detail: str = "", hint: str = "") -> None:
    """Write what an administrator should know and need not act upon."""
    _write("LOG", message, detail, hint)


def warning(message: str, detail: str = "", hint: str = "") -> None:
    """Write what an administrator should act upon, while the restore goes on."""
    _write("WARNING", message, detail, hint)


def error(message: str, detail: str = "", hint: str = "") -> None:
    """Write why the restore ends without the file."""
    _write("ERROR", message, detail, hint)


def again(messages: "list[tuple[str, str, str, str]]") -> None:
    """Write what another process had ``deferred``."""
    for message in messages:
        _write(*message)


def reason(failure: OSError) -> str:
    """What the operating system says of a failure, without the path and number that str() adds."""
    return failure.strerror or str(failure)


def _write(level: str, message: str, detail: str, hint: str) -> None:
    global _on_terminal
    if deferred is not None:
        deferred.append((level, message, detail, hint))
        return
    try:
        if _on_terminal is None:
            _on_terminal = os.isatty(2)
        # As log_line_prefix '%m [%p] ' has it, so that our lines sort among the server's; a person at a terminal needs neither.
        prefix = "" if _on_terminal else _stamp()
        text = f"{prefix}{level}:  {_one_line(message)}\n"
        if detail:
            text += f"{prefix}DETAIL:  {_one_line(detail)}\n"
        if hint:
            text += f"{prefix}HINT:  {_one_line(hint)}\n"
        # One write, so that lines of several processes appending to one file do not mix.
        osdep.write_message(text, _on_terminal)
    except (OSError, ValueError, MemoryError):
        pass


def _stamp() -> str:
    now = time.time()
    local = time.localtime(now)
    second = time.strftime("%Y-%m-%d %H:%M:%S", local)
    return f"{second}.{int(now * 1000) % 1000:03} {osdep.zone(local)} [{os.getpid()}] pystandby "


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")

"""The table of a restore's options: what argv reads fast and cli reads with click, so that the two cannot come apart.

The short options, their defaults and their limits are pg_standby's (contrib/pg_standby/pg_standby.c, PostgreSQL 8.3 to 13).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FLAG = "flag"
NUMBER = "number"
TEXT = "text"
CHOICE = "choice"

VERBS = ("archive", "archive-cleanup", "recovery-end", "trigger", "status", "report", "verify", "check", "demo")
"""A first argument that is one of these is a verb; anything else is a restore."""

COMPRESS = ("gz", "zst", "lz4")
"""What --compress of the archive verb takes: the endings of the files that it makes, without the dot."""

NO_LIMIT = 2147483647
"""The largest number that an option takes: a C int, as it was in pg_standby."""


class Option:
    """One option: its names, what it takes, and its line in --help.

    ``limits`` is (lowest, highest) for a NUMBER and the value that it sets for a FLAG; ``words`` what a CHOICE allows.
    """

    __slots__ = ("attribute", "default", "help", "kind", "limits", "long", "metavar", "short", "words")

    def __init__(
        self,
        attribute: str,
        short: str,
        long: str,
        kind: str,
        default: "bool | int | str | None",
        metavar: str,
        limits: "tuple[int, ...] | tuple[str, ...]",
        help: str,  # noqa: A002 - click's own word for it
    ) -> None:
        self.attribute = attribute
        self.short = short
        self.long = long
        self.kind = kind
        self.default = default
        self.metavar = metavar
        self.limits: tuple[int, ...] = tuple(limit for limit in limits if isinstance(limit, int))
        self.words: tuple[str, ...] = tuple(word for word in limits if isinstance(word, str))
        self.help = help


OPTIONS = (
    Option("copy", "c", "copy", FLAG, True, "", (True,), "copy from the archive (always done; accepted for pg_standby)"),
    Option("debug", "d", "debug", FLAG, False, "", (True,), "write every step to stderr"),
    Option("keep", "k", "keep", NUMBER, 0, "NUMFILES", (0, NO_LIMIT),
           "keep NUMFILES segments before the one asked for, remove older ones; not with RESTARTWALFILE (0: remove none)"),
    Option("link", "l", "link", FLAG, False, "", (True,), "does nothing; accepted for pg_standby"),
    Option("retries", "r", "retries", NUMBER, 3, "MAXRETRIES", (0, NO_LIMIT),
           "copies tried after one that failed, 1, 2, 3... times SLEEPTIME apart (3)"),
    Option("sleep", "s", "sleep", NUMBER, 5, "SLEEPTIME", (1, 60), "seconds between two looks at the archive, 1 to 60 (5)"),
    Option("trigger", "t", "trigger", TEXT, None, "TRIGGERFILE", (), "end recovery when this file appears"),
    Option("max_wait", "w", "max-wait", NUMBER, 0, "MAXWAITTIME", (0, NO_LIMIT),
           "end recovery when a segment has not come for this many seconds (0: wait for ever)"),
    Option("watch", "", "watch", FLAG, True, "", (True,), "be woken when something arrives, beside looking (default)"),
    Option("watch", "", "poll", FLAG, True, "", (False,), "only look every SLEEPTIME"),
    Option("wait", "", "wait", CHOICE, "auto", "auto|always|never", ("auto", "always", "never"),
           "wait for an absent segment; auto: not in standby mode, nor for pg_rewind"),
    Option("verify", "", "verify", CHOICE, "auto", "auto|pages|size|none", ("auto", "pages", "size", "none"),
           "how to tell that a segment is whole; auto: pages under a server, size by hand"),
    Option("stable", "", "stable", NUMBER, None, "SECONDS", (0, 3600),
           "take a segment only when size and time have been the same this long (default 0; on Windows SLEEPTIME)"),
    Option("delay", "", "delay", NUMBER, 0, "SECONDS", (0, NO_LIMIT),
           "take a segment only this long after its modification time in the archive (0); a smart trigger ends that"),
    Option("removal_pause", "", "removal-pause", TEXT, None, "FILE", (),
           "remove nothing from the archive while this file is there"),
    Option("look_ahead", "", "look-ahead", NUMBER, 8, "N", (0, 64),
           "keep the N following segments ready in pg_wal while the server replays (8; 0: none)"),
    Option("on_failure", "", "on-failure", CHOICE, "abort", "abort|end-recovery", ("abort", "end-recovery"),
           "when all copies failed: stop the server, or end recovery as pg_standby did"),
    Option("on_new_timeline", "", "on-new-timeline", CHOICE, "wait", "wait|stop", ("wait", "stop"),
           "when the archive has left the timeline waited on: wait on, or stop the server so that it restarts on the new"),
    Option("promote", "", "promote", FLAG, False, "", (True,),
           "in standby mode, answer the trigger file by promoting the server"),
    Option("trust_trigger", "", "trust-trigger", FLAG, False, "", (True,),
           "obey a trigger file whoever made it, in a directory that others may write to as well"),
)  # fmt: skip

ARGUMENTS = ("archivelocation", "nextwalfile", "xlogfilepath", "restartwalfile")


class Options:
    """What a restore was asked to do: an attribute for each row of OPTIONS and of ARGUMENTS.

    Times are whole seconds. ``restartwalfile`` is None where it was not given; ``trigger``, ``removal_pause`` and ``stable``
    likewise.
    """

    __slots__ = (
        "archivelocation",
        "copy",
        "debug",
        "delay",
        "keep",
        "link",
        "look_ahead",
        "max_wait",
        "nextwalfile",
        "on_failure",
        "on_new_timeline",
        "promote",
        "removal_pause",
        "restartwalfile",
        "retries",
        "sleep",
        "stable",
        "trigger",
        "trust_trigger",
        "verify",
        "wait",
        "watch",
        "xlogfilepath",
    )

    archivelocation: str
    copy: bool
    debug: bool
    delay: int
    keep: int
    link: bool
    look_ahead: int
    max_wait: int
    nextwalfile: str
    on_failure: str
    on_new_timeline: str
    promote: bool
    removal_pause: "str | None"
    restartwalfile: "str | None"
    retries: int
    sleep: int
    stable: "int | None"
    trigger: "str | None"
    trust_trigger: bool
    verify: str
    wait: str
    watch: bool
    xlogfilepath: str

    def __init__(self) -> None:
        for option in OPTIONS:
            setattr(self, option.attribute, option.default)
        self.archivelocation = self.nextwalfile = self.xlogfilepath = ""
        self.restartwalfile = None

    def for_file(self, name: str, destination: str) -> "Options":
        """The same options for another file."""
        options = self._copy()
        options.nextwalfile = name
        options.xlogfilepath = destination
        return options

    def in_full(self, full: "Callable[[str], str]") -> "Options":
        """The same options with every path in them made ``full``."""
        options = self._copy()
        options.archivelocation = full(self.archivelocation)
        options.xlogfilepath = full(self.xlogfilepath)
        options.trigger = full(self.trigger) if self.trigger is not None else None
        options.removal_pause = full(self.removal_pause) if self.removal_pause is not None else None
        return options

    def _copy(self) -> "Options":
        options = Options.__new__(Options)
        for attribute in Options.__slots__:
            setattr(options, attribute, getattr(self, attribute))
        return options

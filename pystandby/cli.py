"""The command line for people: help, version, verbs and every error message, by click, from the same table as the fast reader."""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

import pystandby
from pystandby import argv, completion, exits, say
from pystandby.exits import StandbyError
from pystandby.options import ARGUMENTS, COMPRESS, FLAG, NO_LIMIT, NUMBER, OPTIONS, VERBS, Option, Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.shell_completion import CompletionItem

    _ParameterType = click.ParamType[Any]
else:
    # Generic only in later versions of click.
    _ParameterType = click.ParamType

_FOLDERS = ("ARCHIVE", "ARCHIVE...", "ARCHIVELOCATION", "DIR")
_FILES = ("%p", "FILE", "PATH...", "PROGRAM", "TRIGGERFILE", "XLOGFILEPATH")
"""Metavars of what is a path, for completion by a shell."""


class _Number(_ParameterType):
    """A whole number in plain digits, within limits: int() would take "1_0" and other scripts' digits as well."""

    name = "number"

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest = lowest
        self.highest = highest

    def convert(self, value: Any, param: "click.Parameter | None", ctx: "click.Context | None") -> int:
        """The number; a usage error where the text is none."""
        if isinstance(value, int):
            return value
        number = argv.whole_number(value)
        if number is None or not self.lowest <= number <= self.highest:
            flags = "/".join(param.opts) if param is not None else ""
            limits = f"from {self.lowest} to {self.highest}"
            self.fail(f'invalid value "{value}" for option {flags}: it must be a whole number {limits}', param, ctx)
        return number


class _Word(_ParameterType):
    """Text that is not empty, one of a few words where there are any."""

    name = "text"

    def __init__(self, words: "tuple[str, ...]") -> None:
        self.words = words

    def convert(self, value: Any, param: "click.Parameter | None", ctx: "click.Context | None") -> str:
        """The text as it stands; a usage error where it is empty or none of the words."""
        what = "/".join(param.opts) if isinstance(param, click.Option) else str(param.metavar if param else "")
        if value == "":
            self.fail(f"{what} must not be empty", param, ctx)
        if self.words and value not in self.words:
            kind = "option " if isinstance(param, click.Option) else ""
            self.fail(f'invalid value "{value}" for {kind}{what}: it must be one of {", ".join(self.words)}', param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        """What a shell may complete the word to: one of the words, or a path by what the parameter is called."""
        from click.shell_completion import CompletionItem

        if self.words:
            return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]
        called = str(param.metavar)
        if called in _FOLDERS:
            return [CompletionItem(incomplete, type="dir")]
        return [CompletionItem(incomplete, type="file")] if called in _FILES else []


def _parameter(option: Option) -> click.Option:
    names = [option.attribute, *([f"-{option.short}"] if option.short else []), f"--{option.long}"]
    if option.kind == FLAG:
        return click.Option(names, flag_value=bool(option.limits[0]), default=option.default, type=bool, help=option.help)
    if option.kind == NUMBER:
        kind: _ParameterType = _Number(option.limits[0], option.limits[1])
    else:
        kind = _Word(option.words)
    return click.Option(names, default=option.default, type=kind, metavar=option.metavar, help=option.help)


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"pystandby {pystandby.__version__}")
        context.exit()


class _RestoreCommand(click.Command):
    """The restore itself, with the help of a PostgreSQL client program."""

    def get_help(self, ctx: click.Context) -> str:
        """The text of --help."""
        return help_text()


def help_text() -> str:
    """What --help prints, without the last line's end."""
    rows = [(option.short, option.long, option.metavar, option.help) for option in OPTIONS]
    lines = [
        "pystandby is PostgreSQL's restore_command for warm standbys fed from a WAL archive.",
        "",
        "Usage:",
        "  pystandby [OPTION]... ARCHIVELOCATION NEXTWALFILE XLOGFILEPATH [RESTARTWALFILE]",
        "  pystandby archive [OPTION]... ARCHIVE... %p %f",
        "  pystandby archive-cleanup [OPTION]... ARCHIVELOCATION OLDESTKEPTWALFILE",
        "  pystandby recovery-end [OPTION]...",
        "  pystandby trigger [OPTION]... smart|fast|cancel|show",
        "  pystandby status [OPTION]...",
        "  pystandby report [OPTION]...",
        "  pystandby check [OPTION]...",
        "  pystandby verify [OPTION]... PATH...",
        "  pystandby demo [OPTION]...",
        "",
        *_options_help([*rows, ("V", "version", "", "output version information, then exit")]),
        "",
        "As restore_command in postgresql.conf (PostgreSQL 12 and later) or recovery.conf:",
        "  restore_command = 'pystandby [OPTION]... ARCHIVELOCATION %f %p %r'",
        "For example:",
        "  restore_command = 'pystandby -s 2 -t /var/lib/postgresql/failover /mnt/server/archive %f %p %r'",
        "",
        "Exit status: 0, the file is restored; 1, the end of recovery was asked for, or there is no such",
        "file; 200 and above, an error: the server stops and loses nothing.",
        "",
        "SIGUSR1 ends recovery as a trigger file with the word fast does; Windows has no such signal.",
    ]
    return "\n".join(lines)


def _options_help(rows: "list[tuple[str, str, str, str]]") -> "list[str]":
    """The lines on options: short name, long name, metavar (or empty) and text of each."""
    lines = ["Options:"]
    for short, long, metavar, text in [*rows, ("?", "help", "", "show this help, then exit")]:
        names = f"{f'-{short}, ' if short else '    '}--{long}{'=' + metavar if metavar else ''}"
        if len(names) > 24:
            lines.append(f"  {names}")
            names = ""
        lines += _wrapped(f"  {names:<26}", text)
    return lines


class _Verb(click.Command):
    """A verb, with help in the form of the restore's: docstring, usage, options, and the epilog as it stands."""

    def get_help(self, ctx: click.Context) -> str:
        """The text of --help."""
        rows: list[tuple[str, str, str, str]] = []
        usage = ["  pystandby", str(self.name)]
        for parameter in self.params:
            if isinstance(parameter, click.Option):
                # Another long name is in the text.
                long = next(name for name in parameter.opts if name.startswith("--"))
                short = "".join(name for name in parameter.opts if not name.startswith("--"))
                rows.append((short.lstrip("-"), long.lstrip("-"), parameter.metavar or "", parameter.help or ""))
                usage[2:] = ["[OPTION]..."]
        for parameter in self.params:
            if isinstance(parameter, click.Argument):
                usage.append(str(parameter.metavar))
        lines = [*_wrapped("", (self.help or "").partition("\n\n")[0]), "", "Usage:", " ".join(usage), "", *_options_help(rows)]
        return "\n".join([*lines, *(["", self.epilog] if self.epilog else [])])


def _wrapped(lead: str, text: str, width: int = 100) -> "list[str]":
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"{' ' * len(lead) if lines else lead}{word}")
    return lines


def _argument(number: int, name: str) -> click.Argument:
    return click.Argument([name], type=_Word(()), metavar=name.upper(), required=number < 3)


_HELP = {"help_option_names": ["-?", "--help"]}

restore_command = _RestoreCommand(
    "pystandby",
    params=[
        *map(_parameter, OPTIONS),
        click.Option(
            ["-V", "--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_version,
            help="output version information, then exit",
        ),
        *(_argument(number, name) for number, name in enumerate(ARGUMENTS)),
    ],
    callback=None,
    context_settings=_HELP,
)


def parse(arguments: "list[str]") -> Options:
    """Read a restore's command line, without the program's name. Raises click's exceptions."""
    with restore_command.make_context("pystandby", list(arguments)) as context:
        options = Options()
        for name in Options.__slots__:
            setattr(options, name, context.params[name])
        return options


_debug_option = click.option("-d", "--debug", is_flag=True, help="write every step to stderr")


@click.command(
    "archive",
    cls=_Verb,
    context_settings=_HELP,
    epilog="""\
As archive_command in postgresql.conf:
  archive_command = 'exec pystandby archive /mnt/server/archive %p %f'

Exit status: 0, every ARCHIVE has the file; 1, not so: the server keeps it and tries again.""",
)
@_debug_option
@click.option(
    "--verify",
    type=_Word(("header", "none")),
    default="header",
    metavar="header|none",
    help="header: the file must begin as a segment of its name and cluster; none: it may be anything (default header)",
)
@click.option(
    "--compress",
    type=_Word(COMPRESS),
    default=None,
    metavar="|".join(COMPRESS),
    help="compress the file, and add that ending to its name; zst and lz4 take a Python package (zstandard, lz4)",
)
@click.argument("archives", type=_Word(()), nargs=-1, required=True, metavar="ARCHIVE...")
@click.argument("source", type=_Word(()), metavar="%p")
@click.argument("name", type=_Word(()), metavar="%f")
def archive(debug: bool, verify: str, compress: "str | None", archives: "tuple[str, ...]", source: str, name: str) -> int:
    """pystandby archive is PostgreSQL's archive_command: it puts a WAL file into each ARCHIVE, and never over another."""
    from pystandby import archiver

    say.debugging = debug
    return archiver.put(list(archives), source, name, verify == "header", compress or "")


@click.command("demo", cls=_Verb, context_settings=_HELP)
@click.option("--seconds", type=_Number(1, 3600), default=15, metavar="N", help="seconds of load on the primary (15)")
@click.option("--fast", is_flag=True, help="end with a fast trigger instead of a smart one")
@click.option("--postgres", type=_Word(()), metavar="WHICH", help="which PostgreSQL: a version, or a folder of programs")
@click.option("--keep", is_flag=True, help="leave the folder with both servers' data and logs")
def demo(seconds: int, fast: bool, postgres: "str | None", keep: bool) -> int:
    """pystandby demo runs a primary and a warm standby on this machine, fails over, and compares the rows of both."""
    from pystandby.demo import demo as run_demo

    return run_demo(seconds=seconds, fast=fast, postgres=postgres, keep=keep)


_trigger_option = click.option(
    "-t", "--trigger", type=_Word(()), metavar="TRIGGERFILE", help="the trigger file of restore_command"
)
_trust_option = click.option(
    "--trust-trigger", is_flag=True, help="whoever made the trigger file, in a directory that others may write to as well"
)


@click.command(
    "recovery-end",
    cls=_Verb,
    context_settings=_HELP,
    epilog="""\
As recovery_end_command in postgresql.conf (PostgreSQL 12 and later) or recovery.conf:
  recovery_end_command = 'pystandby recovery-end -t /var/lib/postgresql/failover || exit 1'

Exit status: 0, nothing is left, or nothing was there; 1, something stays: the server goes on.""",
)
@_trigger_option
@_trust_option
@_debug_option
def recovery_end(trigger: "str | None", trust_trigger: bool, debug: bool) -> int:
    """pystandby recovery-end is PostgreSQL's recovery_end_command: it removes the trigger file and what look-ahead has left."""
    from pystandby import recovery_end as after

    say.debugging = debug
    return after.clean_up(trigger, trust_trigger)


@click.command(
    "archive-cleanup",
    cls=_Verb,
    context_settings=_HELP,
    epilog="""\
As archive_cleanup_command in postgresql.conf (PostgreSQL 12 and later) or recovery.conf:
  archive_cleanup_command = 'pystandby archive-cleanup --reader standby1 /mnt/server/archive %r'
OLDESTKEPTWALFILE may also be a partial segment or a backup history file: the segment that its name
begins with counts.
Compressed files (.gz, .bz2, .xz, .lzma, .zst, .lz4) count as what they are without the ending.

Exit status: 0, all is removed that may be; 1, not so: the server goes on.""",
)
@click.option("-b", "--clean-backup-history", is_flag=True, help="remove backup history files as well")
@_debug_option
@click.option("-n", "--dry-run", is_flag=True, help="print the names of the files that would be removed, and remove none")
@click.option("-x", "--strip-extension", type=_Word(()), metavar="EXT", help="one more ending that files may have")
@click.option("-k", "--keep", type=_Number(0, NO_LIMIT), default=0, metavar="N", help="keep the N newest of what may go (0)")
@click.option(
    "--removal-pause",
    "--pause-file",
    type=_Word(()),
    metavar="FILE",
    help="remove nothing while this file is there (also: --pause-file)",
)
@click.option(
    "--before-removal",
    type=_Word(()),
    metavar="PROGRAM",
    help="run PROGRAM with each file's path before it is removed; it and those after it stay unless that ends with 0",
)
@click.option(
    "--reader",
    type=_Word(()),
    metavar="NAME",
    help="leave OLDESTKEPTWALFILE in the archive as what the standby of this name needs, for the others to know",
)
@click.option(
    "--silent-after",
    type=_Number(0, NO_LIMIT),
    default=86400,
    metavar="SECONDS",
    help="warn of a standby that has left nothing for this long; what it needs is kept (86400; 0: never)",
)
@click.argument("archive", type=_Word(()), metavar="ARCHIVELOCATION")
@click.argument("oldest_kept", type=_Word(()), metavar="OLDESTKEPTWALFILE")
def archive_cleanup(
    clean_backup_history: bool,
    debug: bool,
    dry_run: bool,
    strip_extension: "str | None",
    keep: int,
    removal_pause: "str | None",
    before_removal: "str | None",
    reader: "str | None",
    silent_after: int,
    archive: str,
    oldest_kept: str,
) -> int:
    """pystandby archive-cleanup is PostgreSQL's archive_cleanup_command: it removes from an archive what no standby needs."""
    from pystandby import archive_cleanup as cleanup

    say.debugging = debug
    request = cleanup.Request(
        archive,
        oldest_kept,
        dry_run=dry_run,
        backups=clean_backup_history,
        extension=strip_extension or "",
        keep=keep,
        removal_pause=removal_pause,
        before_removal=before_removal,
        reader=reader,
        silent_after=silent_after,
    )
    return cleanup.clean_up(request, click.echo)


@click.command(
    "trigger",
    cls=_Verb,
    context_settings=_HELP,
    epilog="""\
smart: replay all that the archive holds, then take writes; fast: take writes now, leave the rest;
cancel: take a trigger back; show: say what the trigger file says, and where the server is.
With --pgdata, trigger file and archive are those of the server's restore_command. For example:
  pystandby trigger smart --pgdata /var/lib/postgresql/15/main --wait 60

Exit status: 0, done; 1, not done, or the server does not take writes in time, with the reason;
200 and above, an error.""",
)
@_trigger_option
@click.option("-D", "--pgdata", type=_Word(()), metavar="DIR", help="the standby's data directory: refuse what would do nothing")
@click.option("--archive", type=_Word(()), metavar="ARCHIVE", help="the archive to look into, with --pgdata")
@click.option(
    "--wait",
    type=_Number(1, NO_LIMIT),
    metavar="SECONDS",
    help="wait this long for the server to take writes, then run CHECKPOINT on it; with --pgdata",
)
@click.option(
    "-U", "--username", type=_Word(()), default="postgres", metavar="NAME", help="the superuser to ask it as (postgres)"
)
@_trust_option
@click.option("-n", "--dry-run", is_flag=True, help="refuse what would be refused, and make nothing; with smart or fast")
@click.argument("word", type=_Word(("smart", "fast", "cancel", "show")), metavar="smart|fast|cancel|show")
def trigger(
    trigger: "str | None",
    pgdata: "str | None",
    archive: "str | None",
    wait: "int | None",
    username: str,
    trust_trigger: bool,
    dry_run: bool,
    word: str,
) -> int:
    """pystandby trigger makes, removes or shows the trigger file of a standby, and waits until it takes writes."""
    from pystandby.promotion import Request

    if wait is not None and (pgdata is None or word in ("cancel", "show")):
        raise click.UsageError("--wait goes with smart or fast, and with --pgdata")
    if dry_run and (wait is not None or word in ("cancel", "show")):
        raise click.UsageError("--dry-run goes with smart or fast, and without --wait")
    request = Request(trigger, pgdata, archive, trust_trigger, username, click.echo)
    if word == "cancel":
        request.cancel()
    elif word == "show":
        request.tell()
    elif dry_run:
        request.foresee(word)
    else:
        request.pull(word)
        if wait is not None:
            request.wait(wait)
    return 0


@click.command(
    "check",
    cls=_Verb,
    context_settings=_HELP,
    epilog="""\
Reads the data directory, the configuration files, the archive and the trigger file, with the rights
of the server's user; changes nothing. The server may run or not. For example:
  pystandby check --pgdata /var/lib/postgresql/15/main

Exit status: 0, no errors (there may be warnings); 1, errors; 200 and above, nothing is checked.""",
)
@click.option("-D", "--pgdata", type=_Word(()), metavar="DIR", required=True, help="the standby's data directory")
@click.option("--bindir", type=_Word(()), metavar="DIR", help="the folder of its programs, if it has never been started")
@click.option("--config-file", type=_Word(()), metavar="FILE", help="its postgresql.conf, if that is not in the data directory")
def check(pgdata: str, bindir: "str | None", config_file: "str | None") -> int:
    """pystandby check says what is wrong with a standby's settings before it goes live, and how to mend it."""
    from pystandby.checks import Check
    from pystandby.server import Server

    return Check(Server(pgdata, bindir=bindir, config_file=config_file), click.echo).run()


class _Limits(_ParameterType):
    """Limits of status --check: "segments=64,lag=600"."""

    name = "limits"

    def convert(self, value: Any, param: "click.Parameter | None", ctx: "click.Context | None") -> "dict[str, int]":
        """Each name with its number; a usage error where one is neither."""
        from pystandby.alarm import DEFAULTS

        if isinstance(value, dict):
            return value
        found = {}
        for word in str(value).split(","):
            name, _, text = word.partition("=")
            number = argv.whole_number(text)
            if name not in DEFAULTS or number is None:
                self.fail(f'invalid limit "{word}": it must be NAME=NUMBER, with one of {", ".join(DEFAULTS)}', param, ctx)
            found[name] = number
        return found


_standby_option = click.option("-D", "--pgdata", type=_Word(()), metavar="DIR", help="the standby's data directory")
_archive_option = click.option(
    "--archive", type=_Word(()), metavar="ARCHIVE", help="the archive; with --pgdata that of restore_command is found"
)
_user_option = click.option(
    "-U", "--username", type=_Word(()), default="postgres", metavar="NAME", help="the superuser to ask the server as (postgres)"
)


def _with_progress(names: "list[str]") -> "Iterator[str]":
    """Pass names on, with a bar on a terminal where that takes a while."""
    if len(names) < 20000 or not sys.stderr.isatty():
        yield from names
        return
    with click.progressbar(names, label="files of the archive", file=sys.stderr, update_min_steps=1000) as bar:
        yield from bar


@click.command(
    "status",
    cls=_Verb,
    context_settings=_HELP,
    epilog="""With --check: one line, and a monitoring plugin's status. LIMITS are NAME=NUMBER,NAME=NUMBER...:
  segments   outstanding segments (not judged)      gaps     missing segments (1; critical 1)
  lag        seconds since the oldest of them came  outage   seconds that the archive cannot be read
             (300; critical 1800)                            (60; critical 300)
  silence    seconds since a segment came (not judged); 0: not judged
For example:
  pystandby status --pgdata /var/lib/postgresql/15/main --check --warning lag=60 --critical lag=600

Exit status: 0, shown; 1, it cannot be; with --check: 0, all is well; 1, warning; 2, critical;
3, not known; 200 and above, an error.""",
)
@_standby_option
@_archive_option
@click.option(
    "--follow", is_flag=False, flag_value=2, type=_Number(1, 3600), metavar="SECONDS", help="show it again every SECONDS (2)"
)
@click.option("--json", "as_json", is_flag=True, help="as JSON: docs/status.md says what is in it")
@click.option(
    "--prometheus",
    is_flag=False,
    flag_value="-",
    type=_Word(()),
    metavar="FILE",
    help="as Prometheus has it, into FILE if it is given: one that ends in .prom in the node exporter's textfile folder",
)
@click.option("--check", is_flag=True, help="for a monitoring system: one line, and 0, 1, 2 or 3")
@click.option("-w", "--warning", type=_Limits(), default={}, metavar="LIMITS", help="with --check: from when on it is a warning")
@click.option("-c", "--critical", type=_Limits(), default={}, metavar="LIMITS", help="with --check: from when on it is critical")
@_user_option
def status(
    pgdata: "str | None",
    archive: "str | None",
    follow: "int | None",
    as_json: bool,
    prometheus: "str | None",
    check: bool,
    warning: "dict[str, int]",
    critical: "dict[str, int]",
    username: str,
) -> int:
    """pystandby status shows an archive and a standby: what has come, what is missing, how far it is, and what it waits for."""
    if sum((follow is not None, as_json, prometheus is not None, check)) > 1:
        raise click.UsageError("only one of --follow, --json, --prometheus and --check can be given")
    if (warning or critical) and not check:
        raise click.UsageError("--warning and --critical go with --check")
    try:
        if check:
            return _alarm(pgdata, archive, username, warning, critical)
        _show(pgdata, archive, username, follow, as_json, prometheus)
    except BrokenPipeError:
        # Whoever reads it has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # That all is well has been told to nobody.
        return 3 if check else 0
    return 0


def _show(
    pgdata: "str | None", archive: "str | None", username: str, follow: "int | None", as_json: bool, prometheus: "str | None"
) -> None:
    """Print, or write, how an archive and a standby are, in one of the forms of status."""
    from pystandby.status import Look

    def look() -> "dict[str, Any]":
        # A bar would come between what is shown again and again.
        return Look(pgdata, archive, username, _with_progress if follow is None else None).as_json()

    if follow is not None:
        from pystandby import table

        table.follow(look, follow)
    elif as_json:
        import json

        click.echo(json.dumps(look(), indent=2))
    elif prometheus is not None:
        from pystandby import metrics, outfile

        text = metrics.text(look())
        if prometheus == "-":
            click.echo(text, nl=False)
        else:
            outfile.write(prometheus, text)
    else:
        from pystandby import table

        for line in table.lines(look()):
            click.echo(line)


def _alarm(
    pgdata: "str | None", archive: "str | None", username: str, warning: "dict[str, int]", critical: "dict[str, int]"
) -> int:
    """Say in one line, and by the status of a monitoring plugin, how a standby is; whatever is wrong with the look is unknown."""
    from pystandby import alarm
    from pystandby.status import Look

    limits = {name: (warning.get(name, low), critical.get(name, high)) for name, (low, high) in alarm.DEFAULTS.items()}
    try:
        answer = Look(pgdata, archive, username).as_json()
    except StandbyError as failure:
        click.echo(f"PYSTANDBY UNKNOWN - {failure.message}{f': {failure.detail}' if failure.detail else ''}")
        return alarm.UNKNOWN
    level, line = alarm.check(answer, limits)
    click.echo(line)
    return level


@click.command(
    "report",
    cls=_Verb,
    context_settings=_HELP,
    epilog="""For example:
  pystandby report --pgdata /var/lib/postgresql/15/main --hours 24 -o standby.html

Exit status: 0, drawn; 1, it cannot be; 200 and above, an error.""",
)
@_standby_option
@_archive_option
@click.option("-o", "--output", type=_Word(()), required=True, metavar="FILE", help="what to write, by its ending: .html or .svg")
@click.option("--hours", type=_Number(1, NO_LIMIT), metavar="N", help="draw the last N hours only")
@_user_option
def report(pgdata: "str | None", archive: "str | None", output: str, hours: "int | None", username: str) -> int:
    """pystandby report draws what came into an archive, what a standby restored of it, and how far it was behind, over time."""
    from pystandby import outfile
    from pystandby import report as drawing
    from pystandby.status import Look

    kind = os.path.splitext(output)[1].lower()
    if kind not in (".html", ".svg"):
        raise click.UsageError(f'"{output}" ends neither in .html nor in .svg')
    look = Look(pgdata, archive, username, _with_progress)
    outfile.write(output, drawing.page(look, hours) if kind == ".html" else drawing.drawing(look, hours))
    return 0


@click.command(
    "verify",
    cls=_Verb,
    context_settings=_HELP,
    epilog="""\
Each PATH is an archive's folder or a file of one; files may be compressed. It changes nothing.
For example:
  pystandby verify --records --pgdata /var/lib/postgresql/15/main /mnt/server/archive

Exit status: 0, all is sound; 1, something is wrong, and said; 2, it could not be done; 200 and
above, an error.""",
)
@click.option("--records", is_flag=True, help="read every record, and compare its checksum, as pg_waldump does")
@click.option("-D", "--pgdata", type=_Word(()), metavar="DIR", help="a standby's data directory: can it go on from here?")
@click.option("--json", "as_json", is_flag=True, help="print what was found as JSON")
@click.argument("paths", type=_Word(()), nargs=-1, required=True, metavar="PATH...")
def verify(records: bool, pgdata: "str | None", as_json: bool, paths: "tuple[str, ...]") -> int:
    """pystandby verify says whether an archive is whole, and from where to where a standby can be brought with it."""
    from pystandby.verify import verify as verify_paths

    return verify_paths(paths, every_record=records, pgdata=pgdata, as_json=as_json, tell=click.echo)


_VERBS: "dict[str, click.Command]" = {
    "archive": archive,
    "archive-cleanup": archive_cleanup,
    "check": check,
    "demo": demo,
    "recovery-end": recovery_end,
    "report": report,
    "status": status,
    "trigger": trigger,
    "verify": verify,
}


def main(arguments: "list[str]") -> int:
    """Do what a command line says that the fast reader left to click, and return the exit status. Raises StandbyError."""
    verb = arguments[0] if arguments and arguments[0] in VERBS else ""
    try:
        if verb:
            return _run_verb(verb, arguments[1:])
        if not arguments and completion.VARIABLE in os.environ:
            return completion.complete(restore_command, _VERBS, os.environ[completion.VARIABLE])
        options = parse(arguments)
    except click.exceptions.Exit as done:
        if verb in ("", archive.name) and sum(word[:1] != "-" for word in arguments) - bool(verb) >= 3:
            # 0 without a file is the end of recovery for a server; and one that hears it as an archive_command's loses the file.
            work, undone = ("an archive_command", "archived") if verb else ("a restore", "restored")
            raise StandbyError(
                exits.USAGE, f"help or version was asked for in place of {work}", f"Nothing was {undone}."
            ) from None
        return done.exit_code
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as failure:
        raise _usage_error(failure, arguments) from failure
    from pystandby import run

    say.debugging = options.debug
    return run.restore(options)


def _run_verb(verb: str, words: "list[str]") -> int:
    if argv.is_restore(words):
        raise StandbyError(
            exits.USAGE,
            f'"{verb}" restores nothing',
            f'To restore from an archive of that name, write "./{verb}".',
            f'Try "pystandby {verb} --help" for more information.',
        )
    with _VERBS[verb].make_context(f"pystandby {verb}", words) as context:
        return int(_VERBS[verb].invoke(context) or 0)


def _usage_error(failure: click.ClickException, arguments: "list[str]") -> StandbyError:
    message = failure.format_message() if isinstance(failure, click.UsageError) else failure.message
    message = message[:1].lower() + message[1:].rstrip(".") if message else "no arguments"
    if isinstance(failure, click.NoSuchOption):
        message = f'unknown option "{failure.option_name}"'
    elif isinstance(failure, click.MissingParameter) and failure.param is not None:
        message = f"missing argument {failure.param.metavar}" if isinstance(failure.param, click.Argument) else message
    elif isinstance(failure, click.BadParameter):
        message = failure.message
    given = " ".join(arguments)
    verb = f"{arguments[0]} " if arguments and arguments[0] in VERBS else ""
    return StandbyError(
        exits.USAGE,
        message,
        f"The command line was: pystandby {given}"
        if given
        else "pystandby wants an archive, a WAL file's name and a destination.",
        f'Try "pystandby {verb}--help" for more information.',
    )

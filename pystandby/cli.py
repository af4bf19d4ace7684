"""The command line for people: help, version, verbs and every error message, by click, from the same table as the fast reader."""

import os
from typing import TYPE_CHECKING, Any

import click

import pystandby
from pystandby import argv, exits, say
from pystandby.exits import StandbyError
from pystandby.options import ARGUMENTS, FLAG, NUMBER, OPTIONS, VERBS, Option, Options

if TYPE_CHECKING:
    _ParameterType = click.ParamType[Any]
else:
    # Generic only in later versions of click.
    _ParameterType = click.ParamType


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
            self.fail(f'invalid value "{value}" for option {what}: it must be one of {", ".join(self.words)}', param, ctx)
        return str(value)


def _parameter(option: Option) -> click.Option:
    names = [option.attribute, *([f"-{option.short}"] if option.short else []), f"--{option.long}"]
    if option.kind == FLAG:
        return click.Option(names, flag_value=bool(option.limits[0]), default=option.default, type=bool)
    if option.kind == NUMBER:
        kind: _ParameterType = _Number(option.limits[0], option.limits[1])
    else:
        kind = _Word(option.words)
    return click.Option(names, default=option.default, type=kind, metavar=option.metavar)


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
    rows: list[tuple[str, str]] = []
    for option in OPTIONS:
        short = f"-{option.short}, " if option.short else "    "
        rows.append((f"{short}--{option.long}{'=' + option.metavar if option.metavar else ''}", option.help))
    rows += [("-V, --version", "output version information, then exit"), ("-?, --help", "show this help, then exit")]
    lines = [
        "pystandby is PostgreSQL's restore_command for warm standbys fed from a WAL archive.",
        "",
        "Usage:",
        "  pystandby [OPTION]... ARCHIVELOCATION NEXTWALFILE XLOGFILEPATH [RESTARTWALFILE]",
        "  pystandby demo [OPTION]...",
        "",
        "Options:",
    ]
    for names, text in rows:
        if len(names) > 24:
            lines.append(f"  {names}")
            names = ""  # noqa: PLW2901 - the rest of the same row
        lines += _wrapped(f"  {names:<26}", text)
    lines += [
        "",
        "As restore_command in postgresql.conf (PostgreSQL 12 and later) or recovery.conf:",
        "  restore_command = 'pystandby [OPTION]... ARCHIVELOCATION %f %p %r'",
        "For example:",
        "  restore_command = 'pystandby -s 2 -t /var/lib/postgresql/failover /mnt/server/archive %f %p %r'",
        "",
        "Exit status: 0, the file is restored; 1, the end of recovery was asked for, or there is no such",
        "file; 200 and above, an error: the server stops and loses nothing.",
    ]
    return "\n".join(lines)


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


restore_command = _RestoreCommand(
    "pystandby",
    params=[
        *map(_parameter, OPTIONS),
        click.Option(["-V", "--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version),
        *(_argument(number, name) for number, name in enumerate(ARGUMENTS)),
    ],
    callback=None,
    context_settings={"help_option_names": ["-?", "--help"]},
)


def parse(arguments: "list[str]") -> Options:
    """Read a restore's command line, without the program's name. Raises click's exceptions."""
    with restore_command.make_context("pystandby", list(arguments)) as context:
        options = Options()
        for name in Options.__slots__:
            setattr(options, name, context.params[name])
        return options


@click.command("demo", context_settings={"help_option_names": ["-?", "--help"]})
@click.option("--seconds", type=_Number(1, 3600), default=15, metavar="N", help="seconds of load on the primary (15)")
@click.option("--fast", is_flag=True, help="end with a fast trigger instead of a smart one")
@click.option("--postgres", type=_Word(()), metavar="WHICH", help="which PostgreSQL: a version, or a folder of programs")
@click.option("--keep", is_flag=True, help="leave the folder with both servers' data and logs")
def demo(seconds: int, fast: bool, postgres: "str | None", keep: bool) -> int:
    """Run a primary and a warm standby on this machine, fail over, and compare the rows of both."""
    from pystandby.demo import demo as run_demo

    return run_demo(seconds=seconds, fast=fast, postgres=postgres, keep=keep)


def main(arguments: "list[str]") -> int:
    """Do what a command line says that the fast reader left to click, and return the exit status. Raises StandbyError."""
    try:
        if arguments and arguments[0] in VERBS:
            if arguments[0] != demo.name:
                raise StandbyError(
                    exits.USAGE,
                    f'this version of pystandby has no verb "{arguments[0]}"',
                    f'To restore from an archive of that name, write "./{arguments[0]}".',
                    'Try "pystandby --help" for more information.',
                )
            return int(demo.main(arguments[1:], prog_name="pystandby demo", standalone_mode=False) or 0)
        if not arguments and "_PYSTANDBY_COMPLETE" in os.environ:
            return int(restore_command.main(arguments, prog_name="pystandby", standalone_mode=False) or 0)
        options = parse(arguments)
    except click.exceptions.Exit as done:
        if sum(word[:1] != "-" for word in arguments) >= 3:
            # 0 without a file is the end of recovery for a server.
            raise StandbyError(
                exits.USAGE, "help or version was asked for in place of a restore", "Nothing was restored."
            ) from None
        return done.exit_code
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as failure:
        raise _usage_error(failure, arguments) from failure
    from pystandby import run

    say.debugging = options.debug
    return run.restore(options)


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

"""The entry point: the fast reader of the command line or click, the one boundary that errors stop at, the one exit.

Python's own statuses are all below 126, which PostgreSQL takes for the end of recovery: 1 for an exception, 2 from click, 120
when stdout cannot be flushed. For the commands that are not to restore anything it is the other way round: above 125 ends the
archiver, and takes a server down that has just been promoted.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def fails_with_1(arguments: "list[str]") -> bool:
    """Whether a command line is an archive_command, archive_cleanup_command or recovery_end_command: 0 and 1 are its statuses.

    Not one that names what a server restores into: there "archive" is an archive's folder, and 1 would be the end of recovery.
    contrib/linux/pystandby-python and __main__ say the same, for when this cannot be imported.
    """
    verbs = ("archive", "archive-cleanup", "recovery-end")
    return (
        bool(arguments)
        and arguments[0] in verbs
        and not any(word.endswith(("RECOVERYXLOG", "RECOVERYHISTORY")) for word in arguments)
    )


def start() -> "NoReturn":
    """Run the command line of this process, and end it with the status, whatever comes in between."""
    status = 1 if fails_with_1(sys.argv[1:]) else 201
    launcher = os.environ.pop("PYSTANDBY_LAUNCHER", "")
    try:
        status = main(sys.argv[1:], launcher)
    finally:
        # The executable takes 1 for a Python that could not start, and 211 for the word that PostgreSQL knows as 1.
        if launcher and status == 1:
            status = 211
        # Not sys.exit(): that would wait for the watch's threads, and turn a failed flush of stdout into 120.
        os._exit(status)


def main(arguments: "list[str]", launcher: str = "") -> int:
    """Do what a command line (without the program's name) says, and return the exit status. Raises nothing.

    ``launcher`` is the process id of the shell that waits for us, if one does, and "asked" where SIGUSR1 came to that; "exe" is
    the one of Windows (contrib/windows/pystandby.c), which takes us with it when it ends.
    """
    try:
        status = _main(arguments, launcher)
    except BaseException as failure:
        status = _failed(failure, not fails_with_1(arguments))
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        # Nothing of a restore goes to stdout; help that could not be written is a failure.
        status = status or 201
    return min(status, 1) if fails_with_1(arguments) else status


def _main(arguments: "list[str]", launcher: str) -> int:
    from pystandby import argv, osdep

    if launcher and launcher != "exe":
        osdep.heed_quit()
        shell, _, asked = launcher.partition(" ")
        osdep.waiting_shell = int(shell)
        osdep.user_signal_came = asked == "asked"
        if str(os.getppid()) != shell:
            # It was ended by a signal that could not reach us yet.
            return 207
    osdep.use_standard_descriptors()
    options = argv.parse(arguments)
    if options is None:
        plain = argv.archive(arguments)
        if plain is not None:
            from pystandby import archiver

            words, method = plain
            return archiver.put(words[:-2], words[-2], words[-1], compress=method)
        osdep.find_packages()
        from pystandby import cli

        return cli.main(arguments)
    from pystandby import run, say

    say.debugging = options.debug
    return run.restore(options)


def _failed(failure: BaseException, is_restore: bool) -> int:
    """Say why the work is not done, and give the status that stops a server; works with half the package missing."""
    try:
        from pystandby import exits, say

        if isinstance(failure, exits.StandbyError):
            # What was asked for is no error.
            tell = say.log if failure.status == exits.SERVER_STOPPING else say.error
            tell(failure.message, failure.detail, failure.hint)
            return failure.status
        if isinstance(failure, KeyboardInterrupt):
            say.error("interrupted", "Nothing was restored, and recovery has not ended." if is_restore else "")
            return exits.INTERRUPTED
        stops = "A server stops here, and loses nothing" if is_restore else "The server goes on"
        if isinstance(failure, ImportError):
            say.error(
                f"a module cannot be imported: {failure}",
                f"Nothing was restored. {stops}, instead of taking this for the end of recovery."
                if is_restore
                else f"Nothing was done. {stops}.",
                f"Install pystandby again for {sys.executable}{', then start the server' if is_restore else ''}.",
            )
            return exits.MODULE_MISSING
        say.error(
            f"unexpected {type(failure).__name__}: {failure}",
            f"This is a defect of pystandby, at {_places(failure)}. {stops}.",
            f"Please report it{'; then start the server again' if is_restore else ''}.",
        )
        return exits.UNEXPECTED
    except BaseException:
        # Not even the modules that say so.
        try:
            os.write(
                2,
                f"ERROR:  pystandby is damaged: {type(failure).__name__}: {failure}\n"
                f"HINT:  Install pystandby again for {sys.executable}, then start the server.\n".encode("utf-8", "replace"),
            )
        except BaseException:
            pass
        return 202


def _places(failure: BaseException) -> str:
    """Where an exception came from, innermost last, in one line: a traceback would be many in the server's log."""
    places = []
    trace = failure.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return ", ".join(places)

"""The entry point: the fast reader of the command line or click, the one boundary that errors stop at, the one exit.

Python's own statuses are all below 126, which PostgreSQL takes for the end of recovery: 1 for an exception, 2 from click, 120
when stdout cannot be flushed.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def start() -> "NoReturn":
    """Run the command line of this process, and end it with the status, whatever comes in between."""
    status = 201
    launcher = os.environ.pop("PYSTANDBY_LAUNCHER", "")
    try:
        status = main(sys.argv[1:], launcher)
    finally:
        # contrib/linux/pystandby takes 1 for a Python that could not start, and 211 for the word that PostgreSQL knows as 1.
        if launcher and status == 1:
            status = 211
        # Not sys.exit(): that would wait for the watch's threads, and turn a failed flush of stdout into 120.
        os._exit(status)


def main(arguments: "list[str]", launcher: str = "") -> int:
    """Do what a command line (without the program's name) says, and return the exit status. Raises nothing.

    ``launcher`` is the process id of the shell that waits for us, if one does.
    """
    try:
        status = _main(arguments, launcher)
    except BaseException as failure:
        status = _failed(failure)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        # Nothing of a restore goes to stdout; help that could not be written is a failure.
        return status or 201
    return status


def _main(arguments: "list[str]", launcher: str) -> int:
    from pystandby import argv, osdep

    if launcher:
        osdep.heed_quit()
        if str(os.getppid()) != launcher:
            # It was ended by a signal that could not reach us yet.
            return 207
    osdep.use_standard_descriptors()
    options = argv.parse(arguments)
    if options is None:
        from pystandby import cli

        return cli.main(arguments)
    from pystandby import run, say

    say.debugging = options.debug
    return run.restore(options)


def _failed(failure: BaseException) -> int:
    """Say why nothing was restored, and give the status that stops the server; works with half the package missing."""
    try:
        from pystandby import exits, say

        if isinstance(failure, exits.StandbyError):
            say.error(failure.message, failure.detail, failure.hint)
            return failure.status
        if isinstance(failure, KeyboardInterrupt):
            say.error("interrupted", "Nothing was restored, and recovery has not ended.")
            return exits.INTERRUPTED
        if isinstance(failure, ImportError):
            say.error(
                f"a module cannot be imported: {failure}",
                "Nothing was restored. A server stops here, and loses nothing, instead of taking this for the end of recovery.",
                f"Install pystandby again for {sys.executable}, then start the server.",
            )
            return exits.MODULE_MISSING
        say.error(
            f"unexpected {type(failure).__name__}: {failure}",
            f"This is a defect of pystandby, at {_places(failure)}. A server stops here, and loses nothing.",
            "Please report it; then start the server again.",
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

"""Faults that no ordinary user can bring about for real: injected between the installed program and the operating system.

    program = injected.program(folder, 'os.open = failing(os.open, "/archive", errno.EIO)')
    run(..., program=program)

Functions of os are replaced, with the helpers below at hand, before the installed pystandby-python runs as it is, by its own
interpreter. What can be brought about for real (no room, no rights, too few descriptors, a mount that goes) is.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from support.command import PYSTANDBY, Argument

PYTHON_SCRIPT = PYSTANDBY.with_name("pystandby-python")
"""What the shell script pystandby starts."""

_HELPERS = '''
import errno, os, time

_open, _fstat, _exists = os.open, os.fstat, os.path.lexists
_of_descriptor = {}


def _names(arguments):
    """The paths that the arguments of a function of os name, those of open files included."""
    for argument in arguments:
        if isinstance(argument, (str, bytes)):
            yield os.fsdecode(argument)
        elif isinstance(argument, int) and not isinstance(argument, bool):
            try:
                yield os.readlink(f"/proc/self/fd/{argument}")
            except OSError:
                pass


def _concerns(path, arguments):
    return any(os.path.abspath(name).startswith(path) for name in _names(arguments))


def failing(function, path, error, when=lambda: True):
    """A function that fails with an error number where an argument is, or is open as, something below a path."""
    def failing_function(*arguments, **options):
        if _concerns(path, arguments) and when():
            raise OSError(error, os.strerror(error), path)
        return function(*arguments, **options)
    return failing_function


def hanging(function, path, until, when=lambda: True):
    """A function that does not come back before a file exists, where an argument is something below a path."""
    def hanging_function(*arguments, **options):
        if _concerns(path, arguments) and when():
            open(until + ".reached", "w").close()
            while not _exists(until):
                time.sleep(0.02)
        return function(*arguments, **options)
    return hanging_function
'''


_RUN = f"""

exec(compile(_program, {str(PYTHON_SCRIPT)!r}, "exec"))
"""

_READ = f"""
import sys
sys.path[0] = {str(PYTHON_SCRIPT.parent)!r}
_program = open({str(PYTHON_SCRIPT)!r}).read()
"""
"""First what the injection itself needs: it may be that nothing can be opened behind it."""


def program(folder: Path, code: str) -> list[Argument]:
    """The words of a program that runs ``code`` and then the installed program; ``folder`` takes a file."""
    script = folder / "injected.py"
    script.write_text(_READ + _HELPERS + textwrap.dedent(code) + _RUN)
    return [sys.executable, "-E", script]

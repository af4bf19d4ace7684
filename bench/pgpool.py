"""A failover behind Pgpool-II: from the end of the primary's stop to the first write that a client gets through."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import psycopg
from support.pgpool import FED, PGPOOL, SCRIPTS, STREAMING, Pool, connection, make_stock

from bench.report import Section
from bench.timing import MS, progress
from pystandby.exits import UNEXPECTED, StandbyError

WAYS = {FED: "fed from the archive: `pystandby trigger smart`", STREAMING: "streaming: `pg_ctl promote`"}

PATIENCE_S = 60.0

_BETWEEN_TRIES_S = 0.005

MEANING = """
A real Pgpool-II of Debian in front of two servers of PostgreSQL 15, with the scripts of `contrib/linux/pgpool`. The time is
that from the end of `pg_ctl stop -m fast` of the primary to the first INSERT that a client, which tries without a pause,
gets through: Pgpool-II's own work, `failover.sh` with its questions, `ARBITRATE` and `FENCE` (which find a server that is
stopped already), the promotion, and the search for the new primary, which looks once a second. Pgpool-II notices the failure
at once, by the client's first attempt (`failover_on_backend_error`); with the sample's settings the health check's time
comes on top, 16 seconds at most.
"""


def measure(folder: Path, rounds: int) -> Section:
    """Fail over to each kind of standby once in every round."""
    section = Section("6. A failover behind Pgpool-II", MEANING, ("standby", "median ms", "least to most", "runs"))
    if not PGPOOL.exists() or not os.access(SCRIPTS, os.R_OK | os.X_OK):
        why = "not installed (make test-pgpool does that)" if not PGPOOL.exists() else "not measured: its scripts cannot be read"
        section.rows.append([f"Pgpool-II: {why}", "-", "-", "-"])
        return section
    found: dict[str, list[float]] = {kind: [] for kind in WAYS}
    try:
        stock = folder / "pool-stock"
        make_stock(stock)
        for number in range(rounds):
            for kind in list(WAYS)[:: 1 if number % 2 else -1]:
                progress(f"a failover behind Pgpool-II, round {number + 1} of {rounds}: {kind}")
                found[kind].append(_fail_over(stock, kind) * MS)
    except AssertionError as failure:
        raise StandbyError(UNEXPECTED, "a failover behind Pgpool-II did not come about", str(failure)) from failure
    for kind, way in WAYS.items():
        times = found[kind]
        section.rows.append([way, f"{statistics.median(times):.0f}", f"{min(times):.0f} to {max(times):.0f}", str(len(times))])
    return section


def _fail_over(stock: Path, kind: str) -> float:
    """Seconds until the first write."""
    pool = Pool(stock)
    try:
        primary, standby = pool.servers(kind)
        pool.begin(failover_on_backend_error=True)
        pool.until_nodes("up primary", "up standby")
        pool.sql("INSERT INTO ledger (note) VALUES ('before')")
        primary.stop("fast")
        began = time.monotonic()
        while not _writes(pool):
            if time.monotonic() > began + PATIENCE_S:
                raise AssertionError(f"no write within {PATIENCE_S:.0f} s\n{pool.tell()}")
            time.sleep(_BETWEEN_TRIES_S)
        took = time.monotonic() - began
        if standby.rows() != 102:
            raise AssertionError(f"{standby.rows()} rows of 102 are there")
        return took
    finally:
        pool.close()


def _writes(pool: Pool) -> bool:
    try:
        with connection(pool.port) as through:
            through.execute("INSERT INTO ledger (note) VALUES ('after')")
    except psycopg.Error:
        return False
    return True

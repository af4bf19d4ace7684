"""Benchmarks: what a restore, a catch-up and a wait cost, beside cp, a bare Python and the peers that are installed."""

"""Faults made on purpose, without servers: the archive's, the standby's own, the interpreter's, and those of people."""

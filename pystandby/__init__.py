"""pystandby: a safe and fast restore_command for PostgreSQL's file-shipped warm standbys."""

__version__ = "0.1.0"

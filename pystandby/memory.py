"""What one server process must be told again, or not again, by later calls: each call is a process of its own.

    pg_wal/.pystandby/refused   the server process, and the first segment that it was refused
    pg_wal/.pystandby/said      the server process, and the warnings that it has had

After a refusal PostgreSQL asks again: 15 and later twice for the same segment (recovery_prefetch), every version for the last
one that it replayed. Without the memory a fast failover turns into a smart one, and MAXWAITTIME is waited for twice.
"""

import os

FOLDER = ".pystandby"


class Memory:
    """The memory of one server process, beside the file that it wants; ``identity`` is Asker.identity()."""

    __slots__ = ("_folder", "_identity")

    def __init__(self, destination: str, identity: str) -> None:
        self._folder = os.path.join(os.path.dirname(destination), FOLDER)
        self._identity = identity

    def refused(self) -> "str | None":
        """The first segment that this server process was refused; None if recovery has not ended for it."""
        lines = self._read("refused")
        return lines[0] if lines else None

    def refuse(self, name: str) -> bool:
        """Remember that recovery ends at a segment; False where that cannot be written down."""
        return self._write("refused", [name])

    def say_once(self, what: str) -> bool:
        """Whether this server process has yet to be told of something, noting that it now is."""
        said = self._read("said")
        if what in said:
            return False
        self._write("said", [*said, what])
        return True

    def unsay(self, what: str) -> bool:
        """Whether this server process was told of something that is over now, noting that it is."""
        said = self._read("said")
        if what not in said:
            return False
        self._write("said", [word for word in said if word != what])
        return True

    def _read(self, name: str) -> "list[str]":
        try:
            with open(os.path.join(self._folder, name), "rb", buffering=0) as file:
                lines = file.read(65536).decode("utf-8", "surrogateescape").split("\n")
        except OSError:
            return []
        # Another server's, the same one's before a restart, or half a file after a crash: nothing of it binds this one.
        return lines[1:-1] if lines[0] == self._identity and len(lines) > 2 else []

    def _write(self, name: str, lines: "list[str]") -> bool:
        path = os.path.join(self._folder, name)
        temporary = f"{path}.{os.getpid()}"
        content = "\n".join([self._identity, *lines, ""]).encode("utf-8", "surrogateescape")
        try:
            try:
                os.mkdir(self._folder, 0o700)
            except FileExistsError:
                pass
            with open(temporary, "wb", buffering=0) as file:
                file.write(content)
            os.replace(temporary, path)
        except OSError:
            try:
                os.unlink(temporary)
            except OSError:
                pass
            return False
        return True

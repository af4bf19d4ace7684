"""What systemd does with a service that ends, by the settings of a unit or of a drop-in: for tests, where no systemd runs."""

from __future__ import annotations

import configparser
import time
from pathlib import Path

from support.servers import DEADLINE, Server


class Service:
    """A server under a service manager, which starts it again as the settings of [Unit] and [Service] tell.

    Of Restart=, systemd.service(5), only on-failure is known here: an exit status other than 0, or a signal.
    """

    def __init__(self, server: Server, settings: Path) -> None:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment]  # its way to keep upper case
        parser.read_string(settings.read_text())
        assert parser["Service"]["Restart"] == "on-failure"
        self.settings = parser
        self._pause = float(parser["Service"]["RestartSec"])
        self._burst = int(parser["Unit"]["StartLimitBurst"])
        self._interval = float(parser["Unit"]["StartLimitIntervalSec"])
        self._starts: list[float] = []
        self._server = server

    def start(self) -> None:
        """Start the server; wait for nothing."""
        self._starts.append(time.monotonic())
        self._server.launch()

    def until_ended(self) -> int:
        """Wait until the server has ended by itself, and return its exit status."""
        # Server.until_down() does not tell how it ended.
        process = self._server._server
        assert process is not None
        return process.wait(DEADLINE)

    def react(self, status: int) -> bool:
        """Do what the manager does when the server has ended with a status; whether it was started again."""
        if status == 0:
            return False
        time.sleep(self._pause)
        recent = [start for start in self._starts if time.monotonic() - start < self._interval]
        if len(recent) >= self._burst:
            return False
        self.start()
        return True

"""The board of the device: clock, timers, log, reports and reset line. The services run on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import trio

from mdashcore.virtual_device.config import Config
from mdashcore.virtual_device.outbox import Outbox
from mdashcore.virtual_device.timers import Timers

__all__ = ["ERROR_LEVEL", "INFO_LEVEL", "Board"]

ERROR_LEVEL: Final = 0  # Mongoose OS's log levels; `debug.level` is the highest that is logged
INFO_LEVEL: Final = 2

STDERR: Final = 2  # the file descriptor to which Mongoose OS logs


class Board:
    """The parts of the device that its services use.

    Args:
        config: the configuration of the device.
        now: returns Unix seconds.
        reset: called when the reset line is pulled.
    """

    def __init__(self, config: Config, *, now: Callable[[], float], reset: Callable[[], None]) -> None:
        self.config = config
        self.timers: Timers = Timers()
        self.outbox: Outbox = Outbox()
        self._now = now
        self._reset = reset

    def power_on(self) -> None:
        """Clear the RAM: timers, notifications that are not sent yet, the numbering of log lines."""
        self.timers.clear()
        self.outbox.clear()
        self._started = trio.current_time()
        self._reset_at = math.inf
        self._seq = 0

    def uptime(self) -> float:
        """Return the seconds since the last boot."""
        return trio.current_time() - self._started

    def log(self, text: str, level: int = INFO_LEVEL) -> None:
        """Put a line into the `Log` notification `{fd, data, t, seq}`; `t` is Unix time in seconds."""
        if level > self.config["debug.level"] or not self.config["dash.send_logs"]:
            return
        line = {"fd": STDERR, "data": text, "t": round(self._now(), 3), "seq": self._seq}
        self._seq += 1
        self.outbox.put_log(("Log", line))

    def report(self, reported: dict[str, Any]) -> None:
        """Send an update of the shadow's reported state."""
        self.outbox.put_report(shadow_update(reported))

    def notify(self, method: str, params: Any) -> None:
        """Send a notification of another method."""
        self.outbox.put_report((method, params))

    def reset_after(self, seconds: float, why: str) -> None:
        """Pull the reset line after `seconds`. Of several calls the earliest time counts."""
        self.log(f"rebooting in {seconds * 1000:.0f} ms: {why}")
        at = trio.current_time() + seconds
        if at < self._reset_at:
            self._reset_at = at
            self.timers.start("reset", seconds, self._reset)


def shadow_update(reported: dict[str, Any]) -> tuple[str, Any]:
    """Return the notification that reports state."""
    return "Dash.Shadow.Update", {"state": {"reported": reported}}

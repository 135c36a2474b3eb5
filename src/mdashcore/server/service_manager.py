"""Messages to the service manager that has started the server: ready, reloading, stopping, alive.

They are those of sd_notify(3): a datagram of lines ``NAME=VALUE`` to the socket that ``NOTIFY_SOCKET`` names. systemd
sends none back. Without the variable nothing is sent.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import trio

__all__ = ["Manager", "ServiceManager"]

_log = logging.getLogger(__name__)

PINGS_PER_PERIOD: Final = 4  # signs of life in the time of the watchdog: a check of the store that takes as long as
# a pause still leaves one in each half of it, as sd_watchdog_enabled(3) asks for


class Manager(Protocol):
    """The program that has started this process, and is told how it is."""

    def notify_ready(self, url: str, metrics_url: str | None = None) -> None:
        """Say that the server accepts connections, or has been reloaded.

        Args:
            url: the address of the server, for people.
            metrics_url: the address of the metrics, if they have one of their own.
        """

    def notify_reloading(self) -> None:
        """Say that the configuration is read again. `notify_ready` ends this."""

    def notify_stopping(self) -> None:
        """Say that the server is going down."""

    async def keep_alive(self, answers: Callable[[], Awaitable[bool]]) -> None:
        """Send signs of life until cancelled. `answers` checks whether the store answers."""


class ServiceManager:
    """The service manager of this process, or none. Implements `Manager`.

    Args:
        address: the path of its socket, or, after ``@``, the name of an abstract one. Empty if there is none.
        watchdog: seconds without a sign of life after which it ends the process and starts it again; 0 if it does not.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._failing = False
        self.watchdog: float = watchdog if address else 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> ServiceManager:
        """Make the value from the variables that systemd sets. `pid` is this process: the watchdog may be another's."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):
            return cls()  # a kind of socket that is not known, as of virtual machines
        microseconds = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", "") in ("", str(pid))
        counts = ours and microseconds.isascii() and microseconds.isdigit()
        return cls(address, int(microseconds) / 1e6 if counts else 0.0)

    def notify_ready(self, url: str, metrics_url: str | None = None) -> None:
        """Say that the server accepts connections, or has been reloaded."""
        self._send("READY=1", f"STATUS=Listening on {url}")

    def notify_reloading(self) -> None:
        """Say that the configuration is read again. `notify_ready` ends this."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def notify_stopping(self) -> None:
        """Say that the server is going down."""
        self._send("STOPPING=1", "STATUS=Going down")

    async def keep_alive(self, answers: Callable[[], Awaitable[bool]]) -> None:
        """Send a sign of life for as long as the event loop turns and `answers` returns `True`, until cancelled.

        Args:
            answers: checks whether the store answers. More than a quarter of the watchdog's time counts as `False`.
        """
        if not self.watchdog:
            return
        pause = self.watchdog / PINGS_PER_PERIOD
        alive = True
        while True:
            was_alive, alive = alive, False
            with trio.move_on_after(pause):
                alive = await answers()
            if alive:
                self._send("WATCHDOG=1")
            elif was_alive:
                _log.error("the store does not answer: if it stays so, the service manager starts the server again")
            await trio.sleep(pause)

    def _send(self, *lines: str) -> None:
        """Send one message. It never waits, and a manager that has gone does not stop the server."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as exc:
            if not self._failing:
                _log.warning("the service manager cannot be told %s: %s", lines[0], exc.strerror)
            self._failing = True
        else:
            self._failing = False

"""Ports for programs that have to be told theirs."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

__all__ = ["free_port"]

PORTS = range(10_000, 32_000)
"""Below those that systems choose from: there, a connection of another test could get it before the program has it."""


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens."""
    while True:
        port = random.SystemRandom().choice(PORTS)  # hypothesis gives every test the same chances
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

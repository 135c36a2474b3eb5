"""The signals that ask a process to stop, received in Trio, and whether it has a terminal that may be closed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

import trio

__all__ = ["has_terminal", "open_stop_signals"]


def open_stop_signals() -> AbstractContextManager[AsyncIterator[int]]:
    """Receive SIGTERM and SIGINT: ``with open_stop_signals() as signals: async for number in signals: …``.

    A process that was started with SIGINT ignored continues to ignore it. A shell without job control starts background
    processes this way, and Ctrl-C is then meant for the process in the foreground. SIGTERM is received in any case.
    """
    wanted = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        wanted.append(signal.SIGINT)
    return trio.open_signal_receiver(*wanted)


def has_terminal() -> bool:
    """Return whether stdin, stdout or stderr is an open terminal."""
    return any(os.isatty(fd) for fd in range(3))

"""Child processes that a test sends signals to."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["default_signals"]

SENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def default_signals() -> Iterator[None]:
    """Give the children that are started in this context the default disposition of the signals that tests send.

    A child inherits which signals are ignored. A shell without job control ignores SIGINT in what it puts into the
    background, `nohup` ignores SIGHUP: without this the child of a test that runs there cannot be interrupted.
    """
    ignored = [number for number in SENT if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        # A signal that has a handler gets its default back in a new program. The default itself would end this one.
        signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

"""A process that writes to a store until it is killed. Its acknowledged writes have to be there afterwards."""

from __future__ import annotations

import os
import select
import signal
import time
import unittest
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio

__all__ = ["Acknowledge", "kill_while_writing"]

Acknowledge = Callable[[], None]
"""A function that a writer calls when its last write has returned."""

ACKNOWLEDGE_TIMEOUT: Final = 30.0  # seconds for the required acknowledgements


def kill_while_writing(loop: str, write: Callable[[Acknowledge], Awaitable[None]], *, after: int) -> int:
    """Run `write` in a forked process on an event loop, and kill the process with SIGKILL.

    Args:
        loop: name of the event loop, as anyio knows it.
        write: writes for ever, and acknowledges each write when it has returned.
        after: number of acknowledgements to wait for.

    Returns:
        the number of acknowledgements until the process died.

    Raises:
        AssertionError: the process ended by itself, or did not acknowledge in time.
        unittest.SkipTest: the system cannot fork.
    """
    if not hasattr(os, "fork"):
        raise unittest.SkipTest("the system cannot fork a process")
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: the child uses none of the parent's
        pid = os.fork()
    if pid == 0:
        try:
            anyio.run(write, partial(_acknowledge, write_end), backend=loop)
        finally:
            os._exit(1)  # without the exit handlers of the parent
    os.close(write_end)
    try:
        acknowledged = _read(read_end, after)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    while data := os.read(read_end, 4096):
        acknowledged += len(data)
    os.close(read_end)
    return acknowledged


def _acknowledge(pipe: int) -> None:
    os.write(pipe, b".")


def _read(pipe: int, count: int) -> int:
    found = 0
    deadline = time.monotonic() + ACKNOWLEDGE_TIMEOUT
    while found < count:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"a writer has acknowledged {found} of {count} writes in {ACKNOWLEDGE_TIMEOUT:g} s"
        data = os.read(pipe, 4096)
        assert data, f"a writer ended by itself after {found} acknowledged writes"
        found += len(data)
    return found

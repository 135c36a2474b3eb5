"""Waiting for what other processes do, which set no event of ours."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 30.0  # seconds, on a busy machine


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be so"
        time.sleep(0.02)

"""Clocks that other programs on the machine do not make faster."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["blocked_time"]


def blocked_time() -> float:
    """Seconds in which this thread had nothing to do but to wait for something, from some moment on.

    Not counted is when it computes, and when it could and another program has the core: a bound on what is left holds
    on a busy machine too. Where the system is not Linux, only the first is known.
    """
    schedstat = Path("/proc/thread-self/schedstat")
    pushed_aside = int(schedstat.read_text().split()[1]) / 1e9 if schedstat.exists() else 0.0
    return time.perf_counter() - time.thread_time() - pushed_aside

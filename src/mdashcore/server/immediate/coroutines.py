"""Running a coroutine without a task."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run_now"]

T = TypeVar("T")


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits to its end, without a task. Raises `RuntimeError` if it waits."""
    try:
        trap = coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    if (abort := getattr(trap, "abort_func", None)) is not None:
        abort(_never)  # the event must not wake the task in whose name the coroutine was run
    coroutine.close()
    raise RuntimeError("a store that claims to be instant waits")


def _never() -> None:
    """Serve as abort callback for Trio. It has nothing to do, because the coroutine is closed next."""

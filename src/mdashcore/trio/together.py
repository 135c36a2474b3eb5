"""Short pieces of work that are done at the same time, in a bounded number."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

__all__ = ["together"]


async def together(most: int, work: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Call functions, up to `most` of them at the same time.

    Raises:
        Exception: the first error of one, as it is. Those that run are cancelled then, and no other one is begun.
    """
    waiting = iter(work)
    errors: list[Exception] = []

    async def run() -> None:
        for function in waiting:
            try:
                await function()
            except Exception as exc:  # raised below, because exceptions leave a nursery as a group
                errors.append(exc)
                nursery.cancel_scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(most):
            nursery.start_soon(run)
    if errors:
        raise errors[0]

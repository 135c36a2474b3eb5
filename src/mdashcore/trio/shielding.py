"""Shields a change from cancellation, so that it is finished also when its client does not wait for the answer.

A change consists of several writes. If it were cancelled between two of them, it would be half done, or done without
its notifications.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from mdashcore._errors import StorageError

__all__ = ["finish", "shielded"]

T = TypeVar("T")

SHIELD_GRACE: Final = 3.0  # seconds for a change whose client has left: a server that goes down has five for everything

WRITES_TIMEOUT: Final = 10.0  # seconds for two or three writes: a storage that takes longer has failed

_TOO_SLOW: Final = "the storage takes too long"


async def finish(change: Callable[[], Awaitable[T]]) -> T:
    """Run a change to its end, however long the client waits, and for `SHIELD_GRACE` seconds after the client has left.

    Raises:
        StorageError: the seconds are over. The writes so far stay, and the same request continues with them.
    """
    result: T
    error: Exception | None = None
    scope = trio.CancelScope(shield=True)

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:  # the client has left, or the change is done
            scope.deadline = trio.current_time() + SHIELD_GRACE

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with scope:
            try:
                result = await change()
            except Exception as exc:  # raised below, because exceptions leave a nursery as a group
                error = exc
        nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        raise StorageError(_TOO_SLOW)
    if error is not None:
        raise error
    return result


async def shielded(change: Callable[[], Awaitable[T]]) -> T:
    """Run a short change to its end, within `WRITES_TIMEOUT` seconds. It starts no task, as `finish` does."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITES_TIMEOUT):
        return await change()
    raise StorageError(_TOO_SLOW)

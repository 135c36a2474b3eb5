"""What has been begun is finished, also when the client that asked for it does not wait for the answer.

A change of several writes that is stopped between two of them leaves something half done, or done and told to nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from mdashcore._errors import StorageError

__all__ = ["finish", "shielded"]

T = TypeVar("T")

GRACE: Final = 3.0  # seconds for the rest, once nobody waits for it: a server that goes down has five for everything

SOON: Final = 10.0  # seconds for two or three writes: a storage that takes longer is not well, and this must end

_TOO_SLOW: Final = "the storage takes too long"


async def finish(change: Callable[[], Awaitable[T]]) -> T:
    """Run a change to its end. When the client leaves it has `GRACE` seconds more; while it waits, any time.

    Raises:
        StorageError: those have gone by. What was done so far stays, and the same request goes on with it.
    """
    result: T
    error: Exception | None = None
    scope = trio.CancelScope(shield=True)

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:  # the client has left, or all is done
            scope.deadline = trio.current_time() + GRACE

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with scope:
            try:
                result = await change()
            except Exception as exc:  # raised below: what leaves a nursery is a group
                error = exc
        nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        raise StorageError(_TOO_SLOW)
    if error is not None:
        raise error
    return result


async def shielded(change: Callable[[], Awaitable[T]]) -> T:
    """The same for the short changes of most requests, at no cost: they have `SOON` seconds in all."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SOON):
        return await change()
    raise StorageError(_TOO_SLOW)

"""The root of the suites for message buses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import anyio

from mdashcore.storage import Backend, MessageBus
from mdashcore.testing._suite import StorageSuite

__all__ = ["MESSAGE_TIMEOUT", "BusSuite", "arriving"]

MESSAGE_TIMEOUT = 10.0  # seconds for a message that has to come


class BusSuite(StorageSuite):
    """Runs tests on the bus of a backend."""

    flood: ClassVar[int] = 6000
    """Messages past a subscriber that reads none: more than a queue for it can reasonably hold."""

    def on_bus(self, test: Callable[[MessageBus], Awaitable[None]]) -> None:
        """Run an async test on every loop, with the bus of a fresh store."""

        async def opened(backend: Backend) -> None:
            await test(backend.bus)

        self.run_open(opened)


def arriving(times: int = 1) -> AbstractContextManager[object]:
    """Bound the wait for messages that have to come. Raises `TimeoutError`.

    Args:
        times: how many times `MESSAGE_TIMEOUT` it may take.
    """
    return anyio.fail_after(times * MESSAGE_TIMEOUT)

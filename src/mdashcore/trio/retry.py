"""What to do while the storage is away: try again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from mdashcore._errors import StorageError
from mdashcore.storage import MessageBus

__all__ = ["RETRY_DELAY", "listen", "persist"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_DELAY: Final = 1.0  # seconds until the storage is tried again: all has to work 5 seconds after it is back


async def persist(function: Callable[[], Awaitable[T]]) -> T:
    """Do what must not be left undone, as soon as the storage lets us; for as long as this process lives."""
    while True:
        try:
            return await function()
        except StorageError as exc:
            _log.warning("storage failed, trying again: %s", exc)
            await trio.sleep(RETRY_DELAY)


async def listen(bus: MessageBus, topic: str, hear: Callable[[bytes], None], *, live: Callable[[], None]) -> None:
    """Hear a topic for ever.

    Args:
        live: called whenever messages begin to come; what was told before, and since a failure, was not heard.
    """
    while True:
        try:
            async with bus.subscribe(topic) as messages:
                live()
                async for message in messages:
                    hear(message)
        except StorageError as exc:
            _log.warning("messages on %s are delayed: %s", topic, exc)
        await trio.sleep(RETRY_DELAY)

"""What to do while the storage is away: try again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, TypeVar

import trio

from mdashcore._errors import StorageError
from mdashcore.storage import MessageBus

__all__ = ["RETRY_DELAY", "listen", "persist"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

TELL_INTERVAL: Final = 10.0  # seconds between two lines of a log about the same outage

RETRY_DELAY: Final = 1.0  # seconds until the storage is tried again: all has to work 5 seconds after it is back


class _Outage:
    """Tells of a storage that is away: once in a while, however many wait for it."""

    def __init__(self) -> None:
        self._told_at = -inf

    def tell(self, error: StorageError) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_INTERVAL:
            self._told_at = now
            _log.warning("storage failed, trying again until it is back: %s", error)


_outage = _Outage()


async def persist(function: Callable[[], Awaitable[T]]) -> T:
    """Do what must not be left undone, as soon as the storage lets us; for as long as this process lives."""
    while True:
        try:
            return await function()
        except StorageError as exc:
            _outage.tell(exc)
            await trio.sleep(RETRY_DELAY * random.uniform(0.5, 1.5))  # noqa: S311 - so that not all come back at once


async def listen(bus: MessageBus, topic: str, hear: Callable[[bytes], None], *, live: Callable[[], None]) -> None:
    """Hear a topic for ever. A message that `hear` cannot take is logged and passed over: another version may speak.

    Args:
        live: called whenever messages begin to come; what was told before, and since a failure, was not heard.
    """
    while True:
        try:
            async with bus.subscribe(topic) as messages:
                live()
                async for message in messages:
                    try:
                        hear(message)
                    except Exception:
                        _log.exception("a message on %s is not understood", topic)
        except StorageError as exc:
            _log.warning("messages on %s are delayed: %s", topic, exc)
        await trio.sleep(RETRY_DELAY)

"""The parent, as a worker sees it: a service manager that is told how the worker is, and the way to all metrics."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from mdashcore._errors import Overloaded
from mdashcore.server.workers.channel import (
    Alive,
    AllMetrics,
    Channel,
    GetMetrics,
    PackedMetrics,
    Ready,
    Stopping,
    WantMetrics,
)

__all__ = ["ALIVE_INTERVAL", "Parent"]

_log = logging.getLogger(__name__)

ALIVE_INTERVAL: Final = 5.0  # seconds between two signs of life of a worker: twelve in the time in which it is missed

GATHER_TIMEOUT: Final = 4.0  # seconds for the metrics of all workers: twice the time that the parent gives them, and
# less than the 10 s of Prometheus


class Parent:
    """The parent of this worker. Implements `Manager` and `WorkerMetrics`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._collect: Callable[[], Awaitable[bytes]] | None = None
        self._gathering = trio.Lock()
        self._gathered: list[AllMetrics] = []
        self._has_gathered = trio.Event()

    async def run(self) -> None:
        """Answer the parent. When it has gone, have this process end: another parent would start workers of its own."""
        async with trio.open_nursery() as nursery:
            while (message := await self._channel.receive()) is not None:
                if isinstance(message, GetMetrics):
                    nursery.start_soon(self._send_metrics, message.id)
                elif isinstance(message, AllMetrics):
                    self._gathered = [message]
                    self._has_gathered.set()
        _log.error("the parent of the workers has gone: going down")
        os.kill(os.getpid(), signal.SIGINT)

    # `Manager`

    def notify_ready(self, url: str, metrics_url: str | None = None) -> None:
        """Say that this worker accepts connections, or has reloaded its certificate."""
        self._channel.send(Ready(url, metrics_url))

    def notify_reloading(self) -> None:
        """Say nothing: the parent has asked for it."""

    def notify_stopping(self) -> None:
        """Say that this worker is going down."""
        self._channel.send(Stopping())

    async def keep_alive(self, answers: Callable[[], Awaitable[bool]]) -> None:
        """Send signs of life until cancelled.

        Args:
            answers: checks whether the store answers. More than `ALIVE_INTERVAL` counts as `False`.
        """
        while True:
            store_answers = False
            with trio.move_on_after(ALIVE_INTERVAL):
                store_answers = await answers()
            self._channel.send(Alive(store_answers))
            await trio.sleep(ALIVE_INTERVAL)

    # `WorkerMetrics`

    def set_collect(self, collect: Callable[[], Awaitable[bytes]]) -> None:
        """Set the function that returns the packed metrics of this worker."""
        self._collect = collect

    async def gather(self) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return the packed metrics and the number of starts, by worker. Workers that do not answer are left out.

        Raises:
            Overloaded: the parent does not answer.
        """
        async with self._gathering:  # of many clients one after the other: each costs work of all workers
            self._gathered, self._has_gathered = [], trio.Event()
            self._channel.send(WantMetrics())
            with trio.move_on_after(GATHER_TIMEOUT):
                await self._has_gathered.wait()
            for found in self._gathered:
                return found.packed, found.starts
        raise Overloaded("the parent of the workers has not sent their metrics in time", retry_after=GATHER_TIMEOUT)

    async def _send_metrics(self, id: int) -> None:
        if self._collect is not None:
            self._channel.send(PackedMetrics(id, await self._collect()))

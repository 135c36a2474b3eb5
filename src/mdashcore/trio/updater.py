"""Drives the updates of a node: one task for each that has not ended, moved on by events and by time."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from mdashcore import ota
from mdashcore._errors import Busy, NotFound, StorageError, VersionConflict
from mdashcore.firmware import Image
from mdashcore.hub import DeviceCaller, Hub
from mdashcore.hub.updates import UpdateRun
from mdashcore.ota import Update

__all__ = ["Updater"]

MAX_EVENTS: Final = 64  # not yet taken by a run: reports come once in seconds, a run takes them at once

RETRY_DELAY: Final = 2.0  # seconds, after a failure of the storage


class _Driver:
    """One run with what its task waits for."""

    def __init__(self, run: UpdateRun) -> None:
        self.run = run
        self.events: deque[ota.Event] = deque(maxlen=MAX_EVENTS)
        self.wakeup = trio.Event()
        self.changed = trio.Event()
        self.call = trio.CancelScope()
        self.asking = False

    def tell(self, event: ota.Event) -> None:
        self.events.append(event)
        self.wakeup.set()
        if self.asking or (isinstance(event, ota.CancelRequested) and ota.can_cancel(self.run.update)):
            self.call.cancel()  # its answer would change nothing any more, or is there already


class Updater:
    """The updates that this node drives.

    Args:
        spawn: starts a task that outlives whoever asked for it.
    """

    def __init__(self, hub: Hub, caller: DeviceCaller, spawn: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self._hub = hub
        self._caller = caller
        self._spawn = spawn
        self._drivers: dict[tuple[str, str], _Driver] = {}

    async def start(self, account: str, device: str, id: str, image: Image, options: ota.Options) -> None:
        """Begin to update a connected device, whose image is in the blob store. Raises `Conflict`."""
        build = await self._hub.updates.known_build(account, device)
        with trio.CancelScope(shield=True):  # once stored it has to be driven, whoever asked is still there or not
            run = await self._hub.updates.create(account, device, id, image, options)
            self._drive(run).tell(ota.Started(build))

    async def take_up_all(self) -> None:
        """Go on with what an earlier process of this node has left."""
        async for account, device in self._hub.updates.unfinished():
            try:
                driver = self._drive(await self._hub.updates.take_up(account, device))
            except NotFound:
                continue
            driver.tell(ota.DeviceDisconnected())

    def tell(self, account: str, device: str, event: ota.Event) -> None:
        """Something happened to the device, or to its update; without an update it does not matter."""
        driver = self._drivers.get((account, device))
        if driver is not None:
            driver.tell(event)

    async def wait(self, account: str, device: str, until: Callable[[Update], bool]) -> Update:
        """The device's update, once `until` says so or it has ended.

        Raises:
            NotFound: no update of it is driven here, or not any more: it was removed.
        """
        driver = self._drivers.get((account, device))
        while driver is not None and not until(driver.run.update) and not driver.run.update.ended:
            if self._drivers.get((account, device)) is not driver:
                driver = None
            else:
                await driver.changed.wait()
        if driver is None:
            raise NotFound(f"no update of {device!r} any more")
        return driver.run.update

    def forget(self, account: str, device: str) -> None:
        """The device was removed: drive its update no more."""
        driver = self._drivers.pop((account, device), None)
        if driver is not None:
            driver.call.cancel()
            driver.wakeup.set()

    def _drive(self, run: UpdateRun) -> _Driver:
        driver = self._drivers[run.account, run.device] = _Driver(run)
        self._spawn(lambda: self._run(driver))
        return driver

    async def _run(self, driver: _Driver) -> None:
        run = driver.run
        key = run.account, run.device
        try:
            while self._drivers.get(key) is driver and not run.update.ended:
                event = await self._next(driver)
                if event is not None:
                    await self._apply(driver, event)
        finally:
            if self._drivers.get(key) is driver:
                del self._drivers[key]
            driver.changed.set()

    async def _next(self, driver: _Driver) -> ota.Event | None:
        """What happens next: an event from outside, the outcome of the step's call, or the deadline."""
        if driver.events:
            return driver.events.popleft()
        driver.wakeup = trio.Event()
        step = ota.next_step(driver.run.update)
        if step is None:
            return None
        if isinstance(step, ota.Wait):
            deadline = ota.next_deadline(driver.run.update)
            left = (deadline or 0.0) - self._hub.now()
            with trio.move_on_after(max(left, 0.0)) as timer:
                await driver.wakeup.wait()
            return ota.DeadlinePassed() if timer.cancelled_caught else None
        driver.asking = isinstance(step, ota.Ask)
        with trio.CancelScope() as driver.call:
            try:
                return await driver.run.perform(step, self._caller)
            except (StorageError, Busy):  # the image cannot be read, or too many call the device: the same step again
                await trio.sleep(RETRY_DELAY)
        return None

    async def _apply(self, driver: _Driver, event: ota.Event) -> None:
        while True:
            try:
                await driver.run.apply(event)
            except VersionConflict:
                # Another node has the word now: it took the update up, or the device was removed.
                self._drivers.pop((driver.run.account, driver.run.device), None)
            except (StorageError, Busy):
                await trio.sleep(RETRY_DELAY)
                continue
            driver.changed.set()
            driver.changed = trio.Event()
            return

"""The supervisor of a node's updates: one task for each update that has not ended, woken by events and by time.

If several nodes share a store, the node that holds the device drives its update, and only that node calls the device.
While the device is offline, the node that drove the update last, or that has queued it, watches its deadlines. The
update's record names its driver. When that node is gone, one of the others takes the update over, by compare-and-set.
A node that changes an update which another one drives sends that node a message; should the message be lost, the driver
notices by compare-and-set, or when it checks the device in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Final

import trio

from mdashcore import ota
from mdashcore._errors import Conflict, MdashError, NotFound
from mdashcore.firmware import Image
from mdashcore.hub import DeviceCaller, Hub
from mdashcore.hub.leases import Leases
from mdashcore.hub.updates.performer import UpdatePerformer
from mdashcore.hub.updates.service import CheckImage
from mdashcore.identity import DeviceKey
from mdashcore.ota import Update, UpdateState
from mdashcore.trio.background import Background
from mdashcore.trio.drivers.update_claims import UpdateClaims
from mdashcore.trio.drivers.update_driver import MAX_DRIVER_EVENTS, UpdateDriver
from mdashcore.trio.drivers.update_waiters import UpdateWaiters

__all__ = ["UpdateSupervisor"]

RELOAD_INTERVAL: Final = 15.0  # seconds between two reads of an awaited update: the bus may have lost a notification

FOLLOW_BATCH: Final = 32  # drivers that begin to store at the same time, before other tasks run

_CALLS: Final = (ota.CommitAccepted, ota.CommitUnsupported, ota.RevertAccepted, ota.TransferEnded)
"""Results of users' calls, which also concern an update that another node drives."""

_QUEUED: Final = f"ota.{UpdateState.QUEUED}"
_PROGRESS: Final = "ota.progress"


class UpdateSupervisor:
    """The updates that this node drives.

    Args:
        caller: calls devices that are connected to this node, and raises `DeviceOffline` for all others.
        background: runs work that outlives its caller.
        leases: which node drives what; `None` if this process is the only one.
        notify_node: sends a message about the device's update to a node, or for `None` to the node that holds the
            device. Does nothing if that is this node.
        follow: keeps this node notified of an account's events for as long as the context lasts.
    """

    def __len__(self) -> int:
        return len(self._drivers)

    def __init__(
        self,
        hub: Hub,
        caller: DeviceCaller,
        background: Background,
        *,
        leases: Leases | None = None,
        notify_node: Callable[[DeviceKey, str | None], None] = lambda key, node: None,
        follow: Callable[[str], AbstractContextManager[object]] = lambda account: nullcontext(),
    ) -> None:
        self._hub = hub
        self._caller = caller
        self._background = background
        self._leases = leases
        self._node = None if leases is None else leases.node
        self._notify_node = notify_node
        self._follow = follow
        self._connected: dict[DeviceKey, ota.Build | None] = {}
        """The devices that are connected to this node, with the build that each has reported on its link."""
        self._drivers: dict[DeviceKey, UpdateDriver] = {}
        self._pending: dict[DeviceKey, deque[ota.UpdateEvent]] = {}
        self._recheck: set[DeviceKey] = set()
        self._waiters = UpdateWaiters()
        self._claims = UpdateClaims(hub, leases, background, notify_node)

    # Requests

    async def start(
        self,
        key: DeviceKey,
        id: str,
        image: Image | ota.UpdateImage,
        options: ota.Options = ota.Options(),
        *,
        blob: str | None = None,
        check_image: CheckImage | None = None,
    ) -> Update:
        """Queue an update whose image is in the blob store. It begins immediately if the device is connected here.

        Arguments and errors are those of `Updates.create`.
        """
        with trio.CancelScope(shield=True):  # once stored it has to be driven, even if the request was canceled
            pending = self._pending.setdefault(key, deque(maxlen=MAX_DRIVER_EVENTS))
            try:
                performer = await self._hub.updates.create(
                    key, id, image, options, blob=blob, check_image=check_image, driver=self._node
                )
            except BaseException:
                self._pending.pop(key, None)
                if pending and key in self._connected:
                    self._resume_soon(key)
                raise
            try:
                await performer.notify()  # before another node, which may hold the device, notifies the next state
            except MdashError:
                pass  # its driver tries again
            self._pending.pop(key, None)
            self._recheck.discard(key)
            if key not in self._connected:
                self._drive(performer)
                self._notify_node(key, None)
            else:
                self._drive(performer, *self._arrival(key))
        return performer.update

    async def cancel(self, key: DeviceKey) -> Update:
        """Cancel the device's update, even if another node drives it. Raises as `Updates.cancel`."""
        update = await self._hub.updates.cancel(key)
        self._on_change_of_other(key, update)
        return update

    async def wait(self, key: DeviceKey, until: Callable[[Update], bool], *, id: str | None = None) -> Update:
        """Wait until `until` holds for the device's update, or the update has ended. Returns the update.

        Args:
            id: the id of the update; without it, the newest one.

        Raises:
            NotFound: there is no update, or the device was removed.
            Conflict: another update has taken its place.
        """

        async def check() -> Update | None:
            driver = self._drivers.get(key)
            update = await self._hub.updates.get(key) if driver is None else driver.update
            if update is None:
                raise NotFound(f"no update of {key.id!r} any more")
            if id is not None and update.id != id:
                raise Conflict(f"another update of {key.id!r} has taken the place of this one")
            return update if update.ended or until(update) else None

        with self._follow(key.account):
            return await self._waiters.wait(key, check, lambda: inf if key in self._drivers else RELOAD_INTERVAL)

    def is_connected(self, key: DeviceKey) -> bool:
        """Return whether the device is connected to this node."""
        return key in self._connected

    # Events

    async def on_connected(self, key: DeviceKey) -> None:
        """Continue the update of a device that has a new link to this node. Raises `StorageError`."""
        self._connected[key] = None
        await self._resume(key)

    def on_disconnected(self, key: DeviceKey) -> None:
        """Handle the end of a device's link to this node. A driver still watches the deadlines of its update."""
        self._connected.pop(key, None)
        self._dispatch(key, ota.DeviceDisconnected())

    def on_event(self, key: DeviceKey, event: ota.UpdateEvent) -> None:
        """Apply an event of a device to its update, if it has one."""
        if isinstance(event, ota.BuildReported) and key in self._connected:
            self._connected[key] = event.build
        if not self._dispatch(key, event) and isinstance(event, _CALLS):
            self._background.spawn(lambda: self._apply(key, event))

    def on_notification(self, key: DeviceKey, name: str) -> None:
        """Handle a notification ``ota.…`` of the device, from this node or another."""
        if name == _PROGRESS:
            return
        self._waiters.wake(key)
        driver = self._drivers.get(key)
        if driver is not None:
            if name != f"ota.{driver.update.state}":  # else it is the driver's own notification
                driver.request_reload()
        elif name == _QUEUED:
            self._resume_if_connected(key)

    def on_changed(self, key: DeviceKey) -> None:
        """Handle the message of another node that it has queued, changed or taken over the device's update."""
        self._waiters.wake(key)
        if (driver := self._drivers.get(key)) is not None:
            driver.request_reload()
        else:
            self._background.spawn(lambda: self._resume_if_held(key))

    def on_missed(self, account: str) -> None:
        """Read the awaited updates of an account again, because notifications may have been missed."""
        self._waiters.wake_account(account)

    async def check(self, key: DeviceKey) -> None:
        """Look for an update of a connected device of which this node was not told. Raises `StorageError`."""
        if key in self._connected and key not in self._drivers and key not in self._pending:
            await self._resume(key)

    async def resume_all(self) -> None:
        """Continue the updates that no living node drives, and whose device no other node holds."""
        for key in await self._hub.updates.unfinished(self._leases):
            if key in self._drivers or key in self._pending:
                continue
            if key in self._connected:
                await self._resume(key)
            elif not await self._claims.is_held(key) and key not in self._pending:
                self._pending[key] = deque(maxlen=MAX_DRIVER_EVENTS)
                await self._load(key, self._pending[key])

    async def follow_clock(self) -> None:
        """Let every update that is driven here use times of the wall clock again."""
        for number, driver in enumerate(tuple(self._drivers.values()), 1):
            driver.follow_clock()
            if number % FOLLOW_BATCH == 0:
                await trio.lowlevel.checkpoint()

    def forget(self, key: DeviceKey) -> None:
        """Stop driving the update of a removed device."""
        driver = self._drivers.pop(key, None)
        if driver is not None:
            driver.release()
        self._waiters.wake(key)

    # Internals

    async def _is_held_here(self, key: DeviceKey) -> bool:
        """Return whether the device's newest connection is to this node, and not only a link that is not dead yet."""
        return await self._claims.is_held_here(key) and key in self._connected and key not in self._drivers

    async def _resume_if_held(self, key: DeviceKey) -> None:
        """Drive an update that another node has changed, unless the device has moved to that node."""
        if await self._is_held_here(key):
            self._resume_if_connected(key)

    def _resume_if_connected(self, key: DeviceKey) -> None:
        """Drive an update that was just queued, if the device is connected to this node."""
        if key not in self._connected:
            return
        if key in self._pending:
            self._recheck.add(key)  # a search for the update may have ended just before
        else:
            self._resume_soon(key)

    def _on_change_of_other(self, key: DeviceKey, update: Update) -> None:
        """Let the driver of an update read it again, because this node has changed it without driving it."""
        if (driver := self._drivers.get(key)) is not None:
            driver.request_reload()
        if update.driver is not None:
            self._notify_node(key, update.driver)
        self._waiters.wake(key)

    def _dispatch(self, key: DeviceKey, event: ota.UpdateEvent) -> bool:
        """Pass an event to the update's driver, present or about to start. Returns `False` if there is none."""
        if (driver := self._drivers.get(key)) is not None:
            driver.offer(event)
        elif (pending := self._pending.get(key)) is not None:
            pending.append(event)
        else:
            return False
        return True

    def _arrival(self, key: DeviceKey) -> tuple[ota.UpdateEvent, ...]:
        """Return the events for a connected device's update that knows nothing of the device's link yet."""
        build = self._connected[key]
        return (ota.DeviceConnected(),) if build is None else (ota.DeviceConnected(), ota.BuildReported(build))

    def _dispatch_arrival(self, key: DeviceKey) -> deque[ota.UpdateEvent] | None:
        """Pass on a device's arrival. Returns the events for a driver that has yet to start, else `None`."""
        arrival = self._arrival(key)
        if all(self._dispatch(key, event) for event in arrival):
            return None
        pending = self._pending[key] = deque(arrival, maxlen=MAX_DRIVER_EVENTS)
        return pending

    async def _resume(self, key: DeviceKey) -> None:
        pending = self._dispatch_arrival(key)
        if pending is not None:
            await self._load(key, pending)

    def _resume_soon(self, key: DeviceKey) -> None:
        pending = self._dispatch_arrival(key)
        if pending is not None:
            self._background.spawn(lambda: self._load(key, pending))

    async def _load(self, key: DeviceKey, pending: deque[ota.UpdateEvent]) -> None:
        """Drive the device's update, if it has one that has not ended."""
        performer, resumed = None, False
        try:
            performer, resumed = await self._claims.claim(key, lambda: key in self._connected)
        except NotFound:
            pass
        finally:
            if self._pending.get(key) is pending:
                del self._pending[key]
        if (driver := self._drivers.get(key)) is not None:  # started in the meantime
            driver.offer(*pending)
        elif performer is not None and not performer.update.ended:
            self._drive(performer, ota.DeviceDisconnected(resumed=resumed), *pending)
        elif key in self._recheck and key in self._connected:
            self._resume_soon(key)
        self._recheck.discard(key)

    def _drive(self, performer: UpdatePerformer, *events: ota.UpdateEvent) -> None:
        key = performer.key
        driver = UpdateDriver(
            performer,
            self._caller,
            self._background,
            node=self._node,
            is_connected=lambda: key in self._connected,
            reported_build=lambda: self._connected.get(key),
            on_change=lambda: self._waiters.wake(key),
        )
        if (previous := self._drivers.get(key)) is not None:
            previous.release()
        self._drivers[key] = driver
        driver.offer(*events)
        self._background.spawn(lambda: self._run(key, driver))

    async def _run(self, key: DeviceKey, driver: UpdateDriver) -> None:
        try:
            await driver.drive()
        finally:
            if self._drivers.get(key) is driver:
                del self._drivers[key]
            self._waiters.wake(key)
        if key not in self._connected or key in self._drivers:
            return
        if driver.replaced or (driver.lost and await self._is_held_here(key)):
            self._resume_soon(key)

    async def _apply(self, key: DeviceKey, event: ota.UpdateEvent) -> None:
        """Apply an event to an update that is not driven here."""
        try:
            update = await self._hub.updates.apply(key, event)
        except NotFound:
            return
        self._on_change_of_other(key, update)

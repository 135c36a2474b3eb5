"""The updates that a node drives: one task for each that has not ended, moved on by events and by time.

Where several nodes share a store, an update is driven by the node that holds the device, and calls go to it from there
only. While the device is away, who drove it last, or has queued it, keeps its deadlines; and who drives an update finds
out by compare-and-set when somebody else has changed it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from math import inf
from typing import Final, TypeAlias

import trio

from mdashcore import ota
from mdashcore._errors import Conflict, NotFound
from mdashcore.firmware import Image
from mdashcore.hub import DeviceCaller, Hub
from mdashcore.hub.update_run import UpdateRun
from mdashcore.ota import State, Update
from mdashcore.trio.background import Background
from mdashcore.trio.update_driver import MAX_EVENTS, UpdateDriver

__all__ = ["Updater"]

LOOK_INTERVAL: Final = 15.0  # seconds between two looks at an update that is waited for: the bus may have lost its news

_Key: TypeAlias = tuple[str, str]
"""Account and device id."""

_QUEUED: Final = f"ota.{State.QUEUED}"
_PROGRESS: Final = "ota.progress"

_INTRODUCED: Final = ota.BuildReported(ota.Build())
"""A device that is connected for a while has said what it runs, or will not."""


class Updater:
    """The updates that this node drives.

    Args:
        caller: calls devices that are connected to this node, and raises `DeviceOffline` for all others.
        background: runs what outlives its caller.
    """

    def __init__(self, hub: Hub, caller: DeviceCaller, background: Background) -> None:
        self._hub = hub
        self._caller = caller
        self._background = background
        self._here: set[_Key] = set()
        self._drivers: dict[_Key, UpdateDriver] = {}
        self._pending: dict[_Key, deque[ota.Event]] = {}
        self._look_again: set[_Key] = set()
        self._waiters: defaultdict[_Key, set[trio.Event]] = defaultdict(set)

    # What people want

    async def start(
        self,
        account: str,
        device: str,
        id: str,
        image: Image | ota.Image,
        options: ota.Options = ota.Options(),
        *,
        blob: str | None = None,
    ) -> Update:
        """Queue an update whose image is in the blob store; it begins at once if the device is connected here.

        Arguments and errors are those of `Updates.create`.
        """
        key = account, device
        build = await self._hub.updates.known_build(account, device)
        with trio.CancelScope(shield=True):  # once stored it has to be driven, whoever asked is still there or not
            pending = self._pending.setdefault(key, deque(maxlen=MAX_EVENTS))
            try:
                run = await self._hub.updates.create(account, device, id, image, options, blob=blob)
            except BaseException:
                self._pending.pop(key, None)
                if pending and key in self._here:
                    self._come(key)
                raise
            self._pending.pop(key, None)
            self._look_again.discard(key)
            if key not in self._here:
                self._drive(run)
            elif any(isinstance(event, ota.DeviceConnected) for event in pending):
                self._drive(run, ota.DeviceConnected(), *(e for e in pending if isinstance(e, ota.BuildReported)))
            else:
                self._drive(run, ota.Started(build))
        return run.update

    async def cancel(self, account: str, device: str) -> Update:
        """Take the device's update back, whoever drives it. Raises as `Updates.cancel`."""
        update = await self._hub.updates.cancel(account, device)
        if (driver := self._drivers.get((account, device))) is not None:
            driver.look()
        self._wake((account, device))
        return update

    async def wait(
        self, account: str, device: str, until: Callable[[Update], bool], *, id: str | None = None
    ) -> Update:
        """The device's update, once `until` says so or it has ended, whoever drives it.

        Args:
            id: of the update that is meant; without it, the newest.

        Raises:
            NotFound: there is none, or not any more: the device was removed.
            Conflict: another one has taken its place.
        """
        key = account, device
        news = trio.Event()
        try:
            while True:
                self._waiters[key].add(news)
                driver = self._drivers.get(key)
                update = await self._hub.updates.get(account, device) if driver is None else driver.update
                if update is None:
                    raise NotFound(f"no update of {device!r} any more")
                if id is not None and update.id != id:
                    raise Conflict(f"another update of {device!r} has taken the place of this one")
                if update.ended or until(update):
                    return update
                with trio.move_on_after(LOOK_INTERVAL if driver is None else inf):
                    await news.wait()
                self._waiters[key].discard(news)
                news = trio.Event()
        finally:
            self._waiters[key].discard(news)
            if not self._waiters[key]:
                del self._waiters[key]

    # What happens

    async def connected(self, account: str, device: str) -> None:
        """The device has a new link to this node: its update goes on here. Raises `StorageError`."""
        pending = self._expect((account, device))
        if pending is not None:
            await self._take_up((account, device), pending)

    def disconnected(self, account: str, device: str) -> None:
        """The device has no link to this node any more. A driver keeps the deadlines of its update."""
        self._here.discard((account, device))
        self._hand(account, device, ota.DeviceDisconnected())

    def tell(self, account: str, device: str, event: ota.Event) -> None:
        """Something happened to the device, or to its update; without an update it does not matter."""
        if not self._hand(account, device, event) and isinstance(event, ota.CommitAccepted | ota.RevertAccepted):
            self._background.spawn(lambda: self._apply(account, device, event))

    def heard(self, account: str, device: str, name: str) -> None:
        """A notification ``ota.…`` of the device was told, on this node or another."""
        if name == _PROGRESS:
            return
        key = account, device
        self._wake(key)
        driver = self._drivers.get(key)
        if driver is not None:
            if name != f"ota.{driver.update.state}":  # what it has told itself is no news to it
                driver.look()
        elif name == _QUEUED and key in self._here:
            if key in self._pending:
                self._look_again.add(key)  # it may have been looked for just before
            else:
                self._come(key, _INTRODUCED)

    async def take_up_all(self) -> None:
        """Go on with what a process that lives no more has left: every update whose device no other node holds."""
        async for account, device in self._hub.updates.unfinished():
            key = account, device
            if key in self._drivers or key in self._pending:
                continue
            if key in self._here:
                await self.connected(account, device)
            elif not (await self._hub.presence.get(account, device)).online and key not in self._pending:
                self._pending[key] = deque(maxlen=MAX_EVENTS)
                await self._take_up(key, self._pending[key])

    def forget(self, account: str, device: str) -> None:
        """The device was removed: drive its update no more."""
        driver = self._drivers.pop((account, device), None)
        if driver is not None:
            driver.release()
        self._wake((account, device))

    # Inside

    def _hand(self, account: str, device: str, event: ota.Event) -> bool:
        """Give an event to who drives the update, or is about to; False if nobody does."""
        key = account, device
        if (driver := self._drivers.get(key)) is not None:
            driver.tell(event)
        elif (pending := self._pending.get(key)) is not None:
            pending.append(event)
        else:
            return False
        return True

    def _expect(self, key: _Key, *events: ota.Event) -> deque[ota.Event] | None:
        """The device is here. What has to be told when its update was taken up; None if somebody was told already."""
        self._here.add(key)
        if self._hand(*key, ota.DeviceConnected()):
            return None
        pending = self._pending[key] = deque([ota.DeviceConnected(), *events], maxlen=MAX_EVENTS)
        return pending

    def _come(self, key: _Key, *events: ota.Event) -> None:
        pending = self._expect(key, *events)
        if pending is not None:
            self._background.spawn(lambda: self._take_up(key, pending))

    async def _take_up(self, key: _Key, pending: deque[ota.Event]) -> None:
        """Drive the device's update, if it has one that has not ended."""
        run = None
        try:
            run = await self._hub.updates.take_up(*key)
        except NotFound:
            pass
        finally:
            if self._pending.get(key) is pending:
                del self._pending[key]
        if (driver := self._drivers.get(key)) is not None:  # begun meanwhile
            driver.tell(*pending)
        elif run is not None and not run.update.ended:
            self._drive(run, ota.DeviceDisconnected(), *pending)
        elif key in self._look_again and key in self._here:
            self._come(key, _INTRODUCED)
        self._look_again.discard(key)

    def _drive(self, run: UpdateRun, *events: ota.Event) -> None:
        key = run.account, run.device
        driver = UpdateDriver(
            self._hub,
            run,
            self._caller,
            self._background,
            is_here=lambda: key in self._here,
            on_news=lambda: self._wake(key),
        )
        if (previous := self._drivers.get(key)) is not None:
            previous.release()
        self._drivers[key] = driver
        driver.tell(*events)
        self._background.spawn(lambda: self._run(key, driver))

    async def _run(self, key: _Key, driver: UpdateDriver) -> None:
        try:
            await driver.drive()
        finally:
            if self._drivers.get(key) is driver:
                del self._drivers[key]
            self._wake(key)
        if driver.replaced and key in self._here and key not in self._drivers:
            self._come(key, _INTRODUCED)

    async def _apply(self, account: str, device: str, event: ota.Event) -> None:
        """Tell an event to an update that is not driven here."""
        try:
            await self._hub.updates.apply(account, device, event)
        except NotFound:
            return

    def _wake(self, key: _Key) -> None:
        for news in self._waiters.get(key, ()):
            news.set()

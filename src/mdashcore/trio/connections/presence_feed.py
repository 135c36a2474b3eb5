"""The notifications `online` and `offline`. A device that reconnects all the time adds a bounded number to the log.

Two devices with the same token close each other's connection a hundred times a second. The first `MAX_CHANGES` changes
in a `FLAP_INTERVAL` are notified one by one. After that one notification has the last change and the number of changes:
when the device has not changed for a `FLAP_INTERVAL`, or at the end of a time that begins as a `FLAP_INTERVAL` and
doubles up to `MAX_FLAP_INTERVAL`. Only a `FLAP_INTERVAL` without changes ends this.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import attrs
import trio

from mdashcore import _json, notifications
from mdashcore._errors import Damaged
from mdashcore.hub import Hub
from mdashcore.hub.nodes import BEAT_INTERVAL
from mdashcore.identity import DeviceKey
from mdashcore.trio.background import Background
from mdashcore.trio.pacing import Gate, store_callers

__all__ = ["PresenceFeed"]

_log = logging.getLogger(__name__)

FLAP_INTERVAL: Final = 60.0  # seconds: users see within a minute that a device reconnects all the time

MAX_FLAP_INTERVAL: Final = 3600.0  # seconds: a device that reconnects for a month leaves 750 of the 20 000 kept events

MAX_CHANGES: Final = 16  # notified one by one in an interval: eight reconnects; a reboot for an update is one

SWEEPERS: Final = 32  # records released at the same time: a store that commits in groups is several times as fast

MAX_PRESENCE_RECORDS: Final = 16_384  # devices, at 300 bytes each: a fleet that reconnects together


@attrs.define(eq=False)
class _Changes:
    """The changes of a device in an interval."""

    since: float
    notified: int = 0
    flaps: bool = False
    """Whether a task of this node notifies the changes together."""
    held: int = 0
    """Number of changes that are not notified yet; the last of them is `name`."""
    name: str = ""
    last: float = 0.0
    """When it last changed, while it flaps."""


class PresenceFeed:
    """The notifications `online` and `offline` of a node."""

    def __init__(self, hub: Hub, background: Background) -> None:
        self._hub = hub
        self._background = background
        self._devices: OrderedDict[DeviceKey, _Changes] = OrderedDict()
        self._closing = False
        # A fleet that has lost its way to the server must not fill the store's queue with ten thousand calls, behind
        # which all others wait. The same holds for the devices of dead nodes.
        self._releases = Gate(store_callers(hub.backend.capabilities))

    async def notify(self, key: DeviceKey, name: str) -> None:
        """Notify that a device is online or offline: now or, if it changes too often, together with later changes.

        Raises:
            StorageError: the change was not notified.
        """
        changes = self._changes(key)
        if self._closing or (changes.notified < MAX_CHANGES and not changes.flaps):
            changes.notified += 1
            await self._emit(key, changes, name, now=1)
            return
        if not changes.flaps:
            changes.flaps = True
            _log.warning("%s of %s comes and goes all the time: two devices may have one token", key.id, key.account)
            self._background.spawn(lambda: self._notify_later(key, changes))
        changes.held += 1
        changes.name, changes.last = name, trio.current_time()

    async def release(self, key: DeviceKey, session: int, last_seen: float) -> bool:
        """Release a session that has ended. If it was the newest, notify `offline`, and return `True`.

        Retries until it succeeds.
        """
        is_again = False

        async def release() -> bool:
            nonlocal is_again
            async with self._releases:
                again, is_again = is_again, True
                return await self._hub.presence.release(key, session, last_seen, again=again)

        async def notify() -> None:
            async with self._releases:
                await self.notify(key, notifications.OFFLINE)

        if not await self._background.persist(release):
            return False
        await self._persist(key, notify)
        return True

    async def sweep(self, alive: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Release the sessions that dead nodes have left behind. Retries until it succeeds.

        A node that was taken for dead may come back meanwhile. From then on its sessions are left to it.

        Args:
            alive: returns the living nodes, as for `Presence.left_behind`.
        """
        left = await self._background.persist(lambda: self._hub.presence.left_behind(alive))
        back: Collection[str | None] = ()

        async def release() -> None:
            while left:
                key, record = left.pop()
                if record.node not in back:
                    await self.release(key, record.session, record.last_seen or self._hub.now())

        async def check() -> None:
            nonlocal back
            while True:
                await trio.sleep(BEAT_INTERVAL)
                back = await self._background.persist(alive)

        async with trio.open_nursery() as looking:
            looking.start_soon(check)
            async with trio.open_nursery() as releasing:
                for _ in range(SWEEPERS):
                    releasing.start_soon(release)
            looking.cancel_scope.cancel()

    def forget(self, key: DeviceKey) -> None:
        """Forget a removed device: no more changes of it are notified."""
        self._devices.pop(key, None)

    async def close(self) -> None:
        """Notify all changes that are held back, and hold back none from now on."""
        self._closing = True
        for key, changes in tuple(self._devices.items()):
            await self._notify_held(key, changes)

    def _changes(self, key: DeviceKey) -> _Changes:
        now = trio.current_time()
        changes = self._devices.get(key)
        if changes is None or (now - changes.since >= FLAP_INTERVAL and not changes.flaps):
            changes = self._devices[key] = _Changes(now)
            self._devices.move_to_end(key)
            if len(self._devices) > MAX_PRESENCE_RECORDS:
                oldest = next((other for other, each in self._devices.items() if not each.flaps), key)
                del self._devices[oldest]
        return changes

    async def _notify_later(self, key: DeviceKey, changes: _Changes) -> None:
        """Notify the changes that are held back together, until there are none in a `FLAP_INTERVAL`."""
        interval = FLAP_INTERVAL
        while self._devices.get(key) is changes:
            end = changes.since + interval
            await trio.sleep_until(min(end, changes.last + FLAP_INTERVAL))
            now = trio.current_time()
            is_quiet = now >= changes.last + FLAP_INTERVAL
            if now < end and not is_quiet:
                continue  # it has changed meanwhile
            await self._persist(key, lambda: self._notify_held(key, changes))
            changes.since = now
            if is_quiet and not changes.held:
                changes.flaps, changes.notified = False, 0
                return
            interval = min(2 * interval, MAX_FLAP_INTERVAL)

    async def _persist(self, key: DeviceKey, notify: Callable[[], Awaitable[None]]) -> None:
        """Call a function that notifies until it succeeds, or the log of the account turns out to be damaged."""
        try:
            await self._background.persist(notify)
        except Damaged as exc:
            _log.error("a change of %s is not notified: %s", key, exc)

    async def _notify_held(self, key: DeviceKey, changes: _Changes) -> None:
        if changes.held and self._devices.get(key) is changes:
            await self._emit(key, changes, changes.name)

    async def _emit(self, key: DeviceKey, changes: _Changes, name: str, *, now: int = 0) -> None:
        """Notify the changes that are held back, and `now` later ones. While they are being stored, none is held."""
        held, changes.held = changes.held, 0
        data = _json.encode({"changes": held + now}) if held else None
        try:
            await self._hub.feed.emit(key.account, name, key.id, data)
        except BaseException:
            changes.held += held
            raise

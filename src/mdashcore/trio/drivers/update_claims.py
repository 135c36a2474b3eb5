"""Which node drives an update, and which one holds its device."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mdashcore._errors import Damaged, VersionConflict
from mdashcore.hub import Hub
from mdashcore.hub.leases import Leases
from mdashcore.hub.updates.performer import UpdatePerformer
from mdashcore.identity import DeviceKey
from mdashcore.trio.background import Background

__all__ = ["UpdateClaims"]


class UpdateClaims:
    """The claims of this node on updates.

    Args:
        leases: which node drives what; `None` if this process is the only one.
        notify_node: sends a message about the device's update to a node.
    """

    def __init__(
        self,
        hub: Hub,
        leases: Leases | None,
        background: Background,
        notify_node: Callable[[DeviceKey, str | None], None],
    ) -> None:
        self._hub = hub
        self._leases = leases
        self._node = None if leases is None else leases.node
        self._background = background
        self._notify_node = notify_node

    async def is_held(self, key: DeviceKey) -> bool:
        """Return whether a living node holds the device, as far as is known."""
        try:
            holder = (await self._hub.presence.get(key)).node
        except Damaged:
            return False  # it is logged; should a node hold the device, that node keeps its update
        return holder is not None and (self._leases is None or holder in await self._leases.alive())

    async def is_held_here(self, key: DeviceKey) -> bool:
        """Return whether this node holds the device."""
        try:
            presence = await self._background.persist(lambda: self._hub.presence.get(key))
        except Damaged:
            return False  # it is logged; the check in turn finds the update
        return presence.node == self._node

    async def claim(self, key: DeviceKey, is_connected: Callable[[], bool]) -> tuple[UpdatePerformer | None, bool]:
        """Load the device's update, and make this node its driver. Returns `None` if another one has to drive it.

        The other value is whether no living node has driven it until now.

        Args:
            is_connected: returns whether the device is connected to this node.

        Raises:
            NotFound: there is no update.
        """
        while True:
            performer = await self._hub.updates.load(key)
            if self._leases is None or performer.update.ended:
                return performer, True
            driver = performer.update.driver
            is_free = driver is None or driver not in await self._leases.alive()
            if not is_connected() and not is_free and driver != self._node:
                return None, False
            try:
                before = await performer.claim(self._leases.node)
            except VersionConflict:  # rare: one of a few nodes was quicker
                await trio.lowlevel.checkpoint()
                continue
            if before is not None and before != self._leases.node:
                self._notify_node(key, before)
            return performer, is_free

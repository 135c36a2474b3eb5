"""Messages to the nodes that hold devices: another node has changed something of the device.

A message only says which device it is. The node that gets it reads the store. So a message that is lost, or comes
twice or late, does no harm: the node also checks each of its devices in turn.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec
import trio

from mdashcore._errors import MdashError
from mdashcore.hub.presence import Presence
from mdashcore.identity import DeviceKey
from mdashcore.trio.background import Background
from mdashcore.trio.cluster.peers import Peers

__all__ = ["ACCOUNT_CHANGED", "DEVICE_CHANGED", "UPDATE_CHANGED", "ChangedAccount", "ChangedDevice", "DeviceNotices"]

_log = logging.getLogger(__name__)

DEVICE_CHANGED: Final = "Device.Changed"
"""The device's token, shadow or connection has changed: check it."""

UPDATE_CHANGED: Final = "Update.Changed"
"""The device's update was queued, changed or taken over: read it."""

ACCOUNT_CHANGED: Final = "Devices.Changed"
"""Many devices of an account have changed: check all of them. Sent to all nodes."""

MAX_NOTICES: Final = 10_000  # devices whose message waits, at 300 bytes each: 3 MB, and seconds of sending

SENDERS: Final = 16  # presence records read at the same time: a store that reads in groups is several times as fast


class ChangedDevice(msgspec.Struct, gc=False):
    """The device of a message."""

    account: str
    id: str


class ChangedAccount(msgspec.Struct, gc=False):
    """The account of a message about all its devices."""

    account: str


class DeviceNotices:
    """The messages that this node sends.

    Messages about one device that wait are one message. If `most` devices wait, the account of a further one is
    noted instead, and all nodes check all its devices.

    Args:
        node: the id of this node, which sends itself nothing.
        presence: names the node that holds a device.
    """

    def __init__(
        self, node: str, presence: Presence, peers: Peers, background: Background, *, most: int = MAX_NOTICES
    ) -> None:
        self._node = node
        self._presence = presence
        self._peers = peers
        self._background = background
        self._most = most
        self._waiting: dict[tuple[str, DeviceKey, str | None], None] = {}
        """The method, the device, and the node to which the message goes; `None` for the one that holds the device."""
        self._accounts: dict[str, None] = {}
        self._news = trio.Event()

    def __len__(self) -> int:
        """Return the number of messages that wait."""
        return len(self._waiting) + len(self._accounts)

    def device_changed(self, key: DeviceKey, node: str | None = None) -> None:
        """Let a node check a device. Never waits.

        Args:
            node: the id of the node; `None` for the node that holds the device.
        """
        self._note(DEVICE_CHANGED, key, node)

    def update_changed(self, key: DeviceKey, node: str | None = None) -> None:
        """Let a node read a device's update. Arguments are those of `device_changed`."""
        self._note(UPDATE_CHANGED, key, node)

    def _note(self, method: str, key: DeviceKey, node: str | None) -> None:
        if node == self._node:
            return
        if len(self._waiting) < self._most:
            self._waiting[method, key, node] = None
        else:
            if not self._accounts:
                _log.info("%d messages to other nodes wait: further ones are sent for whole accounts", self._most)
            self._accounts[key.account] = None
        self._news.set()

    async def run(self) -> None:
        """Send the messages, for ever."""
        async with trio.open_nursery() as nursery:
            for _ in range(SENDERS):
                nursery.start_soon(self._send_all)

    async def _send_all(self) -> None:
        while True:
            if self._waiting:
                notice = next(iter(self._waiting))
                del self._waiting[notice]
                await self._send(*notice)
            elif self._accounts:
                account = next(iter(self._accounts))
                del self._accounts[account]
                self._peers.broadcast(ACCOUNT_CHANGED, ChangedAccount(account))
            else:
                self._news = trio.Event() if self._news.is_set() else self._news
                await self._news.wait()

    async def _send(self, method: str, key: DeviceKey, node: str | None) -> None:
        try:
            if node is None:
                node = await self._background.persist(lambda: self._holder(key))
            if node is not None and node != self._node:
                self._peers.notify(node, method, ChangedDevice(key.account, key.id))
        except MdashError as exc:  # the peer takes no more, or the record is damaged: the check in turn does the rest
            _log.debug("a message about %s of %s was not sent: %s", key.id, key.account, exc)

    async def _holder(self, key: DeviceKey) -> str | None:
        return (await self._presence.get(key)).node

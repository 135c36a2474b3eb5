"""The messages of other nodes on the store: their notifications, revoked credentials, and calls for devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import trio

from mdashcore._errors import InvalidInput, NotFound
from mdashcore.hub.feed import FEED_TOPIC, Feed, FeedItem
from mdashcore.identity import DeviceKey
from mdashcore.storage import MessageBus
from mdashcore.trio.background import Background
from mdashcore.trio.cluster import relay
from mdashcore.trio.cluster.peers import Peers
from mdashcore.trio.connections.calls import DeviceCall, make_call
from mdashcore.trio.connections.device_connections import DeviceConnections
from mdashcore.trio.connections.subscribers import Subscribers

__all__ = ["Inbox"]

_REVOKE: Final = "Credentials.Revoked"


class _Revoked(msgspec.Struct):
    """A revocation: of a device's token (`id`), of a key, or of any of the account's credentials."""

    account: str
    id: str | None = None
    key: str | None = None


class Inbox:
    """The messages between this node and the others. Implements `PeerHandler`.

    Args:
        id: the id of this node.
        max_answer: bytes of a device's answer, which a peer passes on.
        on_notification: called with each notification of any node, in the same order on all nodes.
        on_gap: called when notifications may have been missed.
    """

    def __init__(
        self,
        bus: MessageBus,
        id: str,
        devices: DeviceConnections,
        subscribers: Subscribers,
        background: Background,
        *,
        max_answer: int,
        on_notification: Callable[[str, FeedItem], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._devices = devices
        self._subscribers = subscribers
        self._background = background
        self._on_notification = on_notification
        self._on_gap = on_gap
        self.peers: Peers = Peers(bus, id, self, background, max_answer=max_answer)

    def start(self) -> None:
        """Receive messages of the other nodes, for ever."""
        background = self._background
        feed = partial(background.listen, self._bus, FEED_TOPIC, self.receive, on_subscribed=self._catch_up)
        background.run_for_ever("the hearing of notifications", feed)
        background.run_for_ever("the hearing of other nodes", self.peers.run)
        background.run_for_ever("the checking of connections", self._check_in_turn)

    async def ask(self, node: str, call: DeviceCall) -> bytes:
        """Request a call from another node. Raises as `relay.ask`."""
        return await relay.ask(self.peers, node, call)

    def broadcast_device_changed(self, key: DeviceKey) -> None:
        """Let the other nodes check a device: its token was revoked, or it has a newer connection."""
        self.peers.broadcast(_REVOKE, _Revoked(key.account, id=key.id))

    def broadcast_key_revoked(self, account: str, key: str | None) -> None:
        """Notify the other nodes of an invalid key or session; `None` stands for any of the account's."""
        self.peers.broadcast(_REVOKE, _Revoked(account, key=key))

    # Messages of peers

    async def answer_peer(self, method: str, params: bytes | None) -> bytes:
        """Do the same as `PeerHandler.answer_peer`."""
        if method != relay.CALL_METHOD:
            raise NotFound(f"no method {method} between nodes")
        return await relay.answer(params, lambda call: make_call(self._devices.link(call.key), call))

    def on_peer_notification(self, method: str, params: bytes | None) -> None:
        """Do the same as `PeerHandler.on_peer_notification`."""
        if method != _REVOKE:
            return
        revoked = msgspec.json.decode(params or b"null", type=_Revoked)
        if revoked.id is None:
            self._subscribers.revoke(revoked.account, revoked.key)
        elif (connected := self._devices.get(DeviceKey(revoked.account, revoked.id))) is not None:
            self._background.spawn(connected.check)

    def on_peer_gap(self) -> None:
        """Do the same as `PeerHandler.on_peer_gap`."""
        self._background.spawn(self._check_all)

    # Messages on the bus

    def receive(self, message: bytes) -> None:
        """Handle a notification from the bus. Never waits."""
        try:
            account, item = Feed.parse(message)
            connected = self._devices.concerned(account, item.frame)
            self._on_notification(account, item)
        except (ValueError, InvalidInput):
            return  # not from a node: a shared bus may carry messages of other programs
        if connected is not None:
            self._background.spawn(connected.check)

    def _catch_up(self) -> None:
        """Check everything that missed notifications may have been about."""
        self._subscribers.catch_up()
        self._on_gap()
        self._background.spawn(self._check_all)

    async def _check_all(self) -> None:
        """Check for revoked credentials, newer connections, and changed shadows."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._subscribers.check)
            nursery.start_soon(self._devices.check)

    async def _check_in_turn(self) -> None:
        """Check all, evenly spread, for ever: a bus may lose a message without an error."""
        while True:
            await self._subscribers.check()
            await self._devices.check_slowly()

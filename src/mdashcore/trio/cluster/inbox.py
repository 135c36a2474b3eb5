"""The messages between this node and the others: notifications of accounts, changes of devices, and calls for devices.

A node reads three kinds of topics: its own, to which its peers write; the one of all nodes, which is nearly silent; and
those of the accounts that have subscribers, rollouts or awaited updates here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import trio

from mdashcore._errors import InvalidInput, NotFound, StorageError
from mdashcore.hub.feed import Feed, FeedItem, events_topic, feed_topic
from mdashcore.hub.presence import Presence
from mdashcore.identity import DeviceKey
from mdashcore.storage import MessageBus
from mdashcore.trio.background import Background
from mdashcore.trio.cluster import relay
from mdashcore.trio.cluster.interests import Interests
from mdashcore.trio.cluster.notices import (
    ACCOUNT_CHANGED,
    DEVICE_CHANGED,
    UPDATE_CHANGED,
    ChangedAccount,
    ChangedDevice,
    DeviceNotices,
)
from mdashcore.trio.cluster.peers import Peers
from mdashcore.trio.connections.calls import DeviceCall, make_call
from mdashcore.trio.connections.device_connections import DeviceConnections
from mdashcore.trio.connections.subscribers import Subscribers

__all__ = ["Inbox"]

_REVOKED: Final = b"revoked"
"""The beginning of a message on the topic of an account's notifications: ``revoked SP KEY``, an invalid credential."""

_ANY_KEY: Final = b"*"
"""In place of a key: any of the account's credentials may be invalid."""


_NODE_LEFT: Final = "Node.Left"
"""A node has ended, so that others can take over what it drove before their next look at the living nodes."""


class _NodeLeft(msgspec.Struct, gc=False):
    id: str


class Inbox:
    """The messages between this node and the others. Implements `PeerHandler`.

    Args:
        id: the id of this node.
        presence: names the node that holds a device.
        max_answer: bytes of a device's answer, which a peer passes on.
        on_notification: called with each notification of an account that is followed with `feeds`, as `on_event`.
        on_notifications_missed: called with an account whose notifications may have been missed.
        on_event: called with each event of an account that is followed with `events`, from this node or another.
        on_events_missed: called with an account whose events may have been missed.
        on_update_changed: called with a device whose update another node has changed.
        on_node_left: called with the id of a node that has ended.
    """

    def __init__(
        self,
        bus: MessageBus,
        id: str,
        devices: DeviceConnections,
        subscribers: Subscribers,
        presence: Presence,
        background: Background,
        *,
        max_answer: int,
        on_notification: Callable[[str, FeedItem], None],
        on_notifications_missed: Callable[[str], None],
        on_event: Callable[[str, FeedItem], None],
        on_events_missed: Callable[[str], None],
        on_update_changed: Callable[[DeviceKey], None],
        on_node_left: Callable[[str], None],
    ) -> None:
        self._bus = bus
        self._devices = devices
        self._subscribers = subscribers
        self._background = background
        self._on_notification = on_notification
        self._on_account_missed = on_notifications_missed
        self._on_event = on_event
        self._on_update_changed = on_update_changed
        self._on_node_left = on_node_left
        self.peers: Peers = Peers(bus, id, self, background, max_answer=max_answer)
        self.notices: DeviceNotices = DeviceNotices(id, presence, self.peers, background)
        self.feeds: Interests = Interests(
            bus, background, topic=feed_topic, receive=self._receive, on_subscribed=self._on_notifications_missed
        )
        self.events: Interests = Interests(
            bus, background, topic=events_topic, receive=self._receive_event, on_subscribed=on_events_missed
        )
        self._unchecked: dict[str, None] = {}
        """The accounts whose subscribers are to be checked."""
        self._all_devices = False
        """Whether all devices are to be checked."""
        self._to_check = trio.Event()

    def start(self) -> None:
        """Receive messages of the other nodes, for ever."""
        background = self._background
        background.run_for_ever("the hearing of other nodes", self.peers.run)
        background.run_for_ever("the messages about devices", self.notices.run)
        background.run_for_ever("the checking after a gap", self._check_missed)
        background.run_for_ever("the checking of connections", self._check_in_turn)

    async def ask(self, node: str, call: DeviceCall) -> bytes:
        """Request a call from another node. Raises as `relay.ask`."""
        return await relay.ask(self.peers, node, call)

    def publish_revocation(self, account: str, key: str | None) -> None:
        """Notify the nodes with subscribers of an account of an invalid key or session; `None` stands for any.

        Returns immediately. The message is published as soon as the bus accepts it.
        """
        message = b"%b %b" % (_REVOKED, _ANY_KEY if key is None else key.encode())
        publish = partial(self._bus.publish, feed_topic(account), message)
        self._background.spawn(lambda: self._background.persist(publish))

    async def publish_leaving(self, id: str) -> None:
        """Notify the other nodes that this one, `id`, has ended. They notice a lost message a little later."""
        try:
            await self.peers.publish(_NODE_LEFT, _NodeLeft(id))
        except StorageError:
            return

    # Messages of peers

    async def answer_peer(self, method: str, params: bytes | None) -> bytes:
        """Do the same as `PeerHandler.answer_peer`."""
        if method != relay.CALL_METHOD:
            raise NotFound(f"no method {method} between nodes")
        return await relay.answer(params, lambda call: make_call(self._devices.link(call.key), call))

    def on_peer_notification(self, method: str, params: bytes | None) -> None:
        """Do the same as `PeerHandler.on_peer_notification`. Ignores what it does not know."""
        try:
            if method == _NODE_LEFT:
                self._on_node_left(msgspec.json.decode(params or b"null", type=_NodeLeft).id)
            elif method == ACCOUNT_CHANGED:
                account = msgspec.json.decode(params or b"null", type=ChangedAccount).account
                self._background.spawn(partial(self._devices.check, account))
            elif method in (DEVICE_CHANGED, UPDATE_CHANGED):
                changed = msgspec.json.decode(params or b"null", type=ChangedDevice)
                self._on_device_changed(method, DeviceKey(changed.account, changed.id))
        except (msgspec.MsgspecError, InvalidInput):
            return

    def _on_device_changed(self, method: str, key: DeviceKey) -> None:
        if method == UPDATE_CHANGED:
            self._on_update_changed(key)
        elif (connected := self._devices.get(key)) is not None:
            self._background.spawn(connected.check)

    def on_peer_gap(self) -> None:
        """Do the same as `PeerHandler.on_peer_gap`."""
        self._all_devices = True
        self._to_check.set()

    # Messages on the topics of accounts

    def _receive(self, account: str, message: bytes) -> None:
        """Handle a message about an account with subscribers. Never waits."""
        kind, _, rest = message.partition(b" ")
        if kind == _REVOKED:
            self._subscribers.revoke(account, None if rest == _ANY_KEY else rest.decode())
            return
        try:
            item = Feed.parse(message)
        except ValueError:
            return  # not from a node: a shared bus may carry messages of other programs
        self._subscribers.offer(account, item)
        self._on_notification(account, item)

    def _receive_event(self, account: str, message: bytes) -> None:
        """Handle an event of an account that is followed. Never waits."""
        try:
            self._on_event(account, Feed.parse(message))
        except (ValueError, InvalidInput):
            return  # as above

    def _on_notifications_missed(self, account: str) -> None:
        """Let the subscribers of an account read their log, and check whether they were revoked meanwhile."""
        self._subscribers.catch_up(account)
        self._on_account_missed(account)
        self._unchecked[account] = None
        self._to_check.set()

    # Checks

    async def _check_missed(self) -> None:
        """Check whatever missed messages may have been about, one thing after the other, for ever."""
        while True:
            if self._unchecked:
                account = next(iter(self._unchecked))
                del self._unchecked[account]
                await self._subscribers.check(account)
            elif self._all_devices:
                self._all_devices = False
                await self._devices.check()
            else:
                self._to_check = trio.Event()
                await self._to_check.wait()

    async def _check_in_turn(self) -> None:
        """Check all, evenly spread, for ever: a bus may lose a message without an error."""
        while True:
            await self._subscribers.check()
            await self._devices.check_slowly()

"""A node: the live connections of one process, and everything that has to outlive the handler of a connection.

Several nodes may share one store. A device is connected to one of them. Each node can call the device for users, and is
notified of the changes that other nodes make.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Final

import trio

from mdashcore import notifications, ota
from mdashcore.hub import Hub
from mdashcore.hub.feed import FeedItem
from mdashcore.hub.leases import Leases
from mdashcore.hub.nodes import BEAT_INTERVAL
from mdashcore.identity import DeviceKey
from mdashcore.shadow import Change
from mdashcore.storage import SHARED
from mdashcore.trio.background import Background
from mdashcore.trio.cluster.inbox import Inbox
from mdashcore.trio.cluster.other_nodes import OtherNodes
from mdashcore.trio.connections.calls import Calls, LocalCaller
from mdashcore.trio.connections.device_connections import DeviceConnections
from mdashcore.trio.connections.link import GOING_AWAY, SERVICE_RESTART
from mdashcore.trio.connections.presence_feed import PresenceFeed
from mdashcore.trio.connections.subscribers import Subscribers
from mdashcore.trio.connections.user_calls import UserCalls
from mdashcore.trio.drivers.clock_watch import CLOCK_INTERVAL, ClockWatch
from mdashcore.trio.drivers.job_supervisor import JobSupervisor
from mdashcore.trio.drivers.rollout_supervisor import RolloutSupervisor
from mdashcore.trio.drivers.update_supervisor import UpdateSupervisor
from mdashcore.trio.drivers.upkeep import start_upkeep
from mdashcore.trio.settings import NodeSettings
from mdashcore.trio.transport.stream import Pinger

__all__ = [
    "Calls",
    "DeviceConnections",
    "JobSupervisor",
    "Node",
    "NodeSettings",
    "RolloutSupervisor",
    "Subscribers",
    "UpdateSupervisor",
    "UserCalls",
    "open_node",
]

SHUTDOWN_TIMEOUT: Final = 3.0  # seconds for closing handshakes and last writes; a service manager waits 5 and more

EXPELLED_CHECK_TIME: Final = 30.0  # seconds over which devices that others have stored as offline have to connect again

_GOING_DOWN: Final = "the server is going down"

_ABOUT_UPDATES: Final = b'{"name":"ota.'

_DRIVEN: Final = (b'{"name":"rollout.', b'{"name":"job.')
"""The beginnings of the frames about records that a node drives."""


class Node:
    """The devices and subscribers that are connected to this process. Made by `open_node`.

    It consists of parts, which its users call directly.

    Attributes:
        devices: serves the connections of devices; a mapping from `DeviceKey` to each one's newest connection.
        subscribers: serves notification sockets.
        calls: calls a device for a program.
        user_calls: calls a device for a user: notifications show the call, and its meaning for an update is heeded.
        update_supervisor: starts, drives and cancels updates.
        rollouts: drives the rollouts that have not ended.
        jobs: drives the jobs that have not ended.
        others: the other nodes on the store, if it can have any.

    Implements `mdashcore.hub.HubObserver`.
    """

    def __init__(self, hub: Hub, id: str, settings: NodeSettings, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.id = id
        self.settings = settings
        self.background: Background = Background(nursery)
        self.pinger: Pinger = Pinger(settings.ping_interval)
        self._shutdown_deadline = inf
        self._presence_feed = PresenceFeed(hub, self.background)
        self.leases: Leases = Leases(id, lambda: self.others.living())
        """The updates and rollouts that this node drives, or may take over."""
        self.devices: DeviceConnections = DeviceConnections(
            hub,
            id,
            settings,
            self.background,
            self.pinger,
            self._presence_feed,
            on_connected=lambda key: self.update_supervisor.on_connected(key),
            on_disconnected=lambda key: self.update_supervisor.on_disconnected(key),
            on_check=lambda key: self.update_supervisor.check(key),
            on_moved=lambda key, node: self.others.notify_device_changed(key, node),
        )
        self.subscribers: Subscribers = Subscribers(
            self.background,
            self.pinger,
            hub.limits.subscribers,
            follow=lambda account: self.others.follow_notifications(account),
        )
        inbox: Inbox | None = None
        if SHARED in hub.backend.capabilities:
            inbox = Inbox(
                hub.bus,
                id,
                self.devices,
                self.subscribers,
                hub.presence,
                self.background,
                max_answer=settings.max_answer,
                on_notification=hub.summaries.on_notification,
                on_notifications_missed=hub.summaries.on_gap,
                on_event=self._on_event,
                on_events_missed=self._on_events_missed,
                on_update_changed=lambda key: self.update_supervisor.on_changed(key),
                on_node_left=lambda id: self.others.on_left(id),
            )
        self.others: OtherNodes = OtherNodes(
            hub.nodes,
            id,
            inbox,
            self.background,
            sweep=self._sweep,
            on_expelled=lambda: self.background.spawn(self._check_expelled),
        )
        hub.summaries.follow = self.others.follow_notifications
        self.calls: Calls = Calls(
            hub, id, self.devices.link, ask=self.others.ask, default_timeout=settings.call_timeout
        )
        self.update_supervisor: UpdateSupervisor = UpdateSupervisor(
            hub,
            LocalCaller(self.calls),
            self.background,
            leases=self.leases,
            notify_node=self.others.notify_update_changed,
            follow=self.others.follow_events,
        )
        self.user_calls: UserCalls = UserCalls(self.calls, hub.updates, self.update_supervisor.on_event)
        self.rollouts: RolloutSupervisor = RolloutSupervisor(
            hub, self.update_supervisor, self.background, leases=self.leases, follow=self.others.follow_events
        )
        self.jobs: JobSupervisor = JobSupervisor(hub, self.background, leases=self.leases)

    # Methods of `HubObserver`

    def shadow_changed(self, key: DeviceKey, change: Change) -> None:
        if (connected := self.devices.get(key)) is not None:
            connected.shadow_changed(change)
        elif change.delta_document() is not None:
            self.others.notify_device_changed(key)

    def device_revoked(self, key: DeviceKey) -> None:
        self.devices.revoke(key)
        self.others.notify_device_changed(key)

    def notified(self, account: str, item: FeedItem) -> None:
        if self.others.inbox is None:
            self.subscribers.offer(account, item)
            self._on_event(account, item)
        elif item.frame.startswith(_DRIVEN):  # a new one: its account may not be followed yet
            self.rollouts.on_notification(account, item)
            self.jobs.on_notification(account, item)
        # The bus delivers the rest, in the same order to all nodes.

    def build_reported(self, key: DeviceKey, build: ota.Build) -> None:
        self.update_supervisor.on_event(key, ota.BuildReported(build))

    def device_removed(self, key: DeviceKey, node: str | None) -> None:
        self._presence_feed.forget(key)
        self.update_supervisor.forget(key)
        if node is not None:
            self.others.notify_device_changed(key, node)

    def key_revoked(self, account: str, key: str | None) -> None:
        self.subscribers.revoke(account, key)
        self.others.notify_revocation(account, key)

    # Internals

    def _on_event(self, account: str, item: FeedItem) -> None:
        """Handle an event of this node or another. If there can be no other nodes, these are all notifications."""
        self.rollouts.on_notification(account, item)
        self.jobs.on_notification(account, item)
        if item.frame.startswith(_ABOUT_UPDATES):
            head = notifications.head(item.frame)
            self.update_supervisor.on_notification(DeviceKey(account, head.id), head.name)

    def _on_events_missed(self, account: str) -> None:
        """Read what missed events of an account may have been about."""
        self.rollouts.on_missed(account)
        self.update_supervisor.on_missed(account)

    def _sweep(self) -> None:
        """Release the sessions of dead nodes, and continue their work, in the background.

        The two run beside each other: a node that had many devices must not delay the updates that it drove.
        """
        self.rollouts.take_over()
        self.jobs.take_over()
        self.background.spawn(partial(self._presence_feed.sweep, self.others.living))
        self.background.spawn(lambda: self.background.persist(self.update_supervisor.resume_all))

    async def _check_expelled(self) -> None:
        """Check all devices, once the other nodes have seen that this one lives, and store none as offline any more."""
        await trio.sleep(2 * BEAT_INTERVAL)
        await self.devices.check_slowly(EXPELLED_CHECK_TIME)

    async def _store_last_seen(self) -> None:
        while True:
            await self.devices.store_last_seen()

    def _start(self) -> None:
        """Start the tasks that run as long as the node does."""
        hub, background = self.hub, self.background
        self._sweep()  # for a large fleet it takes a while; devices may connect in the meantime
        background.run_for_ever("the driving of rollouts", self.rollouts.run)
        background.run_for_ever("the driving of jobs", self.jobs.run)
        start_upkeep(hub, background)
        background.run_for_ever("the storing of last signs of devices", self._store_last_seen)
        watch = ClockWatch(hub.clock, self.update_supervisor.follow_clock, self.rollouts.follow_clock)
        background.run_every(CLOCK_INTERVAL, "the watching of the wall clock", watch.check)

    async def drain(self, seconds: float) -> None:
        """Have all devices and subscribers connect again, evenly spread over the seconds: to another node, if they can.

        One that connects meanwhile is told so immediately.
        """
        async with trio.open_nursery() as nursery:
            for part in (self.devices, self.subscribers):
                nursery.start_soon(part.drain, seconds, SERVICE_RESTART, _GOING_DOWN)

    async def shut_down(self) -> None:
        """Close every connection, and wait until the last presence is written."""
        if self._shutdown_deadline == inf:  # one for all callers: the first sets it
            self._shutdown_deadline = trio.current_time() + SHUTDOWN_TIMEOUT
        with trio.CancelScope(deadline=self._shutdown_deadline):
            self.subscribers.close(GOING_AWAY, _GOING_DOWN)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.devices.shut_down, _GOING_DOWN)
                nursery.start_soon(self._presence_feed.close)


@asynccontextmanager
async def open_node(hub: Hub, *, settings: NodeSettings = NodeSettings()) -> AsyncIterator[Node]:
    """Run a node until the context ends. Leaving it closes every connection."""
    async with trio.open_nursery() as nursery:
        node = Node(hub, hub.new_node_id(), settings, nursery)
        hub.add_observer(node)
        node.background.run_for_ever("the pinging of connections", node.pinger.run)
        try:
            async with node.others.joined(lambda: node._shutdown_deadline):
                node._start()
                try:
                    yield node
                finally:
                    with trio.CancelScope(shield=True):
                        await node.shut_down()
        finally:
            hub.remove_observer(node)
            node.background.end()
        nursery.cancel_scope.cancel()

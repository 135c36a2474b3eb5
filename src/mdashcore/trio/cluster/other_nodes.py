"""The other nodes on the store, if it can have any: what this node asks of them, and what it tells them.

On a store that only one process can use, everything here does nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import trio

from mdashcore.hub.nodes import BEAT_INTERVAL, Nodes
from mdashcore.identity import DeviceKey
from mdashcore.trio.background import Background
from mdashcore.trio.cluster.inbox import Inbox
from mdashcore.trio.cluster.membership import Membership
from mdashcore.trio.connections.calls import DeviceCall

__all__ = ["OtherNodes"]


class OtherNodes:
    """The nodes beside this one.

    Args:
        id: the id of this node.
        inbox: the messages between the nodes; `None` if the store can have only one node.
        sweep: called after nodes are gone, to clean up after them in the background.
        on_expelled: called when other nodes have declared this one dead: its devices may be stored as offline.
    """

    def __init__(
        self,
        nodes: Nodes,
        id: str,
        inbox: Inbox | None,
        background: Background,
        *,
        sweep: Callable[[], None],
        on_expelled: Callable[[], None],
    ) -> None:
        self._nodes = nodes
        self._id = id
        self._background = background
        self.inbox: Inbox | None = inbox
        """The messages between the nodes; `None` if there can be only one."""
        self.membership: Membership | None = None
        """The membership of this node; `None` if there can be only one."""
        if inbox is not None:
            self.membership = Membership(nodes, id, on_gone=inbox.peers.forget, sweep=sweep, on_expelled=on_expelled)

    @property
    def ask(self) -> Callable[[str, DeviceCall], Awaitable[bytes]] | None:
        """The function that asks another node for a call; `None` if there can be only one node."""
        return None if self.inbox is None else self.inbox.ask

    async def living(self) -> set[str]:
        """Return the ids of the living nodes, this one included."""
        return {self._id} if self.inbox is None else await self._nodes.ids()

    def follow_notifications(self, account: str) -> AbstractContextManager[Callable[[], bool]]:
        """Receive the account's notifications of other nodes for as long as the context lasts.

        The context's value returns whether they are received now.
        """
        return nullcontext(_always) if self.inbox is None else self.inbox.feeds.hold(account)

    def follow_events(self, account: str) -> AbstractContextManager[object]:
        """Receive the account's events of other nodes for as long as the context lasts."""
        return nullcontext() if self.inbox is None else self.inbox.events.hold(account)

    def notify_device_changed(self, key: DeviceKey, node: str | None = None) -> None:
        """Let another node check a device. Arguments are those of `DeviceNotices.device_changed`."""
        if self.inbox is not None:
            self.inbox.notices.device_changed(key, node)

    def notify_update_changed(self, key: DeviceKey, node: str | None) -> None:
        """Let another node read a device's update. Arguments are those of `DeviceNotices.device_changed`."""
        if self.inbox is not None:
            self.inbox.notices.update_changed(key, node)

    def notify_revocation(self, account: str, key: str | None) -> None:
        """Notify the nodes with subscribers of an account of an invalid key or session; `None` stands for any."""
        if self.inbox is not None:
            self.inbox.publish_revocation(account, key)

    def on_left(self, id: str) -> None:
        """Handle the message of a node that it has ended."""
        if self.membership is not None:
            self.membership.on_left(id)

    @asynccontextmanager
    async def joined(self, leave_by: Callable[[], float]) -> AsyncIterator[None]:
        """Be a member among the others until the context ends.

        Args:
            leave_by: returns the time on Trio's clock until which leaving may take, also if the task is cancelled.
        """
        if self.inbox is None or self.membership is None:
            yield
            return
        await self.membership.join()
        self.inbox.start()
        # Two tasks: a slow look at the others must not make this one seem dead.
        self._background.run_every(BEAT_INTERVAL, "the node's sign of life", self.membership.beat)
        self._background.run_every(BEAT_INTERVAL, "the look at other nodes", self.membership.check)
        try:
            yield
        finally:
            with trio.CancelScope(deadline=leave_by(), shield=True):
                await self.membership.leave()
                await self.inbox.publish_leaving(self._id)


def _always() -> bool:
    """Return `True`: there are no other nodes whose notifications could be missed."""
    return True

"""Leases: the node that drives a rollout or an update, named in its record.

A lease lasts for as long as its node lives. So no lease has to be renewed: the sign of life of a node, which
`mdashcore.hub.nodes` judges without comparing clocks, renews all of them. A node takes over what a dead one has left,
by compare-and-set of the record itself. So a node that was only slow loses its next write, reads the record again, and
finds another driver in it: whatever it does, it decides nothing after the lease has gone to another node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import attrs

__all__ = ["Leases"]


@attrs.frozen
class Leases:
    """The leases as one node sees them."""

    node: str
    """The id of the node."""
    alive: Callable[[], Awaitable[Collection[str]]]
    """Returns the living nodes. Called after the record was read: a node that has written it was alive by then."""

    async def may_take(self, driver: str | None) -> bool:
        """Return whether this node may drive a record that names `driver`, which is `None` if no node drove it yet."""
        return driver is None or driver == self.node or driver not in await self.alive()

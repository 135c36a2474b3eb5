"""Leases: the node that drives a rollout or an update, named in its record.

A lease lasts for as long as its node lives. So no lease has to be renewed: the sign of life of a node, which
`mdashcore.hub.nodes` judges without comparing clocks, renews all of them. A node takes over what a dead one has left,
by compare-and-set of the record itself. So a node that was only slow loses its next write, reads the record again, and
finds another driver in it: whatever it does, it decides nothing after the lease has gone to another node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol, TypeVar, cast

import attrs

from mdashcore._errors import Conflict, NotFound, VersionConflict
from mdashcore.hub.records.store import Record, Records, split

__all__ = ["Driven", "Leases", "take", "unfinished"]


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


class Driven(Protocol):
    """A record of work that one node drives until it is finished: a class of attrs."""

    @property
    def id(self) -> str:
        """Its id within the account."""

    @property
    def driver(self) -> str | None:
        """The id of the node that drives it, or `None` if none has so far."""

    @property
    def unannounced(self) -> tuple[str, ...]:
        """The names of notifications that may not have been sent yet, in their order."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to drive."""


D = TypeVar("D", bound=Driven)


async def take(records: Records[D], key: str, leases: Leases | None, what: str) -> tuple[Record[D], str | None]:
    """Make a node the driver of a record. Returns the record, and the node that drove it before, if another one did.

    Args:
        leases: those of the node; `None` if this process is the only one.
        what: the name of the work in errors.

    Raises:
        NotFound: the record does not exist, or is finished.
        Conflict: another living node drives it.
    """
    race = records.race(key)
    while True:
        record = await records.get(key)
        if record is None or record.value.finished:
            raise NotFound(f"{what} does not go on")
        driver = record.value.driver
        if leases is None or driver == leases.node:
            return record, None
        if not await leases.may_take(driver):
            raise Conflict(f"{what} is driven by {driver}")
        taken: D = attrs.evolve(cast(Any, record.value), driver=leases.node)
        try:
            return Record(taken, await records.put(key, taken, expected=record.version)), driver
        except VersionConflict:
            await race.lost()


async def unfinished(records: Records[D], leases: Leases | None = None) -> list[tuple[str, str]]:
    """Return (account, id) of every record that is not finished.

    Args:
        leases: leave out those that another living node drives.
    """
    found = [(key, each.driver) async for key, each in records.scan() if not each.finished]
    others = set[str]() if leases is None else {*await leases.alive()} - {leases.node}
    return [split(key) for key, driver in found if driver not in others]

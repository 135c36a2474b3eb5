"""A fleet whose devices change, and laws of its lists, in any store."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import notifications
from mdashcore._errors import NotFound
from mdashcore.hub import Hub
from mdashcore.hub.fleet.order import SORTS, Order
from mdashcore.identity import DeviceKey
from mdashcore.selection import parse
from mdashcore.storage import ORDERED, Backend

ORDERS = [*SORTS, *(f"-{sort}" for sort in SORTS)]

IDS = [f"d{n}" for n in range(12)]

VERSIONS = ["1.9", "1.10", "2.0", None, 5, "1.10-rc1"]


@attrs.define
class Fleet:
    """A hub with the devices of one account, and a clock."""

    hub: Hub
    time: list[float]

    @classmethod
    def made(cls, *, ordered=True):
        """One in memory."""
        capabilities = frozenset({ORDERED} if ordered else ())
        return cls.on(Backend(MemoryDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus(), capabilities))

    @classmethod
    def on(cls, backend):
        """One in a store."""
        time, numbers = [1000.0], iter(range(10**9))
        return cls(
            Hub(
                backend,
                now=lambda: time[0],
                monotonic=lambda: time[0],
                entropy=lambda size: next(numbers).to_bytes(size, "big"),
            ),
            time,
        )

    async def change(self, change):
        """Apply one change, as a server does it."""
        kind, id, value = change
        self.time[0] += 1.0
        key, hub = DeviceKey("alice", id), self.hub
        try:
            if kind == "create":
                if id not in await self.ids():
                    await hub.create_device("alice", id, f"Lamp {value}")
            elif kind == "remove":
                await hub.remove_device(key)
            elif kind == "rename":
                await hub.rename_device(key, f"Lamp {value}")
            elif kind == "tag":
                await hub.change_tags(key, {"site": f"s{value}"})
            elif kind == "online":
                await hub.registry.get(key)
                await hub.presence.claim(key, "node_1")
                await hub.feed.emit("alice", notifications.ONLINE, id)
            elif kind == "offline":
                await hub.registry.get(key)
                record = await hub.presence.get(key)
                if await hub.presence.release(key, record.session, self.time[0]):
                    await hub.feed.emit("alice", notifications.OFFLINE, id)
            elif kind == "report":
                await hub.registry.get(key)
                ota = {"fw_version": VERSIONS[value % len(VERSIONS)], "is_committed": value % 2 == 0}
                if value > 18:
                    await hub.shadows.update(key, {"state": None if value == 19 else {"reported": None}})
                    return
                await hub.shadows.update(key, {"state": {"reported": {"ota": ota, "t": value}}})
        except NotFound:
            return

    async def changed(self, changes):
        """Apply changes, and return the fleet."""
        for change in changes:
            await self.change(change)
        return self

    async def ids(self):
        return [device.id for device in await self.hub.registry.of("alice")]

    async def page(self, limit, order="id", after=None, terms=(), **options):
        return await self.hub.device_pages.read(
            "alice", parse(list(terms)), limit, order=Order.parse(order), after=after, **options
        )

    async def rows(self, order="id", terms=()):
        """The whole list."""
        return (await self.page(1000, order, terms=terms)).rows


CHANGES = st.tuples(
    st.sampled_from(["create", "create", "remove", "rename", "tag", "online", "offline", "report"]),
    st.sampled_from(IDS),
    st.integers(0, 20),
)

FILTERS = [
    ["online"], ["offline"], ["fw_version=1.10"], ["fw_version>1.9"], ["fw_version!=*"], ["fw_version=5"],
    ["shadow.reported.ota.is_committed=false"],
    ["tag.site=s3"], ["name~lamp 1"], ["shadow.reported.t>5"], ["shadow.reported.t=*", "online"],
    ["id=d1|d2"], ["shadow.delta.x=*"],
    ["presence_changes>=2"], ["presence_changes=0", "damaged!=*"], ["update!=*"],
]  # fmt: skip


async def check_parts(fleet, order, limit):
    """The pages of every size, one after the other, are the whole list, which is sorted."""
    whole = await fleet.rows(order)
    assert sorted(row.id for row in whole) == sorted(await fleet.ids())
    places = [Order.parse(order).place_of(row) for row in whole]
    assert places == sorted(places, reverse=order.startswith("-"))
    found, after = [], None
    while True:
        page = await fleet.page(limit, order, after, with_total=after is None)
        assert page.total == (len(whole) if after is None else None)
        found += [row.id for row in page.rows]
        after = page.next
        assert len(page.rows) == limit or after is None
        if after is None:
            break
    assert found == [row.id for row in whole]


async def check_given_once(fleet, order, limit, between):
    """Devices come, go and move between the pages: the list ends, and each device that nothing has changed is in it
    exactly once, also if the device of the cursor is gone.
    """
    untouched = set(await fleet.ids()) - {id for changes in between for _, id, _ in changes}
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        page = await fleet.page(limit, order, after)
        found += [row.id for row in page.rows]
        after = page.next
        for change in between[pages] if pages < len(between) else ():
            await fleet.change(change)
        pages += 1
        assert pages <= len(IDS) + sum(map(len, between)) + 1
    for id in untouched:
        assert found.count(id) == 1, f"{id} is in {found}"


async def check_filter(fleet, order, terms):
    """A filter means the same whether it is tested on rows in memory, or with the shadows of the store."""
    by_id = [row.id for row in await fleet.rows("id", terms)]
    for sort in ("id", order):
        assert (await fleet.page(1, sort, terms=terms, with_total=True)).total == len(by_id)
    assert sorted(row.id for row in await fleet.rows(order, terms)) == by_id
    listed = [each.device.id async for each in fleet.hub.device_list.select("alice", parse(terms))]
    assert listed == by_id

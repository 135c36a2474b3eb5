"""A summary of an account on one node, while another node on the same Redis changes the account's devices."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from mdashcore import notifications
from mdashcore.hub import Hub
from mdashcore.hub.fleet.order import Order
from mdashcore.identity import DeviceKey
from mdashcore.selection import parse
from mdashcore.storage import open_backend
from mdashcore.trio.node import open_node

PATIENCE = 20  # seconds for what has to come


@asynccontextmanager
async def two_hubs(url: str) -> AsyncIterator[list[Hub]]:
    """The hubs of two nodes with connections of their own."""
    async with AsyncExitStack() as stack:
        hubs = []
        for _ in range(2):
            backend = await stack.enter_async_context(open_backend(url))
            hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
            await stack.enter_async_context(open_node(hub))
            hubs.append(hub)
        yield hubs


async def shown(hub: Hub) -> Any:
    """What list, counts and home say of the account."""
    page = await hub.device_pages.read("alice", parse([]), 10, order=Order("name"), with_total=True)
    site = await hub.device_pages.read("alice", parse(["tag.site=berlin"]), 1, with_total=True)
    figures = await hub.fleet.of("alice")
    rows = [(row.id, row.name, row.online, row.build.fw_version) for row in page.rows]
    builds = {build.fw_version: build.devices for build in figures.builds}
    return rows, page.total, site.total, (figures.devices, figures.online, builds)


async def comes(hub: Hub, expected: Any) -> None:
    """Wait until list, counts and home say this, as notifications take their time."""
    with trio.fail_after(PATIENCE):
        while (found := await shown(hub)) != expected:  # noqa: ASYNC110 - see below
            await trio.sleep(0.01)  # the other node's notifications are no event here
    assert found == expected


async def turn(hub: Hub, id: str) -> None:
    """Connect a device, as a node does."""
    await hub.presence.claim(DeviceKey("alice", id), "node_a")
    await hub.feed.emit("alice", notifications.ONLINE, id)


async def report(hub: Hub, id: str, version: str) -> None:
    state = {"reported": {"ota": {"fw_version": version}}}
    await hub.shadows.update(DeviceKey("alice", id), {"state": state})


@pytest.mark.parametrize("gap", [False, True], ids=["told", "after-a-gap"])
def test_a_summary_follows_what_another_node_does(redis_server: Any, gap: bool) -> None:
    """Created, tagged, renamed, online, with another build, removed: list, counts and home say so, also if the
    subscription has broken in between, and what was notified meanwhile is lost.
    """
    redis_server.command("FLUSHALL")

    async def run() -> None:
        async with two_hubs(f"{redis_server.url}/0?prefix=fleet") as (a, b):
            await a.create_device("alice", "d1", "Lamp 1")
            await comes(b, ([("d1", "Lamp 1", False, None)], 1, 0, (1, 0, {None: 1})))
            if gap:
                redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await a.create_device("alice", "d2", "Lamp 2", {"site": "berlin"})
            await turn(a, "d2")
            await report(a, "d2", "1.0")
            both = [("d1", "Lamp 1", False, None), ("d2", "Lamp 2", True, "1.0")]
            await comes(b, (both, 2, 1, (2, 1, {None: 1, "1.0": 1})))
            await a.rename_device(DeviceKey("alice", "d2"), "Attic")
            await report(a, "d2", "2.0")
            await a.change_tags(DeviceKey("alice", "d1"), {"site": "berlin"})
            changed = [("d2", "Attic", True, "2.0"), ("d1", "Lamp 1", False, None)]
            await comes(b, (changed, 2, 2, (2, 1, {None: 1, "2.0": 1})))
            await a.remove_device(DeviceKey("alice", "d2"))
            await comes(b, ([("d1", "Lamp 1", False, None)], 1, 1, (1, 0, {None: 1})))

    trio.run(run)

"""Passes over stored notifications on real stores: from the newest back, over a trimmed log, in several reads."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mdashcore import _json
from mdashcore.hub import Hub
from mdashcore.hub.log_search import LogSearch
from mdashcore.hub.series_reader import SeriesRequest
from mdashcore.identity import DeviceKey
from mdashcore.storage import open_backend

LAMP = DeviceKey("alice", "lamp")


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """The address of an empty store."""
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.command("FLUSHALL")
        return f"{server.url}/0?prefix=passes"
    return "memory://" if request.param == "memory" else f"sqlite://{tmp_path}/store"


async def test_a_series_of_a_trimmed_log(url: str) -> None:
    """Each value that is still kept is in it once, also those that another device's reports stand between."""
    second = 0.0
    async with open_backend(url) as backend:
        hub = Hub(backend, now=lambda: second, monotonic=lambda: 0.0, entropy=os.urandom)
        for number in range(150):
            second = float(number + 1)
            await hub.shadows.update(LAMP, {"state": {"reported": {"t": number}}})
            await hub.shadows.update(DeviceKey("alice", "pump"), {"state": {"reported": {"t": -1}}})
        await backend.logs.trim("notifications/alice", 201)
        found = await hub.series.read(LAMP, SeriesRequest({"t": ("t",)}, 10))
        assert (found.start, found.end, found.is_complete) == (50.0, 150.0, True)
        kept = [(point.min, point.avg, point.max, point.count) for point in found.points["t"]]
        assert kept[0] == (50.0, 54.0, 58.0, 9)  # the report of second 50 is gone, the one of the pump is kept
        assert kept[1] == (59.0, 63.5, 68.0, 10)
        assert kept[-1] == (139.0, 144.0, 149.0, 11)
        assert sum(count for *_, count in kept) == 100


async def test_a_search_of_a_trimmed_log(url: str) -> None:
    """Part by part each notification that is still kept is found once, and events that are older than the log."""
    async with open_backend(url) as backend:
        hub = Hub(backend, now=lambda: 5.0, monotonic=lambda: 0.0, entropy=os.urandom)
        await hub.feed.emit("alice", "online", "lamp")
        for number in range(150):
            await hub.feed.emit("alice", "rpc.out.Log", "lamp", b'{"data":"line %d"}' % number)
        await backend.logs.trim("notifications/alice", 100)
        found, before = [], None
        while True:
            wanted = LogSearch(device="lamp", names=("online", "rpc.out.*"), before=before, limit=40)
            part = await hub.log_search.search("alice", wanted)
            found[:0] = [_json.decode(frame)["offset"] for frame in part.frames]
            if (before := part.next) is None:
                break
        assert found == [0, *range(51, 151)]

"""The join of registered devices, their presence and their shadows."""

from __future__ import annotations

from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore._errors import NotFound
from mdashcore.hub import Hub
from mdashcore.hub.pausing import never_pause
from mdashcore.hub.presence import OFFLINE_RECORD
from mdashcore.identity import DeviceKey
from mdashcore.selection import parse
from mdashcore.storage import ORDERED, Backend

IDS = ["-", "0", "A", "Z", "a", "aa", "b", "z"]


class Unordered(MemoryDocuments):
    """Scans backwards."""

    async def scan(self, collection, prefix=""):
        for document in reversed([document async for document in super().scan(collection, prefix)]):
            yield document


@pytest.fixture(params=[True, False], ids=["ordered", "unordered"])
def make_hub(request):
    """Makes a hub on a store that scans in the order of keys, or does not: what is listed is the same."""

    def make():
        documents, capabilities = (MemoryDocuments(), {ORDERED}) if request.param else (Unordered(), set())
        backend = Backend(documents, MemoryLogs(), MemoryBlobs(), MemoryBus(), frozenset(capabilities))
        numbers = iter(range(10**6))
        return Hub(
            backend, now=lambda: 1000.0, monotonic=lambda: 0.0, entropy=lambda size: next(numbers).to_bytes(size, "big")
        )

    return make


async def listed(hub, terms=(), devices=None, pause=never_pause, **options):
    """What a selection lists."""
    async with aclosing(hub.device_list.select("alice", parse(terms, devices), pause, **options)) as found:
        return [each async for each in found]


subsets = st.sets(st.sampled_from(IDS))


def test_whatever_is_stored_of_a_device_is_found(tools, make_hub):
    """By id; what is left of devices that are gone, and other accounts, are passed over."""

    @given(devices=subsets, connected=subsets, shadows=subsets)
    def law(devices, connected, shadows):
        async def fill_and_list(hub):
            for account in ("al", "alice", "alice2"):
                for id in sorted(devices, reverse=True):
                    await hub.registry.create(account, id)
            for id in connected:
                await hub.presence.claim(DeviceKey("alice", id), "node_1")
            for id in shadows:
                await hub.shadows.update(DeviceKey("alice", id), {"state": {"reported": {"id": id}}})
            return await listed(hub), await listed(hub, ["online"]), await listed(hub, with_shadows=False)

        everything, online, bare = tools.run(fill_and_list(make_hub()))
        assert [each.device.id for each in everything] == sorted(devices)
        for each in everything:
            assert each.device.account == "alice"
            assert each.presence.online == (each.device.id in connected)
            assert each.shadow.reported == ({"id": each.device.id} if each.device.id in shadows else None)
            assert each.damaged == ()
        assert [each.device.id for each in online] == sorted(devices & connected)
        assert all(each.shadow.version == 0 for each in bare)

    law()


def test_what_is_damaged_takes_out_itself(tools, make_hub, caplog):
    """The device is there, with what can be read, and says what cannot."""
    hub = make_hub()

    async def run():
        for id in IDS:
            await hub.registry.create("alice", id)
            await hub.shadows.update(DeviceKey("alice", id), {"state": {"reported": {"n": 1}}})
            await hub.presence.claim(DeviceKey("alice", id), "node_1")
        for collection, id in (("shadows", "A"), ("presence", "A"), ("devices", "b"), ("presence", "z")):
            await hub.backend.documents.put(collection, f"alice/{id}", b"[]")
        return {each.device.id: each for each in await listed(hub)}

    found = tools.run(run())
    assert sorted(found) == IDS
    damaged = {id: each.damaged for id, each in found.items() if each.damaged}
    assert damaged == {"A": ("presence", "shadow"), "b": ("device",), "z": ("presence",)}
    assert found["A"].presence == OFFLINE_RECORD
    assert found["b"].shadow.reported == {"n": 1}
    assert caplog.text.count("cannot be read") == 4
    caplog.clear()


def test_there_is_a_pause_after_each_document(tools, make_hub):
    """Also where nothing is listed of it: the filter does not hold, or the device is gone."""
    hub = make_hub()
    pauses = 0

    async def pause():
        nonlocal pauses
        pauses += 1

    async def run():
        for n in range(100):
            await hub.create_device("alice", f"d{n:03}")
            await hub.shadows.update(DeviceKey("alice", f"d{n:03}"), {"state": {"reported": {"n": n}}})
        for n in range(50, 99):
            await hub.remove_device(DeviceKey("alice", f"d{n:03}"))
        return await listed(hub, ["shadow.reported.n=99"], pause=pause)

    assert [each.device.id for each in tools.run(run())] == ["d099"]
    assert pauses >= 51 + 49


def test_a_device_that_is_named_and_not_there(tools, make_hub):
    """It is told, whatever the filter says of the others."""
    hub = make_hub()

    async def run(devices):
        return [each.device.id for each in await listed(hub, ["offline"], devices)]

    for id in ("b", "a"):
        tools.run(hub.registry.create("alice", id))
    assert tools.run(run(["b"])) == ["b"]
    with pytest.raises(NotFound, match="'c'"):
        tools.run(run(["b", "d", "c"]))

"""What accounts have is counted: never beyond a limit, whatever happens at the same time or in between."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryDocuments
from mdashcore._errors import AlreadyExists, InsufficientStorage, LimitReached, StorageError
from mdashcore.hub import Hub
from mdashcore.hub.images import RESERVED_STEP
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.records.schema import UsageRecord
from mdashcore.hub.usage import Usage
from mdashcore.identity import DeviceKey

LIMITS = AccountLimits(devices=3, keys=2, image_bytes=100)


def make_hub(tools, backend, limits=LIMITS, **options):
    return Hub(
        backend,
        now=lambda: 1e6,
        monotonic=lambda: 0.0,
        entropy=tools.entropy(),
        signal=tools.signal,
        limits=limits,
        **options,
    )


@pytest.fixture
def backend(tools):
    return tools.backend()


@pytest.fixture
def hub(tools, backend):
    hub = make_hub(tools, backend)
    for name in ("alice", "bob"):
        tools.run(hub.accounts.register(name, "hash"))
    return hub


async def pieces(*sizes):
    for size in sizes:
        yield b"x" * size


async def count_devices(hub, account="alice"):
    return len(await hub.registry.of(account))


async def check(hub):
    async for _ in hub.usage.check():
        pass


choices = st.lists(st.integers(0, 5), max_size=200)


class YieldingDocuments(MemoryDocuments):
    """Lets all other tasks have their turn before every verb."""

    async def get(self, *args):
        await trio.lowlevel.checkpoint()
        return await super().get(*args)

    async def put(self, *args, **options):
        await trio.lowlevel.checkpoint()
        return await super().put(*args, **options)


def test_many_that_are_made_at_the_same_time_wait_for_each_other(caplog):
    """Sixty of one process lose no races to each other, of which the log would tell."""
    usage = Usage(YieldingDocuments(), MemoryBlobs(), AccountLimits())

    async def main():
        await usage.of("alice")
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(usage.reserve, "alice", "keys")
        assert (await usage.of("alice")).keys == 60

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not caplog.records


@given(choices)
def test_two_processes_never_get_beyond_a_limit_together(tools, choices):
    """Of six that make a device at the same time, on two nodes of one store, three do."""
    backend = tools.backend()
    hubs = [make_hub(tools, backend) for _ in range(2)]
    outcomes = tools.interleave([hubs[n % 2].create_device("alice", f"d{n}") for n in range(6)], choices)
    refused = [each.error for each in outcomes if each.error is not None]
    assert [error.limit for error in refused] == ["devices"] * 3
    assert tools.run(count_devices(hubs[0])) == 3
    assert tools.run(hubs[0].usage.of("alice")).devices == 3


def test_what_is_removed_makes_room(tools, hub):
    """A device, a key, an image; another account is never concerned."""
    for n in range(3):
        tools.run(hub.create_device("alice", f"d{n}"))
    keys = [tools.run(hub.accounts.create_key("alice")).key for _ in range(2)]
    tools.run(hub.blobs.put("alice/one", pieces(60, 40)))
    for limit, more in (
        ("devices", lambda: hub.create_device("alice")),
        ("keys", lambda: hub.accounts.create_key("alice")),
        ("image_bytes", lambda: hub.blobs.put("alice/two", pieces(1))),
    ):
        with pytest.raises(LimitReached) as caught:
            tools.run(more())
        assert caught.value.limit == limit
    tools.run(hub.create_device("bob"))
    tools.run(hub.remove_device(DeviceKey("alice", "d1")))
    tools.run(hub.accounts.remove_key("alice", keys[0].id))
    tools.run(hub.blobs.delete("alice/one"))
    assert tools.run(hub.usage.of("alice")) == UsageRecord(2, 1, 0)
    tools.run(hub.create_device("alice"))
    tools.run(hub.accounts.create_key("alice"))
    tools.run(hub.blobs.put("alice/two", pieces(100)))


def test_what_was_not_made_takes_no_place(tools, hub):
    """An id that is taken, and an image whose source fails."""
    tools.run(hub.create_device("alice", "d1"))
    with pytest.raises(AlreadyExists):
        tools.run(hub.create_device("alice", "d1"))

    async def failing():
        yield b"x" * 50
        raise StorageError("the disk")

    with pytest.raises(StorageError):
        tools.run(hub.blobs.put("alice/one", failing()))
    assert tools.run(hub.usage.of("alice")) == UsageRecord(1, 0, 0)


@pytest.mark.parametrize("limit", [2 * RESERVED_STEP + 10, RESERVED_STEP // 2])
@pytest.mark.parametrize("more", [0, 1])
def test_an_image_may_be_as_large_as_what_is_left(tools, backend, limit, more):
    """To the byte, although room is made in larger steps."""
    hub = make_hub(tools, backend, AccountLimits(image_bytes=limit))
    tools.run(hub.blobs.put("alice/one", pieces(7)))
    left = limit - 7 + more
    chunks = pieces(*[left // 8] * 8, left % 8)
    if more:
        with pytest.raises(LimitReached):
            tools.run(hub.blobs.put("alice/two", chunks))
        assert tools.run(hub.usage.of("alice")) == UsageRecord(image_bytes=7)
    else:
        assert tools.run(hub.blobs.put("alice/two", chunks)) == left
        assert tools.run(hub.usage.of("alice")) == UsageRecord(image_bytes=limit)


def test_images_that_arrive_at_the_same_time(tools, hub):
    """What is kept free for one is not there for the other."""

    async def slow(size):
        for _ in range(size):
            await tools.pause()
            yield b"x" * 10

    outcomes = tools.interleave([hub.blobs.put(f"alice/{n}", slow(6)) for n in range(2)], [0, 1] * 100)
    assert sorted(outcome.error is None for outcome in outcomes) == [False, True]
    assert tools.run(hub.usage.of("alice")).all_image_bytes == 60


def test_a_full_disk_refuses_images_only(tools, backend):
    """Below the floor; where the backend does not know its disk there is none."""
    free = 1000

    async def free_bytes():
        return free

    hub = make_hub(tools, attrs.evolve(backend, free_bytes=free_bytes), AccountLimits(), free_disk=500)
    tools.run(hub.blobs.put("alice/one", pieces(10)))
    free = 499
    with pytest.raises(InsufficientStorage):
        tools.run(hub.blobs.put("alice/two", pieces(10)))
    assert tools.run(hub.blobs.size("alice/two")) is None
    tools.run(hub.create_device("alice", "d1"))
    tools.run(hub.shadows.update(DeviceKey("alice", "d1"), {"state": {"reported": {"on": True}}}))
    unknown = make_hub(tools, attrs.evolve(backend, free_bytes=None), free_disk=500)
    tools.run(unknown.blobs.put("alice/two", pieces(10)))


def test_a_store_of_an_earlier_version_is_counted(tools, hub, backend):
    """Once: what is there when the first thing is made, looked at or removed."""
    tools.run(hub.create_device("alice", "d1"))
    tools.run(hub.create_device("alice", "d2"))
    tools.run(hub.blobs.put("alice/one", pieces(10)))
    tools.run(backend.documents.delete("usage", "alice"))
    assert tools.run(make_hub(tools, backend).usage.of("alice")) == UsageRecord(2, 0, 10)
    tools.run(backend.documents.delete("usage", "alice"))
    tools.run(hub.create_device("alice", "d3"))
    with pytest.raises(LimitReached):
        tools.run(hub.create_device("alice", "d4"))


@pytest.mark.parametrize("step", range(60))
def test_a_process_that_dies_in_between(tools, hub, backend, step):
    """At any step of making and removing: the number is never too low, and two checks later it is right."""

    async def work():
        await hub.create_device("alice", "d1")
        await hub.accounts.create_key("alice")
        await hub.blobs.put("alice/one", pieces(10))
        await hub.create_device("alice", "d2")
        await hub.remove_device(DeviceKey("alice", "d1"))
        await hub.blobs.delete("alice/one")

    error = tools.stops[0]()
    coroutine = work()
    try:
        for _ in range(2 * step):
            coroutine.send(None)
        coroutine.throw(error)
    except (StopIteration, type(error)):
        pass
    again = make_hub(tools, backend)
    use, actual = tools.run(again.usage.of("alice")), tools.run(again.usage._counted("alice"))
    for name in ("devices", "keys", "all_image_bytes"):
        assert getattr(use, name) >= getattr(actual, name)
    for _ in range(2):
        tools.run(check(again))
    assert tools.run(again.usage.of("alice")) == actual


@given(choices)
def test_a_check_disturbs_no_writer(tools, choices):
    """Whatever is made and removed meanwhile, checks that run beside it leave the right number behind."""
    backend = tools.backend()
    hub = make_hub(tools, backend)
    tools.run(hub.create_device("alice", "d0"))

    async def churn():
        for n in range(1, 4):
            await hub.create_device("alice", f"d{n}")
            await hub.remove_device(DeviceKey("alice", f"d{n}"))

    async def checks():
        for _ in range(3):
            await check(hub)

    tools.interleave([churn(), checks(), checks()], choices)
    for _ in range(2):
        tools.run(check(hub))
    assert tools.run(hub.usage.of("alice")).devices == tools.run(count_devices(hub)) == 1


def test_an_account_that_goes_leaves_no_number(tools, hub, backend):
    """Another one of that name begins with nothing."""
    tools.run(hub.accounts.register("carol", "hash"))
    tools.run(hub.create_device("carol", "d1"))
    tools.run(hub.remove_account("carol"))
    tools.run(hub.accounts.register("carol", "hash"))
    assert tools.run(hub.usage.of("carol")) == UsageRecord()


def test_parts_that_stand_alone_have_no_bound(tools):
    """A registry that an embedder makes without the hub."""
    from mdashcore.hub.registry import Registry

    registry = Registry(MemoryDocuments(), now=lambda: 0.0, entropy=tools.entropy(), on_revoked=lambda *_: None)
    tools.run(registry.create("alice", "d1"))
    tools.run(registry.remove(DeviceKey("alice", "d1")))

"""The figures of a fleet: counted from rows in memory, and from the events of a day."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import _json, notifications, ota
from mdashcore.hub import Hub
from mdashcore.hub.fleet.overview import LEAST_FLAPS, MAX_BUILDS, MAX_SHOWN
from mdashcore.hub.fleet.presence_history import HISTORY_TIME, STEPS
from mdashcore.identity import DeviceKey
from mdashcore.storage import ORDERED, Backend

IDS = [f"d{n}" for n in range(4)]


class Fleet:
    """A hub with a clock, and the states of its devices at each moment."""

    def __init__(self):
        self.now = 10 * HISTORY_TIME
        numbers = itertools.count()
        backend = Backend(MemoryDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus(), frozenset({ORDERED}))
        self.hub = Hub(
            backend,
            now=lambda: self.now,
            monotonic=lambda: self.now,
            entropy=lambda size: next(numbers).to_bytes(size, "big"),
        )
        self.sessions = {}

    async def turn(self, id, *, on):
        """Connect or disconnect a device, as a node does it."""
        key, hub = DeviceKey("alice", id), self.hub
        if on:
            self.sessions[id] = (await hub.presence.claim(key, "node_1")).session
            await hub.feed.emit("alice", notifications.ONLINE, id)
        elif await hub.presence.release(key, self.sessions[id], self.now):
            await hub.feed.emit("alice", notifications.OFFLINE, id)

    async def report(self, id, **build):
        await self.hub.shadows.update(DeviceKey("alice", id), {"state": {"reported": {"ota": build}}})

    async def figures(self):
        return await self.hub.fleet.of("alice")


def test_the_day_is_counted_back_from_now(tools):
    """At each step as many devices were online as really were, whether the events were read from the log or came
    while the account was looked at. Devices are removed, online or not, and created anew.
    """

    @given(
        st.lists(
            st.tuples(st.floats(1.0, HISTORY_TIME / 12), st.sampled_from(IDS), st.sampled_from("ttttr")), max_size=40
        ),
        st.integers(0, 40),
    )
    def law(changes, looks_at):
        fleet = Fleet()

        async def run():
            for id in IDS:
                await fleet.hub.create_device("alice", id)
            states, truth = dict.fromkeys(IDS, False), [(fleet.now, 0)]
            for place, (wait, id, act) in enumerate(changes):
                if place == looks_at:
                    await fleet.figures()
                fleet.now += wait
                if act == "t" and id in states:
                    states[id] = not states[id]
                    await fleet.turn(id, on=states[id])
                elif id in states:
                    del states[id]
                    await fleet.hub.remove_device(DeviceKey("alice", id))
                else:
                    states[id] = False
                    await fleet.hub.create_device("alice", id)
                truth.append((fleet.now, sum(states.values())))
            fleet.now += 1.0
            figures = await fleet.figures()
            assert (figures.devices, figures.online) == (len(states), sum(states.values()))
            assert len(figures.history) == STEPS
            for step, number in enumerate(figures.history):
                time = fleet.now - (STEPS - 1 - step) * HISTORY_TIME / STEPS
                before = [online for then, online in truth if then <= time]
                assert number == (before[-1] if before else 0), f"at {time}"

        tools.run(run())

    law()


def test_a_fleet_is_counted(tools):
    """By presence, by build, by trial; the longest silent ones come first."""
    fleet = Fleet()

    async def run():
        for id in (*IDS, "never"):
            await fleet.hub.create_device("alice", id, id.upper())
        for id in IDS:
            await fleet.turn(id, on=True)
            await fleet.report(id, app="lamp", fw_version="1.0" if id != "d3" else "1.1", is_committed=id != "d3")
        for id in ("d2", "d1"):
            fleet.now += 10
            await fleet.turn(id, on=False)
        return await fleet.figures()

    figures = tools.run(run())
    assert (figures.devices, figures.online, figures.never_seen, figures.uncommitted) == (5, 2, 1, 1)
    assert [(b.app, b.fw_version, b.devices, b.online) for b in figures.builds] == [
        ("lamp", "1.0", 3, 1), ("lamp", "1.1", 1, 1), (None, None, 1, 0),
    ]  # fmt: skip
    assert figures.other_builds == 0
    assert [row.id for row in figures.silent] == ["d2", "d1"]
    assert [_json.decode(frame)["name"] for frame in figures.events[:3]] == ["offline", "offline", "online"]


def test_what_comes_and_goes_is_named(tools):
    """From six changes in a day on, those that were notified together included; a day later it is calm."""
    fleet = Fleet()

    async def run():
        for id in IDS:
            await fleet.hub.create_device("alice", id)
        for _ in range(LEAST_FLAPS // 2):
            await fleet.turn("d0", on=True)
            await fleet.turn("d0", on=False)
        await fleet.turn("d1", on=True)
        await fleet.hub.feed.emit("alice", notifications.OFFLINE, "d2", _json.encode({"changes": 17}))
        first = await fleet.figures()
        fleet.now += HISTORY_TIME + 1
        return first, await fleet.figures()

    first, later = tools.run(run())
    assert first.flapping_devices == 2
    assert [(row.id, number) for row, number in first.flapping] == [("d2", 17), ("d0", LEAST_FLAPS)]
    assert later.flapping == []
    assert later.history == [1] * STEPS


def test_many_builds_are_counted_together(tools):
    """A fleet of prototypes does not make the answer long."""
    fleet = Fleet()

    async def run():
        for n in range(MAX_BUILDS + 5):
            await fleet.hub.create_device("alice", f"d{n}")
            await fleet.turn(f"d{n}", on=True)
            await fleet.turn(f"d{n}", on=False)
            await fleet.report(f"d{n}", fw_version=f"{n}")
        return await fleet.figures()

    figures = tools.run(run())
    assert (len(figures.builds), figures.other_builds) == (MAX_BUILDS, 5)
    assert len(figures.silent) == MAX_SHOWN


def test_updates_are_counted_by_state(tools):
    """Those that have not ended, and those that have failed in the last day."""
    fleet = Fleet()

    async def run():
        image = ota.UpdateImage("fw", 10, "0" * 64)
        for id, state, age in [
            ("d0", "TRANSFERRING", 0), ("d1", "FAILED", 10), ("d2", "ROLLED_BACK", 20),
            ("d3", "FAILED", HISTORY_TIME + 1),
        ]:  # fmt: skip
            await fleet.hub.create_device("alice", id)
            update = ota.Update(
                id=f"u{id}",
                image=image,
                created=fleet.now,
                changed=fleet.now - age,
                active=fleet.now,
                state=ota.UpdateState(state),
            )
            await fleet.hub.updates.store.records.put(f"alice/{id}", update)
        return await fleet.figures()

    figures = tools.run(run())
    assert figures.updates == {"TRANSFERRING": 1}
    assert figures.failed_updates == 2
    assert [row.id for row in figures.failed] == ["d1", "d2"]


async def test_a_second_look_waits_for_the_history():
    """A look that begins while the history is being read shows the same day as the first."""
    fleet = Fleet()
    await fleet.hub.create_device("alice", "d0")
    await fleet.turn("d0", on=True)
    fleet.now += HISTORY_TIME / 2
    await fleet.turn("d0", on=False)
    events, found = fleet.hub.feed.events, []
    reading, go_on = trio.Event(), trio.Event()
    read = events.recent

    async def recent(account, most):
        reading.set()
        await go_on.wait()
        async for frame in read(account, most):
            yield frame

    async def look():
        found.append((await fleet.figures()).history)

    async with trio.open_nursery() as nursery:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(events, "recent", recent)
            nursery.start_soon(look)
            await reading.wait()
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert found[0] == found[1]
    assert sum(found[0]) > 0

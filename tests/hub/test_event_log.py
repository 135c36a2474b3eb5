"""The second log of an account: what chatter does not push out, in order, whatever stores at the same time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBus, MemoryLogs
from mdashcore import _json, notifications
from mdashcore._errors import StorageError
from mdashcore.hub import event_log as module
from mdashcore.hub import notification_reader as reader
from mdashcore.hub.feed import Feed, LogQuery

MAIN, EVENTS = "notifications/alice", "events/alice"


class Logs(MemoryLogs):
    """Logs that can fail, and that answer appends in an order of their own."""

    def __init__(self, pause: Any = None) -> None:
        super().__init__()
        self.failing: set[str] = set()
        self.pause = pause
        self.appends: list[str] = []

    async def append(self, log: str, time: float, bodies: Any) -> int:
        if self.pause is not None:
            await self.pause()
        if log in self.failing:
            raise StorageError("away")
        offset = await super().append(log, time, bodies)
        self.appends.append(log)
        if self.pause is not None:
            await self.pause()
        return offset


def make_feed(logs: MemoryLogs, **options: Any) -> Feed:
    """A feed at second 1000.5."""
    return Feed(logs, MemoryBus(), now=lambda: 1000.5, **options)


def offsets(tools: Any, logs: MemoryLogs) -> list[int]:
    """The offsets that stand in the event log, in its order."""
    return [_json.decode(entry.body)["offset"] for entry in tools.run(logs.read(EVENTS, 0, 10**6))]


async def read_all(feed: Feed, start: int = 0) -> list[int]:
    """What a listener gets that begins there."""
    found: list[int] = []
    while page := await feed.page("alice", start):
        found += [item.offset for item in page]
        start = found[-1] + 1
    return found


@pytest.mark.parametrize(
    ("name", "data", "is_event"),
    [
        ("online", None, True),
        ("offline", b'{"changes":7}', True),
        ("created", b'{"name":"x"}', True),
        ("deleted", None, True),
        ("updated", b'{"name":"x"}', True),
        ("updated", b'{"shadow":{"state":{}}}', False),
        ("updated", b'{"shadow":{"state":{"desired":{"data":{"name":1}}}}}', False),
        ("ota.COMMITTED", b"{}", True),
        ("ota.progress", b"{}", False),
        ("rollout.RUNNING", b"{}", True),
        ("rollout.deleted", None, True),
        ("rollout.progress", b"{}", False),
        ("rejected", b"{}", False),
        ("rpc.out.online", None, False),
        ("rpc.out.ota.COMMITTED", None, False),
        ("rpc.in.X", b'{"name":1}', False),
    ],
)
def test_what_is_an_event(tools: Any, name: str, data: bytes | None, is_event: bool) -> None:
    """Presence, devices, updates and rollouts; nothing that a device says, however it calls it. The stored form tells
    the same."""
    logs = Logs()
    tools.run(make_feed(logs).emit("alice", name, "d1", data))
    assert offsets(tools, logs) == ([0] if is_event else [])
    assert logs.appends == ([MAIN, EVENTS] if is_event else [MAIN]), "a report costs nothing more"
    assert notifications.is_stored_event(notifications.Notification(name, "d1", data).encode()) is is_event


def test_chatter_does_not_push_out_events(tools: Any) -> None:
    """Below the beginning of the account's log, the events are found with their own offsets and times, forwards,
    backwards, and by a subscriber that resumes."""
    logs = Logs()
    feed = make_feed(logs, keep=1000)
    for n in range(5000):
        tools.run(feed.emit("alice", "online" if n % 1000 == 7 else "rpc.out.Log", "d1", b"%d" % n))
    kept = [7, 1007, 2007, 3007, *range(4000, 5000)]
    assert tools.run(read_all(feed)) == kept
    assert tools.run(read_all(feed, 1008)) == kept[2:]
    assert tools.run(read_all(feed, 3008)) == kept[4:]
    assert tools.run(read_all(feed, 4500)) == list(range(4500, 5000))
    frames = tools.run(feed.query("alice", LogQuery(limit=3)))
    assert frames[0] == b'{"name":"online","id":"d1","data":7,"offset":7,"time":1000.500}'
    found = [_json.decode(frame)["offset"] for frame in tools.run(feed.query("alice", LogQuery(before=4002, limit=4)))]
    assert found == [2007, 3007, 4000, 4001]
    found = [_json.decode(frame)["offset"] for frame in tools.run(feed.query("alice", LogQuery(start=8, before=3008)))]
    assert found == [1007, 2007, 3007]
    assert tools.run(feed.query("alice", LogQuery(name="rpc.*", before=3900))) == []


@given(st.integers(0, 10**9), st.lists(st.booleans(), min_size=1, max_size=30))
def test_events_are_in_order_whatever_is_stored_at_the_same_time(tools: Any, seed: int, kinds: list[bool]) -> None:
    """However the store interleaves what is emitted, the event log has every event once, by ascending offsets."""
    logs, chance = Logs(tools.pause), random.Random(seed)
    feed = make_feed(logs)
    emits = [feed.emit("alice", "online" if each else "rpc.out.Log", "d1") for each in kinds]
    left = list(emits)
    while left:
        each = chance.choice(left)
        try:
            each.send(None)
        except StopIteration:
            left.remove(each)
    entries = logs.read(MAIN, 0, 100)
    stored = tools.run(entries)
    expected = [entry.offset for entry in stored if notifications.is_stored_event(entry.body)]
    found = [_json.decode(entry.body)["offset"] for entry in tools.run(logs.read(EVENTS, 0, 100))]
    assert found == expected


def test_a_store_that_fails_keeps_them_for_the_next_time(tools: Any) -> None:
    """The notification itself is stored and published; no device has to repeat it."""
    logs = Logs()
    feed = make_feed(logs)
    logs.failing = {EVENTS}
    assert tools.run(feed.emit("alice", "online", "d1")) == 0
    assert tools.run(feed.emit("alice", "offline", "d1")) == 1
    assert offsets(tools, logs) == []
    logs.failing = {MAIN}
    with pytest.raises(StorageError):
        tools.run(feed.emit("alice", "online", "d1"))
    logs.failing = set()
    tools.run(feed.emit("alice", "online", "d1"))
    assert offsets(tools, logs) == [0, 1, 2]


def test_an_event_that_waited_is_appended_by_the_notification_that_it_waited_for(tools: Any) -> None:
    """The event log has it as soon as nothing can come before it; no further event is needed."""
    logs = Logs(tools.pause)
    feed = make_feed(logs)
    slow, event = feed.emit("alice", "rpc.out.Log", "d1"), feed.emit("alice", "online", "d1")
    slow.send(None)
    slow.send(None)  # stored, and not reported yet
    tools.run(event)
    assert offsets(tools, logs) == []
    tools.run(slow)
    assert offsets(tools, logs) == [1]


def test_reports_do_not_pay_for_an_event_log_that_fails(tools: Any) -> None:
    """Only the next event tries again."""
    logs = Logs()
    feed = make_feed(logs)
    logs.failing = {EVENTS}
    tools.run(feed.emit("alice", "online", "d1"))
    logs.failing = set()
    tools.run(feed.emit("alice", "rpc.out.Log", "d1"))
    assert logs.appends == [MAIN, MAIN]
    tools.run(feed.emit("alice", "offline", "d1"))
    assert offsets(tools, logs) == [0, 2]


def test_what_a_killed_process_left_out_is_adopted(tools: Any) -> None:
    """A process that was killed between the two logs, and one of before there were two: the next event brings along
    what is missing, once."""
    logs = Logs()
    feed = make_feed(logs)
    tools.run(feed.emit("alice", "online", "d1"))
    for name in ("offline", "rpc.out.Log", "online"):
        tools.run(logs.append(MAIN, 1000.5, (notifications.Notification(name, "d1").encode(),)))
    again = make_feed(logs)
    tools.run(again.emit("alice", "offline", "d1"))
    tools.run(again.emit("alice", "online", "d1"))
    assert offsets(tools, logs) == [0, 1, 3, 4, 5]


def test_the_events_have_a_budget_of_their_own(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are kept, the newest."""
    monkeypatch.setattr(module, "KEEP_EVENTS", 200)
    logs = Logs()
    feed = make_feed(logs, keep=10)
    for _ in range(2000):
        tools.run(feed.emit("alice", "online", "d1"))
    kept = offsets(tools, logs)
    assert kept == list(range(2000 - len(kept), 2000))
    assert 200 <= len(kept) <= 300
    assert tools.run(read_all(feed)) == kept


def test_other_processes_may_append_out_of_order(tools: Any) -> None:
    """What two nodes have appended at the same time, a little out of order or twice, is read in order and once."""
    logs = Logs()
    feed = make_feed(logs)
    for _ in range(3000):
        stored = notifications.Notification("online", "d1").encode()
        tools.run(logs.append(MAIN, 1000.5, (stored,)))
    order = list(range(3000))
    for start in range(0, 3000, 20):
        order[start : start + 20] = reversed(order[start : start + 20])
    for n in [*order[:1500], 1499, *order[1500:]]:
        tools.run(logs.append(EVENTS, 1000.5, (notifications.frame(b'{"name":"online","id":"d1"}', n, 1000.5),)))
    tools.run(logs.trim(MAIN, 5))
    assert tools.run(read_all(feed)) == list(range(3000))
    for start in (0, 1, 19, 20, 21, 1490, 1501, 2990):
        assert tools.run(read_all(feed, start)) == list(range(start, 3000))
    found: list[int] = []
    while page := tools.run(feed.query("alice", LogQuery(before=found[0] if found else 3000, limit=700))):
        found = [_json.decode(frame)["offset"] for frame in page] + found
    assert found == list(range(3000))


@given(st.sets(st.integers(0, 400), max_size=12), st.integers(0, 400), st.integers(0, 5), st.integers(20, 300))
def test_no_event_is_missed_by_a_trim_between_two_reads(
    tools: Any, events: set[int], kept: int, reads: int, step: int
) -> None:
    """A reader that goes on from page to page gets every event, wherever and whenever the main log is trimmed."""
    logs = Logs()
    feed = make_feed(logs, keep=10**6)
    for n in range(400):
        tools.run(feed.emit("alice", "online" if n in events else "rpc.out.Log", "d1", b"1"))
    read, left = logs.read, [reads]

    async def read_and_trim(log: str, start: int, number: int) -> Any:
        entries = await read(log, start, min(step, number) if log == MAIN else number)
        if log == MAIN:
            left[0] -= 1
            if left[0] == 0:
                await logs.trim(MAIN, kept)
        return entries

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "read", read_and_trim)
        patch.setattr(reader, "PAGE_STEP", step)
        found = tools.run(read_all(feed))
    assert found == sorted(set(found))
    assert {offset for offset in found if offset in events} == {n for n in events if n < 400}


def test_a_damaged_event_takes_out_itself(tools: Any) -> None:
    """It is passed over wherever it stands."""
    logs = Logs()
    feed = make_feed(logs, keep=1)
    for n in range(50):
        tools.run(feed.emit("alice", "online", "d1"))
        if n % 7 == 0:
            tools.run(logs.append(EVENTS, 1000.5, (b"{}",)))
    tools.run(logs.trim(MAIN, 1))
    assert tools.run(read_all(feed)) == list(range(50))
    assert tools.run(read_all(feed, 33)) == list(range(33, 50))


def test_an_account_that_was_removed_leaves_no_events(tools: Any) -> None:
    """A later account of the name reads nothing of it."""
    logs = Logs()
    feed = make_feed(logs)
    for _ in range(5):
        tools.run(feed.emit("alice", "online", "d1"))
    tools.run(feed.forget("alice"))
    assert tools.run(read_all(feed)) == []
    tools.run(feed.emit("alice", "created", "d1"))
    assert tools.run(read_all(feed)) == [5]


@pytest.mark.parametrize("fails", [True, False])
async def test_no_event_waits_for_the_next_one(fails: bool) -> None:
    """One that has waited for an earlier notification, which failed or was canceled, is appended with the next look."""
    logs = Logs()
    feed = make_feed(logs)
    await feed.emit("alice", "online", "d0")
    begun, go_on = trio.Event(), trio.Event()

    async def append(log: str, time: float, entry: bytes) -> int:
        offset = await logs.append(log, time, (entry,))  # stored, but its caller does not hear of it
        begun.set()
        await go_on.wait()
        raise StorageError(f"away after {offset}")

    async def lose() -> None:
        with pytest.raises(StorageError):
            await feed.emit("alice", "rpc.out.Log", "d1", append=append)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose)
        await begun.wait()
        await feed.emit("alice", "offline", "d0")
        if fails:
            go_on.set()
        else:
            nursery.cancel_scope.cancel()

    async def stored() -> list[int]:
        return [_json.decode(entry.body)["offset"] for entry in await logs.read(EVENTS, 0, 10)]

    assert await stored() == [0]
    await feed.append_events()
    assert await stored() == [0, 2]
    assert feed.events.left() == []

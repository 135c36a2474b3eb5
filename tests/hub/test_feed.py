"""The feed: a log for each account, and a message to every node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBus, MemoryLogs
from mdashcore import _json
from mdashcore.hub import feed as module
from mdashcore.hub import notification_reader
from mdashcore.hub.feed import Feed, LogQuery, events_topic, feed_topic
from mdashcore.hub.notification_reader import MAX_RESULTS
from mdashcore.notifications import is_event


@pytest.fixture
def feed():
    """An empty feed, at second 1000.5."""
    return Feed(MemoryLogs(), MemoryBus(), now=lambda: 1000.5)


def emit(tools, feed, name, device="d1", data=None, account="alice"):
    return tools.run(feed.emit(account, name, device, data))


def query(tools, feed, account="alice", **wanted):
    return [_json.decode(frame) for frame in tools.run(feed.query(account, LogQuery(**wanted)))]


def test_a_notification_has_an_offset_and_a_time(tools, feed):
    """In the log as on the wire: raw data stay as they came."""
    assert emit(tools, feed, "online") == 0
    assert emit(tools, feed, 'rpc.out."☕"', data=b'{"b":1.0,"a": [ ]}') == 1
    assert tools.run(feed.query("alice", LogQuery())) == [
        b'{"name":"online","id":"d1","offset":0,"time":1000.500}',
        '{"name":"rpc.out.\\"☕\\"","id":"d1","data":{"b":1.0,"a": [ ]},"offset":1,"time":1000.500}'.encode(),
    ]
    assert tools.run(feed.end("alice")) == 2


async def test_the_bus_has_what_the_log_has(feed):
    """Under a topic for each account; its events also under another."""
    account = "al.i-c@e+"
    bus = feed._bus
    async with bus.subscribe(feed_topic(account)) as all, bus.subscribe(events_topic(account)) as events:
        await feed.emit("alice", "online", "d1")
        await feed.emit(account, "n", "d1", b'" 7 {} "')
        await feed.emit(account, "online", "d1")
        items = [Feed.parse(await anext(all)) for _ in range(2)]
        assert Feed.parse(await anext(events)) == items[1]
    assert [item.offset for item in items] == [0, 1]
    assert await feed.page(account, 0) == items


def test_accounts_are_apart(tools, feed):
    """Each counts from 0."""
    for account in ("al", "alice", "al"):
        emit(tools, feed, "n", account=account)
    assert [note["offset"] for note in query(tools, feed, "al")] == [0, 1]
    assert [note["offset"] for note in query(tools, feed, "alice")] == [0]
    assert query(tools, feed, "a") == []


names = st.sampled_from(["online", "offline", "rpc.in.A", "rpc.in.AB", "rpc.out.A", "*"])
devices = st.sampled_from(["d1", "d2", "d"])


@given(
    log=st.lists(st.tuples(names, devices), max_size=30),
    start=st.integers(-2, 35),
    limit=st.integers(-1, 12),
    device=st.none() | devices,
    name=st.none() | names | st.sampled_from(["rpc.*", "rpc.in.*", "rpc.in.A*", "on"]),
    page=st.integers(1, 7),
    keep=st.integers(0, 40),
)
def test_a_query_law(tools, log, start, limit, device, name, page, keep):
    """What is kept, from the offset on, that fits the device and the name, as many as were asked for; of what is older
    than that the events."""
    feed = Feed(MemoryLogs(), MemoryBus(), now=lambda: 0.0)
    read = feed._logs.read
    feed._logs.read = lambda log, start, limit: read(log, start, min(limit, page))
    for each in log:
        emit(tools, feed, *each)
    tools.run(feed._logs.trim("notifications/alice", keep))
    expected = [
        offset
        for offset, (each_name, each_device) in enumerate(log)
        if offset >= start
        and (offset >= len(log) - keep or is_event(each_name, None))
        and device in (None, each_device)
        and (
            name is None
            or each_name == name
            or (name != "*" and name.endswith("*") and each_name.startswith(name[:-1]))
            or name == "*"
        )
    ][: max(1, limit)]
    found = query(tools, feed, start=start, limit=limit, device=device, name=name)
    assert [note["offset"] for note in found] == expected


@given(before=st.integers(0, 3), meanwhile=st.lists(st.integers(0, 3), max_size=12))
def test_nothing_that_comes_while_a_page_is_read_is_skipped(tools, before, meanwhile):
    """Other servers append reports and events between any two steps of a reader that follows the log to its end."""
    feed = Feed(MemoryLogs(), MemoryBus(), now=lambda: 0.0)
    other = Feed(feed._logs, MemoryBus(), now=lambda: 0.0)
    left, read, end = [*meanwhile], feed._logs.read, feed._logs.end
    emitted = 0

    def emit_some(number):
        nonlocal emitted
        for _ in range(number):
            emit(tools, other, "online" if emitted % 2 else "n")
            emitted += 1

    async def grow(log, result):
        if log == "notifications/alice" and left:
            emit_some(left.pop())
        return result

    async def read_and_grow(log, start, limit):
        return await grow(log, await read(log, start, limit))

    async def end_and_grow(log):
        return await grow(log, await end(log))

    emit_some(before)
    feed._logs.read, feed._logs.end = read_and_grow, end_and_grow
    cursor, found = 0, []
    while left or cursor < emitted:
        page = tools.run(feed.page("alice", cursor))
        found += [item.offset for item in page]
        cursor = found[-1] + 1 if found else 0
    assert found == list(range(emitted))


@given(
    log=st.lists(st.tuples(names, devices), max_size=30),
    start=st.integers(-2, 35),
    before=st.integers(0, 35),
    limit=st.integers(-1, 12),
    device=st.none() | devices,
    page=st.integers(1, 7),
    window=st.integers(1, 9),
    keep=st.integers(0, 40),
)
def test_a_query_backwards_law(tools, log, start, before, limit, device, page, window, keep):
    """Of what is kept before an offset, the newest that fits, oldest first, as many as were asked for."""
    feed = Feed(MemoryLogs(), MemoryBus(), now=lambda: 0.0)
    read = feed._logs.read
    feed._logs.read = lambda log, start, limit: read(log, start, min(limit, page))
    for each in log:
        emit(tools, feed, *each)
    tools.run(feed._logs.trim("notifications/alice", keep))
    expected = [
        offset
        for offset, (each_name, each_device) in enumerate(log)
        if start <= offset < before
        and (offset >= len(log) - keep or is_event(each_name, None))
        and device in (None, each_device)
    ][-max(1, limit) :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notification_reader, "READ_STEP", window)
        found = query(tools, feed, start=start, before=before, limit=limit, device=device)
    assert [note["offset"] for note in found] == expected


def test_an_answer_is_bounded(tools, feed):
    """Whatever is asked for."""
    for _ in range(MAX_RESULTS + 5):
        emit(tools, feed, "n")
    assert len(query(tools, feed, limit=10**9)) == MAX_RESULTS
    assert len(tools.run(feed.page("alice", 0))) == notification_reader.LOG_PAGE


@pytest.mark.parametrize("data", [b"1e999", b"9" * 5000, b"[" * 64 + b"]" * 64])
def test_data_that_no_computer_can_hold(tools, feed, data):
    """They are valid JSON, and the log can still be read by name and device."""
    emit(tools, feed, "odd", data=data)
    emit(tools, feed, "even")
    (frame,) = tools.run(feed.query("alice", LogQuery(device="d1", name="odd")))
    assert b'"data":%b,' % data in frame
    assert [note["offset"] for note in query(tools, feed, name="even", device="d1")] == [1]


def test_a_log_is_bounded_in_number(tools, monkeypatch):
    """The newest stay, give or take what comes between two trims; offsets go on."""
    monkeypatch.setattr(module, "APPENDS_PER_TRIM", 10)
    feed = Feed(MemoryLogs(), MemoryBus(), now=lambda: 0.0, keep=50)
    for n in range(1000):
        assert emit(tools, feed, "n") == n
        assert len(feed._logs._logs["notifications/alice"]) < 60
    offsets = [note["offset"] for note in query(tools, feed, limit=1000)]
    assert offsets == [*range(950, 1000)]


@given(sizes=st.lists(st.integers(0, 3000), max_size=300))
def test_a_log_is_bounded_in_bytes(tools, sizes):
    """A flood of large notifications leaves the newest, and no more memory than allowed; small ones are not lost."""
    limit = 64 * 500
    feed = Feed(MemoryLogs(), MemoryBus(), now=lambda: 0.0, keep_bytes=limit)
    for size in sizes:
        emit(tools, feed, "n", data=b'"%b"' % (b"x" * size))
        entries = feed._logs._logs["notifications/alice"]
        kept = sum(len(entry.body) for entry in entries)
        # Pieces are counted when they are full: one more may be under way, and the last entry of each may overlap.
        assert kept <= limit + 66 * 3040
        assert entries[-1].offset == feed._logs._ends["notifications/alice"] - 1
    if sum(sizes) + 40 * len(sizes) < limit:
        assert len(query(tools, feed, limit=1000)) == len(sizes)


def test_large_notifications_are_few(tools):
    """As many as fit."""
    feed = Feed(MemoryLogs(), MemoryBus(), now=lambda: 0.0, keep_bytes=2**20)
    for _ in range(1000):
        emit(tools, feed, "n", data=b'"%b"' % (b"x" * 2**17))
    assert len(feed._logs._logs["notifications/alice"]) <= module.SIZE_MARKS + 1
    assert [note["offset"] for note in query(tools, feed, limit=1000)][-1] == 999


def test_a_forgotten_log_is_empty(tools, feed):
    """Nothing of it is read again, and no offset used again."""
    for _ in range(3):
        emit(tools, feed, "n")
    tools.run(feed.forget("alice"))
    assert query(tools, feed) == []
    assert tools.run(feed.end("alice")) == 3
    emit(tools, feed, "new")
    assert [note["offset"] for note in query(tools, feed)] == [3]

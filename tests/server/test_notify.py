"""``/api/v2/notify``: the live stream of notifications."""

from __future__ import annotations

import base64
import json

import trio
import trio.lowlevel
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBus, MemoryLogs
from mdashcore.hub.feed import Feed, feed_topic
from mdashcore.testing.device import FRAME_TIMEOUT, connect_device
from mdashcore.trio.connections import subscribers
from mdashcore.trio.connections.subscribers import Subscriber
from mdashcore.trio.transport.stream import MessageStream


async def emit(person, name, data=b"null", device="d1"):
    return await person.server.service.hub.feed.emit(person.name, name, device, data)


# What is told


async def test_everything_that_happens_is_told(alice):
    """Created, online, calls in and out, shadow and name changes, offline, deleted: in the order in which they were."""
    async with alice.listen() as ear:
        token = await alice.register("d1")
        async with connect_device(alice.server.device_url, token) as device:
            heard = [await ear.hear(), await ear.hear()]
            async with alice.calling("POST", "/devices/d1/rpc/GPIO.Toggle", json={"pin": 2}) as response:
                await device.reply(await device.expect("GPIO.Toggle"), {"value": True})
                await response()
            await device.send({"method": "Log", "params": {"data": "hello"}})
            heard += [await ear.hear(), await ear.hear()]
            await device.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"on": True}}}})
            heard.append(await ear.hear())
            await alice.http.put("/devices/d1", json={"name": "Pump"})
        heard += [await ear.hear(), await ear.hear()]
        await alice.http.delete("/devices/d1")
        heard.append(await ear.hear())
    updated = heard[4].pop("data")["shadow"]
    assert (updated["state"], updated["version"]) == ({"reported": {"on": True}}, 1)
    assert [(note["name"], note.get("data")) for note in heard] == [
        ("created", {"name": "d1"}),
        ("online", None),
        ("rpc.in.GPIO.Toggle", {"pin": 2}),
        ("rpc.out.Log", {"data": "hello"}),
        ("updated", None),
        ("updated", {"name": "Pump"}),
        ("offline", None),
        ("deleted", None),
    ]
    assert {note["id"] for note in heard} == {"d1"}
    assert [note["offset"] for note in heard] == [*range(8)]
    assert {frozenset(note) - {"data"} for note in heard} == {frozenset({"name", "id", "offset", "time"})}


async def test_a_listener_hears_from_the_handshake_on(alice):
    """What happened before is not told, what happens after the 101 is: nothing in between is lost."""
    for n in range(30):
        await emit(alice, f"before-{n}")
        async with alice.listen() as ear:
            await emit(alice, f"after-{n}")
            assert (await ear.hear())["name"] == f"after-{n}"


async def test_the_stream_is_read_only(alice, open_raw, frame_bytes):
    """Whatever a subscriber sends, garbage and calls too, is ignored, and harms no connection."""
    await alice.register("d1")
    async with alice.listen() as ear:
        for frame in ({"id": 1, "method": "Dash.Shadow.Get"}, "garbage", {"name": "online", "id": "d1"}, [] * 5):
            await ear.socket.send(frame)
        await emit(alice, "still there")
        assert (await ear.hear())["name"] == "still there"
    assert [note["name"] for note in (await alice.http.post("/logs")).json()] == ["created", "still there"]


async def test_every_listener_hears_everything(alice):
    """Also the same person twice."""
    async with alice.listen() as one, alice.listen() as other:
        for n in range(50):
            await emit(alice, f"n{n}")
        for ear in (one, other):
            assert [(await ear.hear())["name"] for _ in range(50)] == [f"n{n}" for n in range(50)]


# Which clients may subscribe


async def test_every_kind_of_credentials(alice, password, open_raw):
    """A Bearer key, Basic user and password, a key in the query; browsers can send nothing else."""
    basic = base64.b64encode(f"alice:{password}".encode()).decode()
    url = f"ws{alice.server.url[4:]}/api/v2/notify"
    for query, header in (
        ("", f"Bearer {alice.key}"),
        ("", f"Basic {basic}"),
        (f"?access_token={alice.key}", None),
        (f"?start=0&access_token={alice.key}", None),
    ):
        headers = [] if header is None else [(b"Authorization", header.encode())]
        async with connect_device(url + query, None, headers=headers) as socket:
            await emit(alice, "hello")
            assert (await socket.receive())["name"] == "hello"


async def test_a_bad_start_is_refused(alice, open_raw):
    """400 in place of the handshake, with a reason; and 401 comes first."""
    for start in ("x", "-1", "1.5", "", "9" * 19, "%D9%A3", "1e3", "0x10", "%201"):
        path = f"/api/v2/notify?start={start}"
        async with open_raw(alice.server) as raw:
            response = await raw.handshake(alice.key, path=path)
            assert (start, response.status, json.loads(response.body)["error"]["code"]) == (start, 400, 400)
        async with open_raw(alice.server) as raw:
            assert (await raw.handshake("mdk_wrong", path=path)).status == 401


# Resuming


async def test_start_reads_the_past_first(alice):
    """From that offset on, then what happens; the whole log from 0."""
    for n in range(10):
        await emit(alice, f"n{n}")
    async with alice.listen(start=4) as ear:
        await emit(alice, "n10")
        assert [(await ear.hear())["name"] for _ in range(7)] == [f"n{n}" for n in range(4, 11)]


async def test_a_start_after_the_end_hears_what_is_new(alice):
    """A cursor that is older than the log, which began anew, does not make its subscriber deaf."""
    await emit(alice, "n0")
    async with alice.listen(start=4711) as ear:
        await emit(alice, "n1")
        assert (await ear.hear())["name"] == "n1"


async def test_a_start_before_what_is_kept_hears_all_that_is_kept(alice):
    """The offsets show what is missing."""
    feed = alice.server.service.hub.feed
    for n in range(10):
        await emit(alice, f"n{n}")
    await feed._logs.trim("notifications/alice", 3)
    async with alice.listen(start=2) as ear:
        assert [(await ear.hear())["offset"] for _ in range(3)] == [7, 8, 9]


async def test_a_start_before_what_is_kept_hears_the_events_of_before(alice):
    """They are kept for longer than what devices say, with the offsets that they had: those have gaps."""
    feed = alice.server.service.hub.feed
    for n in range(30):
        await feed.emit(alice.name, "online" if n % 10 == 3 else "rpc.out.Log", "d1")
    await feed._logs.trim("notifications/alice", 3)
    async with alice.listen(start=4) as ear:
        await emit(alice, "new")
        assert [(await ear.hear())["offset"] for _ in range(6)] == [13, 23, 27, 28, 29, 30]


async def test_a_listener_that_comes_and_goes_misses_nothing(alice):
    """It resumes after its last offset, again and again, while notifications keep coming: no gap, no repeat."""
    total, heard = 600, []
    lead, taken = trio.open_memory_channel(40)  # so many may come before they are heard

    async def happen():
        for n in range(total):
            await lead.send(None)
            await emit(alice, f"n{n}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(happen)
        for count in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] * 10:
            if len(heard) == total:
                break
            async with alice.listen(start=len(heard)) as ear:
                for _ in range(min(count, total - len(heard))):
                    notification = await ear.hear()
                    heard.append(notification["offset"])
                    taken.receive_nowait()
    assert heard == [*range(total)]


# Slow listeners


async def test_a_subscriber_that_never_reads_delays_no_other(alice, open_raw):
    """Others hear immediately what it does not take; and it gets all of it, in order, when it reads at last."""
    count, data = 150, json.dumps("x" * 100_000).encode()  # 15 MB: more than the system's socket buffers take
    async with open_raw(alice.server) as slow, alice.listen() as ear:
        assert (await slow.handshake(alice.key, path="/api/v2/notify")).status == 101
        for n in range(count):
            began = trio.current_time()
            await emit(alice, f"n{n}", data)
            assert (await ear.hear())["name"] == f"n{n}"
            assert trio.current_time() - began < 10
        assert max(len(subscriber._queue) for subscriber in alice.server.service.node.subscribers) > 0
        assert [json.loads(await slow.text())["offset"] for _ in range(count)] == [*range(count)]


async def test_a_listener_that_is_far_behind_reads_on_from_the_log(alice, open_raw, monkeypatch):
    """Its queue is bounded: what did not fit there comes from the log, without a gap."""
    monkeypatch.setattr(subscribers, "MAX_QUEUE", 10)
    count, data = 150, json.dumps("x" * 100_000).encode()
    async with open_raw(alice.server) as slow:
        assert (await slow.handshake(alice.key, path="/api/v2/notify")).status == 101
        for n in range(count):
            await emit(alice, f"n{n}", data)
            await trio.lowlevel.checkpoint()
        (subscriber,) = alice.server.service.node.subscribers
        assert 0 < len(subscriber._queue) <= 10
        assert [json.loads(await slow.text())["offset"] for _ in range(count)] == [*range(count)]


async def test_a_listener_that_is_gone_is_forgotten(alice, open_raw):
    """However it went."""
    node = alice.server.service.node
    async with open_raw(alice.server) as one, alice.listen(), alice.listen(start=0):
        await one.handshake(alice.key, path="/api/v2/notify")
        with trio.fail_after(FRAME_TIMEOUT):
            while (len(node.devices), len(node.subscribers)) != (0, 3):
                await trio.testing.wait_all_tasks_blocked(0.01)
    with trio.fail_after(FRAME_TIMEOUT):
        while (len(node.devices), len(node.subscribers)) != (0, 0):
            await emit(alice, "anybody?")
            await trio.testing.wait_all_tasks_blocked(0.01)


# The law behind it


class Tape(MessageStream):
    """A stream that records what is sent, and takes as long for it as a test says."""

    def __init__(self, delays):
        self.sent = []
        self.delays = delays
        self.last_received = 0.0
        self.closed = trio.Event()
        self.on_control = lambda: None

    control_pending = False

    async def receive(self):
        await self.closed.wait()

    async def send(self, messages):
        await trio.sleep(next(self.delays, 0))
        self.sent += [json.loads(message)["offset"] for message in messages]

    def close(self, code, reason):
        self.closed.set()

    def abort(self):
        self.closed.set()

    def ping(self):
        pass


class EagerTape(Tape):
    """One that takes some messages immediately, and of others leaves a rest to be sent."""

    def __init__(self, delays):
        super().__init__(delays)
        self.rest = []

    @property
    def control_pending(self):
        return bool(self.rest)

    def send_nowait(self, messages):
        assert not self.rest
        if next(self.delays, 0):
            self.rest = list(messages)
            return False
        self.sent += [json.loads(message)["offset"] for message in messages]
        return True

    async def send(self, messages):
        rest, self.rest = self.rest, []
        await super().send([*rest, *messages])


@given(
    tape=st.sampled_from([Tape, EagerTape]),
    before=st.integers(0, 12),
    start=st.none() | st.integers(0, 20),
    after=st.lists(st.tuples(st.sampled_from([0, 0, 0.5, 1]), st.booleans()), max_size=30),
    delays=st.lists(st.sampled_from([0, 0.1, 1, 3]), max_size=30),
    queue=st.integers(1, 4),
    page=st.integers(1, 5),
)
def test_a_cursor_law(tape, before, start, after, delays, queue, page):
    """Whatever the bus loses, and however slow a subscriber is: every offset from its cursor on, once, in order."""

    async def main():
        feed = Feed(MemoryLogs(), MemoryBus(), now=lambda: 0.0)
        read = feed._logs.read
        feed._logs.read = lambda log, start, limit: read(log, start, min(limit, page))
        for _ in range(before):
            await feed.emit("alice", "n", "d1")
        stream = tape(iter(delays))
        subscriber = Subscriber(feed, "alice", stream, start=start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.run)
            await trio.testing.wait_all_tasks_blocked()
            async with feed._bus.subscribe(feed_topic("alice")) as messages:
                for pause, lost in after:
                    await trio.sleep(pause)
                    await feed.emit("alice", "n", "d1")
                    item = feed.parse(await messages.__anext__())
                    if not lost:
                        subscriber.offer(item)
            await feed.emit("alice", "n", "d1")  # the last one arrives, and shows every gap before it
            subscriber.offer((await feed.page("alice", await feed.end("alice") - 1))[0])
            await trio.sleep(200)
            stream.abort()
        end = before + len(after) + 1
        assert stream.sent == [*range(before if start is None else min(start, before), end)]

    old = subscribers.MAX_QUEUE, subscribers.MAX_SEND
    subscribers.MAX_QUEUE, subscribers.MAX_SEND = queue, 60
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        subscribers.MAX_QUEUE, subscribers.MAX_SEND = old

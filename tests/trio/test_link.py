"""A connection at work: pairs of links over memory, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import _json, jsonrpc
from mdashcore._connection import Connection
from mdashcore._connection_limits import ConnectionLimits
from mdashcore._errors import (
    AnswerTooLarge,
    Busy,
    CallTimeout,
    DeviceOffline,
    InvalidInput,
    RpcError,
    StorageError,
    TooLarge,
)
from mdashcore._events import FrameRejected, NotificationReceived, RequestReceived
from mdashcore.trio.connections.link import Link, PeerEvent
from mdashcore.trio.transport.stream import BrokenMessage, MessageStream

DAY = 86_400


class MemoryStream:
    """Messages over a pair of channels. Implements `MessageStream`, and remembers what was sent and how it ended."""

    on_control: Callable[[], None]

    def __init__(self, send: trio.MemorySendChannel[bytes], receive: trio.MemoryReceiveChannel[bytes]) -> None:
        self._send = send
        self._receive = receive
        self._ended = False
        self._scope = trio.CancelScope()
        self.sent: list[bytes] = []
        self.goodbye: tuple[int, str] | None = None
        self.aborted = False

    @property
    def control_pending(self) -> bool:
        return False

    async def receive(self) -> bytes | None:
        with trio.CancelScope() as self._scope:
            if self._ended:
                return None
            try:
                return await self._receive.receive()
            except trio.EndOfChannel:
                pass
        return None

    async def send(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            if self.goodbye is not None:
                break
            try:
                await self._send.send(message)
            except trio.ClosedResourceError as exc:
                raise trio.BrokenResourceError from exc
            self.sent.append(message)

    def close(self, code: int, reason: str) -> None:
        self.goodbye = self.goodbye or (code, reason)
        self._send.close()
        self._end()

    def abort(self) -> None:
        self.aborted = True
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._scope.cancel()


class Pair:
    """Two links that talk to each other, each run with a handler."""

    def __init__(self, nursery: trio.Nursery, capacity: float, limits: ConnectionLimits) -> None:
        to_right, from_left = trio.open_memory_channel[bytes](capacity)
        to_left, from_right = trio.open_memory_channel[bytes](capacity)
        self.nursery = nursery
        self.left_stream = MemoryStream(to_right, from_right)
        self.right_stream = MemoryStream(to_left, from_left)
        check: list[MessageStream] = [self.left_stream, self.right_stream]
        self.left, self.right = (
            Link(stream, spawn=nursery.start_soon, connection=Connection(limits)) for stream in check
        )
        self.wire = to_left
        """What the right one writes to: a test may put something of its own in."""

    def run(self, link: Link, handler: Callable[[PeerEvent], Awaitable[None]] | None = None) -> trio.Event:
        """Run a link; the event tells of its end."""
        ended = trio.Event()

        async def serve() -> None:
            await link.run(handler or nothing)
            ended.set()

        self.nursery.start_soon(serve)
        return ended


async def nothing(event: PeerEvent) -> None:
    """Handle an event by ignoring it."""


@asynccontextmanager
async def open_links(*, capacity: float = inf, limits: ConnectionLimits = ConnectionLimits()) -> AsyncIterator[Pair]:
    """Two links. Each is run by the test."""
    async with trio.open_nursery() as nursery:
        yield Pair(nursery, capacity, limits)
        nursery.cancel_scope.cancel()


def replying(
    link: Link, nursery: trio.Nursery, delay: Callable[[int], float]
) -> Callable[[PeerEvent], Awaitable[None]]:
    """A handler that answers each call with its own params, after a time that depends on them."""

    async def answer(event: RequestReceived) -> None:
        assert event.params is not None
        await trio.sleep(delay(_json.decode(event.params)["n"]))
        link.reply(event.ref, event.params)

    async def handle(event: PeerEvent) -> None:
        if isinstance(event, RequestReceived):
            nursery.start_soon(answer, event)

    return handle


def virtual(function: Callable[[], Awaitable[None]]) -> None:
    """Run in virtual time: waiting costs none."""
    trio.run(function, clock=trio.testing.MockClock(autojump_threshold=0))


delays = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), max_size=20)


# Calls


@given(delays, delays)
def test_every_caller_gets_its_own_answer(to_right: list[float], to_left: list[float]) -> None:
    """Calls both ways at the same time, answered in any order."""

    async def main() -> None:
        async with open_links() as pair:
            pair.run(pair.left, replying(pair.left, pair.nursery, lambda n: to_left[n]))
            pair.run(pair.right, replying(pair.right, pair.nursery, lambda n: to_right[n]))

            async def call(link: Link, n: int) -> None:
                assert await link.call("Echo", {"n": n}, timeout=10) == b'{"n":%d}' % n

            async with trio.open_nursery() as callers:
                for n in range(len(to_right)):
                    callers.start_soon(call, pair.left, n)
                for n in range(len(to_left)):
                    callers.start_soon(call, pair.right, n)

    virtual(main)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4])), max_size=20))
def test_callers_that_are_cancelled_leave_the_stream_whole(callers: list[tuple[float, float]]) -> None:
    """Whenever a caller is cancelled, every frame is sent whole, no other caller's answer is touched, and nothing is
    left behind: not even where the writer is held up in the middle of a frame."""

    async def main() -> None:
        async with open_links(capacity=0) as pair:
            pair.run(pair.right, replying(pair.right, pair.nursery, lambda n: callers[n][0]))
            pair.run(pair.left)

            async def call(n: int, patience: float) -> None:
                with trio.move_on_after(patience):
                    assert await pair.left.call("Echo", {"n": n}, timeout=10) == b'{"n":%d}' % n

            async with trio.open_nursery() as nursery:
                for n, (_, patience) in enumerate(callers):
                    nursery.start_soon(call, n, patience)
            await trio.sleep(1)
            if callers:
                assert await pair.left.call("Echo", {"n": 0}, timeout=10) == b'{"n":0}'
            requests = [jsonrpc.decode(frame) for frame in pair.left_stream.sent]
            assert all(isinstance(request, jsonrpc.Request) for request in requests)
            assert not pair.left._callers
            assert not pair.left.connection._calls

    virtual(main)


@given(st.sampled_from([0.0, 0.5, 1.0, 3.0, 9.0]), st.sampled_from([0.0, 0.4, 1.5, 4.0]))
def test_a_call_and_what_is_done_meanwhile(answered: float, done: float) -> None:
    """The caller goes on when both have ended. An answer is late only if it had not come by the end of the other."""

    async def main() -> None:
        async with open_links() as pair:
            pair.run(pair.left)
            pair.run(pair.right, replying(pair.right, pair.nursery, lambda n: answered))
            outcome: object = None
            try:
                outcome = await pair.left.call("Echo", {"n": 0}, timeout=2, meanwhile=partial(trio.sleep, done))
            except CallTimeout:
                pass
            in_time = answered <= max(2.0, done)
            assert outcome == (b'{"n":0}' if in_time else None)
            assert trio.current_time() == pytest.approx(max(answered if in_time else 2.0, done))
            assert not pair.left._callers
            assert not pair.left.connection._calls

    virtual(main)


async def test_what_is_done_meanwhile_may_fail(autojump_clock: Any) -> None:
    """Then the call, which was sent, is abandoned; of a call that cannot be sent nothing is done meanwhile."""
    seen: list[PeerEvent] = []

    async def fail() -> None:
        await trio.sleep(1)
        raise StorageError("no disk")

    async def note(event: PeerEvent) -> None:
        seen.append(event)

    async with open_links() as pair:
        pair.run(pair.left)
        pair.run(pair.right, note)
        with pytest.raises(StorageError, match="no disk"):
            await pair.left.call("Echo", timeout=10, meanwhile=fail)
        assert [event.method for event in seen] == ["Echo"]
        assert not pair.left._callers
        with pytest.raises(InvalidInput):
            await pair.left.call("Echo", b"no JSON", timeout=10, meanwhile=fail)


async def test_a_call_times_out(autojump_clock: Any) -> None:
    """After exactly its time; the answer that comes later is ignored, and no later call is mistaken for it."""
    async with open_links() as pair:
        pair.run(pair.left)
        pair.run(pair.right, replying(pair.right, pair.nursery, lambda n: 5.0 if n == 1 else 0.0))
        started = trio.current_time()
        with pytest.raises(CallTimeout, match="Echo was not answered within 2 s"):
            await pair.left.call("Echo", {"n": 1}, timeout=2)
        assert trio.current_time() - started == 2
        assert await pair.left.call("Echo", {"n": 2}, timeout=2) == b'{"n":2}'
        await trio.sleep(10)
        assert await pair.left.call("Echo", {"n": 3}, timeout=2) == b'{"n":3}'


async def test_an_error_of_the_peer_is_raised(autojump_clock: Any) -> None:
    """With its code, message and data."""
    async with open_links() as pair:

        async def refuse(event: PeerEvent) -> None:
            assert isinstance(event, RequestReceived)
            pair.right.reply_error(event.ref, RpcError(-7, "no", {"why": 1}))

        pair.run(pair.left)
        pair.run(pair.right, refuse)
        with pytest.raises(RpcError) as raised:
            await pair.left.call("X", timeout=1)
        assert (raised.value.code, raised.value.message, raised.value.data) == (-7, "no", {"why": 1})


@pytest.mark.parametrize(
    ("params", "error"), [(b"x" * 2**18, TooLarge), ({"x": "y" * 2**18}, TooLarge), ({"x": object()}, InvalidInput)]
)
async def test_what_cannot_be_sent_is_not(autojump_clock: Any, params: object, error: type[Exception]) -> None:
    """The caller is told, nothing goes out, and the connection is as it was."""
    async with open_links() as pair:
        pair.run(pair.left)
        pair.run(pair.right, replying(pair.right, pair.nursery, lambda n: 0.0))
        with pytest.raises((error, InvalidInput)):
            await pair.left.call("X", params, timeout=1)
        assert not pair.left_stream.sent
        assert not pair.left._callers
        assert await pair.left.call("Echo", {"n": 1}, timeout=1) == b'{"n":1}'


async def test_calls_beyond_the_limit_are_refused(autojump_clock: Any) -> None:
    """One more than `max_calls` raises `Busy` immediately; a place becomes free with each that ends."""
    async with open_links(limits=ConnectionLimits(max_calls=3)) as pair:
        pair.run(pair.left)
        pair.run(pair.right)
        async with trio.open_nursery() as callers:

            async def call() -> None:
                with pytest.raises(CallTimeout):
                    await pair.left.call("Silence", timeout=1)

            for _ in range(3):
                callers.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Busy):
                await pair.left.call("One more", timeout=1)
        with pytest.raises(CallTimeout):
            await pair.left.call("Now", timeout=1)


# Reading


async def test_the_reader_never_waits_for_a_caller(autojump_clock: Any) -> None:
    """Callers that have their answer and do something else, or are gone, delay no other."""
    async with open_links() as pair:
        heard: list[str] = []

        async def hear(event: PeerEvent) -> None:
            heard.append(event.method)

        pair.run(pair.left, hear)
        pair.run(pair.right, replying(pair.right, pair.nursery, lambda n: 0.0))

        async def call(n: int) -> None:
            await pair.left.call("Echo", {"n": n}, timeout=10)
            await trio.sleep(DAY)

        with trio.CancelScope() as callers:
            async with trio.open_nursery() as nursery:
                for n in range(50):
                    nursery.start_soon(call, n)
                await trio.testing.wait_all_tasks_blocked()
                pair.right.notify("After")
                await trio.testing.wait_all_tasks_blocked()
                assert heard == ["After"]
                callers.cancel()


async def test_events_are_handled_one_after_the_other(autojump_clock: Any) -> None:
    """The handler is awaited, so what it does in order stays in order; and meanwhile no more is read."""
    async with open_links(capacity=0) as pair:
        handled: list[tuple[float, int]] = []

        async def slowly(event: PeerEvent) -> None:
            assert isinstance(event, NotificationReceived)
            await trio.sleep(1)
            handled.append((trio.current_time() - started, _json.decode(event.params)["n"]))

        pair.run(pair.right, slowly)
        started = trio.current_time()
        for n in range(5):
            pair.left.notify("N", {"n": n})
        await trio.sleep(3.5)
        assert handled == [(1, 0), (2, 1), (3, 2)]
        assert len(pair.left_stream.sent) == 4
        await trio.sleep(2)
        assert [n for _, n in handled] == list(range(5))


async def test_answers_come_while_the_handler_calls(autojump_clock: Any) -> None:
    """A handler that spawns a call of its own to the same peer does not wait for itself."""
    async with open_links() as pair:
        results: list[bytes] = []

        async def ask_back(event: PeerEvent) -> None:
            assert isinstance(event, RequestReceived)
            ref = event.ref

            async def answer() -> None:
                results.append(await pair.right.call("Echo", {"n": 7}, timeout=1))
                pair.right.reply(ref, "done")

            pair.nursery.start_soon(answer)

        pair.run(pair.left, replying(pair.left, pair.nursery, lambda n: 0.0))
        pair.run(pair.right, ask_back)
        assert await pair.left.call("Ask", timeout=1) == b'"done"'
        assert results == [b'{"n":7}']


async def test_bad_json_is_answered_and_the_conversation_goes_on(autojump_clock: Any) -> None:
    """The connection itself tells the peer; no handler and no caller hears of it."""
    async with open_links() as pair:
        pair.run(pair.left)
        for garbage in (b"{", b"[]", b"1", b"\xff", b'{"id":99,"result":1}', b'{"error":{"code":1,"message":"x"}}'):
            await pair.wire.send(garbage)
        pair.run(pair.right, replying(pair.right, pair.nursery, lambda n: 0.0))
        assert await pair.left.call("Echo", {"n": 1}, timeout=1) == b'{"n":1}'
        codes = [_json.decode(frame)["error"]["code"] for frame in pair.left_stream.sent if b"error" in frame]
        assert codes == [-32700, -32600, -32600, -32700]


# The end


async def test_callers_are_told_when_the_connection_ends(autojump_clock: Any) -> None:
    """Immediately, and not when their time is up; a later call gets the error, too."""
    async with open_links() as pair:
        ended = pair.run(pair.left)
        pair.run(pair.right)
        async with trio.open_nursery() as callers:

            async def call() -> None:
                with pytest.raises(DeviceOffline):
                    await pair.left.call("Silence", timeout=DAY)

            for _ in range(3):
                callers.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            pair.right.close(1000, "enough")
        await ended.wait()
        assert trio.current_time() < 1
        with pytest.raises(DeviceOffline):
            await pair.left.call("Late", timeout=1)
        with pytest.raises(DeviceOffline):
            pair.left.notify("Late")


async def test_closing_tells_callers_drops_what_waits_and_says_why(autojump_clock: Any) -> None:
    """The stream gets code and reason; a reply to what was asked before is ignored."""
    async with open_links() as pair:
        requests: list[RequestReceived] = []

        async def keep(event: PeerEvent) -> None:
            assert isinstance(event, RequestReceived)
            requests.append(event)

        ended = pair.run(pair.left, keep)
        pair.run(pair.right)
        async with trio.open_nursery() as callers:

            async def call(link: Link) -> None:
                with pytest.raises(DeviceOffline):
                    await link.call("Silence", timeout=DAY)

            callers.start_soon(call, pair.left)
            callers.start_soon(call, pair.right)
            await trio.testing.wait_all_tasks_blocked()
            pair.left.notify("Never sent")
            pair.left.close(1008, "revoked")
            pair.left.close(1001, "again")
            assert pair.left_stream.goodbye == (1008, "revoked")
        await ended.wait()
        pair.left.reply(requests[0].ref, "too late")
        await trio.testing.wait_all_tasks_blocked()
        assert not any(b"Never" in frame or b"late" in frame for frame in pair.left_stream.sent)


async def test_abort_ends_immediately(autojump_clock: Any) -> None:
    """Without a word to the peer; callers here are told."""
    async with open_links() as pair:
        ended = pair.run(pair.left)
        async with trio.open_nursery() as callers:

            async def call() -> None:
                with pytest.raises(DeviceOffline):
                    await pair.left.call("Silence", timeout=DAY)

            callers.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            pair.left.abort()
        await ended.wait()
        assert pair.left_stream.goodbye is None


async def test_callers_are_told_when_the_reader_crashes(autojump_clock: Any) -> None:
    """A bug in a handler ends `run` with that bug, and leaves no caller waiting."""
    async with open_links() as pair:

        async def crash(event: PeerEvent) -> None:
            raise RuntimeError("a bug")

        pair.run(pair.right)
        async with trio.open_nursery() as callers:

            async def call() -> None:
                with pytest.raises(DeviceOffline):
                    await pair.left.call("Silence", timeout=DAY)

            callers.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            pair.right.notify("Bump")
            with pytest.raises(RuntimeError, match="a bug"):
                await pair.left.run(crash)


async def test_callers_are_told_when_the_reader_is_cancelled(autojump_clock: Any) -> None:
    """As when a server goes down."""
    async with open_links() as pair:
        async with trio.open_nursery() as callers:

            async def call() -> None:
                with pytest.raises(DeviceOffline):
                    await pair.left.call("Silence", timeout=DAY)

            callers.start_soon(call)
            with trio.move_on_after(1):
                await pair.left.run(nothing)


@pytest.mark.parametrize("whole", [True, False], ids=["received whole", "cut by the stream"])
async def test_an_answer_that_is_too_large_ends_its_call(autojump_clock: Any, whole: bool) -> None:
    """The caller learns of it immediately, other calls go on, and the handler is told of the frame."""
    rejected: list[FrameRejected] = []
    async with open_links(limits=ConnectionLimits(max_frame=1000, max_answer=1000)) as pair:
        pair.left.on_rejected = rejected.append
        pair.run(pair.left)
        first: list[bytes | Exception] = []
        second: list[bytes | Exception] = []
        pair.left.begin("A", None, first.append)
        pair.left.begin("B", None, second.append)
        answer = b'{"id":1,"result":"%b"}' % (b"x" * 1000)
        await pair.wire.send(answer if whole else BrokenMessage("too-large", len(answer), answer[:100], answer[-100:]))
        await pair.wire.send(b'{"id":2,"result":1}')
        await trio.testing.wait_all_tasks_blocked()
        [error] = first
        assert isinstance(error, AnswerTooLarge)
        assert error.size == len(answer)
        assert second == [b"1"]
        assert [(event.kind, event.size) for event in rejected] == [("too-large", len(answer))]
        assert pair.left_stream.goodbye is None


# Writing


async def test_a_peer_that_does_not_read_fills_no_memory(autojump_clock: Any) -> None:
    """What waits to be sent is bounded: beyond `max_outbox` callers and notifiers get `Busy`, immediately."""
    limits = ConnectionLimits(max_outbox=10_000)
    async with open_links(capacity=0, limits=limits) as pair:
        pair.run(pair.left)
        for _ in range(2):  # the writer takes what there is, and is stuck with it; then it can take no more
            while pair.left.connection._outbox_size <= limits.max_outbox:
                pair.left.notify("N", {"x": "y" * 100})
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Busy):
            pair.left.notify("N")
        with pytest.raises(Busy):
            await pair.left.call("X", timeout=1)
        pair.run(pair.right)
        await trio.testing.wait_all_tasks_blocked()
        pair.left.notify("Room again")


async def test_of_what_only_the_newest_counts_the_newest_is_sent(autojump_clock: Any) -> None:
    """To a peer that does not read for a while: what it was being sent, what came in between, and the newest."""
    heard: list[Any] = []

    async def hear(event: PeerEvent) -> None:
        assert isinstance(event, NotificationReceived)
        heard.append((event.method, event.params))

    async with open_links(capacity=0, limits=ConnectionLimits(max_outbox=2000)) as pair:
        pair.run(pair.left)
        for n in range(1000):
            pair.left.notify_latest("Delta", b"%d" % n)
        pair.left.notify("Other")
        pair.run(pair.right, hear)
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [("Delta", b"0"), ("Other", None), ("Delta", b"999")]
        pair.left.notify_latest("Delta", b"1000")
        await trio.testing.wait_all_tasks_blocked()
        assert heard[3:] == [("Delta", b"1000")]


async def test_what_does_not_count_any_more_is_not_sent(autojump_clock: Any) -> None:
    """Nor after the end of the connection, when there is no caller to raise an error for."""
    heard: list[Any] = []

    async def hear(event: PeerEvent) -> None:
        assert isinstance(event, NotificationReceived)
        heard.append(event.params)

    async with open_links(capacity=0) as pair:
        ended = pair.run(pair.left)
        for n in range(3):
            pair.left.notify_latest("Delta", b"%d" % n)
        pair.left.forget_latest()
        pair.run(pair.right, hear)
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [b"0"]
    async with open_links(capacity=0) as pair:
        ended = pair.run(pair.left)
        for n in range(3):
            pair.left.notify_latest("Delta", b"%d" % n)
        pair.left.close(1000, "enough")
        await ended.wait()


async def test_a_peer_that_floods_and_does_not_read_is_closed_out(autojump_clock: Any) -> None:
    """Answers are held up to the bound, and no further."""
    limits = ConnectionLimits(max_outbox=2000)
    async with open_links(capacity=0, limits=limits) as pair:

        async def answer(event: PeerEvent) -> None:
            assert isinstance(event, RequestReceived)
            pair.left.reply(event.ref, "x" * 500)

        ended = pair.run(pair.left, answer)
        with trio.move_on_after(10):
            for n in range(100):
                await pair.wire.send(b'{"id":%d,"method":"X"}' % n)
        await ended.wait()
        assert pair.left_stream.goodbye is not None
        assert pair.left_stream.goodbye[0] == 1002


async def test_a_broken_stream_ends_the_reader(autojump_clock: Any) -> None:
    """What the writer finds out, the reader and the callers are told."""
    async with open_links() as pair:
        ended = pair.run(pair.left)
        await pair.right_stream._receive.aclose()
        with pytest.raises(DeviceOffline):
            await pair.left.call("X", timeout=DAY)
        await ended.wait()
        assert pair.left_stream.aborted


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_frames_go_out_in_the_order_in_which_they_were_given(bursts: list[int]) -> None:
    """By one writer, however fast they come."""

    async def main() -> None:
        async with open_links(capacity=1) as pair:
            heard: list[int] = []

            async def hear(event: PeerEvent) -> None:
                assert isinstance(event, NotificationReceived)
                heard.append(_json.decode(event.params)["n"])

            pair.run(pair.left)
            pair.run(pair.right, hear)
            n = 0
            for burst in bursts:
                for _ in range(burst):
                    pair.left.notify("N", {"n": n})
                    n += 1
                await trio.sleep(0.001)
            await trio.sleep(1)
            assert heard == list(range(n))

    virtual(main)

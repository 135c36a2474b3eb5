"""Bytes that come in on real sockets go to the waiting task, or to a function, and never more than is wanted."""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import struct
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdashcore.trio.transport.readiness import Inflow

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="sockets are read from by tasks")

SIZE = 1000
"""Bytes that the inflows here receive in one read."""

PATIENCE = 20.0
"""Seconds for what has to happen."""


@asynccontextmanager
async def open_ends(kind: str = "pair") -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Both ends of a connection, ours first; over TCP, or a pair of sockets, which is quicker."""
    if kind == "tcp":
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            theirs = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
            ours = await listener.accept()
    else:
        ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    try:
        yield ours, theirs
    finally:
        ours.socket.close()
        theirs.socket.close()


async def quiet() -> None:
    """All that was sent has been taken: nothing is left to do in the whole run."""
    await trio.testing.wait_all_tasks_blocked(0.02)


async def receive_all(inflow: Inflow) -> bytes:
    """Everything until the end."""
    data = b""
    with trio.fail_after(PATIENCE):
        while (part := await inflow.receive()) is not None:
            data += part
    return data


def reset(stream: trio.SocketStream) -> None:
    """Have the peer find the connection reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def waiting(inflow: Inflow) -> AsyncIterator[list[bytes | None]]:
    """While a task receives, again and again: what it was given so far, or raised."""
    got: list[Any] = []

    async def receive() -> None:
        try:
            while not got or got[-1] is not None:
                got.append(await inflow.receive())
        except Exception as exc:
            got.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await quiet()
        yield got
        nursery.cancel_scope.cancel()


# Receiving


@given(st.lists(st.binary(max_size=3 * SIZE), max_size=8), st.lists(st.booleans(), min_size=1, max_size=8))
def test_every_byte_comes_once_and_in_order(pieces: list[bytes], pauses: list[bool]) -> None:
    """Whether or not they come while a task waits; then None, for ever."""

    async def run() -> None:
        async with open_ends() as (ours, theirs), trio.open_nursery() as nursery:
            inflow = Inflow(ours, SIZE)
            received: list[bytes] = []

            async def send() -> None:
                for number, piece in enumerate(pieces):
                    await theirs.send_all(piece)
                    if pauses[number % len(pauses)]:
                        await trio.lowlevel.checkpoint()
                await theirs.send_eof()

            nursery.start_soon(send)
            with trio.fail_after(PATIENCE):
                while (data := await inflow.receive()) is not None:
                    received.append(data)
                    for pause in pauses:
                        if pause:
                            await trio.lowlevel.checkpoint()
            assert b"".join(received) == b"".join(pieces)
            assert await inflow.receive() is None

    trio.run(run)


async def test_a_reader_that_asks_for_nothing_is_given_no_more_than_a_little() -> None:
    """Bytes that are not received stay with the system, and then with the sender; none of them is lost."""
    async with open_ends() as (ours, theirs), trio.open_nursery() as nursery:
        inflow = Inflow(ours, SIZE)
        data = bytes(range(256)) * 4_000
        sent = False

        async def send() -> None:
            nonlocal sent
            await theirs.send_all(data)
            await theirs.send_eof()
            sent = True

        nursery.start_soon(send)
        await quiet()
        assert not sent
        assert len(inflow._data) < 2 * SIZE
        assert await receive_all(inflow) == data


@pytest.mark.parametrize("kind", ["reset", "both ends"])
async def test_a_connection_that_is_over_is_not_read_ahead_of_the_reader(kind: str) -> None:
    """Also where the peer has reset it, or both have sent their ends, of which the system tells in any case."""
    async with open_ends("tcp") as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        await theirs.send_all(b"x" * 50 * SIZE)
        await quiet()
        if kind == "reset":
            reset(theirs)
        else:
            await theirs.send_eof()
            await ours.send_eof()
        await quiet()
        assert len(inflow._data) < 2 * SIZE
        assert set(await receive_all(inflow)) == {ord("x")}


async def test_what_came_before_the_end_comes_before_it() -> None:
    """Also if no task was waiting; a reset is an end like others."""
    for end in (trio.SocketStream.send_eof, None):
        async with open_ends("tcp") as (ours, theirs):
            inflow = Inflow(ours, SIZE)
            await theirs.send_all(b"last words")
            await quiet()
            if end is None:
                reset(theirs)
            else:
                await end(theirs)
            await quiet()
            assert await inflow.receive() == b"last words"
            assert await inflow.receive() is None
            assert await inflow.receive() is None


async def test_a_receiver_that_is_cancelled_loses_nothing() -> None:
    """What comes later is there for the next one."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        with trio.CancelScope() as scope:
            scope.cancel()
            await inflow.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inflow.receive)
            await quiet()
            nursery.cancel_scope.cancel()
        await theirs.send_all(b"1")
        await quiet()
        with trio.CancelScope() as scope:
            scope.cancel()
            await inflow.receive()
        assert await inflow.receive() == b"1"


async def test_a_reader_that_is_woken_and_cancelled_has_what_came() -> None:
    """The two do not meet: what woke the task is what it gets."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        got: list[Any] = []

        def take(data: bytes) -> bytes:
            scope.cancel()
            return data

        inflow.on_data = take
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    got.append(await inflow.receive())

                nursery.start_soon(receive)
                await quiet()
                await theirs.send_all(b"1")
        await theirs.send_all(b"2")
        assert b"".join([*filter(None, got), await inflow.receive() or b""]) == b"12"


async def test_waking() -> None:
    """A waiting task gets nothing, once, however often it is woken; a task that does not wait notices nothing."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        assert inflow.wakeable
        inflow.wake()
        async with waiting(inflow) as got:
            inflow.wake()
            inflow.wake()
            await quiet()
            assert got == [b""]
            await theirs.send_all(b"1")
            await quiet()
            assert got == [b"", b"1"]


# Taking


async def test_what_is_taken_wakes_no_task() -> None:
    """Until the function returns something: that is received in its place."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        taken: list[bytes] = []
        answers: list[bytes | None] = [None, None, b"", b"left"]

        def take(data: bytes) -> bytes | None:
            taken.append(data)
            return answers[len(taken) - 1]

        inflow.on_data = take
        async with waiting(inflow) as got:
            for number, expected in enumerate([[], [], [b""], [b"", b"left"]]):
                await theirs.send_all(b"%d" % number)
                await quiet()
                assert got == expected
            await theirs.send_eof()
            await quiet()
            assert got[-1] is None
            assert taken == [b"0", b"1", b"2", b"3"]


async def test_requests_are_read_before_other_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others are readable: those that are delayed, also while one is held, and also after its number was
    another's. No byte of them is lost.
    """
    for bound in ("WORK_SLICE", "MAX_TURN"):  # else a busy machine may leave some to their tasks, in any order
        monkeypatch.setattr(f"mdashcore.trio.transport.readiness.{bound}", 3600.0)
    order: list[int] = []
    requests, number = {0, 7, 113}, 120
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        closed, _ = await stack.enter_async_context(open_ends())
        Inflow(closed, SIZE).delay()
        closed.socket.close()  # its number is that of the next one
        ends = [await stack.enter_async_context(open_ends()) for _ in range(number)]
        inflows = [Inflow(ours, SIZE) for ours, _ in ends]

        async def read(place: int) -> None:
            def take(data: bytes) -> None:
                order.append(place)

            inflows[place].on_data = take
            await inflows[place].receive()

        for place, inflow in enumerate(inflows):
            if place == 1:
                await ends[place][1].send_all(b"x" * SIZE)
                await quiet()  # held, as nothing receives it
            if place not in requests:
                inflow.delay()
            if place == 1:
                assert await inflow.receive() == b"x" * SIZE
            nursery.start_soon(read, place)
        await quiet()
        for _, theirs in ends:
            assert os.write(theirs.socket.fileno(), b"y") == 1
        with trio.fail_after(PATIENCE):
            while len(order) < number:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert set(order[: len(requests)]) == requests
    assert sorted(order) == list(range(number))


async def test_what_the_function_leaves_comes_before_the_end() -> None:
    """Also where that is nothing, and the end is there before the task has its turn: it is to look around first."""
    for _ in range(20):
        async with open_ends() as (ours, theirs):
            inflow = Inflow(ours, SIZE)
            inflow.on_data = lambda data: b""
            async with waiting(inflow) as got:
                theirs.socket._sock.send(b"1")
                theirs.socket._sock.shutdown(socket.SHUT_WR)
                await quiet()
                assert got == [b"", None]


async def test_what_comes_without_a_reader_is_not_taken() -> None:
    """It would overtake what came before."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        inflow.on_data = lambda data: pytest.fail("taken")
        for piece in (b"1", b"2"):
            await theirs.send_all(piece)
            await quiet()
        assert await inflow.receive() == b"12"


async def test_what_the_function_raises_is_raised_by_receive() -> None:
    """It is raised once, and other connections go on."""
    async with open_ends() as (ours, theirs), open_ends() as (our_other, their_other):
        inflow, other = Inflow(ours, SIZE), Inflow(our_other, SIZE)

        def take(data: bytes) -> None:
            inflow.wake()  # as a task that closes a connection does
            raise ValueError(data)

        inflow.on_data = take
        async with waiting(inflow) as got, waiting(other) as got_too:
            await theirs.send_all(b"1")
            await their_other.send_all(b"2")
            await quiet()
            assert [repr(each) for each in got] == ["ValueError(b'1')"]
            assert got_too == [b"2"]


async def test_the_function_may_close_any_connection() -> None:
    """Also one of which something has come in the same turn, and whose number goes to another immediately."""
    async with open_ends() as (ours, theirs), open_ends() as (our_other, their_other):
        first, second = Inflow(ours, SIZE), Inflow(our_other, SIZE)
        new: list[Any] = []

        def closing(own: Inflow, other: Inflow, stream: trio.SocketStream) -> Callable[[bytes], None]:
            def take(data: bytes) -> None:
                other.close()
                fd = stream.socket.fileno()
                stream.socket.close()
                new.extend(socket.socketpair())
                assert fd in [each.fileno() for each in new]
                new.append(Inflow(trio.SocketStream(trio.socket.from_stdlib_socket(new[-2])), SIZE))

            return take

        first.on_data = closing(first, second, our_other)
        second.on_data = closing(second, first, ours)
        async with waiting(first) as got, waiting(second) as got_too:
            theirs.socket._sock.send(b"1")  # both together, without a turn between
            their_other.socket._sock.send(b"2")
            await quiet()
            assert got == got_too == []
            new[-2].send(b"3")
            assert await new[-1].receive() == b"3"
        for each in new[:2]:
            each.close()


async def test_what_is_done_at_the_end_of_a_turn() -> None:
    """All that has come now was taken by then, on all connections. Outside of a turn it is done after the tasks."""
    async with open_ends() as (ours, theirs), open_ends() as (our_other, their_other):
        inflows = [Inflow(ours, SIZE), Inflow(our_other, SIZE)]
        events: list[str] = []

        def taking(inflow: Inflow) -> Callable[[bytes], None]:
            def end() -> None:
                events.append("end")
                assert not inflow.at_end_of_turn(end)

            def take(data: bytes) -> None:
                events.append("take")
                assert inflow.at_end_of_turn(end)

            return take

        for inflow in inflows:
            inflow.on_data = taking(inflow)
        assert inflows[0].at_end_of_turn(lambda: events.append("of a task"))
        assert events == []
        async with waiting(inflows[0]), waiting(inflows[1]):
            await trio.lowlevel.cancel_shielded_checkpoint()
            theirs.socket._sock.send(b"1")  # both together, without a turn between
            their_other.socket._sock.send(b"2")
            await quiet()
        assert events == ["of a task", "take", "take", "end", "end"]


async def test_a_defect_at_the_end_of_a_turn_stops_no_other_stream(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; what others have put off is done, and what comes is read on."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        done: list[bytes] = []

        def take(data: bytes) -> None:
            inflow.at_end_of_turn(lambda: 1 // 0)
            inflow.at_end_of_turn(lambda: done.append(data))

        inflow.on_data = take
        async with waiting(inflow):
            for piece in (b"1", b"2"):
                await theirs.send_all(piece)
                await quiet()
        assert done == [b"1", b"2"]
        assert caplog.text.count("ZeroDivisionError") == 2
        caplog.clear()


# Closing


async def test_closing_gives_back_what_came_and_leaves_the_rest() -> None:
    """A reader of the stream then finds all that follows."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        await theirs.send_all(b"1")
        await quiet()
        assert inflow.close() == b"1"
        assert inflow.close() == b""
        await theirs.send_all(b"2")
        await quiet()
        assert await ours.receive_some() == b"2"


async def test_a_stream_that_others_have_closed() -> None:
    """Its number may be another's by then: whatever is done with the old one changes nothing for the new."""
    async with open_ends() as (ours, theirs):
        old = Inflow(ours, SIZE)
        await theirs.send_all(b"x" * SIZE)
        await quiet()
        fd = ours.socket.fileno()
        ours.socket.close()
        pair = trio.socket.socketpair()
        assert fd in [each.fileno() for each in pair]
        pair = pair if pair[0].fileno() == fd else pair[::-1]
        new, peer = map(trio.SocketStream, pair)
        inflow = Inflow(new, SIZE)
        await peer.send_all(b"y" * 50 * SIZE)
        await quiet()
        assert await old.receive() == b"x" * SIZE  # which would have it read again
        await quiet()
        assert len(inflow._data) < 2 * SIZE
        old.close()
        with trio.fail_after(PATIENCE):
            assert await inflow.receive()
            assert await inflow.receive()
        new.socket.close()
        peer.socket.close()


async def test_a_number_that_is_no_longer_ours_is_not_read_from() -> None:
    """Another task has closed the stream, and the number is that of a stream with another reader."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        await theirs.send_all(b"x" * SIZE)
        await quiet()
        fd = ours.socket.fileno()
        ours.socket.close()
        pair = trio.socket.socketpair()
        mine, other = pair if pair[0].fileno() == fd else pair[::-1]
        assert mine.fileno() == fd
        assert await inflow.receive() == b"x" * SIZE
        await other.send(b"y")
        await quiet()
        with trio.fail_after(PATIENCE):
            assert await mine.recv(SIZE) == b"y"
        inflow.close()
        mine.close()
        other.close()


async def test_what_is_closed_is_gone() -> None:
    """Nothing of it waits for the collector, which is called seldom."""
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        await theirs.send_all(b"1")
        assert await inflow.receive() == b"1"

        class Taker:
            def __init__(self, inflow: Inflow) -> None:
                self.inflow = inflow
                inflow.on_data = self.take

            def take(self, data: bytes) -> None: ...

        alive = weakref.ref(Taker(inflow))
        gc.disable()
        try:
            inflow.close()
            del inflow
            assert alive() is None
        finally:
            gc.enable()


# Other streams and runs


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
async def test_where_the_system_watches_no_more_sockets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """It has a limit. The task that waits reads then, as from other streams."""

    def fail(*_: object) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr("mdashcore.trio.transport.readiness._Poller.watch", fail)
    async with open_ends() as (ours, theirs):
        inflow = Inflow(ours, SIZE)
        assert not inflow.wakeable
        await theirs.send_all(b"1")
        assert await inflow.receive() == b"1"
        assert inflow.close() == b""
    assert "no room" in caplog.text
    caplog.clear()


async def test_other_streams_are_read_from_by_the_waiting_task() -> None:
    """Nothing is taken from them, no task is woken, and their ends are ends, too."""
    for end in ("eof", "closed", "broken"):
        theirs, ours = trio.testing.memory_stream_pair()
        inflow = Inflow(ours, SIZE)
        inflow.on_data = lambda data: pytest.fail("taken")
        assert not inflow.wakeable
        assert not inflow.at_end_of_turn(lambda: None)
        await theirs.send_all(b"1")
        assert await inflow.receive() == b"1"
        inflow.wake()
        assert inflow.close() == b""
        if end == "eof":
            await theirs.send_eof()
        elif end == "closed":
            await ours.aclose()
        else:
            await theirs.aclose()
        assert await inflow.receive() is None


def test_each_run_reads_for_itself() -> None:
    """One after another, and at the same time in several threads."""

    async def run() -> None:
        async with open_ends() as (ours, theirs), open_ends() as (unread, _):
            inflow = Inflow(ours, SIZE)
            Inflow(unread, SIZE)
            inflow.on_data = lambda data: data * 2
            async with waiting(inflow) as got:
                await theirs.send_all(b"1")
                await quiet()
                assert got == [b"11"]

    for _ in range(3):
        trio.run(run)
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            for _ in range(5):
                trio.run(run)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=guarded) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures

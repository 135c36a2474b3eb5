"""A link over a WebSocket on a real socket: what is taken and sent without a task keeps its order, and its bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from mdashcore import _json
from mdashcore._errors import DeviceOffline, RpcError
from mdashcore._events import RequestReceived
from mdashcore.server.immediate import ImmediateLink
from mdashcore.trio.connections.link import POLICY_VIOLATION, Link, PeerEvent
from mdashcore.trio.transport import server_websocket
from mdashcore.trio.transport import stream as stream_module
from mdashcore.trio.transport.server_websocket import MAX_DEFERRED
from mdashcore.trio.turns import WORK_SLICE

PATIENCE = 20.0
"""Seconds for what has to happen."""


@pytest.fixture(params=[ImmediateLink, Link])
def link_type(request: pytest.FixtureRequest) -> type[Link]:
    """All is the same where the handlers may have to wait."""
    return cast(type[Link], request.param)


@attrs.define
class Talk:
    """A link at work, and its peer."""

    link: Link
    peer: Any
    handled: list[PeerEvent] = attrs.Factory(list)
    ended: trio.Event = attrs.Factory(trio.Event)
    error: BaseException | None = None


Handler = Callable[[Talk, PeerEvent], Awaitable[None]]


@pytest.fixture
def talking(open_pair: Any, link_type: type[Link]) -> Any:
    """Opens a `Talk` whose link has that handler: ``async with talking(handle) as talk``."""

    @asynccontextmanager
    async def open_(handle: Handler) -> AsyncIterator[Talk]:
        server, peer = await open_pair(sockets=True)
        async with trio.open_nursery() as nursery:
            link = link_type(server, spawn=nursery.start_soon)
            talk = Talk(link, peer)

            async def handle_and_note(event: PeerEvent) -> None:
                talk.handled.append(event)
                await handle(talk, event)

            async def run() -> None:
                try:
                    await link.run(handle_and_note)
                except Exception as exc:
                    talk.error = exc
                talk.ended.set()
                peer.server_end.socket.close()

            nursery.start_soon(run)
            await quiet()
            with trio.fail_after(4 * PATIENCE):
                yield talk
            nursery.cancel_scope.cancel()
        peer.server_end.socket.close()
        peer.stream.socket.close()

    return open_


async def quiet() -> None:
    """All that was sent has been taken: nothing is left to do in the whole run."""
    await trio.testing.wait_all_tasks_blocked(0.02)


async def echo(talk: Talk, event: PeerEvent) -> None:
    """Answer with what came."""
    if isinstance(event, RequestReceived):
        talk.link.reply(event.ref, event.params)


async def send_packet(peer: Any, *messages: object) -> None:
    """Send messages in one piece."""
    for message in messages:
        peer.protocol.send_text(_json.encode(message))
    await peer.stream.send_all(b"".join(peer.protocol.data_to_send()))


def requests(count: int, size: int = 0) -> list[dict[str, Any]]:
    """So many, with params of about that size."""
    return [{"id": n, "method": "Echo", "params": {"n": n, "x": "y" * size}} for n in range(count)]


@pytest.mark.parametrize(("count", "size"), [(1, 0), (2, 0), (60, 0), (60, 3000)])
async def test_requests_of_one_packet_are_answered_in_order(talking: Any, count: int, size: int) -> None:
    """However many of them are taken together, and whatever they weigh."""
    async with talking(echo) as talk, trio.open_nursery() as nursery:
        nursery.start_soon(send_packet, talk.peer, *requests(count, size))
        assert [(await talk.peer.receive())["id"] for _ in range(count)] == list(range(count))


@pytest.mark.parametrize("name", ["method", r"\u006dethod", r"met\u0068od"])
async def test_a_request_is_known_however_its_method_is_written(talking: Any, link_type: type[Link], name: str) -> None:
    """JSON has more than one way to write a name: a handler that has to wait is given its own turn for each of them."""

    async def wait_and_echo(talk: Talk, event: PeerEvent) -> None:
        if link_type is Link:
            await trio.lowlevel.checkpoint()
        await echo(talk, event)

    async with talking(wait_and_echo) as talk:
        talk.peer.protocol.send_text(b'{"id":1,"%s":"Echo","params":{"n":1}}' % name.encode())
        await talk.peer.stream.send_all(b"".join(talk.peer.protocol.data_to_send()))
        assert (await talk.peer.receive())["result"] == {"n": 1}
        assert talk.error is None


async def test_what_is_told_goes_out_in_the_order_in_which_it_was_told(talking: Any) -> None:
    """By a handler, by a task between, with answers and pongs in between; and when the socket takes no more."""
    told = 0

    async def tell(talk: Talk, event: PeerEvent) -> None:
        nonlocal told
        for size in (10, MAX_DEFERRED, 10):
            talk.link.notify("Told", {"n": told, "x": "y" * size})
            told += 1
        await echo(talk, event)

    async with talking(tell) as talk, trio.open_nursery() as nursery:

        async def ask() -> None:
            for request in requests(30):
                talk.peer.protocol.send_ping(b"")
                await talk.peer.send(request)
                talk.link.notify("Told", {"n": -1})

        nursery.start_soon(ask)
        await quiet()  # by now the socket is full
        ids, numbers = [], []
        while len(ids) < 30:
            message = await talk.peer.receive()
            if "id" in message:
                ids.append(message["id"])
            elif message["params"]["n"] >= 0:
                numbers.append(message["params"]["n"])
        assert ids == list(range(30))
        assert numbers == list(range(90))


async def test_what_tasks_send_at_the_same_time_is_one_write(talking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of the store lets many tasks go on: the frames that they leave for one socket go out together."""
    written: list[bytes] = []

    def write_now(stream: trio.abc.Stream, data: bytes) -> int:
        written.append(data)
        return stream_module.write_now(stream, data)

    async with talking(echo) as talk, trio.open_nursery() as nursery:
        monkeypatch.setattr(server_websocket, "write_now", write_now)

        async def tell(n: int) -> None:
            talk.link.notify("Told", {"n": n})

        for n in range(20):
            nursery.start_soon(tell, n)
        numbers = [(await talk.peer.receive())["params"]["n"] for _ in range(20)]
    assert sorted(numbers) == list(range(20))
    assert len(written) == 1


async def test_answers_of_one_packet_reach_their_callers(talking: Any) -> None:
    """Also with a request among them, that has to wait for its turn."""
    async with talking(echo) as talk:
        done: dict[int, Any] = {}
        ids = [
            talk.link.begin("Ask", None, lambda outcome, number=number: done.setdefault(number, outcome))
            for number in range(5)
        ]
        for _ in ids:
            await talk.peer.expect("Ask")
        answers: list[dict[str, Any]] = [{"id": id_, "result": number} for number, id_ in enumerate(ids)]
        answers[3] = {"id": ids[3], "error": {"code": -7, "message": "no"}}
        await send_packet(talk.peer, *answers[:2], *requests(1), *answers[2:], answers[0])
        await quiet()
        assert {n: done[n] for n in (0, 1, 2, 4)} == {0: b"0", 1: b"1", 2: b"2", 4: b"4"}
        assert isinstance(done[3], RpcError)
        assert (await talk.peer.receive())["id"] == 0


async def test_a_handler_may_close_the_link(talking: Any) -> None:
    """What came behind is not taken any more, callers are told, and the goodbye goes out behind what was said."""

    async def close(talk: Talk, event: PeerEvent) -> None:
        await echo(talk, event)
        talk.link.close(POLICY_VIOLATION, "enough")

    async with talking(close) as talk:
        done: list[Any] = []
        talk.link.begin("Ask", None, done.append)
        await talk.peer.expect("Ask")
        await send_packet(talk.peer, *requests(40))
        assert await talk.peer.close_code() == POLICY_VIOLATION
        await talk.ended.wait()
        assert talk.error is None
        assert len(talk.handled) == 1
        assert [type(each) for each in done] == [DeviceOffline]


async def test_a_handler_may_abort_the_link(talking: Any) -> None:
    """It ends, without another word."""

    async def abort(talk: Talk, event: PeerEvent) -> None:
        talk.link.abort()

    async with talking(abort) as talk:
        await talk.peer.send(*requests(1))
        await talk.ended.wait()
        assert await talk.peer.close_code() is None


async def test_what_a_handler_raises_ends_the_link_alone(talking: Any) -> None:
    """`run` raises it; callers get an error, too; other links of the same run go on."""

    async def fail(talk: Talk, event: PeerEvent) -> None:
        raise ZeroDivisionError

    async with talking(fail) as talk, talking(echo) as other:
        done: list[Any] = []
        talk.link.begin("Ask", None, done.append)
        await send_packet(talk.peer, *requests(3))
        await talk.ended.wait()
        assert isinstance(talk.error, ZeroDivisionError)
        assert len(talk.handled) == 1
        assert [type(each) for each in done] == [DeviceOffline]
        await other.peer.send(*requests(1))
        assert (await other.peer.receive())["id"] == 0


async def test_a_caller_that_fails_ends_no_other_call(talking: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What is told an outcome, and raises, is a defect of the caller's: the link goes on, other callers are told."""

    def fail(outcome: object) -> None:
        raise ZeroDivisionError

    async with talking(echo) as talk:
        done: list[Any] = []
        first = talk.link.begin("Ask", None, fail)
        talk.link.begin("Ask", None, fail)
        talk.link.begin("Ask", None, done.append)
        await send_packet(talk.peer, {"id": first, "result": 1}, *requests(1))
        await talk.peer.expect("Ask")
        while "result" not in await talk.peer.receive():
            pass
        talk.link.close(POLICY_VIOLATION, "enough")
        assert await talk.peer.close_code() == POLICY_VIOLATION
        await talk.ended.wait()
        assert talk.error is None
        assert [type(each) for each in done] == [DeviceOffline]
        assert caplog.text.count("ZeroDivisionError") >= 1
        caplog.clear()


async def test_a_flood_leaves_room_for_others(talking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between one slice of handling messages and the next, all others have their turn."""
    turn = 0
    seen: list[int] = []
    for module in ("server_websocket", "frames", "readiness"):
        monkeypatch.setattr(f"mdashcore.trio.transport.{module}.perf_counter", lambda: len(seen) * WORK_SLICE / 8)

    async def note(talk: Talk, event: PeerEvent) -> None:
        seen.append(turn)

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await trio.lowlevel.checkpoint()

    async with talking(note) as talk, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await send_packet(talk.peer, *[{"method": "Tick"} for _ in range(400)])
        while len(seen) < 400:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert max(seen.count(each) for each in set(seen)) <= 8 + 2


async def test_a_peer_that_leaves(talking: Any) -> None:
    """In the middle of a frame, behind a request, with or without a goodbye: what came whole is handled first."""
    for end in ("eof", "close", "goodbye"):
        async with talking(echo) as talk:
            talk.peer.protocol.send_text(_json.encode(requests(1)[0]))
            (data,) = talk.peer.protocol.data_to_send()
            await talk.peer.stream.send_all(data + data[:5])
            if end == "eof":
                await talk.peer.stream.send_eof()
            elif end == "close":
                talk.peer.stream.socket.close()
            else:
                await talk.peer.stream.send_all(data[5:])
                await talk.peer.close()
            await talk.ended.wait()
            assert talk.error is None
            assert len(talk.handled) == (2 if end == "goodbye" else 1)

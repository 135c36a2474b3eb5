"""A WebSocket's server side, against the client of `websockets`, over memory and in virtual time."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.utils import apply_mask
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, TextMessage
from wsproto.utilities import RemoteProtocolError

from mdashcore._salvage import END_SIZE
from mdashcore.trio.transport.frames import CLOSE_TIMEOUT, CONTROL_BURST, CONTROL_RATE
from mdashcore.trio.transport.handshake import Handshake
from mdashcore.trio.transport.plain_handshake import PlainHandshake
from mdashcore.trio.transport.server_websocket import ServerWebSocket
from mdashcore.trio.transport.skipped import SKIP_TIMEOUT
from mdashcore.trio.transport.stream import SEND_TIMEOUT, BrokenMessage
from mdashcore.trio.turns import WORK_SLICE

texts = st.text(max_size=300).map(str.encode)

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=8)
"""Of the pieces in which bytes arrive."""


def virtual(function: Callable[[], Awaitable[None]]) -> None:
    """Run in virtual time: waiting costs none."""
    trio.run(function, clock=trio.testing.MockClock(autojump_threshold=0))


async def received(ws: ServerWebSocket) -> list[bytes]:
    """Every message until the end that was taken."""
    return [message for message in await everything(ws) if isinstance(message, bytes)]


async def everything(ws: ServerWebSocket) -> list[Any]:
    """Those that were not taken too."""
    messages: list[Any] = []
    while (message := await ws.receive()) is not None:
        messages.append(message)
    return messages


async def write(ws: ServerWebSocket) -> None:
    """Send what waits, whenever something does: what a link does."""
    while True:
        wakeup = trio.Event()
        ws.on_control = wakeup.set
        while ws.control_pending:
            await ws.send([])
        await wakeup.wait()


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """A text in fragments; cutting in the middle of a character is allowed."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


# Messages


@given(st.lists(st.tuples(texts, st.lists(st.integers(0, 400), max_size=3), st.binary(max_size=20))), sizes)
def test_what_is_sent_arrives_however_it_is_cut(
    open_pair: Any, messages: list[tuple[bytes, list[int], bytes]], pieces: list[int]
) -> None:
    """Messages in fragments, with pings between those, in packets of any size: all arrive whole, in order; each ping
    is answered, in order."""

    async def main() -> None:
        ws, client = await open_pair(sizes=pieces)
        pings = []
        for text, cuts, ping in messages:
            parts = split(text, cuts)
            for i, part in enumerate(parts):
                if i == 0:
                    client.protocol.send_text(part, fin=len(parts) == 1)
                else:
                    client.protocol.send_continuation(part, fin=i == len(parts) - 1)
                client.protocol.send_ping(ping)
                pings.append(ping)
        client.protocol.send_close(1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, ws)
            nursery.start_soon(client.flush)
            assert await received(ws) == [text for text, _, _ in messages]
            nursery.cancel_scope.cancel()
        await client.server_end.aclose()
        while await client.pump():
            pass
        assert [bytes(frame.data) for frame in client.frames if frame.opcode is Opcode.PONG] == pings
        assert client.protocol.close_code == 1000

    virtual(main)


@given(st.lists(st.lists(texts, max_size=5), max_size=5))
def test_what_the_server_sends_arrives(open_pair: Any, batches: list[list[bytes]]) -> None:
    """One frame for each message, in order, whatever is sent together."""

    async def main() -> None:
        ws, client = await open_pair()
        for batch in batches:
            await ws.send(batch)
        for text in (text for batch in batches for text in batch):
            frame = await client.frame()
            assert frame is not None
            assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, text)

    virtual(main)


@given(st.binary(max_size=400), sizes)
def test_any_bytes_give_messages_or_the_end(open_pair: Any, data: bytes, pieces: list[int]) -> None:
    """Nothing that a peer can send raises, and the connection ends soon after it."""

    async def main() -> None:
        ws, client = await open_pair(sizes=pieces)
        await client.stream.send_all(data)
        await client.stream.send_eof()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, ws)
            with trio.fail_after(2 * CLOSE_TIMEOUT):
                for message in await received(ws):
                    message.decode()
            nursery.cancel_scope.cancel()

    virtual(main)


@given(st.integers(1, 200), st.integers(1, 400), st.lists(st.integers(0, 400), max_size=4), sizes)
def test_the_limit_is_of_messages_not_of_frames(
    open_pair: Any, limit: int, size: int, cuts: list[int], pieces: list[int]
) -> None:
    """A message of at most `max_message` bytes arrives; a larger one closes with 1009, in one frame or in many."""

    async def main() -> None:
        ws, client = await open_pair(sizes=pieces, max_message=limit)
        text = b"x" * size
        parts = split(text, cuts)
        for i, part in enumerate(parts):
            client.protocol.send_frame(Frame(Opcode.CONT if i else Opcode.TEXT, part, fin=i == len(parts) - 1))
        await client.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, ws)
            if size <= limit:
                assert await ws.receive() == text
            else:
                assert await received(ws) == []
                assert await client.close_code() == 1009
            nursery.cancel_scope.cancel()

    virtual(main)


# Frames that are too large


def large(size: int) -> bytes:
    """A message of that size, no two parts of which are alike."""
    return b"".join(b"%08d" % n for n in range(size // 8 + 1))[:size]


@given(st.integers(101, 20_000), sizes, st.booleans())
def test_a_frame_that_is_too_large_is_passed_over(open_pair: Any, size: int, pieces: list[int], ping: bool) -> None:
    """What comes behind it is taken as if it had not been; of it the size, the beginning and the end are known."""

    async def main() -> None:
        ws, client = await open_pair(sizes=[97 * each for each in pieces], max_message=100, max_skipped=20_000)
        text = large(size)
        for each in (b"before", text, b"behind"):
            client.protocol.send_text(each)
            if ping:
                client.protocol.send_ping(b"")
        client.protocol.send_close(1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, ws)
            nursery.start_soon(client.flush)
            before, skipped, behind = await everything(ws)
            nursery.cancel_scope.cancel()
        assert (before, behind) == (b"before", b"behind")
        assert skipped == BrokenMessage("too-large", size, text[:END_SIZE], text[-END_SIZE:])
        assert sum(map(len, skipped[2:])) <= 2 * END_SIZE

    virtual(main)


async def test_messages_behind_a_large_frame_are_taken_immediately(open_pair: Any) -> None:
    """Also where a function takes them, without waking the task that waits: none is left behind."""
    ws, client = await open_pair(sockets=True, max_message=100, max_skipped=2**20)
    taken: list[Any] = []
    enough = trio.Event()

    def take(message: Any) -> bool:
        taken.append(message if isinstance(message, bytes) else message.size)
        if len(taken) == 5:
            enough.set()
        return True

    async def receive() -> None:
        """Take what the function has left, as its slice of time was over."""
        while (message := await ws.receive()) is not None:
            take(message)

    ws.on_message = take
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for text in (b"1", large(300_000), b"2", large(101), b"3"):
            client.protocol.send_text(text)
        await client.flush()
        with trio.fail_after(30):
            await enough.wait()
        nursery.cancel_scope.cancel()
    assert taken == [b"1", 300_000, b"2", 101, b"3"]
    await client.stream.aclose()
    await trio.aclose_forcefully(client.server_end)


@pytest.mark.parametrize("rest", [0, 5000], ids=["stops", "trickles"])
async def test_a_large_frame_that_does_not_come(autojump_clock: Any, open_pair: Any, rest: int) -> None:
    """After 30 s it closes with 1009; a caller that waits for an answer gets an error then, if not before."""
    ws, client = await open_pair(max_message=100, max_skipped=20_000)
    frame = Frame(Opcode.TEXT, large(20_000)).serialize(mask=True)
    started = trio.current_time()

    async def send() -> None:
        await client.stream.send_all(frame[:9000])
        for start in range(9000, 9000 + rest, 100):
            await trio.sleep(1)
            try:
                await client.stream.send_all(frame[start : start + 100])
            except trio.BrokenResourceError:
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        nursery.start_soon(send)
        skipped = await ws.receive()
        assert isinstance(skipped, BrokenMessage)
        assert (skipped.size, skipped.head, skipped.tail) == (20_000, large(20_000)[:END_SIZE], b"")
        assert trio.current_time() - started == SKIP_TIMEOUT
        assert await client.close_code() == 1009
        assert await ws.receive() is None
        assert trio.current_time() - started <= SKIP_TIMEOUT + CLOSE_TIMEOUT
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["close", "abort", "the peer"])
async def test_the_end_in_the_middle_of_a_large_frame(autojump_clock: Any, open_pair: Any, end: str) -> None:
    """It takes no longer than at any other time, whichever side ends it."""
    ws, client = await open_pair(max_message=100, max_skipped=20_000)
    await client.stream.send_all(Frame(Opcode.TEXT, large(20_000)).serialize(mask=True)[:9000])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        started = trio.current_time()

        async def stop() -> None:
            await trio.sleep(1)
            match end:
                case "close":
                    ws.close(1001, "")
                case "abort":
                    ws.abort()
                case _:
                    await client.stream.send_eof()

        nursery.start_soon(stop)
        assert await ws.receive() is None
        assert trio.current_time() - started <= 1 + CLOSE_TIMEOUT
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("frames", "kind", "size"),
    [
        ([Frame(Opcode.TEXT, b"x" * 2001)], "too-large", 2001),
        ([Frame(Opcode.TEXT, b'{"id":' * 10, fin=False), Frame(Opcode.CONT, b"x" * 90)], "too-large", None),
        ([Frame(Opcode.BINARY, b'{"id":1}')], "binary", 8),
        ([Frame(Opcode.TEXT, b'{"id":1,"x":"\xff"}')], "not-utf-8", 16),
    ],
)
async def test_what_closes_the_connection_is_told_of(
    autojump_clock: Any, open_pair: Any, frames: list[Frame], kind: str, size: int | None
) -> None:
    """The last message says what was wrong, and how it began; then comes the end."""
    ws, client = await open_pair(max_message=100, max_skipped=2000)
    for frame in frames:
        await client.stream.send_all(frame.serialize(mask=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        broken = await ws.receive()
        assert isinstance(broken, BrokenMessage)
        assert (broken.kind, broken.size) == (kind, size)
        assert broken.head == frames[0].data
        assert await client.close_code() in (1003, 1007, 1009)
        assert await ws.receive() is None
        nursery.cancel_scope.cancel()


@given(st.integers(2**17, 2**20), st.integers(1, 2**16))
def test_a_message_may_be_large_where_that_is_allowed(open_pair: Any, size: int, piece: int) -> None:
    """It arrives whole, and in linear time."""

    async def main() -> None:
        ws, client = await open_pair(sizes=[max(piece, size // 500)], max_message=2**20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, large(size))
            assert await ws.receive() == large(size)

    virtual(main)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (Frame(Opcode.BINARY, b"{}").serialize(mask=True), 1003),
        (Frame(Opcode.TEXT, b"\xff").serialize(mask=True), 1007),
        (
            Frame(Opcode.TEXT, b"\xc3", fin=False).serialize(mask=True)
            + Frame(Opcode.CONT, b"\x28").serialize(mask=True),
            1007,
        ),
        (Frame(Opcode.TEXT, b"{}").serialize(mask=False), 1002),
        (Frame(Opcode.CONT, b"{}").serialize(mask=True), 1002),
        (Frame(Opcode.TEXT, b"{}", fin=False).serialize(mask=True) * 2, 1002),
        (b"\x83\x80mask", 1002),
        (b"\xc1\x80mask", 1002),
        (b"\x09\x80mask", 1002),
        (b"\x89\xfe\x00\x80mask" + bytes(128), 1002),
        (Frame(Opcode.CLOSE, b"\x03\xed").serialize(mask=True), 1002),
        (Frame(Opcode.CLOSE, b"\x03").serialize(mask=True), 1002),
        (b"\x81\xff" + b"\x7f" * 8 + b"mask", 1009),
    ],
    ids=[
        "binary",
        "not UTF-8",
        "not UTF-8 across fragments",
        "not masked",
        "continuation of nothing",
        "a text within a text",
        "reserved opcode",
        "reserved bit",
        "control in fragments",
        "control too large",
        "reserved close code",
        "half a close code",
        "a length beyond all limits",
    ],
)
async def test_a_wrong_frame_closes_the_connection(autojump_clock: Any, open_pair: Any, data: bytes, code: int) -> None:
    """RFC 6455 has a close code for each mistake. What came before it was right, and what comes after is not taken."""
    ws, client = await open_pair()
    before, after = (Frame(Opcode.TEXT, text).serialize(mask=True) for text in (b"before", b"after"))
    await client.stream.send_all(before + data + after)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        assert await received(ws) == [b"before"]
        assert await client.close_code() == code
        nursery.cancel_scope.cancel()


# The end


async def test_the_client_says_goodbye(autojump_clock: Any, open_pair: Any) -> None:
    """It is answered with its own code, and the connection ends immediately; what it sent before is not lost."""
    ws, client = await open_pair()
    client.protocol.send_text(b"last words")
    await client.close(4001)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        assert await received(ws) == [b"last words"]
        nursery.cancel_scope.cancel()
    assert trio.current_time() == started
    assert await client.close_code() == 4001


async def test_the_server_says_goodbye(autojump_clock: Any, open_pair: Any) -> None:
    """Code and reason arrive; when the client has answered, the connection ends immediately."""
    ws, client = await open_pair()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        ws.close(1008, "the token was revoked")
        frame = await client.frame()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.CLOSE, b"\x03\xf0the token was revoked")
        assert await ws.receive() is None
        nursery.cancel_scope.cancel()
    assert trio.current_time() == started


async def test_both_say_goodbye_at_the_same_time(autojump_clock: Any, open_pair: Any) -> None:
    """Neither waits for what has crossed."""
    ws, client = await open_pair()
    started = trio.current_time()
    client.protocol.send_close(1000)
    ws.close(1001, "")
    await client.flush()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        assert await ws.receive() is None
        nursery.cancel_scope.cancel()
    assert trio.current_time() == started
    assert await client.close_code() == 1001


async def test_a_goodbye_that_is_not_answered(autojump_clock: Any, open_pair: Any) -> None:
    """After `CLOSE_TIMEOUT` the server waits no more, though the peer goes on sending; nothing of it is taken."""
    ws, client = await open_pair()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        await client.send(b"before")
        ws.close(1001, "")

        async def go_on() -> None:
            while True:
                await client.stream.send_all(Frame(Opcode.TEXT, b"after").serialize(mask=True))
                await trio.sleep(0.3)

        nursery.start_soon(go_on)
        assert await received(ws) == []
        nursery.cancel_scope.cancel()
    assert trio.current_time() - started == CLOSE_TIMEOUT


async def test_a_second_goodbye_is_none(open_pair: Any) -> None:
    """Closing is idempotent: the first reason is the one that is told."""
    ws, client = await open_pair()
    ws.close(1001, "first")
    ws.close(1008, "second")
    await ws.send([b"not sent"])
    frame = await client.frame()
    assert (frame.opcode, bytes(frame.data[2:])) == (Opcode.CLOSE, b"first")


@pytest.mark.parametrize("eof", [True, False], ids=["an end", "a reset"])
async def test_a_peer_that_is_gone(open_pair: Any, eof: bool) -> None:
    """`receive` ends, and goes on being ended; `send` raises, or has nothing left to send."""
    ws, client = await open_pair()
    if eof:
        await client.stream.send_eof()
    else:
        await trio.aclose_forcefully(client.stream)
    assert await ws.receive() is None
    assert await ws.receive() is None
    ws.ping()
    ws.close(1000, "")
    try:
        await ws.send([b"to nobody"])
    except trio.BrokenResourceError:
        assert not eof


async def test_abort_ends_what_is_waited_for(autojump_clock: Any, open_pair: Any) -> None:
    """A receive that waits gives None immediately, and so does every later one."""
    ws, _ = await open_pair()
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await ws.receive() is None

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        ws.abort()
    assert await ws.receive() is None


async def test_abort_before_anything_is_waited_for(open_pair: Any) -> None:
    """It is not forgotten; messages that are there already are still given."""
    ws, client = await open_pair()
    await client.send(b"one", b"two")
    assert await ws.receive() == b"one"
    ws.abort()
    assert await received(ws) == [b"two"]


# Bounds


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
@pytest.mark.parametrize("sockets", [True, False])
async def test_a_flood_of_pings_or_pongs_closes_the_connection(
    open_pair: Any, caplog: pytest.LogCaptureFixture, opcode: Opcode, sockets: bool
) -> None:
    """With 1008 and one line in the log that names the account, also where the peer does not stop."""
    ws, client = await open_pair(sockets=sockets)
    ws.owner = "alice"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        nursery.start_soon(received, ws)
        await client.stream.send_all(Frame(opcode, b"x").serialize(mask=True) * 2 * round(CONTROL_BURST))
        assert await client.close_code() == 1008
        await client.stream.send_all(Frame(opcode, b"x").serialize(mask=True) * 2 * round(CONTROL_BURST))
        nursery.cancel_scope.cancel()
    assert caplog.text.count("a socket of alice is closed: more than 10 pings and pongs a second") == 1
    assert len(caplog.records) == 1
    caplog.clear()
    if sockets:
        ws._stream.socket.close()
        client.stream.socket.close()


async def test_pings_at_the_rate_go_on_for_ever(autojump_clock: Any, open_pair: Any) -> None:
    """After a burst of as many as may come together, too; each is answered."""
    ws, client = await open_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws)
        nursery.start_soon(received, ws)
        for number in range(3 * round(CONTROL_BURST)):
            if number >= CONTROL_BURST:
                await trio.sleep(1.001 / CONTROL_RATE)
            client.protocol.send_ping(b"%0125d" % number)
            await client.flush()
            frame = await client.frame()
            assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"%0125d" % number)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_does_not_read_is_given_up(autojump_clock: Any, open_pair: Any) -> None:
    """After `SEND_TIMEOUT` a write has failed."""
    ws, _ = await open_pair(lockstep=True)
    started = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await ws.send([b"unread"])
    assert trio.current_time() - started == SEND_TIMEOUT


async def test_many_messages_in_one_read_leave_room_for_others(open_pair: Any) -> None:
    """Each `receive` lets other tasks run, also where it need not wait."""
    ws, client = await open_pair()
    await client.send(*[b"x"] * 1000)
    turns = 0
    async with trio.open_nursery() as nursery:

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        for _ in range(1000):
            await ws.receive()
        nursery.cancel_scope.cancel()
    assert turns > 500


PIECES = [Frame(Opcode.TEXT, b"x", fin=False), *[Frame(Opcode.CONT, b"", fin=False)] * 498, Frame(Opcode.CONT, b"x")]
"""One message."""

CONTROL = [Frame(Opcode.PING if number % 2 else Opcode.PONG, b"") for number in range(round(CONTROL_BURST))]


@pytest.mark.parametrize("sockets", [True, False])
@pytest.mark.parametrize(
    ("sent", "messages"),
    [([Frame(Opcode.TEXT, b"x")] * 500, 500), (PIECES, 1), (CONTROL, 0)],
    ids=["texts", "pieces", "control"],
)
async def test_frames_are_taken_in_slices_whatever_they_are(
    monkeypatch: pytest.MonkeyPatch, open_pair: Any, sockets: bool, sent: list[Frame], messages: int
) -> None:
    """Of time: one packet full of them leaves all others their turns, and nothing of it is lost."""
    now = 0.0
    each = WORK_SLICE / 8

    def clock() -> float:  # each look at it comes with some work
        nonlocal now
        now += each
        return now

    for module in ("server_websocket", "frames", "readiness"):
        monkeypatch.setattr(f"mdashcore.trio.transport.{module}.perf_counter", clock)
    ws, client = await open_pair(sockets=sockets)
    looks: list[float] = []
    got: list[bytes] = []
    async with trio.open_nursery() as nursery:

        async def other() -> None:
            while True:
                looks.append(now)
                await trio.lowlevel.checkpoint()

        async def receive() -> None:
            while (message := await ws.receive()) is not None:
                got.append(message)

        for each_task in (other, receive, partial(write, ws)):
            nursery.start_soon(each_task)
        await client.stream.send_all(b"".join(frame.serialize(mask=True) for frame in sent))
        await client.close()
        assert await client.close_code() == 1000
        nursery.cancel_scope.cancel()
    assert len(got) == messages
    # Trio runs what is ready in any order: the turns of two rounds may follow each other, and each of them is over only
    # when the clock was looked at.
    assert max(after - before for before, after in pairwise(looks)) <= 3 * WORK_SLICE
    if sockets:
        ws._stream.socket.close()
        client.stream.socket.close()


# Signs of life


async def test_whatever_arrives_is_a_sign_of_life(autojump_clock: Any, open_pair: Any) -> None:
    """`last_received` is when anything came, be it half a frame."""
    ws, client = await open_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(received, ws)
        await trio.sleep(10)
        assert trio.current_time() - ws.last_received == 10
        await client.stream.send_all(b"\x81")
        await trio.testing.wait_all_tasks_blocked()
        assert ws.last_received == trio.current_time()
        nursery.cancel_scope.cancel()


async def test_a_ping_asks_for_one(open_pair: Any) -> None:
    """It reaches the client, whose pong comes back; on a connection that closes there is none."""
    ws, client = await open_pair()
    ws.ping()
    assert ws.control_pending
    await ws.send([])
    assert not ws.control_pending
    assert (await client.frame()).opcode is Opcode.PING
    ws.close(1000, "")
    ws.ping()
    await ws.send([])
    assert (await client.frame()).opcode is Opcode.CLOSE


# Handshakes


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nnot a field\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n",
    ],
)
async def test_a_head_that_cannot_be_read_is_no_request(head: bytes) -> None:
    """`feed` says so, and raises nothing: another reader may understand it."""
    _, end = trio.testing.memory_stream_pair()
    assert ServerWebSocket(end).feed(head) is None


async def test_a_request_that_is_no_handshake_is_refused() -> None:
    """`accept` answers it itself, and says that there is no connection."""
    client_end, server_end = trio.testing.memory_stream_pair()
    ws = ServerWebSocket(server_end)
    request = ws.feed(b"GET /api/v2/rpc HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x81\x80mask")
    assert request is not None
    assert not await ws.accept(request)
    assert bytes(await client_end.receive_some(2**16)).startswith(b"HTTP/1.1 426")


# Against the libraries, byte for byte

MAX_MESSAGE = 400


@st.composite
def frames(draw: Any) -> bytes:
    """A frame, mostly right: any opcode, length in any form, masked or not, with and without reserved bits."""
    opcode = draw(st.sampled_from([1, 1, 1, 1, 0, 0, 2, 8, 9, 10, 3, 15]))
    fin = draw(st.sampled_from([0x80, 0x80, 0x80, 0]))
    reserved = draw(st.sampled_from([0] * 12 + [0x40, 0x10]))
    text = st.text(max_size=150).map(str.encode)
    payload = draw(
        text | text | st.binary(max_size=150) | st.sampled_from([b"x" * MAX_MESSAGE, b"x" * (MAX_MESSAGE + 1)])
    )
    if opcode == 8:
        payload = draw(st.sampled_from([b"", b"\x03\xe8", b"\x03\xe8bye", b"\x03", b"\x03\xed", b"\x03\xe8\xff"]))
    size = len(payload)
    forms = [draw(st.sampled_from([0, 0, 0, 0, 126, 127]))] if size < 126 else [126, 127]
    form = draw(st.sampled_from(forms))
    length = {
        0: bytes([size]) if size < 126 else b"",
        126: b"\x7e" + size.to_bytes(2, "big"),
        127: b"\x7f" + size.to_bytes(8, "big"),
    }
    head = bytearray(bytes([fin | reserved | opcode]) + length[form])
    if draw(st.sampled_from([True, True, True, False])):
        head[1] |= 0x80
        mask = draw(st.binary(min_size=4, max_size=4))
        return bytes(head) + mask + apply_mask(payload, mask)
    return bytes(head) + payload


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def by_websockets(data: bytes) -> tuple[list[bytes], int | None]:
    """The text messages, and the code of the goodbye, that the library alone makes of bytes after a handshake."""
    protocol = ServerProtocol(extensions=None, max_size=MAX_MESSAGE)
    protocol.receive_data(HANDSHAKE)
    (request,) = protocol.events_received()
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    protocol.data_to_send()
    protocol.receive_data(data)
    messages, parts, code = [], b"", None
    for frame in protocol.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode is Opcode.BINARY:
            return messages, 1003
        if frame.opcode in (Opcode.TEXT, Opcode.CONT):
            parts += frame.data
            if frame.fin:
                try:
                    parts.decode()
                except UnicodeDecodeError:
                    return messages, 1007
                messages.append(parts)
                parts = b""
    code = protocol.close_sent.code if protocol.close_sent is not None else None
    return messages, code


def by_wsproto(data: bytes) -> tuple[list[bytes], bool]:
    """The text messages that another library makes of them, and whether it found something wrong."""
    connection = WSConnection(ConnectionType.SERVER)
    connection.receive_data(HANDSHAKE)
    list(connection.events())
    connection.send(AcceptConnection())
    messages, text = [], ""
    try:
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, BytesMessage):
                return messages, True
            if isinstance(event, TextMessage):
                text += event.data
                if len(text.encode()) > MAX_MESSAGE:
                    return messages, True
                if event.message_finished:
                    messages.append(text.encode())
                    text = ""
            if isinstance(event, CloseConnection):
                return messages, event.code not in (1000, 1005)
    except RemoteProtocolError:
        return messages, True
    return messages, False


@given(st.lists(frames(), max_size=8).map(b"".join), sizes, st.integers(0, 3))
def test_any_bytes_are_taken_as_the_libraries_take_them(
    open_pair: Any, data: bytes, pieces: list[int], lacking: int
) -> None:
    """Whole or in pieces, right or wrong: the messages and the goodbye are those of `websockets`; the messages also
    those of `wsproto`, as far as it goes before it finds something wrong."""
    data = data[: len(data) - lacking]

    async def main() -> None:
        ws, client = await open_pair(sizes=pieces, max_message=MAX_MESSAGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, ws)
            await client.stream.send_all(data)
            await client.stream.send_eof()
            messages = await received(ws)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await client.server_end.aclose()
        while answer := await client.stream.receive_some(2**16):
            client.protocol.receive_data(bytes(answer))
        goodbye = client.protocol.close_rcvd
        code = None if goodbye is None else goodbye.code
        expected, expected_code = by_websockets(data)
        assert messages == expected
        assert (code or None) == (expected_code or None)
        others, is_wrong = by_wsproto(data)
        assert others == messages[: len(others)] if is_wrong else others[: len(messages)] == messages

    virtual(main)


FIELD_LINES = {
    "Host": ["x", "[::1]:80", ""],
    "Upgrade": ["websocket", "WebSocket", "h2c", "websocket, h2c", " websocket\t", ""],
    "Connection": ["Upgrade", "upgrade", "keep-alive, Upgrade", "keep-alive", "Upgrade,", ""],
    "Sec-WebSocket-Key": [
        "dGhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZQ==",
        "x",
        "=" * 24,
        "",
    ],
    "Sec-WebSocket-Version": ["13", "8", "13, 8", "013"],
    "Sec-WebSocket-Extensions": ["permessage-deflate", "odd;;"],
    "Sec-WebSocket-Protocol": ["mdash", "a, b", "ä"],
    "Authorization": ["Bearer abc", "Basic abc", ""],
    "Origin": ["https://x", "null"],
    "Content-Length": ["0", "5"],
    "Transfer-Encoding": ["chunked"],
    "X Odd": ["1"],
    "Cookie": ["a=b; c=d", "\x00", "ä", "a" * 5000],
}
LINES = st.sampled_from(
    [f"{name}:{gap}{value}" for name in FIELD_LINES for value in FIELD_LINES[name] for gap in ("", " ")]
)
USUAL = [f"{name}: {values[0]}" for name, values in list(FIELD_LINES.items())[:5]]


@given(
    st.permutations(USUAL),
    st.lists(LINES, max_size=3),
    st.lists(st.integers(0, 4), max_size=1),
    st.sampled_from([str.title, str.lower, str.upper]),
    st.sampled_from(["/api/v2/rpc", "/api/v2/notify?start=7", "/%20?a b", "*", ""]),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2"]),
    st.sampled_from(["\r\n"] * 8 + ["\n", "\r\n "]),
)
def test_a_plain_handshake_is_answered_as_the_library_answers_it(
    usual: list[str], more: list[str], left_out: list[int], case: Any, path: str, method: str, version: str, end: str
) -> None:
    """A head that is not left to the library is accepted by it, with the same fields, and the same bytes in answer."""
    lines = [*(line for n, line in enumerate(usual) if n not in left_out), *more]
    lines = [f"{case(name)}:{value}" for name, _, value in (line.partition(":") for line in lines)]
    head = end.join([f"{method} {path} {version}", *lines, "", ""]).encode("latin-1")
    plain = PlainHandshake.read(head)
    is_usual = not more and not left_out and (path[:1], method, version, end) == ("/", "GET", "HTTP/1.1", "\r\n")
    assert plain is not None or not is_usual or " " in path
    if plain is None:
        return
    library = Handshake()
    request = library.read(head)
    assert request is not None
    assert plain.path == request.path
    for name in FIELD_LINES:
        assert plain.headers.get_all(name) == request.headers.get_all(name)
        assert (name in plain.headers) == (name in request.headers)
    fields = {"X-Request-Id": "7"}
    expected, is_accepted = library.answer(request, fields)
    assert is_accepted
    found, is_accepted = PlainHandshake().answer(plain, fields)
    assert is_accepted
    assert DATE.sub(b"", found) == DATE.sub(b"", expected)


DATE = re.compile(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n")

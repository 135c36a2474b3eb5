"""Bad input, load and silence: none of it harms another session, and memory stays bounded."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from websockets.frames import Opcode

from mdashcore import _json
from mdashcore._connection_limits import ConnectionLimits
from mdashcore.hub.feed import LogQuery
from mdashcore.identity import DeviceKey
from mdashcore.server.run import RunningServer
from mdashcore.testing.device import FRAME_TIMEOUT, connect_device
from mdashcore.trio.node import NodeSettings

FrameBytes = Callable[..., bytes]

MEGABYTE = 2**20

ROOM = 24 * MEGABYTE  # what the kernel's buffers of one connection may hold, both ends together, and some more

MAX_FRAME = ConnectionLimits().max_frame


def memory() -> int:
    """Bytes that this process holds in memory: the server, and the test around it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(autouse=True)
def no_other_client_is_harmed(request: pytest.FixtureRequest) -> None:
    """Every test here is watched by `bystander`."""
    assert "bystander" in request.fixturenames


@pytest.fixture
async def alice(make_person: Any, bystander: None) -> Any:
    """An account whose device misbehaves, while `bystander` watches."""
    return await make_person("alice")


@pytest.fixture
async def bystander(bob: Any) -> AsyncIterator[None]:
    """Another account's device, connected all the time: after each test its session is the same, and works."""
    async with await bob.connect("bystander") as device:
        yield
        async with bob.calling("POST", "/devices/bystander/rpc/Sys.Ping") as response:
            await device.reply(await device.expect("Sys.Ping"), "pong")
            assert (await response()).json() == "pong"
        await device.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"well": True}}}})
        await device.send({"id": 77, "method": "Dash.Shadow.Get"})
        while (answer := await device.receive()).get("id") != 77:
            pass
        assert answer["result"]["reported"]["well"] is True
        devices = (await bob.http.get("/devices")).json()
        assert [(device["id"], device["online"]) for device in devices] == [("bystander", True)]
        feed = bob.server.service.hub.feed
        assert len(await feed.query("bob", LogQuery(name="online"))) == 1
        assert not await feed.query("bob", LogQuery(name="offline"))


@pytest.fixture
async def token(alice: Any) -> str:
    """The token of the device that misbehaves."""
    return str(await alice.register("d1"))


async def works(raw: Any, frame_bytes: FrameBytes) -> bool:
    """Whether the session of a raw device is still served."""
    await raw.send(frame_bytes(Opcode.TEXT, b'{"id":77,"method":"Dash.Shadow.Get"}'))
    while (await raw.receive()).get("id") != 77:
        pass
    return True


# Bytes


REQUESTS = [
    random.Random(1).randbytes(1000),
    random.Random(2).randbytes(100_000),
    bytes(5000),
    b"\r\n" * 1000,
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"GET /nowhere HTTP/9.9\r\n\r\n",
    b"GET /api/v2/rpc HTTP/1.1\r\nUpgrade: websocket\r\n\xff: \x00\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(3).randbytes(1000),
    b"POST /api/v2/devices HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /api/v2/devices HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /api/v2/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
]


async def test_garbage_in_place_of_a_request(
    server: RunningServer, open_raw: Any, bystander: None, server_log: Callable[[], str]
) -> None:
    """It is answered with an error or with nothing, and never with success; the log is bounded."""
    for data in REQUESTS:
        async with open_raw(server) as raw:
            try:
                await raw.send(data)
                await raw.stream.send_eof()
            except trio.BrokenResourceError:
                pass
            answer = await raw.rest()
        assert not answer.startswith((b"HTTP/1.1 1", b"HTTP/1.1 2")), data[:60]
        assert "Traceback" not in server_log(), data[:60]


async def test_garbage_in_place_of_frames(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """Random bytes after the handshake end that connection, by a protocol error."""
    for seed in range(5):
        token = await alice.register(f"d{seed}")
        async with open_raw(server) as raw:
            await raw.handshake(token)
            await raw.send(b"\xf1" + random.Random(seed).randbytes(50_000))  # reserved bits first: certainly no frame
            assert await raw.close_code() == 1002, seed


@pytest.mark.parametrize("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_half_a_frame_and_the_end(
    server: RunningServer, open_raw: Any, alice: Any, token: str, frame_bytes: FrameBytes, path: str
) -> None:
    """A client that breaks off in the middle of a frame is gone, like any other."""
    async with open_raw(server) as raw:
        await raw.handshake(token if path.endswith("rpc") else alice.key, path=path)
        await raw.send(frame_bytes(Opcode.TEXT, b'{"method":"Log"}')[:7])
    if path.endswith("rpc"):
        assert (await alice.told("offline"))["id"] == "d1"


@pytest.mark.parametrize("node_settings", [NodeSettings(ping_interval=0.1)])
async def test_half_a_frame_and_silence(
    server: RunningServer, open_raw: Any, alice: Any, token: str, frame_bytes: FrameBytes
) -> None:
    """A peer that begins a frame and never ends it counts as silent: pings find that out."""
    async with open_raw(server) as raw:
        await raw.handshake(token)
        await raw.send(frame_bytes(Opcode.TEXT, b'{"method":"Log"}')[:7])
        assert await raw.close_code() is None
    assert (await alice.told("offline"))["id"] == "d1"


async def test_pieces_of_json_as_frames_of_their_own(
    server: RunningServer, open_raw: Any, token: str, frame_bytes: FrameBytes
) -> None:
    """One defective firmware sends every piece of a text as a frame: an error for each, and the session lives on."""
    async with open_raw(server) as raw:
        await raw.handshake(token)
        for piece in (b'{"id":', b"1,", b'"method"', b":", b'"Log"}'):
            await raw.send(frame_bytes(Opcode.TEXT, piece))
        codes = [(await raw.receive())["error"]["code"] for _ in range(5)]
        assert set(codes) <= {-32700, -32600}
        assert await works(raw, frame_bytes)


@pytest.mark.parametrize("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_binary_frames(
    server: RunningServer, open_raw: Any, alice: Any, token: str, frame_bytes: FrameBytes, path: str
) -> None:
    """1003: this is a protocol of texts."""
    async with open_raw(server) as raw:
        await raw.handshake(token if path.endswith("rpc") else alice.key, path=path)
        await raw.send(frame_bytes(Opcode.BINARY, b"{}"))
        assert await raw.close_code() == 1003


def fragments(frame_bytes: FrameBytes, size: int, piece: int) -> list[bytes]:
    """A text message of so many bytes in pieces of so many, without its end."""
    first = frame_bytes(Opcode.TEXT, b" " * piece, fin=False)
    return [first] + [frame_bytes(Opcode.CONT, b" " * piece, fin=False)] * (size // piece)


async def send_until_closed(raw: Any, data: bytes) -> None:
    """Send; the server may close the connection before all is sent."""
    with suppress(trio.BrokenResourceError):
        await raw.send(data)


@pytest.mark.parametrize("shape", ["one frame", "a length only", "fragments", "tiny fragments"])
@pytest.mark.parametrize("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_messages_of_10_megabytes(
    server: RunningServer, open_raw: Any, alice: Any, token: str, frame_bytes: FrameBytes, shape: str, path: str
) -> None:
    """1009, as soon as it is clear how large it will be, unless it can be passed over; it is never held in memory."""
    size = 10 * MEGABYTE
    parts = {
        "one frame": lambda: [frame_bytes(Opcode.TEXT, b" " * size)],
        "a length only": lambda: [b"\x81\xff" + (2**62).to_bytes(8, "big") + b"mask"],
        "fragments": lambda: fragments(frame_bytes, size, 100_000),
        "tiny fragments": lambda: fragments(frame_bytes, 2 * MAX_FRAME, 10),
    }[shape]()
    data = b"".join(parts)
    before = memory()
    async with open_raw(server) as raw:
        await raw.handshake(token if path.endswith("rpc") else alice.key, path=path)
        if shape == "one frame" and path.endswith("rpc"):  # of a device it is passed over
            await raw.send(data)
            await raw.send(frame_bytes(Opcode.TEXT, b'{"id":77,"method":"Dash.Shadow.Get"}'))
            while (await raw.receive()).get("id") != 77:
                pass
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_until_closed, raw, data)
                assert await raw.close_code() == 1009
    assert memory() - before < size / 2


async def test_the_largest_message_is_taken(
    server: RunningServer, open_raw: Any, token: str, frame_bytes: FrameBytes
) -> None:
    """Up to the limit all is well, in one frame or in many."""
    text = b'{"id":77,"method":"Dash.Shadow.Get"}'.ljust(MAX_FRAME)
    async with open_raw(server) as raw:
        await raw.handshake(token)
        await raw.send(frame_bytes(Opcode.TEXT, text))
        await raw.send(frame_bytes(Opcode.TEXT, text[:60_000], fin=False))
        await raw.send(frame_bytes(Opcode.PING, b"between"))
        await raw.send(frame_bytes(Opcode.CONT, text[60_000:]))
        for _ in range(2):
            while (await raw.receive()).get("id") != 77:
                pass


async def test_a_flood_of_empty_fragments(
    server: RunningServer, open_raw: Any, token: str, frame_bytes: FrameBytes
) -> None:
    """A message that has no end and no bytes takes no memory, and can still be ended."""
    before = memory()
    flood = frame_bytes(Opcode.CONT, b"", fin=False) * 10_000
    async with open_raw(server) as raw:
        await raw.handshake(token)
        await raw.send(frame_bytes(Opcode.TEXT, b'{"id":77,', fin=False))
        for _ in range(10):
            await raw.send(flood)
        await raw.send(frame_bytes(Opcode.CONT, b'"method":"Dash.Shadow.Get"}'))
        while (await raw.receive()).get("id") != 77:
            pass
    assert memory() - before < ROOM


# Texts


TEXTS = [
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b'{"id":1,"method":"Dash.Shadow.Update","params":' + b'{"a":' * 2000 + b"1" + b"}" * 2001,
    b'{"id":1,"method":"Dash.Shadow.Update","params":{"state":{"reported":' + b'{"a":' * 40 + b"1" + b"}" * 43,
    b'{"id":1,"method":"Dash.Shadow.Update","params":{"state":{"reported":{"x":NaN}}}}',
    b'{"id":1,"method":"Dash.Shadow.Update","params":{"state":{"reported":{"x":"\\ud800"}}}}',
    b'{"id":1,"method":"Dash.Shadow.Update","params":{"state":[1,2,3]}}',
    b'{"id":1,"method":"Dash.Shadow.Update"}',
    b"[]",
    b"null",
    b"\x00",
]


async def test_texts_that_are_no_request(
    server: RunningServer, open_raw: Any, alice: Any, frame_bytes: FrameBytes
) -> None:
    """Deep nesting, NaN, half characters, wrong shapes: an error is the answer, and the session lives on."""
    for number, text in enumerate(TEXTS):
        token = await alice.register(f"d{number}")
        async with open_raw(server) as raw:
            await raw.handshake(token)
            await raw.send(frame_bytes(Opcode.TEXT, text))
            assert (await raw.receive())["error"]["code"] in (-32700, -32600, 400), text[:60]
            assert await works(raw, frame_bytes), text[:60]


async def test_texts_that_are_not_utf_8(
    server: RunningServer, open_raw: Any, alice: Any, frame_bytes: FrameBytes
) -> None:
    """1007, as RFC 6455 wants it."""
    for number, data in enumerate((b"\xff\xfe", b'{"a":"\xc3\x28"}', b'{"a":"\xed\xa0\x80"}', b"\xf8\x88\x80\x80\x80")):
        token = await alice.register(f"d{number}")
        async with open_raw(server) as raw:
            await raw.handshake(token)
            await raw.send(frame_bytes(Opcode.TEXT, data))
            assert await raw.close_code() == 1007, data


async def test_duplicate_ids(alice: Any) -> None:
    """Two requests with one id get two answers: ids are the caller's business."""
    async with await alice.connect("d1") as device:
        for _ in range(2):
            await device.send({"id": 77, "method": "Dash.Shadow.Get"})
        answers = 0
        while answers < 2:
            answers += (await device.receive()).get("id") == 77


async def test_answers_to_no_call(alice: Any) -> None:
    """They are ignored: no answer to an answer, and no caller gets what is not for it."""
    async with await alice.connect("d1") as device:
        async with alice.calling("POST", "/devices/d1/rpc/Sys.Ping") as response:
            call = await device.expect("Sys.Ping")
            for wrong in (call["id"] + 1, call["id"] + 1000, 0, -1, "x", 1.5, None, 10**30):
                await device.send({"id": wrong, "result": "wrong"})
                await device.send({"id": wrong, "error": {"code": 1, "message": "wrong"}})
            await device.send({"error": {"code": 1, "message": "no id"}})
            await device.send({"id": call["id"], "result": "right"})
            await device.send({"id": call["id"], "result": "twice"})
            assert (await response()).json() == "right"
        await device.send({"id": 77, "method": "Dash.Shadow.Get"})
        while "result" not in (frame := await device.receive()):
            assert frame.get("method") == "Sys.GetInfo", "an answer was answered"
        assert frame["id"] == 77


# Silence


async def test_a_device_that_never_answers(alice: Any) -> None:
    """504 when its time is up; the connection stays as it is."""
    async with await alice.connect("d1") as device:
        response = await alice.http.post("/devices/d1/rpc/Sys.Ping?timeout=0.1")
        assert (response.status_code, response.json()["error"]["code"]) == (504, 504)
        assert (await alice.http.get("/devices/d1")).json()["online"] is True
        async with alice.calling("POST", "/devices/d1/rpc/Second") as second:
            await device.reply(await device.expect("Second"), 2)
            assert (await second()).json() == 2


async def test_an_answer_after_the_time_out(alice: Any) -> None:
    """It is ignored, and the next call gets its own."""
    async with await alice.connect("d1") as device:
        assert (await alice.http.post("/devices/d1/rpc/First?timeout=0.1")).status_code == 504
        late = await device.expect("First")
        async with alice.calling("POST", "/devices/d1/rpc/Second") as response:
            second = await device.expect("Second")
            assert second["id"] != late["id"]
            await device.reply(late, "first")
            await device.reply(second, "second")
            assert (await response()).json() == "second"


async def test_more_calls_than_a_silent_device_can_hold(alice: Any) -> None:
    """One more than `max_calls` is told to come back later, and when they are given up there is room again."""
    limit = ConnectionLimits().max_calls
    async with await alice.connect("d1") as device:
        node = alice.server.service.node
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                await node.calls.call(DeviceKey("alice", "d1"), "Silence", timeout=60)

            for _ in range(limit):
                nursery.start_soon(call)
            for _ in range(limit):
                await device.expect("Silence")
            response = await alice.http.post("/devices/d1/rpc/Sys.Ping")
            assert response.status_code == 429
            assert int(response.headers["Retry-After"]) >= 1
            nursery.cancel_scope.cancel()
        async with alice.calling("POST", "/devices/d1/rpc/Sys.Ping") as response:
            await device.reply(await device.expect("Sys.Ping"), 1)
            assert (await response()).status_code == 200


async def test_hundreds_of_connections_that_say_nothing(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """Idle connections cost a little memory each, and no time of others."""
    before = memory()
    async with AsyncExitStack() as idle:
        for _ in range(300):
            await idle.enter_async_context(open_raw(server))
        assert (await alice.http.get("/devices")).status_code == 200
        assert memory() - before < 300 * 2**16


# Clients that do not read


async def test_a_flood_of_pings_whose_pongs_are_not_read(
    server: RunningServer, open_raw: Any, alice: Any, token: str, frame_bytes: FrameBytes
) -> None:
    """Pongs are held up to a bound, beyond which the connection is cut."""
    before = memory()
    flood = frame_bytes(Opcode.PING, b"p" * 125) * 1000
    async with open_raw(server, patience=5) as raw:
        await raw.handshake(token)
        try:
            while True:
                await raw.send(flood)
        except trio.BrokenResourceError:
            pass
    assert (await alice.told("offline"))["id"] == "d1"
    assert memory() - before < ROOM


async def test_a_flood_of_requests_whose_answers_are_not_read(
    server: RunningServer, open_raw: Any, alice: Any, token: str, frame_bytes: FrameBytes
) -> None:
    """Answers are held up to a bound, beyond which the connection is closed."""
    await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"x": "y" * 20_000}}})
    before = memory()
    flood = frame_bytes(Opcode.TEXT, b'{"id":1,"method":"Dash.Shadow.Get"}') * 100
    async with open_raw(server, patience=5) as raw:
        await raw.handshake(token)
        try:
            while True:
                await raw.send(flood)
        except trio.BrokenResourceError:
            pass
    assert (await alice.told("offline"))["id"] == "d1"
    assert memory() - before < ROOM


async def test_notifications_that_some_never_read(
    server: RunningServer, open_raw: Any, alice: Any, frame_bytes: FrameBytes
) -> None:
    """A reader gets 10 000 notifications in order while twenty other subscribers read nothing and hold no memory."""
    total = 10_000
    data = _json.encode("x" * 1000)
    async with AsyncExitStack() as stack:
        for _ in range(20):
            deaf = await stack.enter_async_context(open_raw(server))
            await deaf.handshake(alice.key, path="/api/v2/notify")
        reader = await stack.enter_async_context(open_raw(server))
        await reader.handshake(alice.key, path="/api/v2/notify")
        before = memory()
        async with trio.open_nursery() as nursery:

            async def emit() -> None:
                for _ in range(total):
                    await server.service.hub.feed.emit("alice", "rpc.out.Log", "d1", data)
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(emit)
            offsets = [(await reader.receive())["offset"] for _ in range(total)]
        assert offsets == list(range(offsets[0], offsets[0] + total))
        # The log itself has 11 MB of them; were they kept for each of the twenty, it would be 220 MB more.
        assert memory() - before < 100 * MEGABYTE
        assert (await alice.http.get("/devices")).status_code == 200


# Devices that come and go


async def test_a_client_that_goes_away_in_the_middle_of_an_upload(
    server: RunningServer, open_raw: Any, alice: Any
) -> None:
    """Nothing of it is kept, the device hears nothing of it, and the next upload is taken."""
    hub = server.service.hub
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="fw.bin"\r\n\r\n'
    heads = [
        b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n" + form,
        b"Content-Length: 1000000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n40000\r\n",
    ]
    async with await alice.connect("d1") as device:
        for head in heads:
            async with open_raw(server) as raw:
                await raw.send(
                    f"POST /api/v2/devices/d1/ota HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n".encode()
                )
                await raw.send(head + os.urandom(100_000))
                with trio.fail_after(FRAME_TIMEOUT):
                    while not server.service.uploads.of("alice"):
                        await trio.lowlevel.checkpoint()
            with trio.fail_after(FRAME_TIMEOUT):
                while server.service.uploads.of("alice"):
                    await trio.lowlevel.checkpoint()
        assert [key async for key in hub.blobs.scan()] == []
        assert (await alice.http.get("/devices/d1/ota")).status_code == 404
        async with alice.calling("POST", "/devices/d1/ota", content=b"image") as response:
            while (begin := await device.receive())["method"] != "OTA.Begin":
                await device.reply(begin, {"fw_id": "old"})  # it is asked what it runs
            assert begin["params"]["size"] == 5
            await device.reply_error(begin, -1, "not now")
            assert (await response()).status_code == 422


async def test_a_device_that_connects_twice(server: RunningServer, alice: Any, token: str) -> None:
    """The newest connection wins, the old one is told why it is closed, and the device is never shown offline."""
    async with connect_device(server.device_url, token) as old, connect_device(server.device_url, token) as new:
        code, reason = await old.wait_closed()
        assert code == 1008
        assert "newer" in reason
        async with alice.calling("POST", "/devices/d1/rpc/Sys.Ping") as response:
            await new.reply(await new.expect("Sys.Ping"), "new")
            assert (await response()).json() == "new"
        assert (await alice.http.get("/devices/d1")).json()["online"] is True
        assert not await server.service.hub.feed.query("alice", LogQuery(name="offline"))
    assert (await alice.told("offline"))["id"] == "d1"
    assert (await alice.http.get("/devices/d1")).json()["online"] is False


async def test_a_device_that_connects_in_a_busy_loop(
    server: RunningServer, open_raw: Any, alice: Any, token: str
) -> None:
    """A hundred connections one after the other, each left open or dropped: the last is the device's."""
    before = memory()
    async with AsyncExitStack() as left_open:
        for i in range(100):
            async with AsyncExitStack() as dropped:
                raw = await (left_open if i % 2 else dropped).enter_async_context(open_raw(server))
                assert (await raw.handshake(token)).status == 101
        async with connect_device(server.device_url, token) as device:
            async with alice.calling("POST", "/devices/d1/rpc/Sys.Ping") as response:
                await device.reply(await device.expect("Sys.Ping"), "last")
                assert (await response()).json() == "last"
            assert len(server.service.node.devices) == 2
            assert (await alice.http.get("/devices/d1")).json()["online"] is True
    with trio.fail_after(FRAME_TIMEOUT):
        while (await alice.http.get("/devices/d1")).json()["online"]:
            pass
    assert memory() - before < ROOM


async def test_a_device_that_is_refused_again_and_again(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """A hundred wrong tokens at the same time are a hundred refusals."""
    refusals: list[int] = []

    async def dial() -> None:
        async with open_raw(server) as raw:
            refusals.append((await raw.handshake("mdd_wrong")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(dial)
    assert refusals == [401] * 100


async def test_a_listener_that_talks(server: RunningServer, open_raw: Any, alice: Any, frame_bytes: FrameBytes) -> None:
    """The stream of notifications is read-only: what a client says there is neither answered nor kept."""
    before = memory()
    flood = frame_bytes(Opcode.TEXT, b'{"id":1,"method":"Sys.Reboot"}') * 1000
    async with open_raw(server) as raw:
        await raw.handshake(alice.key, path="/api/v2/notify")
        for _ in range(50):
            await raw.send(flood)
        await alice.register("d9")
        assert (await raw.receive())["name"] == "created"
    assert memory() - before < ROOM

"""More connections than the process has file descriptors: strangers take them from each other."""

from __future__ import annotations

from typing import Any

import pytest
import trio

DESCRIPTORS = 200


@pytest.mark.parametrize("beginning", [b"", b"GET /healthz HTTP/1.1\r\n"], ids=["silent", "half a head"])
async def test_idle_connections_lock_nobody_out(open_attacked: Any, standing_by: Any, beginning: bytes) -> None:
    """With twice as many idle connections as descriptors, and ever more: a device and its calls go on, new clients are
    answered, changes are stored; the log has one line for it, and no traceback."""
    async with open_attacked(descriptors=DESCRIPTORS) as server, standing_by(server) as bystander:
        key = await server.account("alice")
        before = server.descriptors
        streams: list[Any] = []

        async def crowd() -> None:
            while True:
                for _ in range(2 * DESCRIPTORS):
                    stream = await server.stream()
                    streams.append(stream)
                    if beginning:
                        await stream.send_all(beginning)
                    crowded.set()
                while streams:
                    await trio.aclose_forcefully(streams.pop(0))

        async with trio.open_nursery() as nursery:
            crowded = trio.Event()
            nursery.start_soon(crowd)
            await crowded.wait()
            await server.until(lambda: server.descriptors > DESCRIPTORS * 2 // 3, "there is no crowd")
            await bystander.call_unharmed("a crowd of idle connections")
            for number in range(20):
                async with server.http(key) as http:
                    assert (await http.post("/devices", json={"id": f"d{number}"})).status_code == 201
                    assert (await http.get("/devices/d0")).status_code == 200
            nursery.cancel_scope.cancel()
        for stream in streams:
            await trio.aclose_forcefully(stream)
        await server.until(lambda: server.descriptors <= before + 8, "connections are left")  # files of the store
        assert server.log.count("\n") == server.log.count("no file descriptors for more connections") == 1


async def test_when_all_are_in_use(open_attacked: Any) -> None:
    """Where nobody can be sent away, as all connections are WebSockets, the next are closed at once, ten a second; and
    when some have gone, others are let in."""
    async with open_attacked(descriptors=DESCRIPTORS) as server:
        key = await server.account("alice")
        handshake = (
            f"GET /api/v2/notify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

        async def listen() -> Any:
            stream = await server.stream()
            try:
                await stream.send_all(handshake)
                answer = await stream.receive_some(2**12)
            except trio.BrokenResourceError:
                answer = b""
            if answer.startswith(b"HTTP/1.1 101"):
                return stream
            await trio.aclose_forcefully(stream)
            return None

        listeners = []
        while (listener := await listen()) is not None:
            listeners.append(listener)
        assert DESCRIPTORS // 2 < len(listeners) < DESCRIPTORS - 40  # a quarter of so few is kept
        for listener in listeners[:40]:
            await trio.aclose_forcefully(listener)
        with trio.fail_after(30):
            while (listener := await listen()) is None:
                pass
        for one in [*listeners[40:], listener]:
            await trio.aclose_forcefully(one)
        assert server.log.count("\n") == server.log.count("no file descriptors for more connections") == 1

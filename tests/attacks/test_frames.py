"""A flood of frames costs its sender only: the frames of each account have their turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

PACKET = 2**14  # bytes sent at a time

MASK = b"\1\2\3\4"

PING, PONG, TEXT, CONTINUATION = b"\x89", b"\x8a", b"\x81", b"\0"


def frame(head: bytes, payload: bytes = b"") -> bytes:
    """A masked frame of at most 125 bytes."""
    masked = bytes(byte ^ MASK[place % 4] for place, byte in enumerate(payload))
    return head + bytes((0x80 | len(payload),)) + MASK + masked


CONTROL = {"pings": frame(PING, b"x"), "pongs": frame(PONG)}
"""What no device sends many of."""

BEGUN = frame(b"\x01", b"x")  # a text whose end is to come

WORK = {
    "empty continuations": frame(CONTINUATION),
    "continuations": frame(CONTINUATION, b"x"),
    "empty texts": frame(TEXT),
    "no JSON": frame(TEXT, b"x"),
    "requests": frame(TEXT, b'{"id":1,"method":"x"}'),
    "answers": frame(TEXT, b'{"id":1,"result":1}'),
    "notifications": frame(TEXT, b'{"method":"x"}'),
    "half of a number": frame(TEXT, b"1."),
}
"""What costs the server more than the sender."""


class Flood:
    """Sockets that send the same frame as fast as they can, and read what they are answered."""

    def __init__(self) -> None:
        self.closed: list[bytes] = []
        """What each socket that was closed was told at last."""

    async def send(self, stream: trio.abc.Stream, each: bytes) -> None:
        packet = each * (PACKET // len(each))
        try:
            if each[0] == CONTINUATION[0]:
                await stream.send_all(BEGUN)
            while True:
                await stream.send_all(packet)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def read(self, stream: trio.abc.Stream) -> None:
        last = b""
        try:
            while data := await stream.receive_some(PACKET):
                last = (last + data)[-200:]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed.append(last)


@asynccontextmanager
async def flooding(
    attacked, kinds: Sequence[bytes], path: str = "rpc", account: str = "attacker"
) -> AsyncIterator[Flood]:
    """A socket of the same account for each kind of frame, devices or listeners, that flood with it."""
    key = await attacked.account(account)
    ids = [f"d{number}" for number in range(len(kinds))]
    tokens = (await attacked.devices(account, ids)).values() if path == "rpc" else [key] * len(kinds)
    streams = [await handshake(attacked, path, token) for token in tokens]
    flood = Flood()
    async with trio.open_nursery() as nursery:
        for stream, each in zip(streams, kinds, strict=True):
            nursery.start_soon(flood.send, stream, each)
            nursery.start_soon(flood.read, stream)
        yield flood
        nursery.cancel_scope.cancel()
    for stream in streams:
        await trio.aclose_forcefully(stream)


async def handshake(attacked, path: str, token: str) -> trio.abc.Stream:
    """A WebSocket, with nothing but a stream."""
    stream = await attacked.stream()
    lines = [
        f"GET /api/v2/{path} HTTP/1.1",
        f"Host: {attacked.host}",
        f"Authorization: Bearer {token}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    await stream.send_all("\r\n".join([*lines, "\r\n"]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive_some(PACKET)
    assert b" 101 " in answer
    return stream


@pytest.mark.parametrize(("path", "tls"), [("rpc", False), ("notify", True)])
async def test_floods_of_frames_keep_no_other_tenant_waiting(open_attacked, standing_by, tls, path):
    """Eight sockets of an account, each with another kind of frame; also listeners, and over TLS."""
    async with open_attacked(tls=tls) as server, standing_by(server) as bystander:
        async with flooding(server, [*WORK.values()], path):
            await bystander.call_unharmed("floods of frames")


@pytest.mark.proof
@pytest.mark.parametrize("sockets", [1, 8])
@pytest.mark.parametrize("kind", WORK)
async def test_a_flood_of_one_kind_keeps_no_other_tenant_waiting(attacked, bystander, kind, sockets):
    """Whatever it is, and from however many sockets."""
    async with flooding(attacked, [WORK[kind]] * sockets):
        await bystander.call_unharmed(f"{kind} from {sockets} sockets")


async def test_a_flood_of_control_frames_ends_its_socket(attacked, bystander):
    """With 1008 and one line in the log for each; no device sends so many."""
    for kind, frames in CONTROL.items():
        lines = attacked.log.count("is closed: more than")
        async with flooding(attacked, [frames] * 8, account=kind) as flood:
            await bystander.call_unharmed(f"{kind} from 8 sockets")
            await attacked.until(lambda flood=flood: len(flood.closed) == 8, "the sockets are still open")
        assert all(b"\x03\xf0more than" in last for last in flood.closed), kind
        assert attacked.log.count("is closed: more than") - lines == 8, kind

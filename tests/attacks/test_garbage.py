"""Devices that send unreadable frames, or come and go all the time, cost no other device anything."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import trio

from mdashcore.trio.connections.conduct import MAX_REJECTED
from mdashcore.trio.connections.presence_feed import MAX_CHANGES

PACKET = 2**14  # bytes sent at a time

MASK = b"\1\2\3\4"

CONNECTS = 200  # of two devices with one token


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """A masked frame."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    key = int.from_bytes(MASK * (size // 4 + 1), "big")
    padded = payload.ljust(4 * (size // 4 + 1), b"\0")
    return bytes((first,)) + length + MASK + (int.from_bytes(padded, "big") ^ key).to_bytes(len(padded), "big")[:size]


GARBAGE = {
    "pieces": b"".join(frame(bytes((byte,))) for byte in b'{"method":"Log","params":{"fd":1}}'),
    "nan": frame(b'{"method":"Dash.Shadow.Update","params":{"state":{"reported":{"t":nan}}}}'),
    "deep": frame(b'{"a":' * 1000),
    "batches": frame(b"[" + b"1," * 99 + b"1]"),
    "broken answers": frame(b'{"error":{"code":500,"message":},"id":1}'),
    "binary": frame(b"{}", 0x82),
}


TELLING = {"deep", "binary"}  # of those


class Device:
    """A device that dials in a busy loop, and sends the same as fast as it can whenever it is let in."""

    def __init__(self, attacked: Any, token: str, garbage: bytes) -> None:
        self.attacked = attacked
        self.token = token
        self.packet = garbage * max(1, PACKET // len(garbage))
        self.statuses: Counter[int] = Counter()
        self.received = 0
        """Bytes that the server has answered on its WebSockets."""

    async def run(self) -> None:
        while True:
            await self.connect()

    async def connect(self) -> None:
        stream = await self.attacked.stream()
        async with stream:
            lines = [
                "GET /api/v2/rpc HTTP/1.1",
                f"Host: {self.attacked.host}",
                f"Authorization: Bearer {self.token}",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ]
            answer = b""
            try:
                await stream.send_all("\r\n".join([*lines, "\r\n"]).encode())
                while b"\r\n\r\n" not in answer:
                    answer += await stream.receive_some(PACKET) or b"\r\n\r\n"
            except trio.BrokenResourceError:
                return
            status = int(answer.split(b" ")[1])
            self.statuses[status] += 1
            if status == 429:
                assert b"retry-after: " in answer.lower()
            if status == 101:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, stream)
                    await self._read(stream)
                    nursery.cancel_scope.cancel()

    async def _send(self, stream: trio.abc.Stream) -> None:
        try:
            while True:
                await stream.send_all(self.packet)
        except trio.BrokenResourceError:
            pass

    async def _read(self, stream: trio.abc.Stream) -> None:
        try:
            while data := await stream.receive_some(PACKET):
                self.received += len(data)
                if not self.packet and b"newer connection" in data:
                    return  # as a device does that is closed
        except trio.BrokenResourceError:
            pass


async def told(attacked: Any, key: str) -> Counter[str]:
    """How many notifications there are of each name."""
    async with attacked.http(key) as http:
        found: list[dict[str, Any]] = (await http.post("/logs", json={"limit": 1000})).json()
    return Counter(each["name"] for each in found)


async def test_garbage_feeds_no_garbage(attacked: Any, bystander: Any, every: bool) -> None:
    """A device that sends nothing else, and dials again in a busy loop: at most 8 answers on a connection, a few lines
    in the log and one notification for people; after 64 frames in a minute it is refused before any work."""
    for kind in GARBAGE if every else TELLING:
        account, lines = kind.replace(" ", "-"), attacked.log.count("\n")
        key = await attacked.account(account)
        (token,) = (await attacked.devices(account, ["d1"])).values()
        device = Device(attacked, token, GARBAGE[kind])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.run)
            await attacked.until(lambda device=device: device.statuses[429] > 0, f"{kind}: the device is still let in")
            cpu, now = attacked.cpu, trio.current_time()
            await bystander.call_unharmed(f"garbage ({kind})")
            share = (attacked.cpu - cpu) / (trio.current_time() - now)
            sys.stdout.write(
                f"{dict(device.statuses)}; the server takes {share:.0%} of a core, the bystander's calls too\n"
            )
            nursery.cancel_scope.cancel()
        accepted = device.statuses[101]
        # A binary frame ends the connection by itself. On a slow machine the first penalty, of 10 s, may be over.
        assert accepted <= (2 * MAX_REJECTED if kind == "binary" else 3), kind
        assert device.received <= accepted * 80_000, kind  # 8 answers to batches of 100 errors of 80 bytes each
        names = await told(attacked, key)
        assert 1 <= names["rejected"] <= 3, kind
        assert names["online"] + names["offline"] <= MAX_CHANGES, kind
        assert attacked.log.count("\n") - lines <= 6, kind
    await bystander.call_unharmed("nothing")


async def test_large_frames_are_not_kept(attacked: Any, bystander: Any) -> None:
    """A device that sends frames of 10 MB: each is passed over, and nothing of it is in memory."""
    await attacked.account("attacker")
    (token,) = (await attacked.devices("attacker", ["d1"])).values()
    size = 10 * 2**20
    large = b"\x81\xff" + size.to_bytes(8, "big") + MASK + bytes(size)
    device = Device(attacked, token, large)
    with attacked.peak_memory() as grown:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.run)
            await bystander.call_unharmed("frames of 10 MB")
            nursery.cancel_scope.cancel()
        assert grown() < size / 2


async def test_two_devices_with_one_token_do_not_fill_the_log(attacked: Any, bystander: Any) -> None:
    """They put each other out many times a second: the first changes are told one by one, then what the last was."""
    key = await attacked.account("attacker")
    (token,) = (await attacked.devices("attacker", ["d1"])).values()
    device = Device(attacked, token, frame(b'{"method":"x"}'))
    device.packet = b""
    async with trio.open_nursery() as nursery:

        async def clone() -> None:
            while device.statuses[101] < CONNECTS:
                await device.connect()

        for _ in range(2):
            nursery.start_soon(clone)
        await bystander.call_unharmed("two devices with one token")
        await attacked.until(lambda: device.statuses[101] >= CONNECTS, "they do not come in")
        nursery.cancel_scope.cancel()
    names = await told(attacked, key)
    assert names["online"] + names["offline"] <= MAX_CHANGES + 2
    assert attacked.log.count("comes and goes") == 1

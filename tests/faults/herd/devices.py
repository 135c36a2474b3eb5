"""Devices that all connect in the same moment, and the answer to each one's first report: a client of sockets alone.

    python devices.py PORT NETWORK RETRY < tokens

It writes one line of JSON: how many are back and when, in seconds since the first dial, and how often each was refused.
A device that is refused dials again after RETRY seconds, as the first wait of many devices is.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from contextlib import suppress
from time import monotonic

REPORT = b'{"id":1,"method":"Dash.Shadow.Update","params":{"state":{"reported":{"n":1,"ota":{"app":"x"}}}}}'


def frame(text: bytes) -> bytes:
    """Return a masked text frame. The mask is zero."""
    head = struct.pack("!BB", 0x81, 0x80 | len(text)) if len(text) < 126 else struct.pack("!BBH", 0x81, 0xFE, len(text))
    return head + bytes(4) + text


def handshake(token: str) -> bytes:
    """Return the request of a device."""
    return (
        b"GET /api/v2/rpc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        b"Authorization: Bearer " + token.encode() + b"\r\n\r\n"
    )


async def writable(sock: socket.socket) -> None:
    """Wait until the kernel has connected a socket, or has failed to."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(sock, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_writer(sock)


class Devices:
    """Those of a list of tokens."""

    def __init__(self, port: int, network: str, retry: float) -> None:
        self.port = port
        self.network = network
        self.retry = retry
        self.back: list[float] = []
        self.accepted: list[float] = []
        self.refused: dict[str, int] = {}
        self.reasons: dict[str, int] = {}
        self.writers: list[asyncio.StreamWriter] = []
        self.sent: set[str] = set()
        self.dialled: dict[str, socket.socket] = {}

    def dial_all(self, tokens: list[str]) -> None:
        """Dial all, each with its handshake right behind, as devices do that do not wait for each other."""
        for place, token in enumerate(tokens):
            sock = self.dialled[token] = socket.socket()
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.setblocking(False)
            sock.bind((f"127.0.{self.network}.{1 + place % 200}", 0))
            sock.connect_ex(("127.0.0.1", self.port))
            with suppress(OSError):  # the kernel has not connected it yet
                sock.send(handshake(token))
                self.sent.add(token)

    async def connect(self, place: int, token: str, started: float) -> None:
        """Connect one, until its first report is answered."""
        while True:
            try:
                await self._try(place, token, started)
                return
            except (OSError, EOFError, ValueError) as exc:
                reason = f"{type(exc).__name__} {exc}"[:60]
                self.reasons[reason] = self.reasons.get(reason, 0) + 1
                self.refused[token] = self.refused.get(token, 0) + 1
                await asyncio.sleep(self.retry)

    async def _try(self, place: int, token: str, started: float) -> None:
        sock = self.dialled.pop(token, None)
        if sock is None:
            self.dial_all([token])
            sock = self.dialled.pop(token)
        if token not in self.sent:
            await writable(sock)
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                sock.close()
                raise OSError(error, os.strerror(error))
            sock.send(handshake(token))
        self.sent.discard(token)
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**14)
        self.writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head[:14]:
            raise ValueError(head[:14].decode())
        self.accepted.append(monotonic() - started)
        writer.write(frame(REPORT))
        while True:
            first, length = await reader.readexactly(2)
            if length == 126:
                length = int.from_bytes(await reader.readexactly(2), "big")
            body = await reader.readexactly(length)
            if first & 15 == 8:
                raise ValueError(f"closed {body[2:].decode()}")
            if first & 15 == 9:
                writer.write(bytes([0x8A, 0x80 | length]) + bytes(4) + body)
            elif b'"id":1,' in body or b'"id":1}' in body:
                self.back.append(monotonic() - started)
                return


async def main(port: int, network: str, retry: float) -> None:
    tokens = sys.stdin.read().split()
    devices = Devices(port, network, retry)
    print("ready", flush=True)  # noqa: T201
    started = monotonic()
    devices.dial_all(tokens)
    await asyncio.gather(*(devices.connect(place, token, started) for place, token in enumerate(tokens)))
    back = sorted(devices.back)
    result = {
        "back": len(back),
        "seconds": back[-1],
        "median": back[len(back) // 2],
        "accepted": max(devices.accepted),
        "refused": len(devices.refused),
        "most": max(devices.refused.values(), default=0),
        "reasons": devices.reasons,
    }
    print(json.dumps(result), flush=True)  # noqa: T201
    for writer in devices.writers:
        writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))

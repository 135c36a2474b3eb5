"""Devices that all come back together, on plain sockets: a handshake, one request, and its answer.

Reads ``{"port", "devices"}``; connects all, and writes ``{"seconds"}``. At each further line it drops them all,
connects them again, and writes the seconds. A device counts when its request was answered, because a server may
answer 101 before it has taken up the device.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

AT_ONCE = 256  # handshakes on their way: below every server's backlog, so that no connection is lost in it
PATIENCE = 120.0  # seconds for all of them

HANDSHAKE = (
    b"GET /api/v2/rpc HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer %b\r\n\r\n"
)


def frame(text: bytes) -> bytes:
    """Return a client's frame, masked with zeros, which changes nothing (RFC 6455, section 5.3)."""
    return bytes((0x81, 0x80 | len(text))) + b"\0\0\0\0" + text


ASK = frame(b'{"jsonrpc":"2.0","id":1,"method":"Dash.Shadow.Get"}')
UNKNOWN = frame(b'{"id":1,"error":{"code":404,"message":"No handler"}}')


class Storm:
    """The connections of all devices."""

    def __init__(self, port: int, tokens: list[bytes]) -> None:
        self._address = ("127.0.0.1", port)
        self._tokens = tokens
        self._sockets: dict[int, socket.socket] = {}
        self._state: dict[int, bytes] = {}
        """The received part of a handshake or an answer, for devices that still wait."""
        self._epoll = select.epoll()

    def drop(self) -> None:
        """Close all connections without a close frame, as in a power failure."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._state.clear()

    def connect(self) -> float:
        """Connect all. Returns the seconds until the last is answered."""
        start = time.perf_counter()
        waiting, answered = iter(self._tokens), 0
        for token in (next(waiting, None) for _ in range(AT_ONCE)):
            if token is not None:
                self._dial(token)
        while answered < len(self._tokens):
            assert time.perf_counter() - start < PATIENCE, f"{answered} of {len(self._tokens)} connected"
            for number, _ in self._epoll.poll(1.0, 256):
                if self._take(number):
                    answered += 1
                    if (token := next(waiting, None)) is not None:
                        self._dial(token)
        return time.perf_counter() - start

    def _dial(self, token: bytes) -> None:
        sock = socket.socket()
        sock.settimeout(PATIENCE)
        sock.connect(self._address)  # waits for room in the backlog
        sock.send(HANDSHAKE % token)
        sock.setblocking(False)
        number = sock.fileno()
        self._sockets[number] = sock
        self._state[number] = b""
        self._epoll.register(number, select.EPOLLIN)

    def _take(self, number: int) -> bool:
        """Read from a socket. Returns whether its request has just been answered."""
        sock = self._sockets[number]
        data = sock.recv(4096)
        assert data, "the server has closed a connection"
        if b'"method":"Sys.GetInfo"' in data:  # a request of the server to a new device
            sock.send(UNKNOWN)
        if number not in self._state:
            return False
        data = self._state[number] + data
        if data.startswith(b"HTTP/1.1 101 ") and b"\r\n\r\n" in data:
            sock.send(ASK)
            data = data.partition(b"\r\n\r\n")[2]
        if b'"result"' in data:
            del self._state[number]
            return True
        self._state[number] = data
        return False


def main() -> None:
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    storm = Storm(order["port"], [token.encode() for _, token in order["devices"]])
    print(json.dumps({"seconds": storm.connect()}), flush=True)
    while sys.stdin.readline():
        storm.drop()
        print(json.dumps({"seconds": storm.connect()}), flush=True)


if __name__ == "__main__":
    main()

"""Requests at a rate that does not depend on the answers, as from many independent clients.

Reads ``{"port", "key", "devices", "seconds", "rate"}`` from each line; answers with ``{"p50", "p99", "requests"}``,
milliseconds from when a request was due, also if no connection was free then. Requests are due at random times
(exponential pauses), the same ones for every server. Every answer is checked.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections import deque
from typing import Any

CONNECTIONS = 64
SEED = 20  # of the random times
DRAIN = 10.0  # seconds for the last answers


class Connection:
    """One kept connection, with at most one request on its way."""

    def __init__(self, port: int, key: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DRAIN)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._key = key.encode()
        self.due = 0.0
        self._wanted = b""
        self._data = b""

    def ask(self, device: str, n: int, due: float) -> None:
        self.due, self._data = due, b""
        self._wanted = b'{"n":%d}' % n
        self.sock.sendall(
            b"POST /api/v2/devices/%b/rpc/Echo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (device.encode(), self._key, len(self._wanted), self._wanted)
        )

    def take(self) -> bool:
        """Read from the socket. Returns whether the answer is complete, after checking it."""
        data = self.sock.recv(2**16)
        assert data, "the server has closed a connection"
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end or len(body) < len(self._wanted):
            return False
        assert head.startswith(b"HTTP/1.1 200 "), self._data
        assert body == self._wanted, self._data
        return True


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Send requests at the rate, for the time."""
    random.seed(SEED)
    ids = [id for id, _ in order["devices"]]
    free = deque(Connection(order["port"], order["key"]) for _ in range(CONNECTIONS))
    everyone = tuple(free)
    waiting: dict[socket.socket, Connection] = {}
    latencies: list[float] = []
    start = time.perf_counter()
    end, due, n = start + order["seconds"], start, 0
    while due < end or waiting:
        now = time.perf_counter()
        assert now < end + DRAIN, f"{len(waiting)} requests are not answered"
        while due <= now and due < end and free:
            connection = free.popleft()
            connection.ask(ids[n % len(ids)], n, due)
            waiting[connection.sock] = connection
            n += 1
            due += random.expovariate(order["rate"])
        pause = max(0.0, due - time.perf_counter()) if free and due < end else 1.0
        ready, _, _ = select.select(list(waiting), [], [], pause)  # unlike epoll, to the microsecond
        for sock in ready:
            connection = waiting[sock]
            if connection.take():
                latencies.append(time.perf_counter() - connection.due)
                del waiting[sock]
                free.append(connection)
    for connection in everyone:
        connection.sock.close()
    latencies.sort()
    milliseconds = [1000 * latencies[int(part * len(latencies))] for part in (0.5, 0.99)]
    return {"p50": milliseconds[0], "p99": milliseconds[1], "requests": len(latencies)}


def main() -> None:
    while line := sys.stdin.readline():
        print(json.dumps(measure(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

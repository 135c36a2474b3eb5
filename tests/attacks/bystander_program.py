"""A tenant that behaves: a device that answers, and a client that calls it again and again, in a process of its own.

Run as ``python bystander_program.py DEVICE_URL TOKEN HTTP_HOST HTTP_PORT DEVICE KEY TLS PID``, where TLS is 0 or 1,
and PID the server's. Each line of stdin is a number of calls to be made, one after the other with a pause of `PAUSE`;
each line of stdout is a JSON array of how many seconds each took: in all, and by the server's doing.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time

import trio
import trio_websocket

PAUSE = 0.005  # seconds between two calls: a client that asks, not a load

PATIENCE = 60.0  # seconds for one call: the server has to answer even while it is attacked


def trusting() -> ssl.SSLContext:
    """A context that takes every certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def answer(device: trio_websocket.WebSocketConnection) -> None:
    """Be a device that answers every call with ``true``."""
    while True:
        frame = json.loads(await device.get_message())
        if "id" in frame and "method" in frame:
            await device.send_message(json.dumps({"id": frame["id"], "result": True}))


class Meter:
    """Says how much of a time was the server's doing: not that in which other programs had the cores.

    Linux counts for each thread how long it was ready to run and waited for a core. Where that is the server's main
    thread, or this program, neither could help it; but for the server's other threads, where they leave it no core.

    Args:
        server: the server's process id.
    """

    def __init__(self, server: int) -> None:
        self._own = os.open("/proc/self/schedstat", os.O_RDONLY)
        self._main = os.open(f"/proc/{server}/task/{server}/schedstat", os.O_RDONLY)
        self._clock = ~server << 3 | 2  # clock_gettime(3): the processor time of a process, of all its threads together
        self._other_cores = len(os.sched_getaffinity(server)) - 1
        self._waited = self._others = self._started = 0.0

    def start(self) -> None:
        """Start anew."""
        self._waited, self._others = self._figures()
        self._started = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        """Seconds since the start: in all, and by the server's doing."""
        took = time.perf_counter() - self._started
        waited, others = self._figures()
        by_itself = max(0.0, others - self._others - self._other_cores * took)
        return took, max(0.0, took - max(0.0, waited - self._waited - by_itself))

    def _figures(self) -> tuple[float, float]:
        """Seconds that the two have waited for a core so far, and that the server's other threads ran."""
        ran, waited = self._read(self._main)
        return waited + self._read(self._own)[1], time.clock_gettime(self._clock) - ran

    @staticmethod
    def _read(file: int) -> tuple[float, float]:
        """Seconds that a thread has run, and has waited for a core."""
        ran, waited, _ = os.pread(file, 100, 0).split()
        return int(ran) / 1e9, int(waited) / 1e9


class Client:
    """One connection that calls the device."""

    def __init__(self, stream: trio.abc.Stream, host: str, device: str, key: str, meter: Meter) -> None:
        self._stream = stream
        self._meter = meter
        self._request = (
            f"POST /api/v2/devices/{device}/rpc/Sys.Ping HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {key}\r\nContent-Length: 0\r\n\r\n"
        ).encode()

    async def connected(self) -> None:
        """Wait until the device can be called: its handshake is answered before the server knows that it is there."""
        data = b""
        while b"HTTP/1.1 200" not in data:
            await self._stream.send_all(self._request)
            data = await self._stream.receive_some(4096)
            await trio.sleep(PAUSE)

    async def call(self) -> tuple[float, float]:
        """Call the device once: the seconds that it took, and how many of them were the server's doing."""
        self._meter.start()
        with trio.fail_after(PATIENCE):
            await self._stream.send_all(self._request)
            data = b""
            while not data.endswith(b"\r\n\r\ntrue"):
                part = await self._stream.receive_some(4096)
                if not part or b"HTTP/1.1 200" not in data + part:
                    raise SystemExit(f"the call failed: {data + part!r}")
                data += part
        return self._meter.stop()


def say(took: list[tuple[float, float]]) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(took) + "\n")
    sys.stdout.flush()


async def main(device_url: str, token: str, host: str, port: str, device: str, key: str, tls: str, pid: str) -> None:
    """Call when told to."""
    context = trusting() if tls == "1" else None
    headers = [("Authorization", f"Bearer {token}")]
    stream: trio.abc.Stream = await trio.open_tcp_stream(host, int(port))
    if context is not None:
        stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    client = Client(stream, host, device, key, Meter(int(pid)))
    async with trio_websocket.open_websocket_url(device_url, ssl_context=context, extra_headers=headers) as socket:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, socket)
            await client.connected()
            say([])
            async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
                async for line in stdin:
                    took = []
                    for _ in range(int(line)):
                        took.append(await client.call())
                        await trio.sleep(PAUSE)
                    say(took)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])

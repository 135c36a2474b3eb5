"""A tenant that behaves: a device that answers, and a client that calls it again and again, in a process of its own.

Run as ``python bystander_program.py DEVICE_URL TOKEN HTTP_HOST HTTP_PORT DEVICE KEY TLS``, where TLS is 0 or 1. Each
line of stdin is a number of calls to be made, one after the other with a pause of `PAUSE`; each line of stdout is a
JSON array of how many seconds each took.
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


class Client:
    """One connection that calls the device."""

    def __init__(self, stream: trio.abc.Stream, host: str, device: str, key: str) -> None:
        self._stream = stream
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

    async def call(self) -> float:
        """Call the device once: the seconds that it took."""
        started = time.perf_counter()
        with trio.fail_after(PATIENCE):
            await self._stream.send_all(self._request)
            data = b""
            while not data.endswith(b"\r\n\r\ntrue"):
                part = await self._stream.receive_some(4096)
                if not part or b"HTTP/1.1 200" not in data + part:
                    raise SystemExit(f"the call failed: {data + part!r}")
                data += part
        return time.perf_counter() - started


def say(took: list[float]) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(took) + "\n")
    sys.stdout.flush()


async def main(device_url: str, token: str, host: str, port: str, device: str, key: str, tls: str) -> None:
    """Call when told to."""
    context = trusting() if tls == "1" else None
    headers = [("Authorization", f"Bearer {token}")]
    stream: trio.abc.Stream = await trio.open_tcp_stream(host, int(port))
    if context is not None:
        stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    client = Client(stream, host, device, key)
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

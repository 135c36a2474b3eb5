"""The part of MQTT 3.1.1 that a load generator needs: connect, subscribe, publish, receive; quality of service 0."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["MqttClient", "connect"]

CONNECT, CONNACK, PUBLISH, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x82, 0x90  # section 2.2.1, with the flags
KEEP_ALIVE = 0  # seconds; none, because measurements are short


class MqttClient(asyncio.Protocol):
    """One connection. The payload of a received message goes to `on_message`."""

    transport: asyncio.Transport

    def __init__(self, name: str, on_message: Callable[[bytes], None], topic: str | None) -> None:
        self._name, self._on_message, self._topic = name, on_message, topic
        self._buffer = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # of a socket, so it can be written to
        clean_session = 2
        head = _text(b"MQTT") + bytes((4, clean_session)) + KEEP_ALIVE.to_bytes(2, "big")
        self._send(CONNECT, head + _text(self._name.encode()))

    def data_received(self, data: bytes) -> None:
        data, at = self._buffer + data, 0
        while (bounds := _bounds(data, at)) is not None:
            start, end = bounds
            kind = data[at]
            if kind == PUBLISH:
                self._on_message(data[start + 2 + int.from_bytes(data[start : start + 2], "big") : end])
            elif kind == CONNACK and self._topic is not None:
                self._send(SUBSCRIBE, b"\0\1" + _text(self._topic.encode()) + b"\0")
            elif kind in (CONNACK, SUBACK):
                self.ready.set_result(None)
            at = end
        self._buffer = data[at:]

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message. It is not acknowledged."""
        self._send(PUBLISH, _text(topic.encode()) + payload)

    def _send(self, kind: int, body: bytes) -> None:
        size, digits = len(body), bytearray()
        while True:  # section 2.2.3: seven bits a byte, the lowest first
            size, digit = size >> 7, size & 127
            digits.append(digit | 128 if size else digit)
            if not size:
                break
        self.transport.write(bytes((kind,)) + bytes(digits) + body)


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _bounds(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the body of the packet at `at` begins and ends; `None` while it is not complete."""
    size = shift = 0
    for n in range(at + 1, min(at + 5, len(data))):
        size |= (data[n] & 127) << shift
        shift += 7
        if not data[n] & 128:
            end = n + 1 + size
            return (n + 1, end) if end <= len(data) else None
    return None


async def connect(port: int, name: str, on_message: Callable[[bytes], None], topic: str | None = None) -> MqttClient:
    """Return a connected client, which has subscribed to `topic` if one is given."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: MqttClient(name, on_message, topic), "127.0.0.1", port)
    async with asyncio.timeout(10):
        await client.ready
    return client

"""Clients that misuse TLS: another account's calls stay fast, and memory and descriptors return to what they were."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

CONNECTIONS = 200

GROWTH = 25_000_000  # bytes that Python's allocator may keep after the first crowd

RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closing resets the connection

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + bytes(b"x" * 8000)


CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE


def client_hello(name: str = "127.0.0.1") -> bytes:
    """Return the first message of a TLS handshake."""
    outgoing = ssl.MemoryBIO()
    tls = CONTEXT.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class Client:
    """A client whose TLS records are made one by one."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = CONTEXT.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    async def shake_hands(self) -> None:
        """Do the handshake."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.stream.send_all(self._outgoing.read())
                part = await self.stream.receive_some()
                if not part:
                    raise trio.BrokenResourceError from None
                self._incoming.write(part)
        await self.stream.send_all(self._outgoing.read())

    def records(self, data: bytes, size: int = 1) -> bytes:
        """Return data as records of so many bytes."""
        for start in range(0, len(data), size):
            self._tls.write(data[start : start + size])
        return self._outgoing.read()

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.stream.socket.close()


async def only_says_hello(client: Client) -> None:
    await client.stream.send_all(client_hello())
    await trio.sleep_forever()


async def resets_after_its_hello(client: Client) -> None:
    await client.stream.send_all(client_hello())
    client.reset()


async def sends_its_hello_byte_by_byte(client: Client) -> None:
    client.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in client_hello():
        await client.stream.send_all(bytes([byte]))
    await client.stream.receive_some()


async def asks_for_a_huge_name(client: Client) -> None:
    hello = client_hello(".".join(["a" * 60] * 4))
    await client.stream.send_all(hello[:3] + b"\x40\x00" + hello[5:6] + b"\x00\xff\xff" + hello[9:] + bytes(2**14))
    await client.stream.receive_some()


async def speaks_plain_http(client: Client) -> None:
    await client.stream.send_all(HEAD + b"\r\n\r\n")
    await client.stream.receive_some()


async def shakes_hands_and_resets(client: Client) -> None:
    await client.shake_hands()
    client.reset()


async def shakes_hands_and_closes(client: Client) -> None:
    """Without close_notify."""
    await client.shake_hands()


async def sends_records_of_one_byte(client: Client) -> None:
    await client.shake_hands()
    await client.stream.send_all(client.records(HEAD))
    client.reset()


async def stops_in_the_middle_of_a_record(client: Client) -> None:
    await client.shake_hands()
    await client.stream.send_all(client.records(HEAD, len(HEAD))[:-100])
    await trio.sleep_forever()


async def reads_nothing(client: Client) -> None:
    await client.shake_hands()
    await client.stream.send_all(client.records(b"GET /ui/app.js HTTP/1.1\r\nHost: x\r\n\r\n" * 100, 2000))
    await trio.sleep_forever()


CLIENTS: list[Callable[[Client], Awaitable[None]]] = [
    only_says_hello,
    resets_after_its_hello,
    sends_its_hello_byte_by_byte,
    asks_for_a_huge_name,
    speaks_plain_http,
    shakes_hands_and_resets,
    shakes_hands_and_closes,
    sends_records_of_one_byte,
    stops_in_the_middle_of_a_record,
    reads_nothing,
]


@asynccontextmanager
async def crowd(server: Any, behave: Callable[[Client], Awaitable[None]]) -> AsyncIterator[Callable[[], int]]:
    """Keep so many clients at it; each that has ended comes again. Gives the number of connections so far."""
    count = 0

    async def come_again() -> None:
        nonlocal count
        while True:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
                async with await trio.open_tcp_stream(server.host, server.port) as stream:
                    count += 1
                    await behave(Client(stream))
            await trio.sleep(0.01)  # where connections are refused immediately

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(come_again)
        yield lambda: count
        nursery.cancel_scope.cancel()


@pytest.mark.proof
async def test_no_misuse_of_tls_harms_others(open_attacked: Any, standing_by: Any) -> None:
    """Whatever crowds of strangers do with TLS, calls stay fast; nothing is left of the crowds, and memory does not
    grow again when one comes for the second time; the log has no line for them."""
    async with open_attacked(tls=True) as server, standing_by(server) as bystander:
        descriptors = server.descriptors
        for behave in CLIENTS:
            sizes = []
            for _ in range(2):
                async with crowd(server, behave) as count:
                    await server.until(lambda count=count: count() >= CONNECTIONS, behave.__name__)
                    await bystander.call_unharmed(behave.__name__)
                await server.until(lambda: server.descriptors <= descriptors + 8, f"{behave.__name__}: left")
                sizes.append(server.memory)
            assert sizes[1] - sizes[0] < GROWTH, behave.__name__
        assert await server.tasks() < 30
        assert not server.log

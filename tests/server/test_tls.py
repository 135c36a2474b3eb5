"""TLS: what a connection leaves in the server once it has ended, however it ends."""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
import trio_websocket
import trustme

from mdashcore.server.config import ServerConfig
from mdashcore.server.http.tls import TlsListener
from mdashcore.server.run import RunningServer, open_server

TIMEOUT = 60.0  # seconds for what takes a moment, on a machine that has other work

RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closing resets the connection

GET = b"GET /ui/app.js HTTP/1.1\r\nHost: x\r\n\r\n"

HANDSHAKE = (
    b"GET /api/v2/rpc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

Tls = trio.SSLStream[trio.SocketStream]


def client_context() -> ssl.SSLContext:
    """Return a client's TLS that trusts every certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


CONTEXT = client_context()


def client_hello() -> bytes:
    """Return the first message of a TLS handshake."""
    outgoing = ssl.MemoryBIO()
    tls = CONTEXT.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def read_to_the_end(stream: trio.abc.ReceiveStream) -> None:
    """Read until the server has ended the connection, in whatever way."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


def reset(stream: trio.SocketStream) -> None:
    """Close a connection with a reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    stream.socket.close()


async def says_nothing(stream: trio.SocketStream) -> None:
    stream.socket.close()


async def speaks_plain_http(stream: trio.SocketStream) -> None:
    await stream.send_all(GET)
    await read_to_the_end(stream)


async def sends_garbage(stream: trio.SocketStream) -> None:
    await stream.send_all(bytes(range(256)) * 64)
    await read_to_the_end(stream)


async def resets_in_the_handshake(stream: trio.SocketStream) -> None:
    await stream.send_all(client_hello())
    await stream.receive_some()
    reset(stream)


async def sends_a_message_after_the_hello(stream: trio.SocketStream) -> None:
    """The first record of a connection may not be an encrypted one."""
    await stream.send_all(client_hello() + b"\x17\x03\x03\x00\x02xx")
    await read_to_the_end(stream)


async def offers_no_version(stream: trio.SocketStream) -> None:
    """TLS 1.0 at most."""
    hello = bytearray(client_hello())
    hello[9:11] = b"\x03\x01"
    await stream.send_all(bytes(hello).replace(b"\x00\x2b", b"\x7f\x2b"))  # without supported_versions
    await read_to_the_end(stream)


async def secured(stream: trio.SocketStream) -> Tls:
    tls = trio.SSLStream(stream, CONTEXT, server_hostname="127.0.0.1", https_compatible=True)
    await tls.do_handshake()
    return tls


async def closes_after_the_handshake(stream: trio.SocketStream) -> None:
    (await secured(stream)).transport_stream.socket.close()


async def says_goodbye(stream: trio.SocketStream) -> None:
    await (await secured(stream)).aclose()


async def resets_after_the_handshake(stream: trio.SocketStream) -> None:
    reset((await secured(stream)).transport_stream)


async def sends_a_forged_record(stream: trio.SocketStream) -> None:
    tls = await secured(stream)
    await tls.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    await read_to_the_end(tls)


async def asks_and_resets(stream: trio.SocketStream) -> None:
    tls = await secured(stream)
    await tls.send_all(GET * 50)
    await tls.receive_some()
    reset(tls.transport_stream)


async def leaves_a_body_unsent(stream: trio.SocketStream) -> None:
    tls = await secured(stream)
    await tls.send_all(b"POST /api/v2/login HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    assert b"100" in await tls.receive_some()
    reset(tls.transport_stream)


async def sends_what_is_no_request(stream: trio.SocketStream) -> None:
    tls = await secured(stream)
    await tls.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    await read_to_the_end(tls)


async def asks_for_a_socket_without_a_token(stream: trio.SocketStream) -> None:
    tls = await secured(stream)
    await tls.send_all(HANDSHAKE)
    await read_to_the_end(tls)


CLIENTS: list[Callable[[trio.SocketStream], Awaitable[None]]] = [
    says_nothing,
    speaks_plain_http,
    sends_garbage,
    resets_in_the_handshake,
    sends_a_message_after_the_hello,
    offers_no_version,
    closes_after_the_handshake,
    says_goodbye,
    resets_after_the_handshake,
    sends_a_forged_record,
    asks_and_resets,
    leaves_a_body_unsent,
    sends_what_is_no_request,
    asks_for_a_socket_without_a_token,
]


class Accepted:
    """Counts the server's ends of connections that anything still refers to."""

    def __init__(self) -> None:
        self._left: set[weakref.ref[Tls]] = set()
        self._freed = trio.Event()
        self.count = 0
        """How many there were so far."""

    def add(self, stream: Tls) -> None:
        """Count one more."""
        self.count += 1
        self._left.add(weakref.ref(stream, self._free))

    def _free(self, ref: weakref.ref[Tls]) -> None:
        self._left.discard(ref)
        self._freed.set()

    async def until_all_are_freed(self) -> None:
        """Wait until nothing refers to any of them."""
        with trio.fail_after(TIMEOUT):
            while self._left:
                await self._freed.wait()
                self._freed = trio.Event()


@contextmanager
def without_collector() -> Iterator[None]:
    """Collect no cyclic garbage."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@asynccontextmanager
async def secure_server(folder: Path) -> AsyncIterator[RunningServer]:
    """Run a server with a certificate for 127.0.0.1."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    config = ServerConfig(
        bind="127.0.0.1:0", store="memory://", certfile=folder / "cert.pem", keyfile=folder / "key.pem"
    )
    async with open_server(config) as server:
        yield server


async def test_an_ended_connection_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory, of which OpenSSL has 50 KB, is freed and does not wait until Python collects cyclic garbage: also
    after failed handshakes, a reset in the middle of an answer, and the sockets of devices and
    subscribers."""
    accepted = Accepted()
    accept = TlsListener.accept

    async def remember(self: TlsListener) -> Tls:
        stream = await accept(self)
        accepted.add(stream)
        return stream

    monkeypatch.setattr(TlsListener, "accept", remember)
    async with secure_server(tmp_path) as server:
        host, port = urlsplit(server.url).hostname or "", urlsplit(server.url).port or 0
        hub = server.service.hub
        await hub.accounts.register("alice", "-")
        token = (await hub.create_device("alice", "d1")).token
        key = (await hub.accounts.create_key("alice")).secret
        notify_url = server.device_url.removesuffix("rpc") + "notify"
        with without_collector():
            for number, behave in enumerate(CLIENTS, 1):
                async with await trio.open_tcp_stream(host, port) as stream:
                    await behave(stream)
                await accepted.until_all_are_freed()
                assert accepted.count == number
            for url, secret in ((server.device_url, token), (notify_url, key)):
                fields = [("Authorization", f"Bearer {secret}")]
                async with trio_websocket.open_websocket_url(url, CONTEXT, extra_headers=fields) as ws:
                    await hub.feed.emit("alice", "online", "d1")  # what a subscriber gets; a device is asked what it is
                    await ws.get_message()
                await accepted.until_all_are_freed()
            assert accepted.count == len(CLIENTS) + 2

"""TLS for the connections of a port, with a certificate that can be replaced while the server runs."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from mdashcore._errors import InvalidInput
from mdashcore.server.http.port_listener import EagerListener, PortListener

__all__ = ["Certificate", "HandshakeTransport", "TlsListener", "release", "shake_hands"]


class Certificate:
    """The files of a certificate and its key, for new connections.

    Raises:
        InvalidInput: the files cannot be read, are not PEM, or do not belong together.
    """

    def __init__(self, certfile: Path, keyfile: Path | None = None) -> None:
        self._certfile = certfile
        self._keyfile = keyfile
        self.context: ssl.SSLContext = self._load()
        """The context for the next TLS handshake. Do not keep it: `reload` makes another one."""

    def reload(self) -> None:
        """Reload the files for later connections. Raises as the class; then nothing changes."""
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # older versions of OpenSSL let clients ask for it without a bound
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certfile, self._keyfile, password=_no_password)
        except OSError as exc:
            fits = "they have to be PEM, and belong together" if isinstance(exc, ssl.SSLError) else exc.strerror
            files = f"{self._certfile} and key {self._keyfile or 'in the same file'}"
            raise InvalidInput(f"certificate {files}: {fits}") from None
        return context


def _no_password() -> str:
    """Return no password. Without it, OpenSSL would ask for an encrypted key's password at the terminal, and wait."""
    return ""


def release(stream: trio.abc.Stream) -> None:
    """Let the memory of a closed stream be freed immediately: a stream with TLS refers to itself by its handshake.

    Python frees such a cycle only after many allocations. OpenSSL's 50 KB of each closed connection, which are not
    counted among them, would wait for that.
    """
    if isinstance(stream, trio.SSLStream):
        with suppress(AttributeError):  # no public name leads there
            del stream._handshook


class HandshakeTransport(trio.abc.Stream):
    """The socket below TLS. During the handshake each step waits for its turn.

    A step takes up to a millisecond. Clients that send their parts of a thousand handshakes in the same moment would
    otherwise have all of them done before any other task runs.
    """

    def __init__(self, below: trio.SocketStream) -> None:
        self.below: trio.SocketStream = below
        self.give_way: Callable[[], Awaitable[None]] | None = None
        """Waits for the turn of the client, as long as the handshake lasts."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive bytes, as `trio.SocketStream`."""
        data = await self.below.receive_some(max_bytes)
        if self.give_way is not None and data:
            await self.give_way()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, as `trio.SocketStream`."""
        await self.below.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room, as `trio.SocketStream`."""
        await self.below.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the socket."""
        await self.below.aclose()


async def shake_hands(stream: trio.SSLStream[HandshakeTransport], give_way: Callable[[], Awaitable[None]]) -> None:
    """Do the TLS handshake. Raises as `trio.SSLStream.do_handshake`.

    Args:
        give_way: waits for the client's turn. It is called before each step.
    """
    transport = stream.transport_stream
    transport.give_way = give_way
    try:
        await stream.do_handshake()
    finally:
        transport.give_way = None  # refers to the stream: a cycle, which is collected late


class TlsListener(EagerListener[trio.SSLStream[HandshakeTransport]]):
    """Accepts connections that speak TLS. The server of a connection does the handshake."""

    def __init__(self, listener: PortListener, certificate: Certificate) -> None:
        self._listener = listener
        self._certificate = certificate

    async def accept(self) -> trio.SSLStream[HandshakeTransport]:
        """Return the next connection."""
        return self._secure(await self._listener.accept())

    def accept_nowait(self) -> trio.SSLStream[HandshakeTransport] | None:
        """Return the next connection, or `None` if there is none yet."""
        stream = self._listener.accept_nowait()
        return None if stream is None else self._secure(stream)

    def _secure(self, stream: trio.SocketStream) -> trio.SSLStream[HandshakeTransport]:
        below = HandshakeTransport(stream)
        return trio.SSLStream(below, self._certificate.context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        """Stop listening."""
        await self._listener.aclose()

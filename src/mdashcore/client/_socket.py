"""A WebSocket to a server: the sans-IO protocol of `websockets` over a stream of anyio."""

from __future__ import annotations

import logging
import ssl
from collections import deque
from typing import Final

import anyio
import anyio.abc
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from mdashcore._errors import MdashError, Unauthenticated
from mdashcore.client._errors import ServerUnreachable, error_of, retry_after, unreachable

__all__ = ["CONNECT_TIMEOUT", "ClientSocket", "open_socket"]

CONNECT_TIMEOUT: Final = 20.0  # seconds: DNS, TCP, TLS and the handshake on a slow mobile link
SEND_TIMEOUT: Final = 10.0  # seconds for a frame of a few bytes: beyond them the connection is dead
PING_INTERVAL: Final = 30.0  # seconds of silence: below the idle time-outs of usual NAT gateways, which start at 60
PING_TIMEOUT: Final = 20.0  # seconds for the answer
LAST_LOOK: Final = 0.05  # seconds: what has come already is read in less
MAX_MESSAGE: Final = 2**20  # bytes: a frame of a device has at most an eighth
READ_SIZE: Final = 2**16  # bytes
GOODBYE_TIMEOUT: Final = 0.5  # seconds for the close frame to go out

POLICY_VIOLATION: Final = 1008
"""The code with which the server closes a socket whose key was revoked, or whose session has ended."""


_frames = logging.getLogger(f"{__name__}.frames")
_frames.setLevel(logging.INFO)  # at DEBUG the library writes headers, and so secrets


class ClientSocket:
    """An open WebSocket, read by one task. Pings are answered, and sent, while a message is awaited."""

    def __init__(self, stream: anyio.abc.ByteStream, protocol: ClientProtocol, server: str) -> None:
        self._stream = stream
        self._protocol = protocol
        self._server = server
        self._messages: deque[bytes] = deque()
        self._parts: list[bytes] = []
        # They outlast a call, because a caller may give up each call after a few seconds.
        self._heard = anyio.current_time()
        self._asked: float | None = None  # when a ping was sent that nothing has come after

    async def receive(self) -> bytes:
        """Return the next message.

        Raises:
            ServerUnreachable: the connection has ended, or the server does not answer a ping.
            Unauthenticated: the server has revoked the credentials.
        """
        self._receive_events()
        while not self._messages:
            due = self._heard + PING_INTERVAL if self._asked is None else self._asked + PING_TIMEOUT
            now = anyio.current_time()
            # After a pause of the caller the time may be over, although there is something to read.
            with anyio.CancelScope(deadline=max(due, now + LAST_LOOK), shield=due <= now) as timer:
                await self._read()
            if not timer.cancelled_caught:
                continue
            if self._asked is not None:
                raise ServerUnreachable(f"{self._server} does not answer any more")
            self._asked = anyio.current_time()
            self._protocol.send_ping(b"")
            await self._flush()
        return self._messages.popleft()

    async def ping(self) -> None:
        """Wait for the answer to a ping, or for a message, which is kept. Raises as `receive`."""
        self._protocol.send_ping(b"?")
        await self._flush()
        self._receive_events()  # those right behind the handshake
        with anyio.move_on_after(PING_TIMEOUT) as timer:
            while not self._messages and b"?" not in await self._read():
                pass
        if timer.cancelled_caught:
            raise ServerUnreachable(f"{self._server} does not answer any more")

    async def _read(self) -> list[bytes]:
        """Read once. Returns the data of the pongs that came."""
        if not self._is_open():
            raise self._ended()
        try:
            data = await self._stream.receive(READ_SIZE)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            self._protocol.receive_eof()
            raise self._ended() from None
        self._heard, self._asked = anyio.current_time(), None
        self._protocol.receive_data(data)
        await self._flush()
        pongs = self._receive_events()
        if not self._is_open() and not self._messages:
            raise self._ended()
        return pongs

    def _receive_events(self) -> list[bytes]:
        """Keep the messages that have come, those right behind the handshake too. Returns the data of pongs."""
        return [pong for event in self._protocol.events_received() if (pong := self._receive_frame(event)) is not None]

    def _receive_frame(self, event: object) -> bytes | None:
        """Keep a message. Returns the data of a pong."""
        if not isinstance(event, Frame):
            return None
        if event.opcode is Opcode.PONG:
            return bytes(event.data)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._parts.append(bytes(event.data))
            if event.fin:
                self._messages.append(b"".join(self._parts))
                self._parts.clear()
        return None

    async def _flush(self, timeout: float = SEND_TIMEOUT) -> None:
        """Send what is to be sent. A cancelled caller waits for it: behind a part of a frame no other can be read."""
        try:
            with anyio.fail_after(timeout, shield=True):
                for data in self._protocol.data_to_send():
                    await (self._stream.send(data) if data else self._stream.send_eof())
        except TimeoutError:
            await anyio.aclose_forcefully(self._stream)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError, NotImplementedError):
            pass  # the next read tells why

    def _is_open(self) -> bool:
        return self._protocol.state is State.OPEN

    def _ended(self) -> MdashError:
        said = self._protocol.close_rcvd
        words = f"{self._server}: {(said and said.reason) or 'the connection is lost'}"
        return Unauthenticated(words) if said and said.code == POLICY_VIOLATION else ServerUnreachable(words)

    async def close(self) -> None:
        """Say goodbye, and close."""
        if self._is_open():
            self._protocol.send_close(1000)
            await self._flush(GOODBYE_TIMEOUT)
        with anyio.CancelScope(shield=True):  # a cancelled caller gets the error because of which it closes
            await anyio.aclose_forcefully(self._stream)


async def open_socket(
    url: str, authorization: str, *, server: str, ssl_context: ssl.SSLContext | None, timeout: float = CONNECT_TIMEOUT
) -> ClientSocket:
    """Connect. The caller closes the socket.

    Args:
        url: ws or wss.
        authorization: the value of that header.
        server: the server's name in errors.
        ssl_context: for wss, the certificates to trust.
        timeout: seconds until the handshake is done.

    Raises:
        MdashError: the server refuses, as `error_of` has it.
        ServerUnreachable: there is no server, or it is not trusted, or its answer cannot be read.
    """
    stream: anyio.abc.ByteStream | None = None
    uri = parse_uri(url)
    protocol = ClientProtocol(uri, max_size=MAX_MESSAGE, logger=_frames)
    try:
        with anyio.fail_after(timeout):
            if uri.secure:
                context = ssl_context or ssl.create_default_context()
                stream = await anyio.connect_tcp(
                    uri.host, uri.port, tls=True, ssl_context=context, tls_standard_compatible=False
                )
            else:
                stream = await anyio.connect_tcp(uri.host, uri.port)
            await _shake_hands(stream, protocol, authorization)
        return ClientSocket(stream, protocol, server)
    except BaseException as exc:
        if stream is not None:
            await anyio.aclose_forcefully(stream)
        if isinstance(exc, TimeoutError):
            raise ServerUnreachable(f"{server} does not answer within {timeout:g} s") from None
        if isinstance(exc, InvalidStatus):
            answer = exc.response
            seconds = retry_after(answer.headers.get("Retry-After"))
            raise error_of(answer.status_code, bytes(answer.body or b""), seconds) from None
        if isinstance(exc, (OSError, anyio.BrokenResourceError, anyio.EndOfStream)):
            raise unreachable(server, exc) from exc
        raise


async def _shake_hands(stream: anyio.abc.ByteStream, protocol: ClientProtocol, authorization: str) -> None:
    """Send the handshake, and read its answer. Raises the protocol's error if it is refused."""
    request = protocol.connect()
    request.headers["Authorization"] = authorization
    protocol.send_request(request)
    for data in protocol.data_to_send():
        await stream.send(data)
    while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
        try:
            protocol.receive_data(await stream.receive(READ_SIZE))
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            protocol.receive_eof()  # the end of an answer without a length
            if not isinstance(protocol.handshake_exc, InvalidStatus):
                raise OSError("the server hangs up instead of answering") from None
    if isinstance(protocol.handshake_exc, InvalidStatus):
        raise protocol.handshake_exc
    if protocol.handshake_exc is not None:
        raise OSError(f"the server's answer is not understood: {protocol.handshake_exc}")

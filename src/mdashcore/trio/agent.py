"""The device's end: it dials a server, keeps the connection, and answers calls. A gateway in Python uses it too.

::

    async def handle(method: str, params: Any) -> Any:
        if method == "GPIO.Toggle":
            return {"value": toggle(params["pin"])}
        raise RpcError(404, f"No handler for {method}")

    async with open_agent("wss://mdash.example/api/v2/rpc", token, handle) as agent:
        await agent.wait_connected()
        agent.notify("Dash.Shadow.Update", {"state": {"reported": {"on": True}}})
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from math import inf
from typing import Any, Final, Protocol

import trio
import trio_websocket

from mdashcore import jsonrpc
from mdashcore._connection import Connection
from mdashcore._connection_limits import ConnectionLimits
from mdashcore._errors import DeviceOffline, InvalidInput, MdashError, RpcError, Unauthenticated
from mdashcore._events import FrameRejected, RequestReceived
from mdashcore.trio.background import Backoff
from mdashcore.trio.connections.link import Link, PeerEvent
from mdashcore.trio.transport.client_websocket import Refused, open_socket

__all__ = ["Agent", "Backoff", "Handler", "Wire", "open_agent"]

_log = logging.getLogger(__name__)

Handler = Callable[[str, Any], Awaitable[Any]]
"""Answers (method, params) with a JSON value, or raises `RpcError`."""

PING_INTERVAL: Final = 30.0  # seconds: below the idle time-outs of usual NAT gateways, which start at 60

PING_TIMEOUT: Final = 20.0  # seconds for the pong: a slow mobile link, as in dialling

MAX_LOGGED_FRAMES: Final = 8  # frames of one connection that cannot be read: more of them have no news

MAX_RETRY_AFTER: Final = 600.0  # seconds until the next try at most, even if a server asks for more

DISCONNECT_TIMEOUT: Final = 2.0  # seconds for the closing handshake


class Wire(Protocol):
    """The encoding of messages as frames, for devices with defects of their own."""

    def frames(self, message: str) -> Iterable[str]:
        """Return the text frames in which a message is sent."""

    def answers(self, message: str) -> Iterable[str]:
        """Return the frames to send because a message was received, before it is handled."""


class _ClientStream:
    """A `MessageStream` on a connection of trio-websocket."""

    def __init__(self, ws: trio_websocket.WebSocketConnection, wire: Wire | None) -> None:
        self._ws = ws
        self._wire = wire
        self._goodbye: tuple[int, str] | None = None
        self._cancel = trio.CancelScope()
        self.on_control: Callable[[], None] = lambda: None

    @property
    def control_pending(self) -> bool:
        return self._goodbye is not None

    @property
    def peer_reason(self) -> str:
        """The reason that the peer gave for closing, even if the writer noticed it before the reader."""
        closed = self._ws.closed
        return (closed and closed.reason) or ""

    async def receive(self) -> bytes | None:
        with trio.CancelScope() as scope:
            if self._cancel.cancel_called:
                return None
            self._cancel = scope
            try:
                message = await self._ws.get_message()
                if self._wire is not None and isinstance(message, str):
                    for frame in self._wire.answers(message):
                        await self._ws.send_message(frame)
            except trio_websocket.ConnectionClosed:
                return None
            return message.encode() if isinstance(message, str) else bytes(message)
        return None

    async def send(self, messages: Sequence[bytes]) -> None:
        try:
            for message in messages:
                text = message.decode()
                for frame in (text,) if self._wire is None else self._wire.frames(text):
                    await self._ws.send_message(frame)
            if self._goodbye is not None:
                (code, reason), self._goodbye = self._goodbye, None
                with trio.move_on_after(DISCONNECT_TIMEOUT):
                    await self._ws.aclose(code, reason)
                self.abort()
        except (trio_websocket.ConnectionClosed, trio.ClosedResourceError) as exc:
            raise trio.BrokenResourceError("the connection is closed") from exc

    def close(self, code: int, reason: str) -> None:
        self._goodbye = (code, reason)
        self.on_control()

    def abort(self) -> None:
        self._cancel.cancel()


class Agent:
    """A device that stays connected. Make it with `open_agent`.

    Args:
        handle: answers the server's requests.
        workers: requests that are answered at the same time. One worker keeps their order, as devices do, and as
            appending to a file needs it. A gateway whose handlers wait for other systems may want more.
        on_notification: handles the server's notifications, one after the other.
        hello: returns the notifications to send first on every new connection.
        wire: encodes messages in other frames, as a device with a defect does.
    """

    def __init__(
        self,
        url: str,
        token: str,
        handle: Handler,
        *,
        on_notification: Handler | None = None,
        hello: Callable[[], Iterable[tuple[str, Any]]] = tuple,
        workers: int = 1,
        ssl_context: ssl.SSLContext | None = None,
        backoff: Backoff = Backoff(),
        limits: ConnectionLimits = ConnectionLimits(),
        wire: Wire | None = None,
    ) -> None:
        if not url.startswith(("ws://", "wss://")):
            raise InvalidInput(f"a device dials ws:// or wss://, not {url!r}")
        self.url = url
        self._token = token
        self._handle = handle
        self._on_notification = on_notification
        self._hello = hello
        self._workers = workers
        self._ssl_context = ssl_context
        self._backoff = backoff
        self._limits = limits
        self._wire = wire
        self._link: Link | None = None
        self._connected = trio.Event()
        self._ended_here = False  # whether `disconnect` has ended the present connection
        self._since = inf  # start of the present connection: a long dial does not count as a stable connection

    @property
    def connected(self) -> bool:
        """Whether there is a live connection now."""
        return self._link is not None

    async def wait_connected(self) -> None:
        """Wait until there is a live connection, or return immediately if there is one."""
        await self._connected.wait()

    async def call(self, method: str, params: object = None, *, timeout: float = 10.0) -> Any:
        """Call the server. Raises `DeviceOffline` without a connection, `RpcError`, `InvalidAnswer`, `CallTimeout`."""
        return jsonrpc.loads(await self._live().call(method, params, timeout=timeout))

    def notify(self, method: str, params: object = None) -> None:
        """Send a notification to the server. Raises `DeviceOffline` without a connection."""
        self._live().notify(method, params)

    def disconnect(self, reason: str = "") -> None:
        """End the present connection, if there is one. The agent dials again.

        This does not count as a failure: the wait before the dial is the first of its `Backoff`, even after a short
        connection.
        """
        if self._link is not None:
            self._ended_here = True
            self._link.close(1000, reason)

    async def run(self) -> None:
        """Dial, serve, and dial again, until cancelled.

        Raises:
            Unauthenticated: the server refuses the token.
        """
        failures = 0
        while True:
            self._since = inf
            self._ended_here = False
            why: list[BaseException] = []
            reason = ""
            try:
                reason = await self._session()
            except* (OSError, trio_websocket.ConnectionClosed) as group:
                why += _leaves(group)
            if any(isinstance(exc, Refused) and exc.status == HTTPStatus.UNAUTHORIZED for exc in why):
                raise Unauthenticated("the server refuses the token")
            _log.info("no connection to %s: %s", self.url, "; ".join(map(str, why)) or reason or "closed")
            lasted = trio.current_time() - self._since
            failures = 1 if self._ended_here or lasted >= self._backoff.stable else failures + 1
            asked = max((exc.retry_after for exc in why if isinstance(exc, Refused)), default=0.0)
            await trio.sleep(max(self._backoff.delay(failures), min(asked, MAX_RETRY_AFTER)))

    async def _session(self) -> str:
        """Serve one connection, from the dial to its end. Returns the server's reason for the end, or an empty text."""
        async with open_socket(
            self.url,
            f"Bearer {self._token}",
            max_message=self._limits.max_message,
            ssl_context=self._ssl_context,
        ) as ws:
            self._since = trio.current_time()
            async with trio.open_nursery() as nursery:
                stream = _ClientStream(ws, self._wire)
                link = Link(
                    stream,
                    spawn=nursery.start_soon,
                    connection=Connection(self._limits),
                    on_rejected=_log_rejected,
                )
                for method, params in self._hello():
                    link.notify(method, params)
                nursery.start_soon(_keep_alive, ws, link)
                # The connection itself never accepts more requests than this channel has room for.
                queue, requests = trio.open_memory_channel[RequestReceived](self._limits.max_requests)
                for _ in range(self._workers):
                    nursery.start_soon(self._work, link, requests)
                self._link = link
                self._connected.set()
                try:
                    await link.run(lambda event: self._on_event(queue, event))
                finally:
                    self._link = None
                    self._connected = trio.Event()
                nursery.cancel_scope.cancel()
        return stream.peer_reason

    async def _on_event(self, queue: trio.MemorySendChannel[RequestReceived], event: PeerEvent) -> None:
        if isinstance(event, RequestReceived):
            queue.send_nowait(event)
        elif self._on_notification is not None:
            try:
                await self._on_notification(event.method, _value(event.params))
            except MdashError as exc:
                _log.warning("%s from the server: %s", event.method, exc)
            except Exception:
                _log.exception("the handler of %s failed", event.method)

    async def _work(self, link: Link, requests: trio.MemoryReceiveChannel[RequestReceived]) -> None:
        async for request in requests:
            await self._answer(link, request)

    async def _answer(self, link: Link, request: RequestReceived) -> None:
        try:
            result = await self._handle(request.method, _value(request.params))
            link.reply(request.ref, result)
        except RpcError as exc:
            link.reply_error(request.ref, exc)
        except MdashError as exc:
            link.reply_error(request.ref, RpcError(jsonrpc.INTERNAL_ERROR, str(exc)))
        except Exception:
            _log.exception("the handler of %s failed", request.method)
            link.reply_error(request.ref, RpcError(jsonrpc.INTERNAL_ERROR, "Internal error"))

    def _live(self) -> Link:
        if self._link is None:
            raise DeviceOffline("not connected to the server")
        return self._link


async def _keep_alive(ws: trio_websocket.WebSocketConnection, link: Link) -> None:
    while True:
        await trio.sleep(PING_INTERVAL)
        try:
            with trio.fail_after(PING_TIMEOUT):
                await ws.ping()
        except (trio.TooSlowError, trio_websocket.ConnectionClosed):
            link.abort()
            return


def _log_rejected(event: FrameRejected) -> None:
    if event.number <= MAX_LOGGED_FRAMES:
        _log.warning("a frame of the server is not taken: %s", event.reason)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the exceptions of a group as a flat list."""
    leaves: list[BaseException] = []
    for exc in group.exceptions:
        leaves += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return leaves


def _value(params: bytes | None) -> Any:
    return None if params is None else jsonrpc.loads(params)


@asynccontextmanager
async def open_agent(url: str, token: str, handle: Handler, **options: Any) -> AsyncIterator[Agent]:
    """Open an agent that runs until the context ends. The options are those of `Agent`."""
    agent = Agent(url, token, handle, **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.run)
        yield agent
        nursery.cancel_scope.cancel()

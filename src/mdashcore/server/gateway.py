"""One port for everything: sockets are served here, on the stream itself; the rest is handed to Hypercorn.

Hypercorn's own WebSockets have no pong time-out, always compress, and buffer without a bound; and a stream that nobody
reads keeps Hypercorn from ending. So the gateway keeps every stream in its own hand.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from mdashcore import _json
from mdashcore._errors import InvalidInput, MdashError, NotFound, Unauthenticated, status_of
from mdashcore.server import problems
from mdashcore.server.asgi import LINGER, App, Receive, Scope, Send, refuse_socket, respond_error
from mdashcore.server.auth import Browser, Principal, bearer, query_value
from mdashcore.server.conversation import Conversation
from mdashcore.server.lane import KEEP_ALIVE, Lane, Next
from mdashcore.server.service import Service
from mdashcore.trio.inflow import Inflow
from mdashcore.trio.link import POLICY_VIOLATION, TRY_AGAIN_LATER
from mdashcore.trio.notify import Listener
from mdashcore.trio.stream import close_now
from mdashcore.trio.websocket import READ_SIZE, SEND_TIMEOUT, Request, ServerWebSocket

__all__ = ["DEVICE_PATH", "NOTIFY_PATH", "Gateway"]

_log = logging.getLogger(__name__)

DEVICE_PATH: Final = "/api/v2/rpc"
NOTIFY_PATH: Final = "/api/v2/notify"

MAX_HEAD: Final = 2**14  # bytes of a request's head: as Hypercorn's own limit
HEAD_TIMEOUT: Final = 10.0  # seconds for the first byte, for the head of a handshake, and for TLS
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_HEAD_START: Final = re.compile(rb"[A-Z]{0,20}(?: |\Z)")  # what is no method is Hypercorn's to refuse, at once
SESSION_CHECK: Final = 300.0  # seconds between two looks whether a socket's session goes on; also counts as its use
GRACE: Final = 2.0  # seconds that running requests have when the server goes down


Serve: TypeAlias = Callable[[], Awaitable[None]]
"""Serves a socket to its end."""


class _Socket(NamedTuple):
    """What a connection has become by its handshake."""

    ws: ServerWebSocket
    serve: Serve
    """Does nothing where the handshake was refused."""


class Gateway:
    """Serves connections.

    Args:
        app: answers what is no socket; without one, that is 404.
    """

    def __init__(self, service: Service, app: App | None = None) -> None:
        self._service = service
        self._app = app
        self._context = WorkerContext(None)
        self._config = HypercornConfig()
        self._config.keep_alive_timeout = KEEP_ALIVE
        self._config.h11_max_incomplete_size = MAX_HEAD
        self._config.include_server_header = False
        self._config.ssl_handshake_timeout = HEAD_TIMEOUT
        self._config.accesslog = None
        self._config.errorlog = _log
        self._streams: set[trio.abc.Stream] = set()
        self._heads: set[trio.CancelScope] = set()
        self._lane = Lane(service, lambda value: service.authenticator.authenticate(value))

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        stop: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` is set; then end within seconds, whatever the clients do."""
        async with trio.open_nursery() as guards:
            guards.start_soon(self._lane.watch)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(_serve_listeners, self.handle, listeners, connections)
                    task_status.started()
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                self._lane.close()
                await self._context.terminated.set()  # Hypercorn: close idle connections, finish running requests
                for head in self._heads:
                    head.cancel()
                connections.cancel_scope.deadline = trio.current_time() + GRACE
                guards.start_soon(self._cut_off, connections.cancel_scope.deadline)
                await self._service.node.shut_down()
            guards.cancel_scope.cancel()

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection, from its first byte to its end. Never raises but when cancelled."""
        self._streams.add(stream)
        inflow = Inflow(stream, READ_SIZE)
        try:
            if (socket := await self._converse(stream, inflow)) is not None:
                try:
                    await socket.serve()
                except MdashError as exc:
                    _log.error("a socket failed: %s", exc)
                    socket.ws.close(TRY_AGAIN_LATER, "storage is not available")
                    await socket.ws.send([])
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, ssl.SSLError):
            pass
        except Exception:
            _log.exception("a connection failed")
        finally:
            self._streams.discard(stream)
            inflow.close()
            await close_now(stream)

    async def _converse(self, stream: trio.abc.Stream, inflow: Inflow) -> _Socket | None:
        """Answer requests as long as they are plain; what is not goes elsewhere, with all that follows it.

        Returns:
            the socket that it has become, if any: an idle device keeps nothing of how it came.
        """
        data, judge = b"", Next.READ
        with trio.CancelScope(deadline=trio.current_time() + HEAD_TIMEOUT) as scope:
            if isinstance(stream, trio.SSLStream):
                with _member(self._heads, scope):
                    await stream.do_handshake()
                if stream.selected_alpn_protocol() == "h2":
                    judge = Next.ELSEWHERE
            conversation = Conversation(stream, inflow, scope)
            while judge is Next.READ:
                data = await self._read_head(conversation, data)
                if not data:
                    break
                if not conversation.used and _wants_socket(data):
                    scope.deadline = inf
                    if (socket := await self._shake_hands(conversation, data)) is not None:
                        return socket
                data, judge = await self._lane.take(conversation, data)
            scope.deadline = inf
            if judge is Next.ELSEWHERE:
                await self._hand_over(stream, data + inflow.close())
            elif judge is Next.END:
                await conversation.part()
        return None

    async def _read_head(self, conversation: Conversation, head: bytes) -> bytes:
        """The bytes that came until a request's head was complete, or could not become one; nothing if none came.

        Args:
            head: those that are there already.
        """
        scope = conversation.scope
        if not head:
            scope.deadline = inf
            head = await self._lane.rest(conversation, KEEP_ALIVE if conversation.used else HEAD_TIMEOUT)
            if not head:
                return b""
        scope.deadline = trio.current_time() + HEAD_TIMEOUT
        while not _HEAD_END.search(head) and len(head) <= MAX_HEAD and _HEAD_START.match(head):
            if self._lane.closing.is_set():
                return b""
            with _member(self._heads, scope):
                data = await conversation.inflow.receive()
            if not data:
                return b""
            head += data
        return b"" if self._lane.closing.is_set() else head

    async def _shake_hands(self, conversation: Conversation, head: bytes) -> _Socket | None:
        """Answer the handshake that a connection begins with; None if it is no handshake at all."""
        ws = ServerWebSocket(conversation.stream, inflow=conversation.inflow)
        request = ws.feed(head)
        if request is None:
            return None
        path, _, query = request.path.partition("?")
        try:
            serve = await (self._device(ws, request) if path == DEVICE_PATH else self._listener(ws, request, query))
        except MdashError as exc:
            await _refuse(conversation, exc, from_page="Origin" in request.headers)
            return _Socket(ws, _nothing)
        return _Socket(ws, serve if await ws.accept(request) else _nothing)

    async def _device(self, ws: ServerWebSocket, request: Request) -> Serve:
        device = await self._service.hub.registry.authenticate(bearer(_authorization(request)))
        return partial(self._service.node.serve_device, device, ws)

    async def _listener(self, ws: ServerWebSocket, request: Request, query: str) -> Serve:
        browser = Browser.of(lambda name: ", ".join(request.headers.get_all(name)) or None, safe=False)
        credentials = _authorization(request), query, browser
        authenticate = partial(self._service.authenticator.authenticate, *credentials)
        principal = await authenticate()
        feed = self._service.hub.feed
        start = _start(query)
        if start is None:
            start = await feed.end(principal.account)  # before the client is told that it listens
        listener = Listener(feed, principal.account, ws, key=principal.revocable, start=start)
        serve = partial(self._service.node.serve_listener, listener, authenticate=authenticate)
        return serve if principal.session is None else partial(_with_session, serve, authenticate, ws)

    async def _hand_over(self, stream: trio.abc.Stream, head: bytes) -> None:
        app = ASGIWrapper(cast(Any, self._app or _no_app))
        replayed = cast(Any, _Replayed(stream, head))
        await TCPServer(app, self._config, self._context, ConnectionState({}), replayed).run()

    async def _cut_off(self, deadline: float) -> None:
        """Close the streams under those who cannot be cancelled: Hypercorn shields its writing."""
        await trio.sleep_until(deadline)
        for stream in tuple(self._streams):
            await trio.aclose_forcefully(stream)


class _Replayed(trio.abc.HalfCloseableStream):
    """A stream that gives again what was read from it already, and gives up on a peer that does not read."""

    def __init__(self, stream: Any, head: bytes) -> None:
        self._stream = stream
        self._head = head
        self._sending = trio.Lock()  # Hypercorn closes in one task while it answers in another

    def __getattr__(self, name: str) -> Any:  # what Hypercorn looks at to see whether there is TLS
        return getattr(self._stream, name)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return cast(bytes, await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._sending:
            with trio.move_on_after(SEND_TIMEOUT) as timer:
                await self._stream.send_all(data)
        if timer.cancelled_caught:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the peer does not read")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        async with self._sending:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextmanager
def _member(group: set[trio.CancelScope], scope: trio.CancelScope) -> Iterator[None]:
    """Have a scope in a set for as long as it is in use."""
    group.add(scope)
    try:
        yield
    finally:
        group.discard(scope)


async def _serve_listeners(handler: Any, listeners: Sequence[Any], connections: trio.Nursery) -> None:
    await trio.serve_listeners(handler, list(listeners), handler_nursery=connections)


def _wants_socket(head: bytes) -> bool:
    line, _, fields = head.partition(b"\r\n")
    path = line.split(b" ")[1].partition(b"?")[0] if line.startswith(b"GET ") else b""
    return path in (DEVICE_PATH.encode(), NOTIFY_PATH.encode()) and b"\r\nupgrade:" in b"\r\n" + fields.lower()


def _authorization(request: Request) -> str | None:
    """The header's value; of several, their list (RFC 9110, section 5.3), which is valid for nothing."""
    return ", ".join(request.headers.get_all("Authorization")) or None


def _start(query: str) -> int | None:
    value = query_value(query, "start")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise InvalidInput("start is the offset of a notification")
    return int(value)


async def _with_session(
    serve: Callable[[], Awaitable[None]], authenticate: Callable[[], Awaitable[Principal]], ws: ServerWebSocket
) -> None:
    """Serve for as long as the session goes on: its time may be over while the socket is open."""

    async def watch() -> None:
        while True:
            await trio.sleep(SESSION_CHECK)
            try:
                await authenticate()
            except Unauthenticated:
                ws.close(POLICY_VIOLATION, "the session has ended")
                return
            except MdashError as exc:
                _log.warning("a session could not be checked, trying again: %s", exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await serve()
        nursery.cancel_scope.cancel()


async def _refuse(conversation: Conversation, error: MdashError, *, from_page: bool) -> None:
    """Answer a handshake with an error: as little work as possible, for devices that dial in a busy loop."""
    body = _json.encode(problems.body(error))
    fields = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **problems.headers(error, from_page=from_page),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with trio.fail_after(LINGER):
        await conversation.stream.send_all(f"HTTP/1.1 {status_of(error)} \r\n{lines}\r\n".encode() + body)
    await conversation.part()


async def _nothing() -> None:
    """There is nothing left to do."""


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond_error(receive, send, NotFound("only sockets are served here"), unread=True)
    elif scope["type"] == "websocket":
        await refuse_socket(receive, send)

"""One port for everything: WebSockets are served here, on the stream itself, and HTTP requests go through the lanes.

One loop waits for the requests of a connection and reads their heads. A handshake turns the connection into a
WebSocket, whatever it has carried before. The fast lane answers plain requests, the slow lane answers all others.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias

import trio

from mdashcore import _json, identity
from mdashcore._errors import InvalidInput, MdashError, NotFound, Unauthenticated, status_of
from mdashcore.server import errors
from mdashcore.server.api.sockets import DEVICE_PATH, NOTIFY_PARAMETERS, NOTIFY_PATH
from mdashcore.server.asgi import LINGER, App, Receive, Scope, Send, respond_error
from mdashcore.server.auth import Browser, Principal, SessionCookie, bearer
from mdashcore.server.http.accept import Acceptor
from mdashcore.server.http.connection import HttpConnection
from mdashcore.server.http.connections import Connections
from mdashcore.server.http.forwarded import Client, peer_of
from mdashcore.server.http.request_id import current
from mdashcore.server.http.root_path import Elsewhere, RootPath
from mdashcore.server.immediate import ImmediateLane, ImmediateLink
from mdashcore.server.lanes.fast_lane import KEEP_ALIVE, FastLane, Next
from mdashcore.server.lanes.slow_lane import MAX_FIELDS, MAX_HEAD, SlowLane, refusal
from mdashcore.server.query import check_query, query_value
from mdashcore.server.service import Service
from mdashcore.server.traffic import responses
from mdashcore.storage import INSTANT
from mdashcore.trio.connections.link import POLICY_VIOLATION, TRY_AGAIN_LATER, Link
from mdashcore.trio.connections.subscribers import Subscriber
from mdashcore.trio.transport.handshake import Request
from mdashcore.trio.transport.readiness import Inflow
from mdashcore.trio.transport.server_websocket import ServerWebSocket
from mdashcore.trio.transport.skipped import MAX_SKIPPED
from mdashcore.trio.transport.stream import READ_SIZE, close_now

__all__ = ["DEVICE_PATH", "NOTIFY_PATH", "Gateway"]

_log = logging.getLogger(__name__)

HEAD_TIMEOUT: Final = 10.0  # seconds for the first byte, for the head of a request, and for TLS
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_HEAD_START: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{0,20}(?: |\Z)")  # others are refused immediately
SESSION_CHECK: Final = 300.0  # seconds between two checks whether a socket's session still exists; a check counts as a
# use of the session
SHUTDOWN_GRACE: Final = 2.0  # seconds that running requests have when the server goes down


Serve: TypeAlias = Callable[[], Awaitable[None]]
"""Serves a socket to its end."""


class _Socket(NamedTuple):
    """The socket that a connection has become by its handshake."""

    ws: ServerWebSocket
    serve: Serve
    """Serves the socket. Does nothing if the handshake was refused."""


class Gateway:
    """Serves connections.

    Args:
        app: answers HTTP requests. Without an app they are answered with 404.
        sockets: whether devices and subscribers may connect. If not, a handshake is answered with 426.
        only_app: whether the app answers all requests, with their whole paths. There are no sockets then.
    """

    def __init__(
        self, service: Service, app: App | None = None, *, sockets: bool = True, only_app: bool = False
    ) -> None:
        self._service = service
        self._sockets = sockets and not only_app
        self._streams: set[trio.abc.Stream] = set()
        self._connections = Connections()
        self._heads: set[trio.CancelScope] = set()
        root = "" if only_app else service.settings.root_path
        self._root = RootPath(root)
        is_instant = INSTANT in service.hub.backend.capabilities
        lane_type, self._link_type = (ImmediateLane, ImmediateLink) if is_instant else (FastLane, Link)
        self._lane = lane_type(service, lambda value: service.authenticator.authenticate(value), is_open=not only_app)
        self._ids = self._lane.ids
        self._slow_lane = SlowLane(app or _no_app, self._lane.closing, root)

    @property
    def connections(self) -> int:
        """The number of open connections that have not become WebSockets."""
        return len(self._connections)

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        stop: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` is set. Then end within seconds, whatever the clients do."""
        async with trio.open_nursery() as guards:
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    acceptor = Acceptor(self.handle, lambda: self._connections.make_room(trio.current_time()))
                    for listener in listeners:
                        accepting.start_soon(acceptor.run, listener, connections)
                    task_status.started()
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                self._lane.close()
                for head in self._heads:
                    head.cancel()
                connections.cancel_scope.deadline = trio.current_time() + SHUTDOWN_GRACE
                guards.start_soon(self._cut_off, connections.cancel_scope.deadline)
                await self._service.node.shut_down()
            guards.cancel_scope.cancel()

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection, from its first byte to its end. Raises nothing except when cancelled."""
        self._streams.add(stream)
        inflow = Inflow(stream, READ_SIZE)
        try:
            if (socket := await self._serve_http(stream, inflow)) is not None:
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

    async def _serve_http(self, stream: trio.abc.Stream, inflow: Inflow) -> _Socket | None:
        """Answer plain requests in the fast lane. Pass any other request, with the bytes that follow, to its handler.

        Returns:
            The socket that the connection has become, if any. An idle device keeps nothing of the requests before it.
        """
        with trio.CancelScope(deadline=trio.current_time() + HEAD_TIMEOUT) as scope:
            connection = HttpConnection(stream, inflow, scope)
            with self._connections.member(connection):
                return await self._answer_requests(connection)
        return None

    async def _answer_requests(self, connection: HttpConnection) -> _Socket | None:
        scope, stream = connection.scope, connection.stream
        if isinstance(stream, trio.SSLStream):
            with _member(self._heads, scope), connection.waiting():
                await stream.do_handshake()
        data, judge = b"", Next.READ
        while judge is not Next.END and (data := await self._read_head(connection, data)):
            connection.request_id = self._ids.begin(stream, data)
            below = self._root.strip(data)
            if below is None:
                await connection.send(_elsewhere(self._root.elsewhere(data)))
                judge = Next.END
                continue
            data = below
            if self._sockets and _wants_socket(data):
                scope.deadline = inf
                if (socket := await self._handshake(connection, data)) is not None:
                    return socket
                judge = Next.ELSEWHERE
            else:
                data, judge = await self._lane.answer(connection, data)
            if judge is Next.ELSEWHERE:
                scope.deadline = inf
                data, judge = await self._slow_lane.answer(connection, data)
        if judge is Next.END:
            scope.deadline = inf
            await connection.linger()
        return None

    async def _read_head(self, connection: HttpConnection, head: bytes) -> bytes:
        """Return the bytes up to the end of a request's head; fewer if they cannot become one, none at the end.

        Args:
            head: the bytes that were read already.
        """
        scope = connection.scope
        head = head.lstrip(b"\r\n")  # RFC 9112, section 2.2: some clients end a body with an empty line
        if not head:
            scope.deadline = inf
            head = await self._lane.wait_for_request(connection, KEEP_ALIVE if connection.used else HEAD_TIMEOUT)
            if not head:
                return b""
        scope.deadline = trio.current_time() + HEAD_TIMEOUT
        while True:
            end = _HEAD_END.search(head, 0, MAX_HEAD)
            if head.count(b"\n", 0, end.start() if end else MAX_HEAD) > MAX_FIELDS:  # the first line has no field
                await self._refuse_head(connection, head, f"the head of a request has {MAX_FIELDS} fields at most")
                return b""
            if end is not None or not _HEAD_START.match(head):
                break
            if len(head) >= MAX_HEAD:
                await self._refuse_head(connection, head, f"the head of a request has {MAX_HEAD} bytes at most")
                return b""
            if self._lane.closing.is_set():
                return b""
            with _member(self._heads, scope):
                data = await connection.receive()
            if not data:
                return b""
            head = (head + data).lstrip(b"\r\n")
        return b"" if self._lane.closing.is_set() else head

    async def _refuse_head(self, connection: HttpConnection, head: bytes, words: str) -> None:
        connection.request_id = self._ids.begin(connection.stream, head)
        await connection.send(refusal(431, words))
        await connection.linger()

    async def _handshake(self, connection: HttpConnection, head: bytes) -> _Socket | None:
        """Answer a handshake. Returns `None` if the bytes cannot be read as one."""
        ws = ServerWebSocket(connection.stream, inflow=connection.inflow)
        request = ws.feed(head)
        if request is None:
            return None
        path, _, query = request.path.partition("?")
        try:
            if path == DEVICE_PATH:
                serve = await self._device(ws, request, query)
            else:
                serve = await self._subscriber(ws, request, query, self._client(connection.stream, request))
        except MdashError as exc:
            await _refuse(connection, exc, from_page="Origin" in request.headers)
            return _Socket(ws, _nothing)
        connection.set_unread_timeout(0)  # a WebSocket has pings
        accepted = await ws.accept(request, {"X-Request-Id": connection.request_id})
        responses[101 if accepted else 400] += 1
        current.set("")  # what the socket does is not done for the handshake any more
        return _Socket(ws, serve if accepted else _nothing)

    async def _device(self, ws: ServerWebSocket, request: Request, query: str) -> Serve:
        token = bearer(_authorization(request))
        self._service.node.devices.conduct.check(identity.hash_token(token), trio.current_time())
        device = await self._service.hub.registry.authenticate(token)
        ws.owner = device.account
        check_query(query, ())
        ws.limit(self._service.node.devices.limits.max_message, MAX_SKIPPED)
        return partial(self._service.node.devices.serve, device, ws, self._link_type)

    def _client(self, stream: trio.abc.Stream, request: Request) -> Client:
        scheme = "https" if isinstance(stream, trio.SSLStream) else "http"
        return self._service.proxies.client(peer_of(stream), scheme, partial(_field, request))

    async def _subscriber(self, ws: ServerWebSocket, request: Request, query: str, client: Client) -> Serve:
        browser = Browser.of(
            partial(_field, request),
            safe=False,
            cookie=SessionCookie.of(client.scheme, self._service.settings.root_path),
        )
        credentials = _authorization(request), query, browser, client.address
        authenticate = partial(self._service.authenticator.authenticate, *credentials)
        principal = await authenticate()
        if principal.session is None:  # a browser hides an answer from its page: there `serve` closes with the reason
            self._service.node.subscribers.check_room(principal.account)
        ws.owner = principal.account
        check_query(query, NOTIFY_PARAMETERS)
        feed = self._service.hub.feed
        start = _start(query)
        if start is None:
            start = await feed.end(principal.account)  # before the client is told that it is subscribed
        subscriber = Subscriber(feed, principal.account, ws, key=principal.revocable, start=start)
        serve = partial(self._service.node.subscribers.serve, subscriber, authenticate=authenticate)
        return serve if principal.session is None else partial(_with_session, serve, authenticate, ws)

    async def _cut_off(self, deadline: float) -> None:
        """Close the streams at the deadline, also under code that shields its reads or writes from cancellation."""
        await trio.sleep_until(deadline)
        for stream in tuple(self._streams):
            await trio.aclose_forcefully(stream)


@contextmanager
def _member(group: set[trio.CancelScope], scope: trio.CancelScope) -> Iterator[None]:
    """Keep a scope in a set as long as the context lasts."""
    group.add(scope)
    try:
        yield
    finally:
        group.discard(scope)


def _elsewhere(found: Elsewhere) -> bytes:
    """Return the answer to a request that is not below the root path."""
    answer = refusal(found.status, found.words, **found.headers)
    return answer if found.has_body else answer[: answer.index(b"\r\n\r\n") + 4]


def _wants_socket(head: bytes) -> bool:
    line, _, fields = head.partition(b"\r\n\r\n")[0].partition(b"\r\n")
    path = line.split(b" ")[1].partition(b"?")[0] if line.startswith(b"GET ") else b""
    return path in (DEVICE_PATH.encode(), NOTIFY_PATH.encode()) and b"\r\nupgrade:" in b"\r\n" + fields.lower()


def _field(request: Request, name: str) -> str | None:
    """Return a header's value; the values of several fields as a list (RFC 9110, section 5.3)."""
    return ", ".join(request.headers.get_all(name)) or None


def _authorization(request: Request) -> str | None:
    """Return the value of `Authorization`; the values of several fields as a list, which is never valid."""
    return _field(request, "Authorization")


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
    """Serve as long as the session lasts. It may expire while the socket is open."""

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

    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            await serve()
        except Exception as exc:  # raised below, because exceptions leave a nursery as a group
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _refuse(connection: HttpConnection, error: MdashError, *, from_page: bool) -> None:
    """Answer a handshake with an error. The answer costs little work, because devices may dial in a busy loop."""
    body = _json.encode(errors.body(error))
    responses[status_of(error)] += 1
    fields = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": connection.request_id,
        **errors.headers(error, from_page=from_page),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with trio.fail_after(LINGER):
        await connection.stream.send_all(f"HTTP/1.1 {status_of(error)} \r\n{lines}\r\n".encode() + body)
    await connection.linger()


async def _nothing() -> None:
    """Do nothing. A refused handshake is served with this."""


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond_error(send, NotFound("only sockets are served here"), unread=True)

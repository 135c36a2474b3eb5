"""One port for everything: WebSockets are served here, on the stream itself, and HTTP requests go through the lanes.

One loop waits for the requests of a connection and reads their heads. A handshake turns the connection into a
WebSocket, whatever it has carried before. The fast lane answers plain requests, the slow lane answers all others.
"""

from __future__ import annotations

import logging
import re
import resource
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any, Final

import trio

from mdashcore._errors import MdashError, NotFound
from mdashcore.server.api.sockets import DEVICE_PATH, NOTIFY_PATH
from mdashcore.server.asgi import App, Receive, Scope, Send, respond_error
from mdashcore.server.handshakes import Handshakes, Socket, wants_socket
from mdashcore.server.http.accept import Acceptor
from mdashcore.server.http.connection import HttpConnection
from mdashcore.server.http.connections import Connections
from mdashcore.server.http.root_path import Elsewhere, RootPath
from mdashcore.server.http.tls import release, shake_hands
from mdashcore.server.immediate import ImmediateLane, ImmediateLink
from mdashcore.server.lanes.fast_lane import KEEP_ALIVE, FastLane, Next
from mdashcore.server.lanes.slow_lane import MAX_FIELDS, MAX_HEAD, SlowLane, refusal
from mdashcore.server.service import Service
from mdashcore.storage import INSTANT
from mdashcore.trio.connections.link import TRY_AGAIN_LATER, Link
from mdashcore.trio.transport.readiness import Inflow
from mdashcore.trio.transport.stream import READ_SIZE, close_now

__all__ = ["DEVICE_PATH", "NOTIFY_PATH", "Gateway"]

_log = logging.getLogger(__name__)

HEAD_TIMEOUT: Final = 10.0  # seconds for the first byte, for the head of a request, and for TLS
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_HEAD_START: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{0,20}(?: |\Z)")  # others are refused immediately
WAITING_PART: Final = 2  # handshakes that wait have one of so many parts of the descriptors that `max_connections`
# leaves: the rest is for the devices that are connected. Others of a fleet that comes back wait in the kernel

MIN_WAITING_HANDSHAKES: Final = 1024  # also where descriptors are short: with fewer, requests wait behind each herd

SHORT_PART: Final = 4  # but never more than one part in so many of all descriptors

MAX_WAITING_HANDSHAKES: Final = 32_768  # also where they are many: at 12 KB each, 400 MB

SHUTDOWN_GRACE: Final = 2.0  # seconds that running requests have when the server goes down


class Gateway:
    """Serves connections.

    Args:
        app: answers HTTP requests. Without an app they are answered with 404.
        sockets: whether devices and subscribers may connect. If not, a handshake is answered with 426.
        only_app: whether the app answers all requests, with their whole paths. There are no sockets then.
        beside: another gateway of this process. When file descriptors are short, it is decided for the connections of
            both together which of them end.
    """

    def __init__(
        self,
        service: Service,
        app: App | None = None,
        *,
        sockets: bool = True,
        only_app: bool = False,
        beside: Gateway | None = None,
    ) -> None:
        self._service = service
        self._sockets = sockets and not only_app
        self._streams: set[trio.abc.Stream] = set()
        self._heads: set[trio.CancelScope] = set()
        root = "" if only_app else service.settings.root_path
        self._root = RootPath(root)
        self._max_waiting = _max_waiting(service.settings.max_connections)
        self._connections: Connections = Connections(self._max_waiting) if beside is None else beside._connections
        is_instant = INSTANT in service.hub.backend.capabilities
        lane_type, link_type = (ImmediateLane, ImmediateLink) if is_instant else (FastLane, Link)
        self._lane = lane_type(service, lambda value: service.authenticator.authenticate(value), is_open=not only_app)
        self._ids = self._lane.ids
        self._handshakes = Handshakes(service, link_type, self._connections)
        self._slow_lane = SlowLane(app or _no_app, self._lane.draining, root)

    @property
    def connections(self) -> int:
        """The number of open connections that have not become WebSockets, with those of the gateway beside."""
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
                    acceptor = Acceptor(
                        self.handle,
                        self._make_room,
                        lambda: len(self._connections) >= self._service.settings.max_connections,
                        lambda: self._handshakes.entrance.wait_short(self._max_waiting),
                    )
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

    async def drain(self, seconds: float) -> None:
        """Refuse handshakes from now on, and have all devices and subscribers connect again, spread over the seconds.

        Requests are answered, each as the last one of its connection.
        """
        self._handshakes.refuse()
        self._lane.drain()
        await self._service.node.drain(seconds)

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection, from its first byte to its end. Raises nothing except when cancelled."""
        self._streams.add(stream)
        inflow = Inflow(stream, READ_SIZE)
        try:
            if (socket := await self._serve_http(stream, inflow)) is not None:
                ws, serving = socket.ws, socket.serve()
                del socket  # what it refers to is memory of an idle device
                try:
                    await serving
                except MdashError as exc:
                    _log.error("a socket failed: %s", exc)
                    ws.close(TRY_AGAIN_LATER, "storage is not available")
                    await ws.send([])
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, ssl.SSLError):
            pass
        except Exception:
            _log.exception("a connection failed")
        finally:
            self._streams.discard(stream)
            inflow.close()
            try:
                await close_now(stream)
            finally:
                release(stream)

    async def _serve_http(self, stream: trio.abc.Stream, inflow: Inflow) -> Socket | None:
        """Answer plain requests in the fast lane. Pass any other request, with the bytes that follow, to its handler.

        Returns:
            The socket that the connection has become, if any. An idle device keeps nothing of the requests before it.
        """
        with trio.CancelScope(deadline=trio.current_time() + HEAD_TIMEOUT) as scope:
            connection = HttpConnection(stream, inflow, scope)
            with self._connections.member(connection):
                return await self._answer_requests(connection)
        return None

    async def _answer_requests(self, connection: HttpConnection) -> Socket | None:
        scope, stream = connection.scope, connection.stream
        if isinstance(stream, trio.SSLStream):
            with _member(self._heads, scope), connection.waiting():
                await shake_hands(stream, connection.give_way)
        data, judge = b"", Next.READ
        while judge is not Next.END and (data := await self._read_head(connection, data)):
            connection.request_id = self._ids.begin(stream, data)
            below = self._root.strip(data)
            if below is None:
                await connection.send(_elsewhere(self._root.elsewhere(data)))
                judge = Next.END
                continue
            data = below
            if self._sockets and wants_socket(data):
                scope.deadline = inf
                if (socket := await self._handshakes.answer(connection, data)) is not None:
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
            connection.in_request = False
            head = await self._lane.wait_for_request(connection, KEEP_ALIVE if connection.used else HEAD_TIMEOUT)
            connection.in_request = True
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
                await connection.give_way()  # a head comes in one piece or two, but a stranger's in any
                data = await connection.receive()
            if not data:
                return b""
            head = (head + data).lstrip(b"\r\n")
        return b"" if self._lane.closing.is_set() else head

    async def _refuse_head(self, connection: HttpConnection, head: bytes, words: str) -> None:
        connection.request_id = self._ids.begin(connection.stream, head)
        await connection.send(refusal(431, words))
        await connection.linger()

    def _make_room(self, *, spare_unread: bool, by_descriptor: bool) -> bool:
        now = trio.current_time()
        return self._connections.make_room(now, spare_unread=spare_unread, by_descriptor=by_descriptor)

    async def _cut_off(self, deadline: float) -> None:
        """Close the streams at the deadline, also under code that shields its reads or writes from cancellation."""
        await trio.sleep_until(deadline)
        for stream in tuple(self._streams):
            await trio.aclose_forcefully(stream)


def _max_waiting(max_connections: int) -> int:
    """Return the number of handshakes that may wait before no more connections are accepted."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_WAITING_HANDSHAKES
    least = min(MIN_WAITING_HANDSHAKES, limit // SHORT_PART)
    return max(least, min((limit - max_connections) // WAITING_PART, MAX_WAITING_HANDSHAKES))


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


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond_error(send, NotFound("only sockets are served here"), unread=True)

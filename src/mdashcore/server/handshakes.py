"""The handshakes of WebSockets: from the request to the code that serves the socket of a device or a subscriber."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple, TypeAlias, TypeVar

import trio

from mdashcore import _json, identity
from mdashcore._errors import InvalidInput, MdashError, ShuttingDown, Unauthenticated, status_of
from mdashcore.server import errors
from mdashcore.server.api.sockets import DEVICE_PATH, NOTIFY_PARAMETERS, NOTIFY_PATH
from mdashcore.server.asgi import LINGER_TIME
from mdashcore.server.auth import Browser, Principal, SessionCookie, bearer, is_basic
from mdashcore.server.http.connection import HttpConnection
from mdashcore.server.http.connections import Connections
from mdashcore.server.http.forwarded import ForwardedClient, peer_of
from mdashcore.server.http.hangup import cancelled_by_hangup
from mdashcore.server.http.request_id import current
from mdashcore.server.query import check_query, query_value
from mdashcore.server.service import Service
from mdashcore.server.traffic import responses
from mdashcore.trio.connections.link import POLICY_VIOLATION, Link
from mdashcore.trio.connections.subscribers import Subscriber
from mdashcore.trio.pacing import Gate, store_callers
from mdashcore.trio.transport.handshake import HandshakeRequest
from mdashcore.trio.transport.server_websocket import ServerWebSocket
from mdashcore.trio.transport.skipped import MAX_SKIPPED

__all__ = ["Handshakes", "Socket", "wants_socket"]

_log = logging.getLogger(__name__)

SESSION_CHECK: Final = 300.0  # seconds between two checks whether a socket's session still exists; a check counts as a
# use of the session

_DEVICE_LINE: Final = f"GET {DEVICE_PATH}".encode()
"""The beginning of a device's handshake, of the two kinds of handshakes that `wants_socket` recognizes."""

MAX_ENTERING: Final = 8  # that are let in during two rounds of the event loop. Requests of other clients wait for
# that: 4 ms in each round, with the sessions and first reports of these devices

HANDSHAKE_RETRY_AFTER: Final = 5.0  # seconds until a client should try again: a server that goes down has gone then

T = TypeVar("T")

Serve: TypeAlias = Callable[[], Awaitable[None]]
"""Serves a socket to its end."""


class Socket(NamedTuple):
    """The socket that a connection has become by its handshake."""

    ws: ServerWebSocket
    serve: Serve
    """Serves the socket. Does nothing if the handshake was refused."""


class Handshakes:
    """Turns connections into the sockets of devices and subscribers.

    Args:
        link_type: the class of the devices' links.
        connections: the connections that have not become sockets.
    """

    def __init__(self, service: Service, link_type: type[Link], connections: Connections) -> None:
        self._service = service
        self._connections = connections
        self._link_type = link_type
        self._refuses = False
        self.entrance: Gate = Gate(MAX_ENTERING)
        """Where handshakes wait to be let in."""
        self._readers = Gate(store_callers(service.hub.backend.capabilities))

    def refuse(self) -> None:
        """Refuse all handshakes from now on, because the server is going down."""
        self._refuses = True

    async def answer(self, connection: HttpConnection, head: bytes) -> Socket | None:
        """Answer a handshake. Returns `None` if the bytes cannot be read as one."""
        options: dict[str, int] = {}
        if is_device := head.startswith(_DEVICE_LINE):
            options = {"max_message": self._service.node.devices.limits.max_message, "max_skipped": MAX_SKIPPED}
        ws = ServerWebSocket(connection.stream, inflow=connection.inflow, **options)
        request = ws.feed(head)
        if request is None:
            return None
        query = request.path.partition("?")[2]
        try:
            if is_device:
                serve = await self._device(connection, ws, request, query)
            else:
                serve = await self._subscriber(connection, ws, request, query)
            self._check_open()
        except MdashError as exc:
            await _refuse(connection, exc, from_page="Origin" in request.headers)
            return Socket(ws, _nothing)
        connection.set_unread_timeout(0)  # a WebSocket has pings
        accepted = await ws.accept(request, {"X-Request-Id": connection.request_id})
        responses[101 if accepted else 400] += 1
        connection.inflow.delay()
        current.set("")  # what the socket does is not done for the handshake any more
        return Socket(ws, serve if accepted else _nothing)

    def _check_open(self) -> None:
        if self._refuses:
            raise ShuttingDown("the server is going down; connect again", retry_after=HANDSHAKE_RETRY_AFTER)

    async def _in_turn(self, connection: HttpConnection, read: Callable[[], Awaitable[T]]) -> T:
        """Read the store when the handshake has its turn. The place is for the store alone: a handshake that waited for
        anything else inside, such as the check of a password, would have all devices wait for it.

        A client that has gone leaves the queue: it has dialled again, at the end, and would never have its turn behind
        the handshakes that it gave up.
        """
        with cancelled_by_hangup(connection.stream, half_closed_time=0):
            with self._connections.aside(connection), connection.queued():
                async with self.entrance:
                    await trio.lowlevel.checkpoint()  # not sooner is the next one let in
                    await self._readers.enter()
            try:
                self._check_open()
                return await read()
            finally:
                self._readers.leave()
        raise trio.BrokenResourceError("the client has gone")

    async def _device(
        self, connection: HttpConnection, ws: ServerWebSocket, request: HandshakeRequest, query: str
    ) -> Serve:
        token = bearer(_authorization(request))
        self._service.node.devices.conduct.check(identity.hash_token(token), trio.current_time())
        device = await self._in_turn(connection, partial(self._service.hub.registry.authenticate, token))
        ws.owner = device.account
        check_query(query, ())
        return partial(self._service.node.devices.serve, device, ws, self._link_type)

    def _client(self, stream: trio.abc.Stream, request: HandshakeRequest) -> ForwardedClient:
        scheme = "https" if isinstance(stream, trio.SSLStream) else "http"
        return self._service.proxies.client(peer_of(stream), scheme, partial(_field, request))

    async def _subscriber(
        self, connection: HttpConnection, ws: ServerWebSocket, request: HandshakeRequest, query: str
    ) -> Serve:
        self._check_open()
        client = self._client(connection.stream, request)
        browser = Browser.of(
            partial(_field, request),
            safe=False,
            cookie=SessionCookie.of(client.scheme, self._service.settings.root_path),
        )
        authorization = _authorization(request)
        credentials = authorization, query, browser, client.address
        authenticate = partial(self._service.authenticator.authenticate, *credentials)
        if is_basic(authorization):
            principal = await authenticate()  # logins wait in a queue of their own, and refused ones for a second
        else:
            principal = await self._in_turn(connection, authenticate)
        if principal.session is None:  # a browser hides an answer from its page: there `serve` closes with the reason
            self._service.node.subscribers.check_room(principal.account)
        ws.owner = principal.account
        check_query(query, NOTIFY_PARAMETERS)
        feed = self._service.hub.feed
        start = _start(query)
        if start is None:
            start = await self._in_turn(
                connection, partial(feed.end, principal.account)
            )  # before the client is told that it is subscribed
        subscriber = Subscriber(feed, principal.account, ws, key=principal.revocable, start=start)
        serve = partial(self._service.node.subscribers.serve, subscriber, authenticate=authenticate)
        return serve if principal.session is None else partial(_with_session, serve, authenticate, ws)


def wants_socket(head: bytes) -> bool:
    """Return whether a request with this head asks for a socket of a device or a subscriber."""
    line, _, fields = head.partition(b"\r\n\r\n")[0].partition(b"\r\n")
    path = line.split(b" ")[1].partition(b"?")[0] if line.startswith(b"GET ") else b""
    return path in (DEVICE_PATH.encode(), NOTIFY_PATH.encode()) and b"\r\nupgrade:" in b"\r\n" + fields.lower()


def _field(request: HandshakeRequest, name: str) -> str | None:
    """Return a header's value; the values of several fields as a list (RFC 9110, section 5.3)."""
    return ", ".join(request.headers.get_all(name)) or None


def _authorization(request: HandshakeRequest) -> str | None:
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
    with trio.fail_after(LINGER_TIME):
        await connection.stream.send_all(f"HTTP/1.1 {status_of(error)} \r\n{lines}\r\n".encode() + body)
    await connection.linger()


async def _nothing() -> None:
    """Do nothing. A refused handshake is served with this."""

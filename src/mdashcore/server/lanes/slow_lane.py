"""The slow lane: an ASGI app answers a request of a connection, in the connection's own task.

h11 reads and writes HTTP/1.1, and Hypercorn's `HTTPStream` speaks ASGI. This module connects the two. A request is
given up as soon as its client has gone. Its body is read only as fast as the app asks for it, and an answer is sent
only as fast as the client takes it. After the answer the connection goes back to the gateway with the bytes that
follow: one place waits for requests, reads their heads, and detects handshakes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, cast

import attrs
import h11
import trio
from h11._readers import ChunkedReader  # no public name bounds trailers; pyproject.toml bounds h11's version
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from mdashcore import _json
from mdashcore.server import errors
from mdashcore.server.asgi import CANCELS, NO_SOCKET, ON_KNOWN, QUEUED, App, Scope, Send
from mdashcore.server.http.connection import SEND_PIECE, HttpConnection
from mdashcore.server.http.hangup import Hangup, cancelled_by_hangup, transport_of
from mdashcore.server.http.request_head import is_host
from mdashcore.server.http.request_id import REQUEST_ID, REQUEST_ID_HEADER, current, id_field
from mdashcore.server.lanes.fast_lane import Answer, Next, date
from mdashcore.server.traffic import responses

__all__ = ["MAX_FIELDS", "MAX_HEAD", "SlowLane", "refusal"]

_log = logging.getLogger(__name__)

MAX_FIELDS: Final = 100  # of a head: usual servers take as many. Thousands of tiny ones keep a parser busy for 40 ms

MAX_HEAD: Final = 2**14  # bytes of a request's head, in every lane: usual servers take 8 to 16 KiB

_AUTHORITY: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
"""The part before the path in the absolute form of a target (RFC 9112, section 3.2.2)."""

_TRAILERS_END: Final = re.compile(rb"(?:\A|\n)\r?\n")

_STREAM_ID: Final = 1  # HTTP/1.1 has one at a time

_Address: TypeAlias = tuple[str, int] | None


def refusal(status: int, words: str, **headers: str) -> bytes:
    """Return the answer to the current request, which reaches no app. It is the last answer of its connection."""
    answer = Answer(status, _json.encode(errors.plain_body(status, words)), headers)
    return answer.encode(close=True, fields=id_field(current.get()))


class SlowLane:
    """Lets an ASGI app answer requests.

    Args:
        app: gets scopes of type "http" only. Requests for a WebSocket are refused.
        draining: set when every answer is the last of its connection.
        root_path: the prefix that was removed from the paths of requests. The app gets it, and the whole path.
    """

    def __init__(self, app: App, draining: trio.Event, root_path: str = "") -> None:
        self._app = app
        self._draining = draining
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.root_path = root_path
        self._config.include_server_header = False
        self._config.accesslog = None
        self._config.errorlog = _log

    async def answer(self, connection: HttpConnection, data: bytes) -> tuple[bytes, Next]:
        """Answer the request at the beginning of `data`: a whole head, or bytes that cannot become one.

        Returns:
            The bytes that were read after the request, and the next step.
        """
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        http.receive_data(data)
        request = _next_event(http)
        if (refused := _refused(request)) is not None:
            await connection.send(refused)
            return b"", Next.END
        request = cast(h11.Request, request)
        with cancelled_by_hangup(connection.stream) as hangup:
            exchange = _Exchange(connection, http, request, hangup, self._draining)
            await self._begin(exchange)
            try:
                await self._app(exchange.asgi_scope, exchange.receive, exchange.asgi_send)
            except Exception:
                if not exchange.lost:
                    _log.exception("a request failed")
            finally:
                del exchange.asgi_send  # it refers to the exchange: the cycle would keep the connection's memory
            outcome = await exchange.finish()
        return (b"", Next.END) if hangup.gone else outcome

    async def _begin(self, exchange: _Exchange) -> None:
        """Let Hypercorn make an ASGI scope of the request."""
        request, connection = exchange.request, exchange.connection
        stream = connection.stream
        secure = isinstance(stream, trio.SSLStream)
        app, spawner = ASGIWrapper(cast(Any, self._app)), cast(Any, exchange)
        http_stream = HTTPStream(
            app, self._config, self._context, spawner, secure, *_addresses(stream), exchange.send_event, _STREAM_ID
        )
        await http_stream.handle(
            Request(
                stream_id=_STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode().upper(),
                raw_path=_path(request),
                state=ConnectionState({}),
            )
        )
        connection.owner = None  # of the last request
        exchange.asgi_scope[ON_KNOWN] = connection.identify
        exchange.asgi_scope[QUEUED] = connection.queued
        exchange.asgi_scope[CANCELS] = True
        exchange.asgi_scope[REQUEST_ID] = connection.request_id


@attrs.define(eq=False)
class _Exchange:
    """A request and its answer. Translates between the app's messages and the bytes on the connection."""

    connection: HttpConnection
    http: h11.Connection
    request: h11.Request
    hangup: Hangup
    """Cancels the app when the client has gone."""
    draining: trio.Event
    lost: bool = attrs.field(init=False, default=False)
    """Whether nothing more can be sent to the client."""
    asgi_scope: Scope = attrs.field(init=False)
    asgi_send: Send = attrs.field(init=False)
    _complete: bool = attrs.field(init=False)
    """Whether the request was read to its end."""
    _given: bool = attrs.field(init=False, default=False)
    """Whether the app has got the end of the body."""
    _fault: str | None = attrs.field(init=False, default=None)
    """The error in the request's body."""
    _over: trio.Event = attrs.field(init=False, factory=trio.Event)
    """Set when the app can receive nothing more than a disconnect."""
    _head: bytes = attrs.field(init=False, default=b"")
    """The head of the answer, to be sent with the first part of its body."""

    def __attrs_post_init__(self) -> None:
        if isinstance(self.http._reader, ChunkedReader):
            self.http._reader = _FewTrailers()
        fields = [(name, value) for name, value in self.request.headers if value != b"0"]
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in fields)
        self._complete = not has_body and _next_event(self.http) is not h11.NEED_DATA

    async def spawn_app(
        self, app: object, config: object, scope: Any, send: Any
    ) -> Callable[[dict[str, Any]], Awaitable[None]]:
        """Record the scope and the sender of the app, which `HTTPStream` would run in a task of its own."""
        if root := scope["root_path"]:
            scope = {**scope, "path": root + scope["path"], "raw_path": root.encode() + scope["raw_path"]}
        self.asgi_scope, self.asgi_send = scope, send
        return _nowhere

    async def receive(self) -> dict[str, Any]:
        """Return the next piece of the body to the app. After the last piece wait for the end of the exchange."""
        if not self._complete and not self._over.is_set() and (piece := await self._read()) is not None:
            return {"type": "http.request", "body": piece, "more_body": True}
        if self._complete and not self._given:
            self._given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _read(self) -> bytes | None:
        """Return the next piece of the body; `None` at its end, which may come too early."""
        while True:
            event = _next_event(self.http)
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if event is not h11.NEED_DATA:
                self._complete = isinstance(event, h11.EndOfMessage)
                if isinstance(event, h11.RemoteProtocolError):
                    self._fault = f"the body cannot be read: {_reason(event)}"
                if not self._complete:
                    self._over.set()
                return None
            if self.http.they_are_waiting_for_100_continue:
                await self._write(self.http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            data = await self.connection.receive()
            if not data:
                self.lost = True
                self._over.set()
                return None
            self.http.receive_data(data)

    async def send_event(self, event: Event) -> None:
        """Send an event that `HTTPStream` has made of a message of the app."""
        if isinstance(event, Response):
            self._head = self.http.send(self._response(event))
        elif isinstance(event, Body):
            await self._write_body(self.http.send(h11.Data(data=event.data)) or b"")
        elif isinstance(event, EndBody):
            await self._write_body(self.http.send(h11.EndOfMessage()) or b"")
        elif isinstance(event, StreamClosed):
            self._over.set()

    def _response(self, event: Response) -> h11.Response:
        responses[event.status_code] += 1
        headers = [*event.headers, (b"date", date())]
        if all(name != REQUEST_ID_HEADER for name, _ in headers):  # an app of others may give its own
            headers.append((REQUEST_ID_HEADER, self.connection.request_id.encode()))
        if not self._complete or self.draining.is_set():  # the rest of the request precedes the next one
            headers = [(name, value) for name, value in headers if name != b"connection"]
            headers.append((b"connection", b"close"))
        return h11.Response(status_code=event.status_code, headers=headers)

    async def _write_body(self, data: bytes) -> None:
        head, self._head = self._head, b""
        if len(data) > SEND_PIECE:
            await self._write(head)
            await self._write(data)
        else:
            await self._write(head + data)

    async def _write(self, data: bytes) -> None:
        """Send bytes. The app is cancelled if the client does not take them."""
        if self.lost or not data:
            return
        try:
            self.lost = True  # stays `True` if the app is cancelled in the middle
            with self.hangup.sending():
                await self.connection.send(data)
            self.lost = False
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self._over.set()
            self.hangup.scope.cancel()
            await trio.lowlevel.checkpoint()

    async def finish(self) -> tuple[bytes, Next]:
        """End the exchange after the app has returned. Returns the bytes after the request, and the next step."""
        self._over.set()
        if self.lost:
            return b"", Next.END
        if self.http.our_state is h11.SEND_RESPONSE:
            status, words = (500, "internal error") if self._fault is None else (400, self._fault)
            await self._write(refusal(status, words))
            return b"", Next.END
        if self.http.our_state is h11.SEND_BODY:
            # the client must not take the answer as complete
            raise trio.BrokenResourceError("the answer ends too early")
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            return self.http.trailing_data[0], Next.READ
        return b"", Next.END


class _FewTrailers(ChunkedReader):
    """Reads a chunked body with at most as many trailers as a head may have fields.

    h11 takes 16 KiB of trailers in one step.
    """

    def __call__(self, buf: Any) -> Any:
        if self._reading_trailer:
            data = bytes(buf)
            end = _TRAILERS_END.search(data)
            if data.count(b"\n", 0, end.start() + 1 if end else len(data)) > MAX_FIELDS:
                raise h11.LocalProtocolError(f"more than {MAX_FIELDS} trailers")
        return super().__call__(buf)


async def _nowhere(message: dict[str, Any]) -> None:
    """Discard a message of `HTTPStream` to the app. The app receives its messages from the exchange."""


def _next_event(http: h11.Connection) -> object:
    """Return h11's next event, or the error that h11 would raise."""
    try:
        return http.next_event()
    except h11.RemoteProtocolError as exc:
        return exc


def _reason(error: h11.RemoteProtocolError) -> str:
    """Return the reason of an error without the bytes that h11 quotes, which may hold a secret."""
    return str(error).partition(":")[0]


def _refused(request: object) -> bytes | None:
    """Return the answer to a request that does not reach the app; `None` for any other request."""
    if isinstance(request, h11.RemoteProtocolError):
        return refusal(request.error_status_hint, f"the request cannot be read: {_reason(request)}")
    if not isinstance(request, h11.Request):
        return refusal(400, "the request cannot be read")
    if not request.http_version.startswith(b"1."):
        return refusal(505, "HTTP/1.1 is spoken here; for HTTP/2, put a proxy in front")
    if request.method == b"GET" and (b"upgrade", b"websocket") in ((n, v.lower()) for n, v in request.headers):
        return refusal(426, NO_SOCKET, upgrade="websocket")
    if not all(is_host(value) for name, value in request.headers if name == b"host"):
        return refusal(400, "the request's Host is no host")
    if _path(request)[:1] not in (b"/", b"*"):
        return refusal(400, "the request's target is no path")
    return None


def _path(request: h11.Request) -> bytes:
    """Return a request's path and query, whatever form its target has."""
    target: bytes = _AUTHORITY.sub(b"", request.target, count=1)
    return target if target and not target.startswith(b"?") else b"/" + target


def _addresses(stream: trio.abc.Stream) -> tuple[_Address, _Address]:
    """Return the client's address and port, and the server's."""
    transport = transport_of(stream)
    if transport is None:
        return None, None
    sock = transport.socket
    try:
        return parse_socket_addr(sock.family, sock.getpeername()), parse_socket_addr(sock.family, sock.getsockname())
    except OSError as exc:
        raise trio.BrokenResourceError("the client has gone") from exc

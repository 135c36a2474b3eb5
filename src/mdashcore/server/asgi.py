"""ASGI that does not go through Quart. `mdashcore.server.http.bodies` reads request bodies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

from mdashcore import _json
from mdashcore._errors import InvalidInput, MdashError, status_of
from mdashcore.server import errors

__all__ = [
    "CANCELS",
    "LINGER_TIME",
    "NO_SOCKET",
    "ON_KNOWN",
    "PAGE_HEADER",
    "QUEUED",
    "ROOT_PATH",
    "App",
    "BodyTimeout",
    "ClientGone",
    "FramingGuard",
    "Receive",
    "Scope",
    "Send",
    "has_body",
    "header",
    "header_list",
    "is_from_page",
    "is_http1",
    "refuse_socket",
    "respond",
    "respond_error",
    "root_path",
]

Scope: TypeAlias = dict[str, Any]
"""ASGI's scope: the facts about a connection."""

Receive: TypeAlias = Callable[[], Awaitable[Any]]
"""Waits for the next message to the app."""

Send: TypeAlias = Callable[[Any], Awaitable[None]]
"""Sends a message of the app."""

App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]
"""An ASGI app. Its messages are `Any`, so that it fits the types of every server and framework: each has its own."""


LINGER_TIME: Final = 2.0  # seconds: for the bytes that a client still has on their way when it gets an early answer

ROOT_PATH: Final = "mdashcore.root_path"  # in a scope: the prefix that was removed from its path

PAGE_HEADER: Final = b"x-requested-with"
"""The header by which a script of a page marks its requests. Such a request is not offered Basic (see
`errors.headers`)."""

ON_KNOWN: Final = "mdashcore.on_known"
"""In a scope: a function that is called with the account that has sent the request, as soon as it is authenticated."""

CANCELS: Final = "mdashcore.cancels"
"""In a scope: whether the server cancels the app when the client has gone. The app need not look for that then."""

QUEUED: Final = "mdashcore.queued"
"""In a scope: a function that opens a context in which the request waits for its turn."""

NO_SOCKET: Final = "a WebSocket is expected at api/v2/rpc and api/v2/notify only"


class ClientGone(Exception):
    """The client went away before its request was complete. There is no client left to answer."""


class BodyTimeout(MdashError):
    """The client took too long to send its request's body."""


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header, `None` if it is missing; `name` in lower case.

    Several `Authorization` fields are returned as a list (RFC 9110, section 5.3), which is never valid: a proxy in
    front of this server may have checked another field of them.
    """
    values = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
    return ", ".join(values) if name == b"authorization" and values else next(iter(values), None)


def header_list(scope: Scope, name: bytes) -> str | None:
    """Return the values of a header as one list (RFC 9110, section 5.3); `None` if it is missing.

    Args:
        name: in lower case.
    """
    values = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
    return ", ".join(values) if values else None


def is_from_page(scope: Scope) -> bool:
    """Return whether the request is marked as sent by a script of a page."""
    return header(scope, PAGE_HEADER) is not None


def root_path(scope: Scope) -> str:
    """Return the path below which the app is reached, without a slash at its end; empty for the whole host."""
    return str(scope.get(ROOT_PATH, ""))


async def respond(send: Send, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
    """Send a JSON response."""
    fields = [("content-type", "application/json"), ("content-length", str(len(body))), *headers]
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def respond_error(send: Send, error: MdashError, *, unread: bool, from_page: bool = False) -> None:
    """Send an error.

    With HTTP/1.1 the slow lane goes on reading for a while and discards the bytes. Otherwise a client that writes its
    whole request before it reads would see a reset connection in place of the answer.

    Args:
        unread: whether the request was not read to its end. The connection is closed then.
        from_page: as for `errors.headers`.
    """
    status = 408 if isinstance(error, BodyTimeout) else status_of(error)
    body = errors.plain_body(status, str(error)) if isinstance(error, BodyTimeout) else errors.body(error)
    headers = [*errors.headers(error, from_page=from_page).items()]
    await respond(send, status, _json.encode(body), [*headers, ("connection", "close")] if unread else headers)


async def refuse_socket(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket that a server other than the gateway has handed to the app."""
    await receive()
    body = _json.encode(errors.plain_body(426, NO_SOCKET))
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "websocket.http.response.start", "status": 426, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def is_http1(scope: Scope) -> bool:
    """Return whether the request came over HTTP/1.x."""
    return str(scope.get("http_version", "1.1")).startswith("1")


def has_body(scope: Scope) -> bool:
    """Return whether a request may have a body. Without a body, the app's own authentication is early enough."""
    if header(scope, b"transfer-encoding") is not None or not is_http1(scope):  # in HTTP/2 a body needs no announcement
        return True
    return header(scope, b"content-length") not in (None, "0")


class FramingGuard:
    """Refuses requests whose end is ambiguous: a proxy in front may have seen it in another place.

    RFC 9112, sections 6.1 and 6.3: `Transfer-Encoding` together with `Content-Length`, or in HTTP/1.0, is treated as an
    attempt at request smuggling. The answer is 400, and nothing more is read from the connection.
    """

    def __init__(self, app: App) -> None:
        self.inner = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and header(scope, b"transfer-encoding") is not None
            and (header(scope, b"content-length") is not None or scope.get("http_version") == "1.0")
        ):
            error = InvalidInput("with Transfer-Encoding there is no Content-Length, and no HTTP/1.0")
            await respond_error(send, error, unread=True, from_page=is_from_page(scope))
            return
        await self.inner(scope, receive, send)

"""The little ASGI that does not go through Quart. What reads bodies is in `mdashcore.server.http.bodies`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

from mdashcore import _json
from mdashcore._errors import InvalidInput, MdashError, status_of
from mdashcore.server import errors

__all__ = [
    "LINGER",
    "NO_SOCKET",
    "ON_KNOWN",
    "PAGE_HEADER",
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
"""What is known of a connection: ASGI's scope."""

Receive: TypeAlias = Callable[[], Awaitable[Any]]
"""Waits for the next message to the app."""

Send: TypeAlias = Callable[[Any], Awaitable[None]]
"""Sends a message of the app."""

App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]
"""An ASGI app. Its messages are `Any`, so that it fits the types of every server and framework: each has its own."""


LINGER: Final = 2.0  # seconds: what a client still has on its way when it gets an early answer

ROOT_PATH: Final = "mdashcore.root_path"  # in a scope: what was taken off its path

PAGE_HEADER: Final = b"x-requested-with"
"""A request that has it comes from a script of a page: it is not offered Basic (see `errors.headers`)."""

ON_KNOWN: Final = "mdashcore.on_known"
"""In a scope: a function that is given the account which has sent the request, as soon as that is known."""

NO_SOCKET: Final = "a WebSocket is expected at api/v2/rpc and api/v2/notify only"


class ClientGone(Exception):
    """The client went away before its request was complete. Nobody is left to be told."""


class BodyTimeout(MdashError):
    """The client lets its request's body be waited for too long."""


def header(scope: Scope, name: bytes) -> str | None:
    """A header's value, the first of that name; `name` in lower case.

    Of several `Authorization` it is their list (RFC 9110, section 5.3), which is valid for nothing: who is in front of
    this server may have looked at another one.
    """
    values = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
    return ", ".join(values) if name == b"authorization" and values else next(iter(values), None)


def header_list(scope: Scope, name: bytes) -> str | None:
    """The values of a header as one list (RFC 9110, section 5.3); None where there is none; `name` in lower case."""
    values = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
    return ", ".join(values) if values else None


def is_from_page(scope: Scope) -> bool:
    """Whether a script of a page has sent the request, and says so."""
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
    """Send an error; `unread` where the request was not read to its end, which closes the connection.

    The slow lane goes on taking what comes for a while, and throws it away: a client that writes all of its request
    before it reads would find a reset connection in place of the answer.
    """
    status = 408 if isinstance(error, BodyTimeout) else status_of(error)
    body = errors.problem(status, str(error)) if isinstance(error, BodyTimeout) else errors.body(error)
    headers = [*errors.headers(error, from_page=from_page).items()]
    await respond(send, status, _json.encode(body), [*headers, ("connection", "close")] if unread else headers)


async def refuse_socket(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket that another server than the gateway has handed to the app."""
    await receive()
    body = _json.encode(errors.problem(426, NO_SOCKET))
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "websocket.http.response.start", "status": 426, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def is_http1(scope: Scope) -> bool:
    """Whether the request came over HTTP/1.x."""
    return str(scope.get("http_version", "1.1")).startswith("1")


def has_body(scope: Scope) -> bool:
    """Whether a request may have a body. Without one, the app's own authentication comes early enough."""
    if header(scope, b"transfer-encoding") is not None or not is_http1(scope):  # HTTP/2 need not announce it
        return True
    return header(scope, b"content-length") not in (None, "0")


class FramingGuard:
    """Refuses requests whose end can be seen in two places: a proxy in front may have seen the other one.

    RFC 9112, sections 6.1 and 6.3: with a `Content-Length` beside it, or in HTTP/1.0, `Transfer-Encoding` is treated as
    an attempt at request smuggling: 400, and nothing more is read from the connection.
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

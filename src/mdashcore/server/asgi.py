"""The little ASGI that does not go through Quart, and the guard in front of what does.

Quart reads a whole body into memory, however large, while a handler is busy or long gone. So no body reaches Quart
before it is complete and within its limit, and an answer given before the end of a body closes the connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

import trio

from mdashcore import _json
from mdashcore._errors import InvalidInput, MdashError, TooLarge, status_of
from mdashcore.server import problems

__all__ = [
    "LINGER",
    "NO_SOCKET",
    "PAGE_HEADER",
    "App",
    "BodyGuard",
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
    "read_body",
    "refuse_socket",
    "respond",
    "respond_error",
]

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


LINGER: Final = 2.0  # seconds: what a client still has on its way when it gets an early answer

PAGE_HEADER: Final = b"x-requested-with"
"""A request that has it comes from a script of a page: it is not offered Basic (see `problems.headers`)."""

NO_SOCKET: Final = "a WebSocket is expected at /api/v2/rpc and /api/v2/notify only"


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


async def body_chunks(scope: Scope, receive: Receive, *, limit: int, timeout: float) -> AsyncGenerator[bytes, None]:
    """A request's body as it comes.

    Args:
        limit: bytes.
        timeout: seconds to wait for each piece.

    Raises:
        TooLarge: it is larger, by its own account or in fact.
        ClientGone: it ended in the middle.
        BodyTimeout: nothing came for too long.
    """
    too_large = TooLarge(f"the body is larger than {limit} bytes")
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise too_large
    size = 0
    while True:
        with trio.move_on_after(timeout) as timer:
            message = await receive()
        if timer.cancelled_caught:
            raise BodyTimeout(f"nothing of the body came for {timeout:g} s")
        if message["type"] == "http.disconnect":
            raise ClientGone
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


async def read_body(scope: Scope, receive: Receive, *, limit: int, timeout: float) -> bytes:
    """A request's whole body. Raises as `body_chunks`."""
    return b"".join([chunk async for chunk in body_chunks(scope, receive, limit=limit, timeout=timeout)])


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
    body = problems.problem(status, str(error)) if isinstance(error, BodyTimeout) else problems.body(error)
    headers = [*problems.headers(error, from_page=from_page).items()]
    await respond(send, status, _json.encode(body), [*headers, ("connection", "close")] if unread else headers)


async def refuse_socket(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket that another server than the gateway has handed to the app."""
    await receive()
    body = _json.encode(problems.problem(426, NO_SOCKET))
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "websocket.http.response.start", "status": 426, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def has_body(scope: Scope) -> bool:
    """Whether a request announces a body. Without one, the app's own authentication comes early enough."""
    return header(scope, b"transfer-encoding") is not None or header(scope, b"content-length") not in (None, "0")


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


class BodyGuard:
    """Gives an app only requests whose body is there, whole and within the limit.

    Args:
        limit: bytes of a body.
        timeout: seconds to wait for each piece of it; all of it has twice as long.
        authenticate: raises for a request that nobody valid has sent: its body is not even read.
    """

    def __init__(
        self, app: App, *, limit: int, timeout: float, authenticate: Callable[[Scope], Awaitable[object]] | None = None
    ) -> None:
        self.inner = app
        self._authenticate = authenticate
        self._limit = limit
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await refuse_socket(receive, send)
            return
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        unread = True
        try:
            if self._authenticate is not None and has_body(scope):
                await self._authenticate(scope)
            with trio.move_on_after(2 * self._timeout) as timer:
                body = await read_body(scope, receive, limit=self._limit, timeout=self._timeout)
            if timer.cancelled_caught:
                raise BodyTimeout(f"the body did not come within {2 * self._timeout:g} s")
            unread = False
            if self._authenticate is not None and body:
                await self._authenticate(scope)  # revoked while the body came?
        except ClientGone:
            return
        except MdashError as exc:
            await respond_error(send, exc, unread=unread, from_page=is_from_page(scope))
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_whole() -> dict[str, Any]:
            return messages.pop() if messages else await receive()

        await self.inner(scope, receive_whole, send)

"""The bodies of requests: whose bodies are read, how they are read, and how much memory they have together.

Quart reads a whole body into memory, however large it is, even if the handler is busy or has ended. So no body reaches
Quart before its sender is authenticated, and before the body is complete and within its limit. A path that takes no
body is answered without reading one. An answer given before the end of a body closes the connection.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from math import inf
from time import perf_counter
from typing import Any, Final

import attrs
import trio

from mdashcore._errors import Busy, MdashError, Overloaded, TooLarge
from mdashcore.server.asgi import (
    App,
    BodyTimeout,
    ClientGone,
    Receive,
    Scope,
    Send,
    has_body,
    header,
    is_from_page,
    is_http1,
    refuse_socket,
    respond_error,
)
from mdashcore.trio.turns import WORK_SLICE, Turn

__all__ = ["Bodies", "BodyGuard", "HeldBody", "body_chunks"]

_log = logging.getLogger(__name__)

ROOM_LOG_INTERVAL: Final = 60.0  # seconds between two lines about missing room: one flood is reported once

RETRY_AFTER: Final = 5.0  # seconds after which a client may try again: by then most bodies have been answered

ACCOUNT_SHARES: Final = 4  # an account may have one of so many shares of the room: 16 MiB, 128 of the largest calls

_NO_SHARE: Final = "the account has too many request bodies in the server now"

_NO_ROOM: Final = "the server has no room for more request bodies now"


@attrs.define(eq=False)
class HeldBody:
    """The part of one request's body that is in memory."""

    _bodies: Bodies
    owner: Hashable = None
    """The account that sends the body, as soon as it is authenticated."""
    size: int = attrs.field(init=False, default=0)
    """Bytes."""
    _given_up: bool = attrs.field(init=False, default=False)
    _scope: trio.CancelScope | None = attrs.field(init=False, default=None)

    async def wait(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for the next piece. Raises `Overloaded` if the room is given to other bodies meanwhile."""
        if not self._given_up:
            with trio.CancelScope() as self._scope:
                return await receive()
        raise Overloaded(_NO_ROOM, retry_after=RETRY_AFTER)

    def add(self, size: int) -> None:
        """Count received bytes.

        Raises:
            Overloaded: there is no room for them.
            Busy: the account has used up its share of the room.
        """
        if self._given_up:
            raise Overloaded(_NO_ROOM, retry_after=RETRY_AFTER)
        self._bodies._add(self, size)

    def complete(self) -> None:
        """Mark the body as complete. It stays in memory until the request is answered."""
        self._bodies._idle.pop(self, None)

    def _give_up(self) -> None:
        self._given_up = True
        if self._scope is not None:
            self._scope.cancel()


class Bodies:
    """All request bodies that the process has in memory, with one bound for their sum.

    Beyond the bound, bodies that wait for their next piece are given up, the one that has waited the longest first. One
    account may use a quarter of the room, so that its calls of devices that do not answer take no room from others.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size: int = 0
        """Bytes held now."""
        # The bodies that are not complete, in the order in which their last pieces came.
        self._idle: dict[HeldBody, None] = {}
        self._of: dict[Hashable, int] = {}  # bytes by account
        self._logged = -inf

    @contextmanager
    def hold(self) -> Iterator[HeldBody]:
        """Count a body until its request is answered."""
        body = HeldBody(self)
        try:
            yield body
        finally:
            self.drop(body)

    def drop(self, body: HeldBody) -> None:
        """Stop counting a body."""
        self._idle.pop(body, None)
        self._count(body, -body.size)

    def _add(self, body: HeldBody, size: int) -> None:
        self._idle.pop(body, None)
        if body.owner is not None and self._of.get(body.owner, 0) + size > self.limit // ACCOUNT_SHARES:
            raise Busy(_NO_SHARE, retry_after=RETRY_AFTER)
        while self.size + size > self.limit and self._idle:
            longest = next(iter(self._idle))
            self.drop(longest)
            longest._give_up()
            self._log_full()
        if self.size + size > self.limit:
            self._log_full()
            raise Overloaded(_NO_ROOM, retry_after=RETRY_AFTER)
        self._idle[body] = None
        self._count(body, size)

    def _count(self, body: HeldBody, size: int) -> None:
        body.size += size
        self.size += size
        if body.owner is not None and size:
            left = self._of.get(body.owner, 0) + size
            if left:
                self._of[body.owner] = left
            else:
                del self._of[body.owner]

    def _log_full(self) -> None:
        if trio.current_time() - self._logged >= ROOM_LOG_INTERVAL:
            self._logged = trio.current_time()
            _log.warning("request bodies fill the %d bytes that they may have: some are refused", self.limit)


async def body_chunks(
    scope: Scope,
    receive: Receive,
    *,
    limit: int,
    timeout: float,
    owner: Callable[[], Hashable] = lambda: None,
    held: HeldBody | None = None,
) -> AsyncGenerator[bytes, None]:
    """Yield a request's body in pieces, as they come.

    Args:
        limit: bytes.
        timeout: seconds to wait for each piece.
        owner: returns the account whose turn the reading takes; `None` as long as the account is not known.
        held: counts the pieces that are kept in memory.

    Raises:
        TooLarge: the body is larger, by its own declaration or in fact.
        ClientGone: the body ended in the middle.
        BodyTimeout: no piece came in time.
        Overloaded: there is no room for the body in memory.
        Busy: the account has used up its share of the room.
    """
    too_large = TooLarge(f"the body is larger than {limit} bytes")
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise too_large
    size = 0
    turn = Turn()
    while True:
        started = perf_counter()
        with trio.move_on_after(timeout) as timer:
            message = await (receive() if held is None else held.wait(receive))
        if timer.cancelled_caught:
            raise BodyTimeout(f"nothing of the body came for {timeout:g} s")
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise too_large
        if held is not None:
            held.add(len(piece))
        if piece:
            yield piece
        if not message.get("more_body", False):
            return
        if (took := perf_counter() - started) < WORK_SLICE:  # a longer step has waited, and others had their turn
            turn.owner = owner()
            turn.count(took)
            if turn.left <= 0:
                await turn.give_way()


class BodyGuard:
    """Gives an app only requests without a body, or with a body that is complete and within the limit.

    Args:
        bodies: bounds the sum of all bodies.
        limit_of: returns the bytes that a request's body may have; 0 if the path takes none.
        timeout: seconds to wait for each piece. The whole body has twice as long.
        authenticate: returns the account; `None` if the path needs no login. It raises for a request without valid
            credentials, whose body is not even read.
    """

    def __init__(
        self,
        app: App,
        bodies: Bodies,
        *,
        limit_of: Callable[[Scope], int],
        timeout: float,
        authenticate: Callable[[Scope], Awaitable[str | None]],
    ) -> None:
        self.inner = app
        self._bodies = bodies
        self._limit_of = limit_of
        self._timeout = timeout
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await refuse_socket(receive, send)
        elif scope["type"] != "http" or not has_body(scope):
            await self.inner(scope, receive, send)
        else:
            with self._bodies.hold() as held:
                await self._with_body(scope, receive, send, held)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send, held: HeldBody) -> None:
        unread = True
        try:
            account = held.owner = await self._authenticate(scope)
            if (limit := self._limit_of(scope)) > 0:
                given = _Given(await self._read(scope, receive, limit, account, held), receive)
                unread = False
                await self._authenticate(scope)  # the credentials may have been revoked while the body came
        except ClientGone:
            return
        except MdashError as exc:
            await respond_error(send, exc, unread=unread, from_page=is_from_page(scope))
            return
        if unread:
            await self.inner(scope, _Given(b"").receive, _closing(scope, send))
        else:
            await self.inner(scope, given.receive, send)

    async def _read(self, scope: Scope, receive: Receive, limit: int, account: str | None, held: HeldBody) -> bytes:
        """Return the whole body."""
        body = bytearray()  # not a list, because a piece may have one byte
        with trio.move_on_after(2 * self._timeout) as timer:
            async for piece in body_chunks(
                scope, receive, limit=limit, timeout=self._timeout, owner=lambda: account, held=held
            ):
                body += piece
        if timer.cancelled_caught:
            raise BodyTimeout(f"the body did not come within {2 * self._timeout:g} s")
        held.complete()
        return bytes(body)


@attrs.define(eq=False)
class _Given:
    """Gives an app a whole body."""

    _body: bytes
    _then: Receive | None = None
    """Receives the messages after the body; `None` if the request was not read, and must not be read."""
    _given: bool = attrs.field(init=False, default=False)

    async def receive(self) -> dict[str, Any]:
        if not self._given:
            self._given = True
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        if self._then is None:
            await trio.sleep_forever()
        assert self._then is not None  # noqa: S101 - for the type checker
        message: dict[str, Any] = await self._then()
        return message


def _closing(scope: Scope, send: Send) -> Send:
    """Return a `send` that closes the connection after the answer. In HTTP/2 only the stream ends, without a header."""
    if not is_http1(scope):
        return send

    async def send_closing(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_closing

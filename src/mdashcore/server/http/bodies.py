"""The bodies of requests: who is asked for one, how it is read, and how much memory all of them have together.

Quart reads a whole body into memory, however large, while a handler is busy or long gone. So no body reaches Quart
before it is known who sends it, and before it is complete and within its limit. A path that takes no body is answered
without reading one; an answer given before the end of a body closes the connection.
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
from mdashcore.trio.turns import SLICE, Turn

__all__ = ["Bodies", "BodyGuard", "HeldBody", "body_chunks"]

_log = logging.getLogger(__name__)

LOG_INTERVAL: Final = 60.0  # seconds between two lines that say that there is no room: a flood is one thing to be told

RETRY_AFTER: Final = 5.0  # seconds after which a client may try again: most bodies have been answered by then

SHARES: Final = 4  # of the room, one of which an account may have: 16 MiB, which are 128 of the largest calls

_NO_SHARE: Final = "the account has too many request bodies in the server now"

_NO_ROOM: Final = "the server has no room for more request bodies now"


@attrs.define(eq=False)
class HeldBody:
    """What is in memory of one request's body."""

    _bodies: Bodies
    owner: Hashable = None
    """The account that sends it, as soon as that is known."""
    size: int = attrs.field(init=False, default=0)
    """Bytes."""
    _given_up: bool = attrs.field(init=False, default=False)
    _scope: trio.CancelScope | None = attrs.field(init=False, default=None)

    async def wait(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for the next piece. Raises `Overloaded` where the room is given to others meanwhile."""
        if not self._given_up:
            with trio.CancelScope() as self._scope:
                return await receive()
        raise Overloaded(_NO_ROOM, retry_after=RETRY_AFTER)

    def add(self, size: int) -> None:
        """Count bytes that have come.

        Raises:
            Overloaded: there is no room for them.
            Busy: the account has used up its share of the room.
        """
        if self._given_up:
            raise Overloaded(_NO_ROOM, retry_after=RETRY_AFTER)
        self._bodies._add(self, size)

    def complete(self) -> None:
        """Nothing more comes: what there is stays until the request is answered."""
        self._bodies._idle.pop(self, None)

    def _give_up(self) -> None:
        self._given_up = True
        if self._scope is not None:
            self._scope.cancel()


class Bodies:
    """All request bodies that the process has in memory, with one bound for the sum.

    Beyond it those that wait for their next piece are given up, the one that has waited the longest first. One account
    may have a quarter of it, so that its calls of devices that do not answer take the room from no other.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size: int = 0
        """Bytes that are held now."""
        # Those that are not complete; the one that something came for last is last.
        self._idle: dict[HeldBody, None] = {}
        self._of: dict[Hashable, int] = {}  # bytes by account
        self._logged = -inf

    @contextmanager
    def hold(self) -> Iterator[HeldBody]:
        """Count a body, until its request is answered."""
        body = HeldBody(self)
        try:
            yield body
        finally:
            self.drop(body)

    def drop(self, body: HeldBody) -> None:
        """Count a body no more."""
        self._idle.pop(body, None)
        self._count(body, -body.size)

    def _add(self, body: HeldBody, size: int) -> None:
        self._idle.pop(body, None)
        if body.owner is not None and self._of.get(body.owner, 0) + size > self.limit // SHARES:
            raise Busy(_NO_SHARE, retry_after=RETRY_AFTER)
        while self.size + size > self.limit and self._idle:
            longest = next(iter(self._idle))
            self.drop(longest)
            longest._give_up()
            self._tell()
        if self.size + size > self.limit:
            self._tell()
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

    def _tell(self) -> None:
        if trio.current_time() - self._logged >= LOG_INTERVAL:
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
    """A request's body as it comes.

    Args:
        limit: bytes.
        timeout: seconds to wait for each piece.
        owner: whose work it is to read it, as soon as that is known.
        held: what counts the pieces, where they are kept.

    Raises:
        TooLarge: it is larger, by its own account or in fact.
        ClientGone: it ended in the middle.
        BodyTimeout: nothing came for too long.
        Overloaded: there is no room for it in memory.
        Busy: the account has used up its share of that.
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
        if (took := perf_counter() - started) < SLICE:  # else it was waited for, and others had their turn
            turn.owner = owner()
            turn.count(took)
            if turn.left <= 0:
                await turn.give_way()


class BodyGuard:
    """Gives an app only requests whose body is there, whole and within the limit, or that have none.

    Args:
        bodies: what bounds their sum.
        limit_of: bytes that a request's body may have; 0 where none is taken.
        timeout: seconds to wait for each piece of it; all of it has twice as long.
        authenticate: returns the account, `None` where nobody need be known; raises for a request that nobody valid has
            sent: its body is not even read.
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
                await self._authenticate(scope)  # revoked while the body came?
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
        """The whole body."""
        body = bytearray()  # not a list: a piece may have one byte
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
    """What is received after it: `None` where the request was not read, and nothing of it is to be."""
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
    """Have an answer be the last of its connection; HTTP/2 ends one stream without a word."""
    if not is_http1(scope):
        return send

    async def send_closing(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_closing

"""The fast lane: answers the most frequent requests of an HTTP/1.1 connection directly on the stream.

It takes only plain requests: a request line and fields of the strictest grammar, a valid `Authorization`, and a body of
a given length. Any other request, and any error before the body is read, is left to the slow lane with every byte that
came. So odd requests are judged in one place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from enum import Enum, auto
from functools import lru_cache, partial
from http import HTTPStatus
from math import inf
from types import MappingProxyType
from typing import Final

import attrs
import trio

from mdashcore import _json
from mdashcore._errors import Busy, MdashError, StorageError, status_of
from mdashcore.identity import DeviceKey
from mdashcore.server import errors, operations
from mdashcore.server.auth import Principal
from mdashcore.server.http.bodies import HeldBody
from mdashcore.server.http.conditions import Conditions, etag
from mdashcore.server.http.connection import HttpConnection
from mdashcore.server.http.forwarded import hsts_header, peer_of
from mdashcore.server.http.hangup import cancelled_by_hangup
from mdashcore.server.http.request_head import RequestHead, field_list
from mdashcore.server.http.request_id import RequestIds, id_field
from mdashcore.server.service import Service
from mdashcore.server.traffic import responses
from mdashcore.trio.transport.stream import READ_SIZE

__all__ = ["KEEP_ALIVE", "SECURITY_HEADERS", "Answer", "FastLane", "Next", "date"]

_log = logging.getLogger(__name__)

NOT_MODIFIED: Final = 304
"""The one status without a body."""

KEEP_ALIVE: Final = 65  # seconds of a connection without a request: usual proxies close first, after 60

SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",  # answers hold secrets, and are outdated immediately
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # a URL may hold an access_token
    "X-Content-Type-Options": "nosniff",
}
"""The headers of every answer, in either lane."""


class Next(Enum):
    """The next step of a connection."""

    READ = auto()
    """Read on: the remaining bytes are the beginning of a request, or there are none."""
    ELSEWHERE = auto()
    """Hand over: the remaining bytes begin with a request that is not plain."""
    END = auto()
    """Close the connection."""


_FIXED: Final = "".join(f"{name.lower()}: {value}\r\n" for name, value in SECURITY_HEADERS.items()).encode()


@attrs.frozen
class Answer:
    """A JSON answer that goes onto the stream unchanged."""

    status: int
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})

    def encode(self, *, close: bool, fields: bytes = b"") -> bytes:
        """Return the bytes for the stream.

        Args:
            close: whether the answer is the last of its connection.
            fields: more header lines, each with its end.
        """
        responses[self.status] += 1
        more = "".join(f"{name.lower()}: {value}\r\n" for name, value in self.headers.items()).encode()
        form = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(self.body)
        return b"%b%b%b%b%bdate: %b\r\n%b\r\n%b" % (
            _status_line(self.status),
            b"" if self.status == NOT_MODIFIED else form,
            _FIXED,
            more,
            fields,
            date(),
            b"connection: close\r\n" if close else b"",
            self.body,
        )


class FastLane:
    """Answers plain requests.

    Args:
        authenticate: authenticates by the value of `Authorization`. If it raises, the request is not plain.
        is_open: whether any request is plain.
    """

    def __init__(
        self, service: Service, authenticate: Callable[[str], Awaitable[Principal]], *, is_open: bool = True
    ) -> None:
        self._service = service
        self.ids: RequestIds = RequestIds(service.proxies)
        """Gives ids to the requests of all connections."""
        self._authenticate = authenticate
        self._open = is_open and service.settings.fast_lane
        self._max_body = min(operations.MAX_BODY, service.settings.max_body)
        self._body_timeout = service.settings.body_timeout
        self._hsts = b"%b: %b\r\n" % hsts_header(service.settings.hsts_max_age)
        self._resting: set[trio.CancelScope] = set()
        self.draining: trio.Event = trio.Event()
        """Set when every answer is the last of its connection."""
        self.closing: trio.Event = trio.Event()
        """Set when no more requests are read."""

    def drain(self) -> None:
        """Make every answer the last of its connection. Connections that wait for no answer stay open."""
        self.draining.set()

    def close(self) -> None:
        """Make every answer the last of its connection. Connections that wait for no answer end immediately."""
        self.drain()
        self.closing.set()
        for scope in self._resting:
            scope.cancel()

    async def wait_for_request(self, connection: HttpConnection, idle: float) -> bytes:
        """Wait for a request that the caller has to answer.

        Args:
            idle: seconds for the first byte.

        Returns:
            The first bytes of the request; empty if the connection is to be closed.
        """
        if self.closing.is_set():
            return b""
        with self._resting_in(trio.CancelScope(deadline=trio.current_time() + idle)) as scope:
            data = await connection.receive()
        if scope.cancelled_caught or data is None:
            return b""
        if self.closing.is_set():
            await connection.linger()
            return b""
        return data

    @contextmanager
    def _resting_in(self, scope: trio.CancelScope) -> Iterator[trio.CancelScope]:
        """Open a scope that `close` cancels."""
        self._resting.add(scope)
        try:
            with scope:
                yield scope
        finally:
            self._resting.discard(scope)

    def _note_scheme(self, connection: HttpConnection, head: bytes) -> None:
        """Record whether the client of a request uses TLS. Behind a proxy each request may come from another client."""
        connection.secure = isinstance(connection.stream, trio.SSLStream)
        proxies = self._service.proxies
        if proxies.any_trusted:
            scheme = "https" if connection.secure else "http"
            client = proxies.client(peer_of(connection.stream), scheme, partial(field_list, head))
            connection.secure = client.scheme == "https"

    def _encode(self, connection: HttpConnection, answer: Answer, *, close: bool) -> bytes:
        fields = id_field(connection.request_id)
        return answer.encode(close=close, fields=fields + self._hsts if connection.secure else fields)

    async def answer(self, connection: HttpConnection, data: bytes) -> tuple[bytes, Next]:
        """Answer the request at the beginning of `data` if it is plain. `data` begins with a whole head.

        Returns:
            The remaining bytes of `data` and of later reads, and the next step.
        """
        scope = connection.scope
        request = RequestHead.read(data) if self._open else None
        if request is None or request.body_end - request.body_start > self._max_body:
            return data, Next.ELSEWHERE
        self._note_scheme(connection, data[: request.body_start])
        try:
            started = time.perf_counter()
            principal = await self._authenticate(request.authorization)
            connection.owner = principal.account
        except StorageError as exc:  # the slow lane would wait for the storage once more
            await connection.send(self._encode(connection, failure(exc), close=True))
            return data, Next.END
        except MdashError:
            return data, Next.ELSEWHERE
        held = HeldBody(self._service.bodies, principal.account)
        try:
            if len(data) < request.body_end:
                rest = await self._read(connection, request.body_end - len(data), held)
                if rest is None:
                    return data, Next.END
                data += rest
                try:
                    # the key may have been revoked while the body came
                    principal = await self._authenticate(request.authorization)
                except MdashError:
                    return data, Next.ELSEWHERE
            scope.deadline = inf  # a call has a time-out of its own
            body = data[request.body_start : request.body_end]
            if len(body) > READ_SIZE:  # decoding this much takes time
                await connection.turn.give_way()
            with cancelled_by_hangup(connection.stream) as hangup:
                answer = await self._answer(request, principal.account, body)
        finally:
            self._service.bodies.drop(held)
        if hangup.gone:
            return data, Next.END
        close = request.close or self.draining.is_set()
        await connection.send(self._encode(connection, answer, close=close))
        data = data[request.body_end :]
        if close:
            return data, Next.END
        if data:
            connection.turn.count(time.perf_counter() - started)
            await connection.turn.pause()  # a packet full of requests must not delay other connections
        return data, Next.READ

    async def _read(self, connection: HttpConnection, size: int, held: HeldBody) -> bytes | None:
        """Return at least the next `size` bytes; `None` if they do not come. The client has got an error then."""
        connection.scope.deadline = inf
        body = bytearray()
        late = f"the body did not come within {2 * self._body_timeout:g} s"
        with trio.move_on_after(2 * self._body_timeout):
            while len(body) < size:
                with trio.move_on_after(self._body_timeout) as piece:
                    try:
                        part = await held.wait(connection.receive)
                        held.add(len(part or b""))
                    except Busy as exc:
                        await connection.send(self._encode(connection, failure(exc), close=True))
                        return None
                if piece.cancelled_caught:
                    late = f"nothing of the body came for {self._body_timeout:g} s"
                    break
                if part is None:
                    return None
                body += part
        if len(body) < size:
            answer = Answer(408, _json.encode(errors.plain_body(408, late)))
            await connection.send(self._encode(connection, answer, close=True))
            return None
        held.complete()
        return bytes(body)

    async def _answer(self, request: RequestHead, account: str, body: bytes) -> Answer:
        service = self._service
        try:
            key = DeviceKey.find(account, request.device)
            if request.method is not None:
                return Answer(200, await operations.call(service, key, request.method, body, request.timeout))
            conditions = None if request.conditions is None else Conditions.of(*request.conditions)
            if request.post:
                found = await operations.update_shadow(service, key, body, conditions)
            else:
                found = await operations.read_shadow(service, key, conditions)
            status = NOT_MODIFIED if found.body is None else 200
            return Answer(status, found.body or b"", {"etag": etag(found.version)})
        except Exception as exc:
            return failure(exc)


@lru_cache(maxsize=64)  # the number of statuses is small
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()


def date() -> bytes:
    """Return the value of the field `Date`."""
    return _date(int(time.time()))


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


def failure(error: Exception) -> Answer:
    """Return the answer to a request that has failed. Logs errors of storage, and those that are no `MdashError`."""
    if not isinstance(error, MdashError):
        _log.error("a request failed", exc_info=error)
        return Answer(500, _json.encode(errors.plain_body(500, "internal error")))
    if isinstance(error, StorageError):
        _log.error("a request failed: %s", error)
    return Answer(status_of(error), errors.encoded(error), errors.headers(error))

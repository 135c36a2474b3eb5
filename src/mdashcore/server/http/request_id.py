"""The ids of requests: each answer has one as ``X-Request-Id``, and so has each line that is logged for the request.

A trusted proxy may give the id, so that one id goes through all systems. Any other client's header is ignored: its
value could hide what it has done among the lines of others.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import trio

from mdashcore.server.asgi import App, Receive, Scope, Send, header_list
from mdashcore.server.http.forwarded import Proxies, peer_of

__all__ = ["REQUEST_ID", "REQUEST_ID_HEADER", "RequestIdApp", "RequestIds", "as_current", "current", "id_field"]

REQUEST_ID_HEADER: Final = b"x-request-id"

REQUEST_ID: Final = "mdashcore.request_id"  # in a scope: the id of the request, if its server has given one

_FORM: Final = re.compile(rb"[A-Za-z0-9-]{1,64}")

_HEAD_END: Final = re.compile(rb"\n\r?\n")

_FIELD: Final = re.compile(rb"\n(?i:x-request-id):([^\r\n]*)")

current: ContextVar[str] = ContextVar("mdash_request_id", default="")
"""The id of the request that the present task works for; empty if there is none. A task inherits it."""


class RequestIds:
    """Gives ids to requests.

    Args:
        proxies: the proxies whose ids are taken over.
    """

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        self._random = random.Random(os.urandom(32))  # noqa: S311 - an id is no secret

    def begin(self, stream: trio.abc.Stream, head: bytes) -> str:
        """Return the id of a request on a connection, and make it the current one.

        Args:
            head: begins with the head of the request, which may be malformed.
        """
        if self._proxies.any_trusted:
            found = _FIELD.findall(_HEAD_END.split(head, 1)[0])
            return self.choose(peer_of(stream), found[0].strip(b" \t") if len(found) == 1 else b"")
        return self.choose("", b"")

    def choose(self, peer: str, given: bytes) -> str:
        """Return the id of a request, and make it the current one.

        Args:
            peer: the address at the other end of the connection.
            given: the value of ``X-Request-Id``.
        """
        if given and _FORM.fullmatch(given) and self._proxies.trusts(peer):
            id = given.decode()
        else:
            id = f"{self._random.getrandbits(64):016x}"
        current.set(id)
        return id


def id_field(id: str) -> bytes:
    """Return the header line with an id; empty without an id."""
    return b"x-request-id: %b\r\n" % id.encode() if id else b""


@contextmanager
def as_current(id: str) -> Iterator[None]:
    """Make an id the current one as long as the context lasts."""
    token = current.set(id)
    try:
        yield
    finally:
        current.reset(token)


class RequestIdApp:
    """Gives an id to each request of an app, unless the app's server has given one."""

    def __init__(self, app: App, proxies: Proxies) -> None:
        self.inner = app
        self._ids = RequestIds(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or REQUEST_ID in scope:
            await self.inner(scope, receive, send)
            return
        client = scope.get("client") or ("", 0)
        given = header_list(scope, REQUEST_ID_HEADER)
        id = self._ids.choose(str(client[0]), (given or "").encode("latin-1"))

        async def send_with_id(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID_HEADER, id.encode())]}
            await send(message)

        await self.inner({**scope, REQUEST_ID: id}, receive, send_with_id)

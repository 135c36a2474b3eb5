"""The handshake that turns an HTTP request into a WebSocket. What is not plain is read and answered by `websockets`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from mdashcore import _json
from mdashcore.trio.transport.frames import LIBRARY_LOGGER
from mdashcore.trio.transport.plain_handshake import PlainHandshake, PlainRequest

__all__ = ["NO_HANDSHAKE", "Handshake", "HandshakeRequest", "read_handshake"]

HandshakeRequest: TypeAlias = Request | PlainRequest
"""The request of a handshake: `path`, and `headers` with ``get_all``."""

NO_HANDSHAKE: Final = (
    "a WebSocket handshake is expected here. If the client did send one, a proxy on the way has not passed it on: "
    "it has to forward the headers Upgrade and Connection, over HTTP/1.1"
)
"""The message of a 426 answer, also to a valid token: the usual cause is the configuration of a proxy."""

_SUBPROTOCOLS: Final = "Sec-WebSocket-Protocol"

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2: the name of a sub-protocol


def read_handshake(head: bytes) -> tuple[Handshake | PlainHandshake, HandshakeRequest | None]:
    """Read the whole head of a request. Returns what answers the request, and the request, `None` if it is invalid."""
    if (plain := PlainHandshake.read(head)) is not None:
        return PlainHandshake(), plain
    handshake = Handshake()
    return handshake, handshake.read(head)


class Handshake:
    """One handshake, read by the library. No extensions are offered: compression would let a small frame become a very
    large one.
    """

    def __init__(self) -> None:
        self._protocol = ServerProtocol(extensions=None, logger=LIBRARY_LOGGER)

    def read(self, head: bytes) -> Request | None:
        """Read the whole head of the request. Returns `None` if it is invalid."""
        self._protocol.receive_data(head)
        if self._protocol.handshake_exc is None:
            for event in self._protocol.events_received():
                if isinstance(event, Request):
                    return event
        return None

    def answer(self, request: Request, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        """Return the bytes of the answer, and whether the handshake is accepted.

        Args:
            headers: more headers of the answer.
        """
        response = self._response(request)
        response.headers.update(headers)
        self._protocol.send_response(response)
        return b"".join(self._protocol.data_to_send()), self._protocol.state is State.OPEN

    def _response(self, request: Request) -> Response:
        """Return 101 with the first sub-protocol that is offered, or an error."""
        offered = request.headers.get_all(_SUBPROTOCOLS)
        if offered:
            del request.headers[_SUBPROTOCOLS]  # the library would refuse a device for an odd one
        response = self._protocol.accept(request)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            names = (name.strip(" \t") for value in offered for name in value.split(","))
            if (first := next(filter(_TOKEN.fullmatch, names), None)) is not None:
                response.headers[_SUBPROTOCOLS] = first
        elif response.status_code == HTTPStatus.UPGRADE_REQUIRED:
            body = _json.encode({"error": {"code": response.status_code, "message": NO_HANDSHAKE}})
            for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body)))):
                del response.headers[name]
                response.headers[name] = value
            response.body = body
        return response

"""``/rpc`` and ``/notify``: the addresses of the WebSockets, asked without a handshake.

`mdashcore.server.gateway` serves the sockets.
"""

from __future__ import annotations

from typing import Final

from quart import Response

from mdashcore.documents import NotifyQuery
from mdashcore.server import errors
from mdashcore.server.api._request import answer
from mdashcore.server.endpoints import API, Access, Routes
from mdashcore.trio.transport.handshake import NO_HANDSHAKE

__all__ = ["DEVICE_PATH", "NOTIFY_PARAMETERS", "NOTIFY_PATH", "routes"]

DEVICE_PATH: Final = f"{API}/rpc"
NOTIFY_PATH: Final = f"{API}/notify"

NOTIFY_PARAMETERS: Final = tuple(NotifyQuery.__annotations__)

routes: Routes = Routes(API)


@routes.get(
    "/notify",
    is_socket=True,
    query=NotifyQuery,
    answers={101: None},
    errors=(426,),
    summary="The WebSocket for notifications.",
)
@routes.get(
    "/rpc",
    is_socket=True,
    access=Access.DEVICE,
    answers={101: None},
    errors=(426,),
    summary="The WebSocket of devices.",
)
async def refuse_without_handshake() -> Response:
    """Refuse a request for a socket's address without a handshake: 426, whatever its credentials are.

    The proxy in front of a device may drop the handshake. With 401 the device would take its token for a bad one.
    """
    response = answer(errors.plain_body(426, NO_HANDSHAKE), 426)
    response.headers["Upgrade"] = "websocket"
    response.headers["Connection"] = "close"
    return response

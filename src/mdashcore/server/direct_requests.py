"""Quart's handling of one request, without the tasks that a request without a body does not need."""

from __future__ import annotations

from quart import Response
from quart.typing import ResponseTypes
from quart.wrappers.response import DataBody
from quart_trio.asgi import TrioASGIHTTPConnection

from mdashcore.server.asgi import CANCELS, Receive, Send, has_body

__all__ = ["DirectConnection"]


class DirectConnection(TrioASGIHTTPConnection):
    """One request.

    Quart starts two tasks for it: one handles it, and one reads the body and waits for the end of the connection. There
    is nothing to read without a body, and a server may look for the end by itself; see `CANCELS`.
    """

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Do the same as Quart's."""
        if not self.scope.get(CANCELS) or has_body(dict(self.scope)):
            await super().__call__(receive, send)
            return
        request = self._create_request_from_scope(send)
        request.body.set_complete()
        await self._send_response(send, await self.app.handle_request(request))

    async def _send_response(self, send: Send, response: ResponseTypes) -> None:
        """Send a response whose whole body is known in two messages, not three."""
        body = response.response if isinstance(response, Response) else None
        if not isinstance(body, DataBody):
            await super()._send_response(send, response)
            return
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()
        ]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body.data[body.begin : body.end], "more_body": False})

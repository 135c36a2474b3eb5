"""A scripted device on a real WebSocket. A test decides all that it sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio_websocket
from wsproto.utilities import LocalProtocolError

from mdashcore import _json

__all__ = ["ScriptedDevice", "connect_device"]

FRAME_TIMEOUT = 20.0  # seconds for an expected frame: far above the time that it takes on a busy machine


class ScriptedDevice:
    """One connection of a device. Frames are dicts, or any text that a test wants to send."""

    def __init__(self, ws: trio_websocket.WebSocketConnection) -> None:
        self.ws = ws

    async def send(self, frame: object) -> None:
        """Send a frame. Text and bytes are sent as they are (bytes as a binary message)."""
        await self.ws.send_message(frame if isinstance(frame, str | bytes) else _json.encode(frame).decode())

    async def receive(self) -> Any:
        """Return the next frame from the server. Raises `trio.TooSlowError`, `trio_websocket.ConnectionClosed`."""
        with trio.fail_after(FRAME_TIMEOUT):
            message = await self.ws.get_message()
        return _json.decode(message)

    async def expect(self, method: str) -> Any:
        """Return the next frame with that method. Other frames are skipped."""
        while True:
            frame = await self.receive()
            if frame.get("method") == method:
                return frame

    async def reply(self, request: Any, result: object = None) -> None:
        """Answer a request."""
        await self.send({"id": request["id"], "result": result})

    async def reply_error(self, request: Any, code: int, message: str) -> None:
        """Answer a request with an error."""
        await self.send({"id": request["id"], "error": {"code": code, "message": message}})

    async def wait_closed(self) -> tuple[int, str]:
        """Wait until the server has closed the connection. Returns its code and reason."""
        with trio.fail_after(FRAME_TIMEOUT):
            while True:
                try:
                    await self.ws.get_message()
                except trio_websocket.ConnectionClosed as exc:
                    reason = exc.reason
                    return (reason.code, reason.reason or "") if reason else (1006, "")


@asynccontextmanager
async def connect_device(
    url: str, token: str | None, *, headers: Sequence[tuple[bytes, bytes]] = ()
) -> AsyncIterator[ScriptedDevice]:
    """Connect a device for as long as the context lasts.

    Args:
        url: the WebSocket of the server, such as ``ws://localhost:8080/api/v2/rpc``.
        token: the device's token; `None` sends no ``Authorization``.
        headers: further fields of the handshake.

    Raises:
        trio_websocket.ConnectionRejected: the server refused the handshake. The error has its answer.
    """
    fields = [] if token is None else [(b"Authorization", f"Bearer {token}".encode())]
    ws, closing = None, False
    try:
        async with trio_websocket.open_websocket_url(
            url, extra_headers=[*fields, *headers], disconnect_timeout=1, max_message_size=2**22
        ) as ws:
            yield ScriptedDevice(ws)
            closing = True
            await _close(ws)
    except LocalProtocolError:  # a ping came after the close frame was sent, and the library wanted to answer it
        if not closing:
            raise
    finally:
        if ws is not None:
            await trio.aclose_forcefully(ws._stream)  # the library leaves it open if the server closed first


async def _close(ws: trio_websocket.WebSocketConnection) -> None:
    """Close a WebSocket. Messages that the test has not read are dropped, or the library would not see the answer."""

    async def drop_messages() -> None:
        try:
            while True:
                await ws.get_message()
        except trio_websocket.ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drop_messages)
        await ws.aclose()
        nursery.cancel_scope.cancel()

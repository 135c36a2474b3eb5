"""WebSocket clients on uvloop, for all load generators."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

__all__ = ["PATIENCE", "Client", "command", "connect_all", "tell", "until"]

PATIENCE = 30.0  # seconds for any expected event: a busy machine is slow, a broken server is slower
AT_ONCE = 64  # handshakes at the same time


class Client(WSListener):  # type: ignore[misc]
    """One socket. Received frames go to `text`."""

    transport: WSTransport

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.text(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    def text(self, data: bytes) -> None:
        """Process a received frame."""

    def send(self, data: bytes) -> None:
        """Send a frame."""
        self.transport.send(WSMsgType.TEXT, data)


_Any = TypeVar("_Any", bound=Client)


async def connect_all(port: int, path: str, clients: Sequence[tuple[_Any, str]]) -> list[_Any]:
    """Connect each client with its token, some at a time."""
    slots = asyncio.Semaphore(AT_ONCE)
    url = f"ws://127.0.0.1:{port}{path}"

    async def connect(client: _Any, token: str) -> None:
        async with slots:
            headers = {"Authorization": f"Bearer {token}"}
            await ws_connect(lambda: client, url, extra_headers=headers, websocket_handshake_timeout=PATIENCE)

    await asyncio.gather(*(connect(client, token) for client, token in clients))
    return [client for client, _ in clients]


async def command() -> Any:
    """Return the next line of JSON from stdin; `None` at its end."""
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.readline)
    return json.loads(line) if line.strip() else None


def tell(value: object) -> None:
    """Write a line of JSON to stdout."""
    print(json.dumps(value), flush=True)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that frames bring about. Raises `TimeoutError`."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - callbacks count, and have no time for events
            await asyncio.sleep(0.005)

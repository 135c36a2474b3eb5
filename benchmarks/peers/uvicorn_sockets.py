"""Sockets that answer requests, on uvicorn without a framework."""

from __future__ import annotations

import json
import socket
from typing import Any

import msgspec
import uvicorn

from benchmarks.peers.ready import announce

devices: dict[str, Any] = {}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer on a WebSocket (ASGI)."""
    if scope["type"] != "websocket":
        return
    id = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
    devices[id] = send
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        frame = msgspec.json.decode(message["text"])
        if "method" in frame:
            await send(
                {"type": "websocket.send", "text": json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": {}})}
            )
    if devices.get(id) is send:
        del devices[id]


def main() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        announce(listener.getsockname()[1])
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            log_level="error",
            access_log=False,
            lifespan="off",
            ws_per_message_deflate=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

"""Sockets that answer requests, with `websockets` on uvloop."""

from __future__ import annotations

import asyncio

import msgspec
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.peers.ready import announce

devices: dict[str, ServerConnection] = {}


async def handle(ws: ServerConnection) -> None:
    """Answer one device."""
    assert ws.request is not None
    id = ws.request.headers["Authorization"].removeprefix("Bearer ")
    devices[id] = ws
    async for message in ws:
        frame = msgspec.json.decode(message)
        if "method" in frame:
            await ws.send(msgspec.json.encode({"jsonrpc": "2.0", "id": frame["id"], "result": {}}), text=True)
    if devices.get(id) is ws:
        del devices[id]


async def run() -> None:
    async with serve(handle, "127.0.0.1", 0, compression=None, backlog=1024) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run())

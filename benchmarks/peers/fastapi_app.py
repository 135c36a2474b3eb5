"""Devices behind FastAPI, on uvicorn with uvloop and httptools: no accounts, no bounds.

In memory there is no log. With SQLite, a call has an entry in the log before it is answered, and a report, a message
and a connection are on disk before they are answered or sent on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from benchmarks.peers.naive import Shadow
from benchmarks.peers.sqlite_store import LOG, SHADOW, SqliteStore, open_store

encode, decode = msgspec.json.encode, msgspec.json.decode


class Device:
    """A connected device."""

    def __init__(self, ws: WebSocket) -> None:
        self.ws = ws
        self.calls: dict[int, asyncio.Future[Any]] = {}
        self.last = 0


devices: dict[str, Device] = {}
subscribers: set[WebSocket] = set()
shadows: dict[str, Shadow] = {}
store: SqliteStore | None = None


def make_app(listener: socket.socket, count: int) -> FastAPI:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        ids = [(f"d{n}", f"d{n}") for n in range(count)]
        print(json.dumps({"port": listener.getsockname()[1], "key": "any", "devices": ids}), flush=True)
        yield

    app = FastAPI(lifespan=lifespan)

    @app.websocket("/api/v2/rpc")
    async def device(ws: WebSocket) -> None:
        id = ws.headers["authorization"].removeprefix("Bearer ")
        await ws.accept()
        device = devices[id] = Device(ws)
        await note_presence(id, "online")
        try:
            while True:
                await receive(id, device, decode(await ws.receive_text()))
        except WebSocketDisconnect:
            pass
        finally:
            if devices.get(id) is device:
                del devices[id]
                await note_presence(id, "offline")

    @app.websocket("/api/v2/notify")
    async def notify(ws: WebSocket) -> None:
        await ws.accept()
        subscribers.add(ws)
        try:
            while True:
                await ws.receive_text()
        except WebSocketDisconnect:
            pass
        finally:
            subscribers.discard(ws)

    @app.post("/api/v2/devices/{id}/rpc/{method}")
    async def call(id: str, method: str, request: Request) -> Response:
        device = devices[id]
        device.last += 1
        number = device.last
        params = decode(await request.body())
        frame = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        device.calls[number] = answer
        await device.ws.send_text(encode(frame).decode())
        notification = encode({"name": f"rpc.in.{method}", "id": id, "data": params})
        stored = None if store is None else store.write((LOG, (time.time(), notification)))
        async with asyncio.timeout(10):
            result = encode(await answer)
        if stored is not None:
            await stored
            await tell(notification)
        return Response(result, media_type="application/json")

    @app.post("/api/v2/devices/{id}/shadow")
    async def update(id: str, request: Request) -> Response:
        return Response(encode(await change(id, decode(await request.body()))), media_type="application/json")

    @app.get("/api/v2/devices/{id}/shadow")
    async def read(id: str) -> Response:
        shadow = shadows.setdefault(id, Shadow())
        body = encode({"state": shadow.state, "version": shadow.version})
        return Response(body, media_type="application/json")

    return app


async def receive(id: str, device: Device, frame: dict[str, Any]) -> None:
    """Process a frame of a device."""
    method = frame.get("method")
    if method is None:
        if (answer := device.calls.pop(frame["id"], None)) is not None and not answer.done():
            answer.set_result(frame.get("result"))
    elif method == "Dash.Shadow.Update":
        accepted = await change(id, frame["params"])
        await device.ws.send_text(encode({"jsonrpc": "2.0", "id": frame["id"], "result": accepted}).decode())
    elif "id" in frame:
        await device.ws.send_text(encode({"jsonrpc": "2.0", "id": frame["id"], "result": {}}).decode())
    else:
        notification = encode({"name": f"rpc.out.{method}", "id": id, "data": frame.get("params")})
        if store is not None:
            await store.write((LOG, (time.time(), notification)))
        await tell(notification)


async def change(id: str, document: dict[str, Any]) -> dict[str, Any]:
    """Update a shadow; send the remaining delta to the device, and the change to all subscribers."""
    shadow = shadows.setdefault(id, Shadow())
    accepted, left = shadow.update(document)
    notification = encode({"name": "updated", "id": id, "data": {"shadow": accepted}})
    if store is not None:
        body = encode({"state": shadow.state, "version": shadow.version})
        await store.write((SHADOW, (id, body)), (LOG, (time.time(), notification)))
    if left is not None and (device := devices.get(id)) is not None:
        await device.ws.send_text(encode({"jsonrpc": "2.0", "method": "Shadow.Delta", "params": left}).decode())
    await tell(notification)
    return accepted


async def note_presence(id: str, name: str) -> None:
    """Store whether a device is connected."""
    if store is not None:
        notification = encode({"name": name, "id": id})
        await store.write((SHADOW, (f"presence/{id}", encode(name))), (LOG, (time.time(), notification)))
        await tell(notification)


async def tell(notification: bytes) -> None:
    """Send an encoded notification to all subscribers."""
    text = notification.decode()
    for subscriber in tuple(subscribers):
        await subscriber.send_text(text)


def main() -> None:
    global store
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--store", default="memory://", metavar="URL")
    arguments = parser.parse_args()
    count = arguments.devices
    store = open_store(arguments.store)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        config = uvicorn.Config(
            make_app(listener, count),
            loop="uvloop",
            http="httptools",
            log_level="error",
            access_log=False,
            timeout_keep_alive=65,  # seconds: longer than the turns of all others
            ws_per_message_deflate=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

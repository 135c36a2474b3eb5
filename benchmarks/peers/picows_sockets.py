"""Sockets that answer requests, with `picows` on uvloop."""

from __future__ import annotations

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.peers.ready import announce

devices: dict[str, WSTransport] = {}


class Device(WSListener):  # type: ignore[misc]
    """A connected device."""

    def __init__(self, id: str) -> None:
        super().__init__()
        self.id = id

    def on_ws_connected(self, transport: WSTransport) -> None:
        devices[self.id] = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if devices.get(self.id) is transport:
            del devices[self.id]

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            message = msgspec.json.decode(frame.get_payload_as_bytes())
            if "method" in message:
                answer = {"jsonrpc": "2.0", "id": message["id"], "result": {}}
                transport.send(WSMsgType.TEXT, msgspec.json.encode(answer))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


def make(request: WSUpgradeRequest) -> Device:
    return Device(request.headers["Authorization"].removeprefix("Bearer "))


async def run() -> None:
    server = await ws_create_server(make, "127.0.0.1", 0, backlog=1024)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(run())

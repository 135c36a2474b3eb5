"""Devices that answer ``Echo`` with its params, and any other method with an error.

Reads ``{"port", "devices"}``; writes ``{"connected"}``; at each further line, ``{"answered"}``.
"""

from __future__ import annotations

import msgspec
import uvloop

from benchmarks.load.devices import Client, command, connect_all, tell


class Request(msgspec.Struct):
    """A call of the server."""

    id: int = 0
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"null")


decode = msgspec.json.Decoder(Request).decode
answered = 0


class Device(Client):
    """A device that answers."""

    def text(self, data: bytes) -> None:
        global answered
        request = decode(data)
        if request.method == "Echo":
            self.send(b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (request.id, bytes(request.params)))
            answered += 1
        elif request.id:
            self.send(b'{"jsonrpc":"2.0","id":%d,"error":{"code":404,"message":"No handler"}}' % request.id)


async def main() -> None:
    server = await command()
    pairs = [(Device(), token) for _, token in server["devices"]]
    tell({"connected": len(await connect_all(server["port"], "/api/v2/rpc", pairs))})
    while await command() is not None:
        tell({"answered": answered})


if __name__ == "__main__":
    uvloop.run(main())

"""The `websockets` library as a device, as its users write one: on asyncio, in a thread of its own."""

from __future__ import annotations

import asyncio
import json

import pytest
import trio
from websockets.asyncio.client import connect


async def test_a_device_on_websockets_is_called_and_pinged(alice):
    """It connects with compression offered, which is declined, answers a call and the server's pings."""
    token = await alice.register("d1")
    url = alice.server.device_url

    async def device() -> tuple[str, bool]:
        async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as ws:
            await (await ws.ping())
            await ws.send(json.dumps({"method": "Ready"}))
            frame = json.loads(await ws.recv())
            while frame["method"] != "Sys.Echo":
                frame = json.loads(await ws.recv())
            await ws.send(json.dumps({"id": frame["id"], "result": frame["params"]}))
            await ws.wait_closed()
            return ws.close_reason or "", "Sec-WebSocket-Extensions" in ws.response.headers

    outcome: list[tuple[str, bool]] = []
    async with trio.open_nursery() as nursery:

        async def run_device() -> None:
            outcome.append(await trio.to_thread.run_sync(asyncio.run, device()))

        nursery.start_soon(run_device)
        await alice.told("rpc.out.Ready")
        response = await alice.http.post("/devices/d1/rpc/Sys.Echo", content=b'{"b": 1, "a": 2.50}')
        assert response.text == '{"b": 1, "a": 2.5}'  # as the device's own encoder wrote it
        await alice.http.delete("/devices/d1")
    assert outcome == [("the device token was revoked", False)]


@pytest.mark.parametrize("path", ["rpc", "notify"])
@pytest.mark.parametrize("offered", [["json-rpc"], ["dash.mongoose-os.com", "json-rpc"], ["mqtt"], None])
async def test_a_device_that_offers_subprotocols_is_let_in(alice, path, offered):
    """On both sockets the first that is offered is chosen, and none where none is: `websockets` refuses any other."""
    secret = await alice.register("d1") if path == "rpc" else alice.key
    url = f"{alice.server.url.replace('http', 'ws')}/api/v2/{path}"

    async def client() -> tuple[str | None, int]:
        headers = {"Authorization": f"Bearer {secret}"}
        async with connect(url, additional_headers=headers, subprotocols=offered) as ws:
            await (await ws.ping())
            return ws.subprotocol, ws.response.status_code

    chosen, status = await trio.to_thread.run_sync(asyncio.run, client())
    assert (chosen, status) == (offered and offered[0], 101)

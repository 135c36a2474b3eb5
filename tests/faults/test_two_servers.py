"""Two real servers on one real Redis: people and devices need not know that there are two, or that one has died."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio_websocket

from mdashcore import _json
from mdashcore.testing.device import ScriptedDevice, connect_device


@pytest.fixture
async def servers(start_redis: Any, serving: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Two of them."""
    redis = await trio.to_thread.run_sync(start_redis)
    try:
        async with serving(f"{redis.url}/0") as first, serving(f"{redis.url}/0") as second:
            yield first, second
    finally:
        redis.kill()


async def hear(server: Any, key: str, name: str) -> None:
    """Until that notification is in the log, from the server's notify socket."""
    with trio.fail_after(20):
        async with connect_device(f"{server.ws}/notify?start=0", key) as listener:
            while (await listener.receive())["name"] != name:
                pass


async def attend(device: ScriptedDevice, name: str) -> None:
    """Answer every call with that name, and keep what was told."""
    try:
        while True:
            request = _json.decode(await device.ws.get_message())
            if "id" in request and "method" in request:
                await device.reply(request, {"at": name})
    except trio_websocket.ConnectionClosed:
        pass


async def test_a_device_of_one_is_called_by_way_of_the_other(servers):
    """It is online for both; calls, shadow updates and notifications cross, and a new connection moves it."""
    first, second = servers
    created = (await first.http.post("/devices", json={"id": "lamp"})).json()
    key = (await second.http.post("/keys", json={"name": "k"})).json()["key"]
    async with connect_device(f"{first.ws}/rpc", created["token"]) as device, trio.open_nursery() as nursery:
        nursery.start_soon(attend, device, "first")
        await hear(second, key, "online")
        assert (await second.http.get("/devices/lamp")).json()["online"] is True
        assert (await second.http.post("/devices/lamp/rpc/Where", json={})).json() == {"at": "first"}
        with trio.fail_after(20):
            async with connect_device(f"{second.ws}/rpc", created["token"]) as moved:
                nursery.start_soon(attend, moved, "second")
                while (await first.http.post("/devices/lamp/rpc/Where", json={})).json() != {"at": "second"}:
                    pass
                assert (await device.wait_closed())[0] == 1008
                assert (await first.http.delete("/devices/lamp")).status_code == 200
                assert (await moved.wait_closed())[0] == 1008
        nursery.cancel_scope.cancel()


async def test_one_is_killed_and_its_device_goes_to_the_other(servers):
    """kill -9: the device is online and can be called as soon as it has connected again; what was desired is there."""
    first, second = servers
    created = (await first.http.post("/devices", json={"id": "lamp"})).json()
    async with connect_device(f"{first.ws}/rpc", created["token"]) as device:
        assert (
            await second.http.post("/devices/lamp/shadow", json={"state": {"desired": {"n": 1}}})
        ).status_code == 200
        delta = await device.expect("Shadow.Delta")
        assert delta["params"]["state"] == {"n": 1}
        first.kill()
        await device.wait_closed()
    async with connect_device(f"{second.ws}/rpc", created["token"]) as device, trio.open_nursery() as nursery:
        delta = await device.expect("Shadow.Delta")
        assert delta["params"]["state"] == {"n": 1}
        nursery.start_soon(attend, device, "second")
        assert (await second.http.get("/devices/lamp")).json()["online"] is True
        assert (await second.http.post("/devices/lamp/rpc/Where", json={})).json() == {"at": "second"}
        nursery.cancel_scope.cancel()

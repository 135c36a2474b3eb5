"""Two real servers on one real Redis: people and devices need not know that there are two, or that one has died."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio_websocket

from mdashcore import _json
from mdashcore.testing.device import ScriptedDevice, connect_device

DEAD = 90.0  # seconds until one has declared the other dead, and has checked each device: on a quiet machine 20 to 50


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


@pytest.mark.proof
async def test_one_is_stopped_and_goes_on(servers):
    """Its devices are offline, and may go to the other. When it goes on, it finds out that it was taken for dead: those
    of its connections end that are not the devices' newest, or that the other has stored as offline.
    """
    first, second = servers
    tokens = {id: (await first.http.post("/devices", json={"id": id})).json()["token"] for id in ("lamp", "pump")}

    async def until_online(id, *, online):
        with trio.fail_after(DEAD):
            while (await second.http.get(f"/devices/{id}")).json()["online"] is not online:  # noqa: ASYNC110
                await trio.sleep(0.1)

    async def until_called(server, id, name):
        with trio.fail_after(DEAD):
            while (await server.http.post(f"/devices/{id}/rpc/Where", json={})).json() != {"at": name}:  # noqa: ASYNC110
                await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        async with (
            connect_device(f"{first.ws}/rpc", tokens["lamp"]) as lamp,
            connect_device(f"{first.ws}/rpc", tokens["pump"]) as pump,
        ):
            for id in tokens:
                await until_online(id, online=True)
            first.process.send_signal(signal.SIGSTOP)
            try:
                for id in tokens:
                    await until_online(id, online=False)
                moved = await nursery.start(stay, f"{second.ws}/rpc", tokens["lamp"], "second")
                await until_called(second, "lamp", "second")
            finally:
                first.process.send_signal(signal.SIGCONT)
            with trio.fail_after(DEAD):
                for device in (lamp, pump):
                    await attend(device, "the one that was stopped")
        await nursery.start(stay, f"{first.ws}/rpc", tokens["pump"], "first")
        for server in servers:
            await until_called(server, "lamp", "second")
            await until_called(server, "pump", "first")
            assert (await server.http.get(f"{server.url}/readyz")).status_code == 200
        assert not moved.ws.closed
        nursery.cancel_scope.cancel()


async def stay(url: str, token: str, name: str, *, task_status: trio.TaskStatus[ScriptedDevice]) -> None:
    """Be a device that is connected, and answers with that name."""
    async with connect_device(url, token) as device:
        task_status.started(device)
        await attend(device, name)

"""A virtual device on a real server."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from mdashcore import InvalidInput, Unauthenticated
from mdashcore.trio.agent import Backoff
from mdashcore.virtual_device import VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device

SOON = Backoff(first=0.01)


def running(device, url, token):
    """What a nursery starts."""
    return partial(run_virtual_device, device, url, token, backoff=SOON)


async def test_started_means_known(alice, tmp_path):
    """When it has started, the server knows it as online, and what it runs."""
    token = await alice.register("d1")
    async with trio.open_nursery() as nursery:
        await nursery.start(running(VirtualDevice("d1", tmp_path), alice.server.device_url, token))
        found = (await alice.http.get("/devices/d1")).json()
        assert found["online"] is True
        assert found["shadow"]["state"]["reported"]["ota"]["app"] == "virtual-device"
        nursery.cancel_scope.cancel()


async def test_a_reboot_is_a_new_connection(alice, tmp_path):
    """Rebooting drops the connection; the device comes back, with its RAM as new."""
    token = await alice.register("d1")
    async with trio.open_nursery() as nursery, alice.listen() as ear:
        await nursery.start(running(VirtualDevice("d1", tmp_path), alice.server.device_url, token))
        await ear.expect("online")
        assert (await alice.http.post("/devices/d1/rpc/GPIO.Toggle", json={"pin": 2})).json() == {"value": 1}
        assert (await alice.http.post("/devices/d1/rpc/Sys.Reboot", json={"delay_ms": 1})).json() is None
        await ear.expect("offline")
        await ear.expect("online")
        assert (await alice.http.post("/devices/d1/rpc/GPIO.Read", json={"pin": 2})).json() == {"value": 0}
        nursery.cancel_scope.cancel()


async def test_a_delta_is_applied_and_reported(alice, tmp_path):
    """What is desired reaches the device, and comes back as reported."""
    token = await alice.register("d1")
    async with trio.open_nursery() as nursery, alice.listen() as ear:
        await nursery.start(running(VirtualDevice("d1", tmp_path), alice.server.device_url, token))
        await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"on": True}}})
        told = await ear.expect("updated")
        while told["data"]["shadow"]["state"].get("reported", {}).get("on") is None:
            told = await ear.expect("updated")
        assert "delta" not in (await alice.http.get("/devices/d1/shadow")).json()["state"]
        nursery.cancel_scope.cancel()


async def test_without_a_server_it_lives_on(autojump_clock, tmp_path):
    """What it reports while there is no connection is dropped, and ends nothing."""
    device = VirtualDevice("d1", tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running(device, "ws://127.0.0.1:1/api/v2/rpc", "x"))
        await trio.sleep(65)  # six reports of statistics, six log lines
        assert (await device.handle("Sys.GetInfo", {}))["uptime"] == 65
        nursery.cancel_scope.cancel()


async def test_a_refused_token(alice, tmp_path):
    """It ends with a plain `Unauthenticated`, not with a group."""
    with pytest.raises(Unauthenticated):
        await running(VirtualDevice("d1", tmp_path), alice.server.device_url, "mdd_wrong")()


async def test_a_revoked_token(alice, tmp_path):
    """A token that ends while it is connected ends it in the same way."""
    token = await alice.register("d1")
    ended = trio.Event()

    async def run(*, task_status):
        device = VirtualDevice("d1", tmp_path)
        with pytest.raises(Unauthenticated):
            await run_virtual_device(device, alice.server.device_url, token, backoff=SOON, task_status=task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        await alice.http.post("/devices/d1/token")
        with trio.fail_after(10):
            await ended.wait()


async def test_a_wrong_url(tmp_path):
    """What no device dials is refused immediately."""
    with pytest.raises(InvalidInput):
        await running(VirtualDevice("d1", tmp_path), "http://127.0.0.1/", "x")()

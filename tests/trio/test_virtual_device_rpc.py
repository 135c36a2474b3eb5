"""The dispatch table, RPC.*, Sys.*, GPIO.*, Wifi.*; and that no params whatever break the device."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import _json
from mdashcore._errors import InvalidInput, RpcError
from mdashcore.virtual_device import FirmwareBuild, VirtualDevice

METHODS = [
    *("Sys.GetInfo", "Sys.Reboot", "Wifi.Scan", "Config.Get", "Config.Set", "Config.Save"),
    *("FS.List", "FS.ListExt", "FS.Get", "FS.Put", "FS.Remove", "FS.Rename", "GPIO.Read", "GPIO.Write", "GPIO.Toggle"),
    *("OTA.Begin", "OTA.Write", "OTA.End", "OTA.Status", "OTA.Commit", "OTA.Revert"),
    *("RPC.List", "RPC.Describe", "RPC.Ping"),
]


@pytest.fixture
async def device(tmp_path: Path) -> VirtualDevice:
    return VirtualDevice("d1", tmp_path)


async def refused(device: VirtualDevice, method: str, params: object) -> tuple[int, str]:
    with pytest.raises(RpcError) as caught:
        await device.handle(method, params)
    return caught.value.code, caught.value.message


async def test_list_is_the_table(device: VirtualDevice) -> None:
    """RPC.List names every method, and each of them has a handler and a description."""
    assert await device.handle("RPC.List", None) == METHODS
    for name in METHODS:
        described = await device.handle("RPC.Describe", {"name": name})
        assert described["name"] == name
        assert re.fullmatch(r"(\{\w+: %(\w+)(, \w+: %\w+)*\})?", described["args_fmt"])


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("Nope.Nothing", {}, (404, "No handler for Nope.Nothing")),
        ("fs.list", {}, (404, "No handler for fs.list")),
        ("", {}, (404, "No handler for ")),
        ("x" * 5000, {}, (404, "No handler for " + "x" * 100)),
        ("RPC.Ping", [1], (400, "params must be an object")),
        ("RPC.Ping", "x", (400, "params must be an object")),
        ("RPC.Describe", {}, (400, "name is required")),
        ("RPC.Describe", {"name": "Nope"}, (404, "name not found")),
        ("GPIO.Read", {}, (400, "pin is required")),
        ("GPIO.Read", {"pin": 40}, (400, "error setting pin mode")),
        ("GPIO.Read", {"pin": -1}, (400, "error setting pin mode")),
        ("GPIO.Toggle", {"pin": 34}, (400, "error setting pin mode")),
        ("GPIO.Write", {"pin": 2}, (400, "value is required")),
        ("GPIO.Write", {"pin": 2, "value": 2}, (400, "value must be 0 or 1")),
        ("GPIO.Write", {"pin": 2, "value": True}, (400, "value must be an integer")),
        ("Sys.Reboot", {"delay_ms": -1}, (400, "invalid delay value")),
        ("Sys.Reboot", {"delay_ms": 10**30}, (400, "invalid delay value")),
        ("Sys.Reboot", {"delay_ms": "soon"}, (400, "delay_ms must be an integer")),
    ],
)
async def test_errors(device: VirtualDevice, method: str, params: object, error: tuple[int, str]) -> None:
    """A wrong call has the code and the words of a device."""
    assert await refused(device, method, params) == error


async def test_pins_hold_what_was_written(device: VirtualDevice) -> None:
    """Write, read, toggle; each pin by itself; all low after a reboot."""
    assert await device.handle("GPIO.Read", {"pin": 2}) == {"value": 0}
    assert await device.handle("GPIO.Write", {"pin": 2, "value": 1}) is None
    assert await device.handle("GPIO.Read", {"pin": 2}) == {"value": 1}
    assert await device.handle("GPIO.Toggle", {"pin": 2.0}) == {"value": 0}
    assert await device.handle("GPIO.Toggle", {"pin": 3}) == {"value": 1}
    assert await device.handle("GPIO.Read", {"pin": 39}) == {"value": 0}


async def test_info_has_the_fields_of_a_device(tmp_path: Path) -> None:
    """Sys.GetInfo of 2018; `utc_time` is accepted; MAC and address differ from device to device."""
    device = VirtualDevice("d1", tmp_path / "1", build=FirmwareBuild("ccm", "1.2", "20180501-1/abc", "esp8266"))
    info = await device.handle("Sys.GetInfo", {"utc_time": 1526000000.5})
    assert {**info, "mac": "", "wifi": {**info["wifi"], "sta_ip": ""}} == {
        "app": "ccm",
        "fw_version": "1.2",
        "fw_id": "20180501-1/abc",
        "mac": "",
        "arch": "esp8266",
        "uptime": 0,
        "ram_size": 281872,
        "ram_free": info["ram_min_free"],
        "ram_min_free": info["ram_free"],
        "fs_size": 262144,
        "fs_free": 262144,
        "wifi": {"sta_ip": "", "ap_ip": "", "status": "got ip", "ssid": "mos"},
        "eth": {"ip": ""},
    }
    assert re.fullmatch(r"02[0-9A-F]{10}", info["mac"])
    assert re.fullmatch(r"192\.168\.1\.\d+", info["wifi"]["sta_ip"])
    other = await VirtualDevice("d2", tmp_path / "2").handle("Sys.GetInfo", {})
    assert other["mac"] != info["mac"]


async def test_wifi_follows_the_configuration(device: VirtualDevice) -> None:
    """The station's network is in the scan and in Sys.GetInfo; switched off, the device has no address."""
    await device.handle("Config.Set", {"config": {"wifi": {"sta": {"ssid": "home"}}}})
    for network in (scan := await device.handle("Wifi.Scan", {})):
        assert set(network) == {"ssid", "bssid", "auth", "channel", "rssi"}
        assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", network["bssid"])
    assert [network["ssid"] for network in scan] == ["home", "guest"]
    assert (await device.handle("Sys.GetInfo", {}))["wifi"]["ssid"] == "home"
    await device.handle("Config.Set", {"config": {"wifi": {"sta": {"enable": False}, "ap": {"enable": True}}}})
    assert (await device.handle("Sys.GetInfo", {}))["wifi"] == {
        "sta_ip": "",
        "ap_ip": "192.168.4.1",
        "status": "disconnected",
        "ssid": "",
    }


@pytest.mark.parametrize(("params", "delay"), [(None, 0.1), ({"delay_ms": 0}, 0), ({"delay_ms": 2500}, 2.5)])
async def test_reboot_comes_after_the_answer(
    device: VirtualDevice, autojump_clock: trio.testing.MockClock, params: object, delay: float
) -> None:
    """Sys.Reboot answers null, then the link is dropped once, uptime and pins start anew."""
    reboots: list[float] = []

    async def reboot() -> None:
        reboots.append(trio.current_time())

    async def notify(method: str, params: Any) -> None:
        pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, notify, reboot)
        await trio.sleep(20)
        await device.handle("GPIO.Write", {"pin": 2, "value": 1})
        assert (await device.handle("Sys.GetInfo", {}))["uptime"] == 20
        asked = trio.current_time()
        assert await device.handle("Sys.Reboot", params) is None
        await trio.sleep(5)
        assert reboots == [pytest.approx(asked + delay)]
        assert (await device.handle("Sys.GetInfo", {}))["uptime"] == int(5 - delay)
        assert await device.handle("GPIO.Read", {"pin": 2}) == {"value": 0}
        nursery.cancel_scope.cancel()


async def test_the_earliest_reboot_counts(device: VirtualDevice, autojump_clock: trio.testing.MockClock) -> None:
    """A later one asked for does not put it off, and is forgotten with it."""
    reboots: list[float] = []

    async def reboot() -> None:
        reboots.append(trio.current_time())

    async def notify(method: str, params: Any) -> None:
        pass

    started = trio.current_time()
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.run, notify, reboot)
            for delay_ms in (5000, 2000, 30_000):
                await device.handle("Sys.Reboot", {"delay_ms": delay_ms})
    assert reboots == [pytest.approx(started + 2)]


async def test_a_disk_that_fails_is_an_error_of_the_device(device: VirtualDevice, tmp_path: Path) -> None:
    """An OSError from the folder becomes error 500; the device goes on."""
    (tmp_path / "fs").rmdir()
    assert await refused(device, "FS.List", {}) == (500, "flash: No such file or directory")
    assert "RPC.Ping" in await device.handle("RPC.List", {})


@pytest.mark.parametrize("name", ["stats_interval", "log_interval", "fs_size", "slot_size"])
async def test_numbers_have_to_be_above_zero(tmp_path: Path, name: str) -> None:
    """A timer of zero seconds would never let the device rest."""
    with pytest.raises(InvalidInput, match="above 0"):
        VirtualDevice("d1", tmp_path, **{name: 0})


async def outcome(device: VirtualDevice, method: str, params: object) -> tuple[int, Any]:
    """Code and message of an error, or 0 and the result."""
    try:
        return 0, await device.handle(method, params)
    except RpcError as exc:
        return exc.code, exc.message


arguments = [
    *("filename", "offset", "len", "data", "append", "src", "dst", "path", "key", "config", "save", "reboot"),
    *("pin", "value", "name", "size", "timeout", "commit_timeout"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
anything = json_values | st.dictionaries(st.sampled_from(arguments), json_values, max_size=5)


@given(st.lists(st.tuples(st.sampled_from(METHODS), anything), max_size=12))
def test_no_params_break_the_device(calls: list[tuple[str, Any]]) -> None:
    """Any sequence of calls with any params gives JSON or an RpcError, and stays in the folder."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as outside:
            device = VirtualDevice("d1", Path(outside, "flash"))
            for method, params in calls:
                code, answer = await outcome(device, method, params)
                assert code in (0, -1, 400, 404, 500)
                assert _json.decode(_json.encode(answer)) == answer
            assert os.listdir(outside) == ["flash"]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

"""Deltas applied and reported, the hello, statistics and log lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mdashcore._errors import Busy, DeviceOffline, InvalidInput
from mdashcore.virtual_device import VirtualDevice


@attrs.define
class Link:
    """The far end of `run`: what arrived there, and when."""

    sent: list[tuple[float, str, Any]] = attrs.Factory(list)
    reboots: list[float] = attrs.Factory(list)

    async def notify(self, method: str, params: Any) -> None:
        self.sent.append((trio.current_time(), method, params))

    async def reboot(self) -> None:
        self.reboots.append(trio.current_time())

    def reported(self) -> list[Any]:
        """All reports, in order."""
        return [params["state"]["reported"] for _, method, params in self.sent if method == "Dash.Shadow.Update"]

    def lines(self) -> list[Any]:
        return [params for _, method, params in self.sent if method == "Log"]


@asynccontextmanager
async def running(device: VirtualDevice) -> AsyncIterator[Link]:
    link = Link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, link.notify, link.reboot)
        yield link
        nursery.cancel_scope.cancel()


@pytest.fixture
async def device(tmp_path: Path) -> VirtualDevice:
    return VirtualDevice("d1", tmp_path)


def delta(state: object, version: int = 1) -> dict[str, Any]:
    return {"state": state, "version": version, "timestamp": 1526000000}


async def test_a_delta_is_applied_and_reported(autojump_clock: MockClock, device: VirtualDevice) -> None:
    """Each delta is reported back as it came; the state is what they add up to (RFC 7396)."""
    async with running(device) as link:
        deltas = [
            {"led": {"on": True, "pwm": 5}},
            {"led": {"on": False}},
            {"list": [1, None]},
            {"led": {"pwm": None}},
        ]
        for each in deltas:
            await device.on_notification("Shadow.Delta", delta(each))
        await trio.sleep(1)
    assert link.reported() == deltas
    assert device.hello()[1] == (
        "Dash.Shadow.Update",
        {"state": {"reported": {"led": {"on": False}, "list": [1, None]}}},
    )


async def test_the_state_outlives_a_power_cut(autojump_clock: MockClock, device: VirtualDevice, tmp_path: Path) -> None:
    """A new device over the same folder says hello with the state of the old one; true is not 1."""
    await device.on_notification("Shadow.Delta", delta({"on": 1}))
    await device.on_notification("Shadow.Delta", delta({"on": True}))
    reported = VirtualDevice("d1", tmp_path).hello()[1][1]["state"]["reported"]
    assert reported == {"on": True}
    assert reported["on"] is True


async def test_reserved_keys_are_the_devices_own(autojump_clock: MockClock, device: VirtualDevice) -> None:
    """A delta under `ota` or `stats` is neither applied nor reported; the rest of it is."""
    async with running(device) as link:
        await device.on_notification("Shadow.Delta", delta({"ota": {"status": 3}, "stats": 1, "x": 1}))
        await device.on_notification("Shadow.Delta", delta({"ota": {"status": 3}}))
        await trio.sleep(1)
    assert link.reported() == [{"x": 1}]


@pytest.mark.parametrize("params", [None, [], {}, {"state": None}, {"state": [1]}, {"state": "x"}])
async def test_what_is_no_delta_is_logged(autojump_clock: MockClock, device: VirtualDevice, params: Any) -> None:
    """It changes and reports nothing."""
    async with running(device) as link:
        await device.on_notification("Shadow.Delta", params)
        await trio.sleep(1)
    assert link.reported() == []
    assert "Shadow.Delta refused: a delta must be an object" in [line["data"] for line in link.lines()]
    assert len(device.hello()) == 1


async def test_the_state_is_bounded(autojump_clock: MockClock, device: VirtualDevice) -> None:
    """A delta that would make it larger than a shadow can be is refused whole."""
    await device.on_notification("Shadow.Delta", delta({"a": "x" * 30_000}))
    async with running(device) as link:
        await device.on_notification("Shadow.Delta", delta({"b": "x" * 3_000}))
        await trio.sleep(1)
    assert link.reported() == [{"a": "x" * 30_000}]
    assert device.hello()[1][1]["state"]["reported"] == {"a": "x" * 30_000}


async def test_other_notifications_are_ignored(autojump_clock: MockClock, device: VirtualDevice) -> None:
    """As devices do."""
    async with running(device) as link:
        await device.on_notification("Shadow.Nope", delta({"a": 1}))
        await trio.sleep(1)
    assert link.reported() == []


@pytest.mark.parametrize("text", [b"[]", b"5", b'{"a":', b"\x00"])
async def test_a_damaged_state_is_named_and_kept(tmp_path: Path, text: bytes) -> None:
    """The device does not start over the damaged data."""
    (tmp_path / "state.json").write_bytes(text)
    with pytest.raises(InvalidInput, match=r"state\.json"):
        VirtualDevice("d1", tmp_path)
    assert (tmp_path / "state.json").read_bytes() == text


async def test_hello_reports_the_twelve_fields(autojump_clock: MockClock, device: VirtualDevice) -> None:
    """What a device sends on connect, before it has any state of its own."""
    info = await device.handle("Sys.GetInfo", {})
    ota = {
        "app": "virtual-device",
        "arch": "esp32",
        "commit_timeout": 0,
        "device_id": "d1",
        "fw_id": "19700101-000000/factory",
        "fw_version": "1.0",
        "is_committed": True,
        "mac": info["mac"],
        "message": "idle",
        "partition": 0,
        "progress_percent": 0,
        "status": 0,
    }
    assert device.hello() == [("Dash.Shadow.Update", {"state": {"reported": {"ota": ota}}})]


async def test_statistics_come_every_ten_seconds(autojump_clock: MockClock, device: VirtualDevice) -> None:
    """Memory total, free, and the lowest free, which never rises; switched off by the configuration."""
    started = trio.current_time()
    async with running(device) as link:
        await trio.sleep(305)
        await device.handle("Config.Set", {"config": {"dash": {"send_stats": False}}})
        await trio.sleep(100)
    times = [at - started for at, method, _ in link.sent if method == "Dash.Shadow.Update"]
    assert times == pytest.approx([10.0 * n for n in range(1, 31)])
    stats = [report["stats"] for report in link.reported()]
    assert all(set(each) == {"ram_total", "ram_free", "ram_lwm"} for each in stats)
    assert all(each["ram_lwm"] <= each["ram_free"] < each["ram_total"] for each in stats)
    lowest = [each["ram_lwm"] for each in stats]
    assert lowest == sorted(lowest, reverse=True)
    assert len({each["ram_free"] for each in stats}) > 1


async def test_log_lines_are_numbered_and_timed(autojump_clock: MockClock, tmp_path: Path) -> None:
    """`{fd, data, t, seq}`: stderr, Unix time, and a number that starts again at each boot."""
    device = VirtualDevice("d1", tmp_path, now=lambda: 1.5e9 + trio.current_time(), log_interval=7)
    started = trio.current_time()
    async with running(device) as link:
        await device.handle("GPIO.Toggle", {"pin": 2})
        await trio.sleep(10)
        await device.handle("Sys.Reboot", {})
        await trio.sleep(1)
    lines = link.lines()
    assert [(line["seq"], line["data"].partition(":")[0]) for line in lines] == [
        (0, "virtual-device 1.0 (19700101-000000/factory) booted from slot 0"),
        (1, "GPIO 2 = 1"),
        (2, "uptime"),
        (3, "rebooting in 100 ms"),
        (0, "virtual-device 1.0 (19700101-000000/factory) booted from slot 0"),
    ]
    assert {line["fd"] for line in lines} == {2}
    offsets = [line["t"] - 1.5e9 - started for line in lines]
    assert offsets == pytest.approx([0, 0, 7, 10, 10.1], abs=0.001)


@pytest.mark.parametrize("setting", [{"debug": {"level": 0}}, {"debug": {"level": -1}}, {"dash": {"send_logs": False}}])
async def test_the_log_can_be_silenced(
    autojump_clock: MockClock, device: VirtualDevice, setting: dict[str, Any]
) -> None:
    """By level, and as a whole."""
    await device.handle("Config.Set", {"config": setting})
    async with running(device) as link:
        await trio.sleep(0.1)
        seen = len(link.lines())  # the line of the boot
        await device.handle("GPIO.Toggle", {"pin": 2})
        await trio.sleep(60)
    assert len(link.lines()) == seen


@pytest.mark.parametrize("error", [DeviceOffline("no connection"), Busy("the outbox is full")])
async def test_a_device_without_a_link_lives_on(
    autojump_clock: MockClock, device: VirtualDevice, error: Exception
) -> None:
    """`notify` may raise DeviceOffline or Busy: what was to be sent is dropped, and timers go on."""
    link = Link()

    async def offline(method: str, params: Any) -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, offline, link.reboot)
        await trio.sleep(60)
        await device.handle("Sys.Reboot", {})
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert len(link.reboots) == 1


async def test_a_slow_link_costs_the_oldest(autojump_clock: MockClock, device: VirtualDevice) -> None:
    """Behind a link that stands still the newest 25 reports and 25 lines wait; the reports go first."""
    link, opened = Link(), trio.Event()

    async def slow(method: str, params: Any) -> None:
        await opened.wait()
        await link.notify(method, params)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, slow, link.reboot)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(200):
            await device.on_notification("Shadow.Delta", delta({"n": number}))
            await device.handle("GPIO.Toggle", {"pin": 2})
        opened.set()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert link.reported() == [{"n": n} for n in range(175, 200)]
    assert [method for _, method, _ in link.sent] == ["Log"] + ["Dash.Shadow.Update"] * 25 + ["Log"] * 25


async def test_a_reboot_drops_what_waits(autojump_clock: MockClock, device: VirtualDevice) -> None:
    """What was in RAM and not yet sent is gone, as it is on a device."""
    link, opened = Link(), trio.Event()

    async def slow(method: str, params: Any) -> None:
        await opened.wait()
        await link.notify(method, params)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, slow, link.reboot)
        await trio.testing.wait_all_tasks_blocked()
        await device.on_notification("Shadow.Delta", delta({"n": 1}))
        await device.handle("Sys.Reboot", {})
        await trio.sleep(1)
        opened.set()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert link.reported() == []
    assert len(link.reboots) == 1

"""OTA.*: an image goes in, is checked and booted, and is rolled back unless it is committed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mdashcore._errors import InvalidInput, RpcError
from mdashcore.firmware import write_image
from mdashcore.virtual_device import FirmwareBuild, VirtualDevice

FACTORY = FirmwareBuild("ccm", "1.0", "20180501-000000/old", "esp32")
FIELDS = {"name": "ccm", "platform": "esp32", "version": "2.0", "build_id": "20180601-120000/new"}


def image(app: bytes = bytes(range(256)) * 40, **fields: Any) -> bytes:
    """A firmware zip of two parts."""
    file = io.BytesIO()
    write_image(file, FIELDS | fields, {"boot": b"boot loader", "app": app})
    return file.getvalue()


@attrs.define
class Link:
    """The far end of `run`."""

    device: VirtualDevice
    reports: list[dict[str, Any]] = attrs.Factory(list)
    """Every `reported.ota`, in order."""
    reboots: list[float] = attrs.Factory(list)
    rebooted: trio.Event = attrs.Factory(trio.Event)

    async def notify(self, method: str, params: Any) -> None:
        if method == "Dash.Shadow.Update" and "ota" in params["state"]["reported"]:
            self.reports.append(params["state"]["reported"]["ota"])

    async def reboot(self) -> None:
        self.reboots.append(trio.current_time())
        self.rebooted.set()

    async def next_reboot(self) -> None:
        await self.rebooted.wait()
        self.rebooted = trio.Event()

    async def status(self) -> dict[str, Any]:
        result: dict[str, Any] = await self.device.handle("OTA.Status", {})
        return result

    async def build(self) -> tuple[str, str]:
        info = await self.device.handle("Sys.GetInfo", {})
        return info["fw_version"], info["fw_id"]


OLD, NEW = ("1.0", "20180501-000000/old"), ("2.0", "20180601-120000/new")


@asynccontextmanager
async def powered(folder: Path, **options: Any) -> AsyncIterator[Link]:
    """A device, switched on; leaving the block is a power cut."""
    device = VirtualDevice("d1", folder, build=FACTORY, **options)
    link = Link(device)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, link.notify, link.reboot)
        yield link
        nursery.cancel_scope.cancel()


async def refused(device: VirtualDevice, method: str, params: object = None) -> tuple[int, str]:
    with pytest.raises(RpcError) as caught:
        await device.handle(method, params)
    return caught.value.code, caught.value.message


async def write(device: VirtualDevice, data: bytes, chunk: int = 1024, *, pause: float = 0) -> None:
    for offset in range(0, len(data), chunk):
        await trio.sleep(pause)
        piece = base64.b64encode(data[offset : offset + chunk]).decode()
        assert await device.handle("OTA.Write", {"offset": offset, "data": piece}) is None


async def install(link: Link, data: bytes, *, commit_timeout: int = 300) -> None:
    """Begin, Write, End, and the reboot."""
    begin = {"size": len(data), "timeout": 600, "commit_timeout": commit_timeout}
    assert await link.device.handle("OTA.Begin", begin) is None
    await write(link.device, data)
    assert await link.device.handle("OTA.End", None) is None
    await link.next_reboot()


IDLE = {
    "state": 0,
    "message": "idle",
    "is_committed": True,
    "progress_percent": 0,
    "commit_timeout": 0,
    "partition": 0,
}


async def test_update_and_commit(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The whole walk: transfer, End, a reboot half a second later, the new build uncommitted, Commit."""
    async with powered(tmp_path) as link:
        assert await link.status() == IDLE
        data = image()
        await link.device.handle("OTA.Begin", {"size": len(data), "timeout": 600, "commit_timeout": 300})
        await write(link.device, data[: len(data) // 2])
        halfway = await link.status()
        assert (halfway["state"], halfway["message"], halfway["is_committed"]) == (1, "progress", True)
        assert halfway["progress_percent"] in (49, 50)
        await write(link.device, data)

        ended = trio.current_time()
        assert await link.device.handle("OTA.End", {}) is None
        assert (await link.status())["state"] == 3
        assert await link.build() == OLD
        await link.next_reboot()
        assert link.reboots == [pytest.approx(ended + 0.5)]
        assert await link.build() == NEW
        assert await link.status() == {**IDLE, "is_committed": False, "commit_timeout": 300, "partition": 1}
        assert link.device.hello()[0][1]["state"]["reported"]["ota"]["is_committed"] is False

        assert await link.device.handle("OTA.Commit", None) is None
        assert await link.status() == {**IDLE, "partition": 1}
        await trio.sleep(1000)
        assert len(link.reboots) == 1
        assert await link.build() == NEW
    assert (tmp_path / "slot1.bin").read_bytes() == data


async def test_reports_tell_the_walk(autojump_clock: MockClock, tmp_path: Path) -> None:
    """`reported.ota` with status 1, progress at most once a second, then 3, then the commit."""
    async with powered(tmp_path) as link:
        data = image(bytes(100 * 1024 - 2048))
        await link.device.handle("OTA.Begin", {"size": len(data), "commit_timeout": 300})
        await write(link.device, data, pause=0.1)  # about a hundred chunks in ten seconds
        await link.device.handle("OTA.End", None)
        await link.next_reboot()
        await link.device.handle("OTA.Commit", None)
        await trio.testing.wait_all_tasks_blocked()
    walk = [(r["status"], r["is_committed"], r["fw_version"]) for r in link.reports]
    moving = link.reports[:-2]
    assert walk[-2:] == [(3, False, "1.0"), (0, True, "2.0")]
    assert set(walk[:-2]) == {(1, True, "1.0")}
    assert 10 <= len(moving) <= 12
    percents = [r["progress_percent"] for r in moving]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert percents[-1] > 80
    assert all(set(r) == set(link.reports[0]) and len(r) == 12 for r in link.reports)


async def test_no_commit_rolls_back(autojump_clock: MockClock, tmp_path: Path) -> None:
    """After commit_timeout seconds without a Commit the old build boots again, committed."""
    async with powered(tmp_path) as link:
        await install(link, image(), commit_timeout=60)
        await trio.sleep(59)
        assert await link.build() == NEW
        await link.next_reboot()
        assert link.reboots[1] == pytest.approx(link.reboots[0] + 60)
        assert await link.build() == OLD
        assert await link.status() == IDLE
        await trio.sleep(1000)
        assert len(link.reboots) == 2


async def test_a_device_rolls_back_without_a_link(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The commit timer is the way home of firmware that cannot connect: it needs no connection."""
    device = VirtualDevice("d1", tmp_path, build=FACTORY)
    link = Link(device)

    async def never(method: str, params: Any) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, never, link.reboot)
        await install(link, image(), commit_timeout=60)
        await link.next_reboot()
        assert link.reboots[1] == pytest.approx(link.reboots[0] + 60)
        assert await link.build() == OLD
        nursery.cancel_scope.cancel()


async def test_revert(autojump_clock: MockClock, tmp_path: Path) -> None:
    """OTA.Revert answers null, then the device reboots into the old build, committed."""
    async with powered(tmp_path) as link:
        await install(link, image())
        assert await link.device.handle("OTA.Revert", None) is None
        assert await refused(link.device, "OTA.Commit") == (-1, "Already committed")  # decided is decided
        await link.next_reboot()
        assert link.reboots[1] == pytest.approx(link.reboots[0] + 0.1)
        assert await link.build() == OLD
        assert await link.status() == IDLE
        assert (await refused(link.device, "OTA.Revert"))[0] == -1
        await trio.sleep(1000)
        assert len(link.reboots) == 2


async def test_no_timeout_commits_itself(autojump_clock: MockClock, tmp_path: Path) -> None:
    """commit_timeout 0: the new build is committed as it boots."""
    async with powered(tmp_path) as link:
        await install(link, image(), commit_timeout=0)
        assert await link.status() == {**IDLE, "partition": 1}
        assert await refused(link.device, "OTA.Commit") == (-1, "Already committed")
    async with powered(tmp_path) as link:
        assert await link.build() == NEW


async def test_any_reboot_while_uncommitted_rolls_back(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Sys.Reboot is one; the timer of the build that is gone does not fire afterwards."""
    async with powered(tmp_path) as link:
        await install(link, image(), commit_timeout=60)
        await link.device.handle("Sys.Reboot", None)
        await link.next_reboot()
        assert await link.build() == OLD
        await trio.sleep(1000)
        assert len(link.reboots) == 2


@pytest.mark.parametrize(
    ("moment", "build", "committed"),
    [
        ("transfer", OLD, True),  # forgotten
        ("end", NEW, False),  # between End and the reboot: this power-on is the first boot
        ("uncommitted", OLD, True),  # rolled back
        ("committed", NEW, True),
        ("reverted", OLD, True),
    ],
)
async def test_power_cuts(
    autojump_clock: MockClock, tmp_path: Path, moment: str, build: tuple[str, str], committed: bool
) -> None:
    """A process killed at any moment, and started again over the same folder, boots as hardware does."""
    async with powered(tmp_path) as link:
        data = image()
        if moment in ("transfer", "end"):
            await link.device.handle("OTA.Begin", {"size": len(data), "commit_timeout": 300})
            await write(link.device, data if moment == "end" else data[:3000])
            if moment == "end":
                await link.device.handle("OTA.End", None)
        else:
            await install(link, data)
            if moment == "committed":
                await link.device.handle("OTA.Commit", None)
            if moment == "reverted":
                await link.device.handle("OTA.Revert", None)
    async with powered(tmp_path) as link:
        assert await link.build() == build
        status = await link.status()
        assert (status["state"], status["is_committed"]) == (0, committed)
        await trio.sleep(1000)  # an uncommitted build still has its timer
        assert await link.build() == (build if committed else OLD)
    async with powered(tmp_path) as link:
        assert (await link.status())["is_committed"] is True


async def test_updates_follow_each_other(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Each goes to the slot that is not running; the last committed one is what a roll-back comes to."""
    async with powered(tmp_path) as link:
        for number in range(2, 6):
            await install(link, image(version=f"{number}.0", build_id=f"b{number}"))
            assert (await link.status())["partition"] == (number - 1) % 2
            await link.device.handle("OTA.Commit", None)
        await install(link, image(version="6.0", build_id="b6"))
        await link.device.handle("OTA.Revert", None)
        await link.next_reboot()
        assert await link.build() == ("5.0", "b5")


def resealed(data: bytes, **changes: Any) -> bytes:
    """The zip with other manifest fields, whose own sums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == "manifest.json":
                manifest = json.loads(content) | changes
                content = json.dumps({k: v for k, v in manifest.items() if v is not None}).encode()
            new.writestr(zipfile.ZipInfo(entry.filename), content)
    return out.getvalue()


def compressed(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry, old.read(entry), zipfile.ZIP_DEFLATED)
    return out.getvalue()


GOOD = image()
PART = json.loads(zipfile.ZipFile(io.BytesIO(GOOD)).read("manifest.json"))["parts"]["app"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (image(platform="esp8266"), "Wrong platform"),
        (image(version="1.0", build_id="20180501-000000/old"), "Version is the same as current"),
        (resealed(GOOD, parts={"app": PART | {"cs_sha1": "0" * 40}}), "Invalid CRC"),
        (resealed(GOOD, parts={"app": PART | {"cs_sha256": "0" * 64}}), "Invalid CRC"),
        (GOOD[:9000] + b"!" + GOOD[9001:], "Invalid CRC"),
        (resealed(GOOD, version=None), "Required manifest field missing"),
        (resealed(GOOD, platform=None), "Required manifest field missing"),
        (resealed(GOOD, parts=None), "Required manifest field missing"),
        (compressed(GOOD), "Cannot handle compressed .zip"),
        (GOOD[:-1], "Malformed archive"),
        (GOOD[:5000], "Malformed archive"),
        (b"PK\x03\x04", "Malformed archive"),
        (resealed(GOOD, parts={"app": PART | {"src": "nope.bin"}}), "Malformed archive"),
    ],
)
async def test_a_bad_image_is_refused_at_the_end(
    autojump_clock: MockClock, tmp_path: Path, data: bytes, words: str
) -> None:
    """Error -1 in the device's words, state 2 with them as message, no reboot; and a good image goes in after it."""
    async with powered(tmp_path) as link:
        await link.device.handle("OTA.Begin", {"size": len(data), "commit_timeout": 300})
        await write(link.device, data)
        assert await refused(link.device, "OTA.End") == (-1, words)
        status = await link.status()
        assert (status["state"], status["message"], status["is_committed"]) == (2, words, True)
        await trio.sleep(1000)
        assert link.reboots == []
        assert [report["status"] for report in link.reports][-1] == 2

        await install(link, GOOD)
        assert await link.build() == NEW


async def test_the_platform_is_compared_without_case(autojump_clock: MockClock, tmp_path: Path) -> None:
    """As devices compare it."""
    async with powered(tmp_path) as link:
        await install(link, image(platform="ESP32"))
        assert await link.build() == NEW


async def test_a_bare_image(autojump_clock: MockClock, tmp_path: Path) -> None:
    """What is no zip boots too, known by its SHA-256; the same once more is the same version."""
    data = b"\xe9 an application, as esptool writes it" * 100
    async with powered(tmp_path) as link:
        await install(link, data)
        assert await link.build() == ("unknown", hashlib.sha256(data).hexdigest())
        await link.device.handle("OTA.Commit", None)
        await link.device.handle("OTA.Begin", {"size": len(data)})
        await write(link.device, data)
        assert await refused(link.device, "OTA.End") == (-1, "Version is the same as current")


async def test_one_update_at_a_time(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Begin is refused during a transfer, between End and the reboot, and while uncommitted."""
    async with powered(tmp_path) as link:
        busy = (-1, "Update already in progress")
        await link.device.handle("OTA.Begin", {"size": len(GOOD), "commit_timeout": 300})
        assert await refused(link.device, "OTA.Begin", {"size": 5}) == busy
        await write(link.device, GOOD)
        assert await refused(link.device, "OTA.Begin", {"size": 5}) == busy
        await link.device.handle("OTA.End", None)
        assert await refused(link.device, "OTA.Begin", {"size": 5}) == busy
        await link.next_reboot()
        error = await refused(link.device, "OTA.Begin", {"size": 5})
        assert error == (-1, "Previous update has not been committed yet")
        await link.device.handle("OTA.Commit", None)
        assert await link.device.handle("OTA.Begin", {"size": 5}) is None


async def test_a_transfer_that_stops_is_given_up(autojump_clock: MockClock, tmp_path: Path) -> None:
    """`timeout` seconds after the last Write the device is idle again, says so, and takes another update."""
    async with powered(tmp_path) as link:
        await link.device.handle("OTA.Begin", {"size": len(GOOD), "timeout": 30})
        await write(link.device, GOOD[:5000], pause=29)  # each chunk starts the time anew
        await trio.sleep(29)
        assert (await link.status())["state"] == 1
        await trio.sleep(2)
        assert await link.status() == IDLE
        assert link.reports[-1]["status"] == 0
        assert await refused(link.device, "OTA.Write", {"data": "eA=="}) == (-1, "No update in progress")
        assert await refused(link.device, "OTA.End") == (-1, "Wrong state for finalize")
        await install(link, GOOD)


async def test_the_transfer_ends_with_end(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Its time-out does not strike between End and the reboot."""
    async with powered(tmp_path) as link:
        await link.device.handle("OTA.Begin", {"size": len(GOOD), "timeout": 1, "commit_timeout": 300})
        await write(link.device, GOOD)
        await trio.sleep(0.9)
        await link.device.handle("OTA.End", None)
        await link.next_reboot()
        assert await link.build() == NEW
    assert [report["status"] for report in link.reports] == [1, 3]


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({}, (400, "data is required")),
        ({"data": "?"}, (400, "data is not base64")),
        ({"data": base64.b64encode(bytes(3075)).decode()}, (400, "data is longer than 3072 bytes")),
        ({"data": "eA==", "offset": 1025}, (400, "Invalid offset: 1024 bytes are written")),
        ({"data": "eA==", "offset": -1}, (400, "Invalid offset: 1024 bytes are written")),
        ({"data": base64.b64encode(bytes(2000)).decode()}, (-1, "More data than announced, or than the slot holds")),
    ],
)
async def test_a_bad_chunk_costs_nothing(
    autojump_clock: MockClock, tmp_path: Path, params: dict[str, Any], error: tuple[int, str]
) -> None:
    """It is refused, and the transfer goes on as if it had not come."""
    data = image(bytes(500))
    assert 1024 < len(data) < 3000
    async with powered(tmp_path) as link:
        await link.device.handle("OTA.Begin", {"size": len(data), "commit_timeout": 300})
        await write(link.device, data[:1024])
        assert await refused(link.device, "OTA.Write", params) == error
        assert await refused(link.device, "OTA.End") == (-1, "Wrong state for finalize")  # it is not all there
        rest = base64.b64encode(data[1024:]).decode()
        await link.device.handle("OTA.Write", {"data": rest})  # old callers send no offset
        await link.device.handle("OTA.End", None)
        await link.next_reboot()
        assert await link.build() == NEW


async def test_a_chunk_may_come_twice(autojump_clock: MockClock, tmp_path: Path) -> None:
    """With its offset a repeated chunk changes nothing: the image is still whole."""
    async with powered(tmp_path) as link:
        await link.device.handle("OTA.Begin", {"size": len(GOOD), "commit_timeout": 300})
        await write(link.device, GOOD[:4096])
        await write(link.device, GOOD[:2048])
        assert (await link.status())["progress_percent"] == 4096 * 100 // len(GOOD)
        await write(link.device, GOOD)
        await link.device.handle("OTA.End", None)
        await link.next_reboot()
        assert await link.build() == NEW


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"size": -1}, (-1, "Image does not fit the slot of 4194304 bytes")),
        ({"size": 2**22 + 1}, (-1, "Image does not fit the slot of 4194304 bytes")),
        ({"size": "x"}, (400, "size must be an integer")),
        ({"timeout": -1}, (400, "timeout is out of range")),
        ({"commit_timeout": 2**31}, (400, "commit_timeout is out of range")),
    ],
)
async def test_a_bad_begin_begins_nothing(
    autojump_clock: MockClock, tmp_path: Path, params: dict[str, Any], error: tuple[int, str]
) -> None:
    """The device stays idle, and its slots untouched."""
    async with powered(tmp_path) as link:
        assert await refused(link.device, "OTA.Begin", params) == error
        assert await link.status() == IDLE
    assert not (tmp_path / "slot1.bin").exists()


async def test_the_configuration_has_the_defaults(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Timeouts that Begin does not say are `update.timeout` and `update.commit_timeout`; no size is needed."""
    async with powered(tmp_path, config={"update": {"timeout": 20, "commit_timeout": 40}}) as link:
        await link.device.handle("OTA.Begin", None)
        await write(link.device, GOOD)
        assert (await link.status())["progress_percent"] == 0
        await link.device.handle("OTA.End", None)
        await link.next_reboot()
        assert (await link.status())["commit_timeout"] == 40
        await link.device.handle("OTA.Commit", None)
        await link.device.handle("OTA.Begin", None)
        await trio.sleep(21)
        assert (await link.status())["state"] == 0


async def test_a_slot_bounds_an_image_of_unknown_size(autojump_clock: MockClock, tmp_path: Path) -> None:
    """A transfer cannot fill the disk."""
    async with powered(tmp_path, slot_size=3000) as link:
        await link.device.handle("OTA.Begin", None)
        await write(link.device, bytes(3000))
        error = await refused(link.device, "OTA.Write", {"data": "eA=="})
        assert error == (-1, "More data than announced, or than the slot holds")
    assert (tmp_path / "slot1.bin").stat().st_size == 3000


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"slot":2,"build":{}}',
        b'{"slot":0,"build":{},"commit_timeout":-1}',
        b'{"slot":0,"build":{"version":5}}',
        b'{"slot":true,"build":{}}',
    ],
)
async def test_a_damaged_boot_file_is_named_and_kept(tmp_path: Path, text: bytes) -> None:
    """The device does not boot what it cannot know."""
    (tmp_path / "boot.json").write_bytes(text)
    with pytest.raises(InvalidInput, match=r"boot\.json"):
        VirtualDevice("d1", tmp_path)
    assert (tmp_path / "boot.json").read_bytes() == text

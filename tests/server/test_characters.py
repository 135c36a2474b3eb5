"""Virtual devices of every character on the real server, over real sockets: each way to an update, all at one time.

What they do in virtual time, and with links, power and clocks that fail, stands in tests/trio/test_field.py.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mdashcore import firmware
from mdashcore.hub.feed import events_topic
from mdashcore.identity import DeviceKey
from mdashcore.ota import Update, UpdateState
from mdashcore.rollout import RolloutState as RolloutState
from mdashcore.rollout import added
from mdashcore.trio.background import Backoff
from mdashcore.virtual_device import CHARACTERS, Character, FirmwareBuild, VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device

PATIENCE = 90.0  # seconds: many times what the whole takes on a quiet machine

FACTORY = FirmwareBuild("ccm", "1.0", "old", "esp32")

CAN_TALK = [name for name, character in CHARACTERS.items() if character.can_talk]
CANNOT = [name for name in CHARACTERS if name not in CAN_TALK]


def quick(character: Character) -> Character:
    """The same habits, a hundred times as quick where they only take time."""
    return attrs.evolve(character, delays={method: time / 100 for method, time in character.delays.items()})


def image(size: int = 4000) -> bytes:
    file = io.BytesIO()
    manifest = {"name": "ccm", "platform": "esp32", "version": "2.0", "build_id": "new"}
    firmware.write_image(file, manifest, {"app": bytes(size)})
    return file.getvalue()


@attrs.define
class Fleet:
    """A device of each character, of alice, which may be connected or not."""

    alice: Any
    folder: Path
    nursery: trio.Nursery
    tokens: dict[str, str] = attrs.Factory(dict)
    devices: dict[str, VirtualDevice] = attrs.Factory(dict)

    async def register(self) -> None:
        for name in CHARACTERS:
            self.tokens[name] = await self.alice.register(name)

    async def connect(self, name: str, **habits: Any) -> None:
        """Switch it on, and wait until the server knows it."""
        character = attrs.evolve(quick(CHARACTERS[name]), **habits)
        device = self.devices[name] = VirtualDevice(name, self.folder / name, build=FACTORY, character=character)
        url, backoff = self.alice.server.device_url, Backoff(first=0.05, most=0.5)
        await self.nursery.start(partial(run_virtual_device, device, url, self.tokens[name], backoff=backoff))

    async def connect_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for name in CHARACTERS:
                nursery.start_soon(self.connect, name)

    async def upload(self, name: str, *, size: int = 4000, **query: Any) -> Any:
        return await self.alice.http.post(f"/devices/{name}/ota", params=query, content=image(size), timeout=PATIENCE)

    async def until(self, name: str, condition: Any) -> Update:
        """The device's update, once that holds for it, or it has ended."""
        supervisor, key = self.alice.server.service.node.update_supervisor, DeviceKey("alice", name)
        with trio.move_on_after(PATIENCE):
            return await supervisor.wait(key, condition)
        raise AssertionError(f"{name} hangs: {await self.alice.server.service.hub.updates.get(key)}")

    async def ends(self, name: str) -> Update:
        return await self.until(name, lambda update: False)

    async def each(self, function: Any) -> None:
        """Do that with every device that can be understood, at the same time."""
        async with trio.open_nursery() as nursery:
            for name in CAN_TALK:
                nursery.start_soon(function, name)

    def runs(self, name: str) -> tuple[str, bool]:
        """The build that it runs, and whether that is committed."""
        boot = self.devices[name]._boot
        return boot.running.build_id, boot.state.committed

    async def check_committed(self, name: str) -> None:
        update = await self.ends(name)
        assert update.state is UpdateState.COMMITTED, (name, update.reason)
        assert self.runs(name) == ("new", True), name

    async def check_untouched(self) -> None:
        """Whose frames cannot be read has got nothing, is told of, and an update of it can be taken back."""
        for name in CANNOT:
            assert self.runs(name) == ("old", True)
            assert (await self.alice.told("rejected", name))["data"]["kind"]
            update = (await self.alice.http.get(f"/devices/{name}/ota")).json()
            if update.get("state") in ("QUEUED", "TRANSFERRING"):
                assert (await self.alice.http.delete(f"/devices/{name}/ota")).json()["state"] == "CANCELED"


@pytest.fixture
async def fleet(alice: Any, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with open_fleet(alice, tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_fleet(alice: Any, folder: Path) -> AsyncIterator[Fleet]:
    async with trio.open_nursery() as nursery:
        fleet = Fleet(alice, folder, nursery)
        await fleet.register()
        yield fleet
        nursery.cancel_scope.cancel()


async def test_uploads_to_devices_that_are_online_and_commits_by_hand(fleet):
    """The answer comes when the device has the image; then it is committed by REST, even if it does not know how."""
    await fleet.connect_all()

    async def update(name: str) -> None:
        answer = await fleet.upload(name)
        assert (answer.status_code, answer.text) == (200, "true"), (name, answer.text)
        if (
            await fleet.until(name, lambda update: update.state is UpdateState.UNCOMMITTED)
        ).state is UpdateState.UNCOMMITTED:
            answer = await fleet.alice.http.post(f"/devices/{name}/rpc/OTA.Commit")
            assert answer.status_code == (200 if "OTA.Commit" not in CHARACTERS[name].lacks else 422), answer.text
        await fleet.check_committed(name)

    await fleet.each(update)
    for name in CANNOT:
        assert (await fleet.upload(name, queue=1)).status_code == 202
    await fleet.check_untouched()


async def test_uploads_that_wait_for_devices(fleet):
    """Queued for devices that are offline, and committed after a health check when they have come."""
    for name in CHARACTERS:
        assert (await fleet.upload(name, queue=1, commit="auto", commit_after=1)).status_code == 202
    await fleet.connect_all()
    await fleet.each(fleet.check_committed)
    await fleet.check_untouched()


async def test_devices_that_commit_by_themselves(fleet):
    """With `commit_timeout=0` nothing has to be done after the reboot."""
    await fleet.connect_all()

    async def update(name: str) -> None:
        assert (await fleet.upload(name, queue=1, commit_timeout=0)).status_code == 202
        await fleet.check_committed(name)

    await fleet.each(update)


async def test_what_is_canceled_and_begun_again(fleet):
    """The device holds the transfer of before: the next update waits, and goes on when the device has let go of it."""

    async def update(name: str) -> None:
        await fleet.connect(name, delays={"OTA.Write": 0.02})
        assert (await fleet.upload(name, queue=1, size=100_000)).status_code == 202
        assert (await fleet.until(name, lambda update: update.offset > 0)).state is UpdateState.TRANSFERRING
        assert (await fleet.alice.http.delete(f"/devices/{name}/ota")).json()["state"] == "CANCELED"
        assert (await fleet.upload(name, queue=1, commit="auto", commit_after=1)).status_code == 202
        held = await fleet.until(name, lambda update: update.waits_until is not None)
        assert held.waits_until is not None, (name, held)
        assert "forgotten the transfer before" in held.reason
        answer = await fleet.alice.http.post(f"/devices/{name}/ota/end")
        if CHARACTERS[
            name
        ].forgets_transfers:  # it refuses a part of an image, and holds on to that; one refuses illegibly
            assert answer.status_code in (422, 502), (name, answer.text)
            answer = await fleet.alice.http.post(f"/devices/{name}/rpc/Sys.Reboot")
            assert answer.status_code in (200, 503), (name, answer.text)  # the link may end before the answer is there
        else:
            assert answer.status_code == 200, (name, answer.text)
        await fleet.check_committed(name)

    await fleet.each(update)


async def test_a_rollout_to_all_of_them(fleet):
    """It completes with all whose frames can be read; the others are skipped, and count for nothing."""
    await fleet.connect_all()
    asked = {
        "all": True,
        "phases": [50, 100],
        "rate": None,
        "commit_after": 1,
        "offline_wait": 2,
        "success_percent": 50,
    }
    files = {"rollout": (None, json.dumps(asked)), "file": ("fw.zip", image())}
    answer = await fleet.alice.http.post("/rollouts", files=files)
    assert answer.status_code == 201, answer.text
    rollouts, id = fleet.alice.server.service.hub.rollouts, answer.json()["id"]
    with trio.fail_after(PATIENCE):
        async with fleet.alice.server.service.hub.bus.subscribe(events_topic("alice")) as messages:
            while not (ended := await rollouts.get("alice", id)).ended:
                while b'"rollout.' not in await anext(messages):
                    pass
    counts = added(ended.counts)
    assert ended.state is RolloutState.COMPLETED, ended
    assert (counts.succeeded, counts.skipped) == (len(CAN_TALK), len(CANNOT)), ended
    for name in CAN_TALK:
        assert fleet.runs(name) == ("new", True), name
    for name in CANNOT:
        assert fleet.runs(name) == ("old", True), name

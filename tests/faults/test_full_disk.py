"""A disk that fills: what was refused is not there, and what is there was told."""

from __future__ import annotations

import os
import shutil
import time

import pytest
import trio

from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.hub import Hub
from mdashcore.hub.maintenance.check import check_store
from mdashcore.identity import DeviceKey
from mdashcore.storage import open_backend

DEVICES = [f"d{number}" for number in range(8)]


async def read_back(url):
    """What a new start finds: by device, the shadow's version, and the versions that were told, in their order."""
    async with open_backend(url) as backend:
        hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
        shadows = {id: (await hub.shadows.get(DeviceKey("ada", id))).version for id in DEVICES}
        told = {id: [] for id in DEVICES}
        start = 0
        while entries := await backend.logs.read("notifications/ada", start, 500):
            for entry in entries:
                note = _json.decode(entry.body)
                told[note["id"]].append(note["data"]["shadow"]["version"])
            start = entries[-1].offset + 1
        assert (await check_store(backend))[1] == []
    return shadows, told


@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
@pytest.mark.parametrize("scheme", ["sqlite", "file"])
async def test_a_shadow_and_its_notification(small_disk, scheme):
    """Eight devices report while the disk fills, is emptied a little, and fills again. After the next start each shadow
    has the version that was told last, every version was told once, and nothing that was accepted is missing."""
    url = f"{scheme}://{small_disk}/store"
    ballast = small_disk / "ballast"
    accepted = dict.fromkeys(DEVICES, 0)
    refused = 0

    async def report(hub, id, number, size):
        nonlocal refused
        for n in range(number):
            try:
                document = {"state": {"reported": {"n": n, "text": "x" * (size + n % 7 * 100)}}}
                accepted[id] = (await hub.shadows.update(DeviceKey("ada", id), document)).version
            except StorageError:
                refused += 1

    async with open_backend(url) as backend:
        hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
        await hub.accounts.register("ada", "hash")
        for size, room in ((2000, 400_000), (500, 60_000), (4000, 200_000), (100, 5_000), (100, 4_000_000)):
            ballast.unlink(missing_ok=True)
            free = shutil.disk_usage(small_disk).free
            ballast.write_bytes(bytes(max(0, free - room)))
            async with trio.open_nursery() as nursery:
                for id in DEVICES:
                    nursery.start_soon(report, hub, id, 40, size)
    assert refused > 20
    assert min(accepted.values()) > 20
    ballast.unlink()
    shadows, told = await read_back(url)
    assert shadows == accepted
    assert told == {id: list(range(1, version + 1)) for id, version in shadows.items()}

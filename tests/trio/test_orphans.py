"""What a process that was killed has left in the store goes, and nothing else does; in virtual time."""

from __future__ import annotations

import os

import pytest
import trio

from mdashcore import ota
from mdashcore._errors import StorageError
from mdashcore.hub import Hub
from mdashcore.hub.feed import KEEP_SECONDS
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.server.uploads import image_body
from mdashcore.storage import open_backend
from mdashcore.trio.drivers.orphans import ORPHAN_INTERVAL
from mdashcore.trio.node import open_node

AGE_INTERVAL = 600.0  # seconds between two checks of ages: an hour of the node's other tasks takes long to play


@pytest.fixture(autouse=True)
def _often_checked(monkeypatch):
    monkeypatch.setattr("mdashcore.trio.drivers.upkeep.AGE_INTERVAL", AGE_INTERVAL)


IMAGE = ota.UpdateImage("bare.bin", 4, "00" * 32, bare=True)


@pytest.fixture
async def hub():
    async with open_backend("memory://") as backend:
        hub = Hub(backend, now=trio.current_time, monotonic=trio.current_time, entropy=os.urandom)
        await hub.accounts.register("alice", "hash", admin=True)
        for id in ("d1", "d2"):
            await hub.create_device("alice", id)
        yield hub


async def put(hub, id):
    async def data():
        yield b"data"

    await hub.blobs.put(blob_key("alice", id), data())


async def images(hub):
    return {key.partition("/")[2] async for key in hub.blobs.scan()}


async def test_an_image_without_its_update(autojump_clock, hub):
    """Killed between the upload and the update: gone an hour after the next start, beside a rollout's. What is queued,
    shared by an update that has ended, or not an update's at all, stays."""
    for id in ("ota_lost", "rol_lost", "ota_queued", "ota_shared", "mine"):
        await put(hub, id)
    await hub.updates.create(DeviceKey("alice", "d1"), "ota_queued", IMAGE)
    await hub.updates.create(DeviceKey("alice", "d2"), "ota_other", IMAGE, blob="ota_shared")
    await hub.updates.cancel(DeviceKey("alice", "d2"))
    async with open_node(hub):
        await trio.sleep(ORPHAN_INTERVAL / 2)
        assert await images(hub) == {"ota_lost", "rol_lost", "ota_queued", "ota_shared", "mine"}
        await trio.sleep(ORPHAN_INTERVAL)
        assert await images(hub) == {"ota_queued", "ota_shared", "mine"}


async def test_an_upload_that_goes_on(autojump_clock, hub):
    """It may be seen before its update is: what was there at one look only is left alone. An image that another
    process leaves later goes too."""
    async with open_node(hub):
        await trio.sleep(ORPHAN_INTERVAL * 0.9)
        await put(hub, "ota_new")
        await put(hub, "ota_late")
        await trio.sleep(ORPHAN_INTERVAL * 0.2)  # looked immediately
        assert await images(hub) == {"ota_new", "ota_late"}
        await hub.updates.create(DeviceKey("alice", "d1"), "ota_new", IMAGE)
        await trio.sleep(ORPHAN_INTERVAL)
        assert await images(hub) == {"ota_new"}
    assert image_body.UPLOAD_TIMEOUT <= ORPHAN_INTERVAL / 2


async def test_a_store_that_is_away(autojump_clock, hub, monkeypatch):
    """It is looked at again soon, and what is there is judged by looks that are an hour apart all the same."""
    await put(hub, "ota_lost")
    orphans = hub.updates.orphans

    async def fail(pause):
        monkeypatch.setattr(hub.updates, "orphans", orphans)
        raise StorageError("away")

    monkeypatch.setattr(hub.updates, "orphans", fail)
    async with open_node(hub):
        await trio.sleep(ORPHAN_INTERVAL / 2)
        assert await images(hub) == {"ota_lost"}
        await trio.sleep(ORPHAN_INTERVAL)
        assert await images(hub) == set()


async def test_a_wall_clock_that_jumps(autojump_clock):
    """A year ahead for less than two checks removes nothing; when the time has really gone by, what is old is gone."""
    ahead, keep = 0.0, 6 * AGE_INTERVAL
    async with open_backend("memory://") as backend:
        hub = Hub(
            backend,
            now=lambda: trio.current_time() + ahead,
            monotonic=trio.current_time,
            entropy=os.urandom,
            keep_log_seconds=keep,
        )
        await hub.accounts.register("alice", "hash")
        await hub.create_device("alice", "d1")
        async with open_node(hub):
            await trio.sleep(AGE_INTERVAL * 0.9)
            ahead = 365 * 86_400.0
            await trio.sleep(AGE_INTERVAL * 0.9)  # one check
            ahead = 0.0
            await trio.sleep(AGE_INTERVAL * 3)
            assert len(await backend.logs.read("notifications/alice", 0, 10)) == 1
            await trio.sleep(AGE_INTERVAL * 4)
            assert len(await backend.logs.read("notifications/alice", 0, 10)) == 0


async def test_a_check_of_ages_that_fails_is_no_check(autojump_clock, hub, monkeypatch, caplog):
    """The next one is as late as ever all the same, and the one after that removes."""
    fail = True
    all_accounts = hub.accounts.all

    async def accounts():
        if fail:
            raise StorageError("away")
        return await all_accounts()

    monkeypatch.setattr(hub.accounts, "all", accounts)
    await trio.sleep(2 * KEEP_SECONDS)
    async with open_node(hub):
        await trio.sleep(AGE_INTERVAL / 2)
        fail = False
        assert "away" in caplog.text
        for left in (2, 2, 0):
            assert len(await hub.backend.logs.read("notifications/alice", 0, 10)) == left
            await trio.sleep(AGE_INTERVAL)

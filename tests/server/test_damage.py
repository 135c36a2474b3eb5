"""A damaged document takes out itself: every list goes on, names it, and what is damaged can be removed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio

from mdash_backends._key_files import file_name
from mdashcore.hub.maintenance.backup import COLLECTIONS, export_store
from mdashcore.hub.maintenance.check import check_store
from mdashcore.identity import DeviceKey
from mdashcore.server.config import ServerConfig, User
from mdashcore.server.run import open_server
from mdashcore.testing.device import connect_device

pytestmark = pytest.mark.usefixtures("cheap_logins")

COLLECTION_OF = {"device": "devices", "presence": "presence", "shadow": "shadows"}


class Service:
    """A server with the account ada, her devices d1 to d3, and a way to damage what it keeps."""

    def __init__(self, server, http, folder, scheme):
        self.server = server
        self.http = http
        self.hub = server.service.hub
        self._folder = folder
        self._scheme = scheme

    async def damage(self, collection, key):
        """As a disk does, where documents are files; elsewhere another value is written."""
        if self._scheme == "file":
            *folders, name = key.split("/")
            path = self._folder / "store" / "documents" / collection / Path(*folders) / f"{file_name(name)}.json"
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])
        else:
            body = b'{"torn":' if self._scheme == "sqlite" else b'["no such thing"]'
            await self.hub.backend.documents.put(collection, key, body)
        self.hub.shadows._cache.clear()
        self.hub.accounts._known.clear()


@pytest.fixture(params=["memory", "sqlite", "file"])
async def service(request, tmp_path):
    scheme = request.param
    store = "memory://" if scheme == "memory" else f"{scheme}://{tmp_path}/store"
    users = (User("ada", "pw", admin=True), User("bob", "pw"))
    async with open_server(ServerConfig(bind="127.0.0.1:0", store=store, users=users)) as server:
        async with httpx.AsyncClient(base_url=f"{server.url}/api/v2", auth=("ada", "pw"), timeout=60) as http:
            service = Service(server, http, tmp_path, scheme)
            service.tokens = {}
            for id in ("d1", "d2", "d3"):
                service.tokens[id] = (await http.post("/devices", json={"id": id})).json()["token"]
                await http.put(f"/devices/{id}", json={"shadow": {"state": {"desired": {"on": True}}}})
            for id in ("d1", "d2"):
                async with connect_device(server.device_url, service.tokens[id]):
                    await until(lambda id=id: service.is_online(id))
            yield service


async def until(condition):
    with trio.fail_after(30):
        while not await condition():  # noqa: ASYNC110 - a store has no events
            await trio.sleep(0.01)


async def is_online(self, id):
    return (await self.hub.presence.get(DeviceKey("ada", id))).online


Service.is_online = is_online


@pytest.mark.parametrize("part", ["device", "presence", "shadow"])
async def test_a_device(service, part, caplog):
    """It is listed as damaged, and read so; the others are as they were; once removed it is a device like any."""
    for id in ("d1", "d2"):
        await until(lambda id=id: gone(service, id))
    before = {each["id"]: each for each in (await service.http.get("/devices")).json()}
    await service.damage(COLLECTION_OF[part], "ada/d1")
    for _ in range(2):
        listed = {each["id"]: each for each in (await service.http.get("/devices")).json()}
        assert listed.pop("d1")["damaged"] == [part]
        assert listed == {id: each for id, each in before.items() if id != "d1"}
    alone = (await service.http.get("/devices/d1")).json()
    assert alone["damaged"] == [part]
    assert caplog.text.count(f"{COLLECTION_OF[part]}/ada/d1 cannot be read") == 1
    _, problems = await check_store(service.hub.backend)
    assert any("d1" in problem and "damaged" in problem for problem in problems), problems
    assert (await service.http.delete("/devices/d1")).json() is True
    created = await service.http.post("/devices", json={"id": "d1"})
    assert (created.status_code, "damaged" in created.json()) == (201, False)
    async with connect_device(service.server.device_url, created.json()["token"]):
        await until(lambda: is_online(service, "d1"))
    usage = await service.hub.usage.of("ada")
    assert usage.devices == 3


async def gone(service, id):
    return not await is_online(service, id)


async def test_a_device_whose_presence_is_damaged_connects(service):
    """Its record is made anew, with a greater number than it ever had."""
    await until(lambda: gone(service, "d1"))
    before = (await service.hub.presence.get(DeviceKey("ada", "d1"))).session
    await service.damage("presence", "ada/d1")
    async with connect_device(service.server.device_url, service.tokens["d1"]):
        await until(lambda: listed_online(service, "d1"))
    await until(lambda: gone(service, "d1"))
    assert (await service.hub.presence.get(DeviceKey("ada", "d1"))).session > before


async def listed_online(service, id):
    found = {each["id"]: each for each in (await service.http.get("/devices")).json()}
    return found[id]["online"]


async def test_a_device_whose_shadow_is_damaged_stays_connected(service):
    """What it reports is refused with an error that says why; it can be called all the same."""
    await until(lambda: gone(service, "d1"))
    async with connect_device(service.server.device_url, service.tokens["d1"]) as device:
        await until(lambda: is_online(service, "d1"))
        await service.damage("shadows", "ada/d1")
        await device.send({"id": 7, "method": "Dash.Shadow.Update", "params": {"state": {"reported": {"on": 1}}}})
        with trio.fail_after(10):
            while (frame := await device.receive()).get("id") != 7:
                pass
        assert (frame["error"]["code"], "damaged" in frame["error"]["message"]) == (500, True)
        refused = await service.http.post("/devices/d1/shadow", json={"state": {"desired": {"on": False}}})
        assert refused.status_code == 500
        assert "damaged" in refused.json()["error"]["message"]
        for _ in range(2):  # what it reports, and what it took so far, cannot be compared with the image
            uploaded = await service.http.post("/devices/d1/ota", params={"queue": 1}, content=b"\xe9\x05\x02\x20")
            assert uploaded.status_code == 202, uploaded.text
            assert (await service.http.delete("/devices/d1/ota")).status_code == 200
            await service.damage("update_histories", "ada/d1")


async def test_keys_users_and_sessions(service, caplog):
    """Each is listed as damaged, and can be removed; a damaged session is no session."""
    http, hub = service.http, service.hub
    good, bad = [(await http.post("/keys", json={})).json() for _ in range(2)]
    await service.damage("keys", f"ada/{bad['id']}")
    listed = {each["id"]: each for each in (await http.get("/keys")).json()}
    assert listed[bad["id"]]["damaged"] == ["key"]
    assert "damaged" not in listed[good["id"]]
    refused = await http.get("/devices", auth=None, headers={"Authorization": f"Bearer {bad['key']}"})
    assert refused.status_code == 500
    assert (await http.delete(f"/keys/{bad['id']}")).json() is True
    refused = await http.get("/devices", auth=None, headers={"Authorization": f"Bearer {bad['key']}"})
    assert refused.status_code == 401

    account = await hub.accounts.get("ada")
    sessions = [await hub.sessions.create(account) for _ in range(2)]
    await service.damage("sessions", f"ada/{sessions[0].session.hash}")
    cookies = [{"Cookie": f"mdash_session={each.secret}"} for each in sessions]
    found = [(await http.get("/session", auth=None, headers=cookie)).json()["user"] for cookie in cookies]
    assert found == [None, "ada"]
    assert await hub.sessions.count("ada") == 1

    await service.damage("accounts", "bob")
    users = {each["name"]: each for each in (await http.get("/users")).json()}
    assert users["bob"]["damaged"] == ["account"]
    assert "damaged" not in users["ada"]
    assert "accounts/bob cannot be read" in caplog.text
    await service.damage("admins", "roster")
    assert {each["name"]: each["admin"] for each in (await http.get("/users")).json()} == {"ada": True, "bob": False}
    assert (await http.delete("/users/bob")).json() is True
    assert (await http.post("/users", json={"name": "bob", "password": "x"})).status_code == 201


async def test_updates(service):
    """A device whose update is damaged can be updated; its image goes only when nothing may name it any more."""
    http = service.http
    for id in ("d1", "d2"):
        assert (await http.post(f"/devices/{id}/ota?queue=1", content=b"image")).status_code == 202
    await service.damage("updates", "ada/d1")
    assert await service.hub.updates.unfinished() == [DeviceKey("ada", "d2")]
    assert await service.hub.updates.orphans() == set()
    assert (await http.get("/devices/d1/ota")).status_code == 500
    assert (await http.get("/devices/d2/ota")).json()["state"] == "QUEUED"
    assert (await http.post("/devices/d1/ota?queue=1", content=b"another")).status_code == 202
    assert (await http.get("/devices/d1/ota")).json()["state"] == "QUEUED"
    assert len(await service.hub.updates.orphans()) == 1
    await http.delete("/devices/d1/ota")
    await service.damage("update_histories", "ada/d1")
    found = (await http.get("/devices/d1/ota")).json()  # its history is begun anew by whatever ends next
    assert (found["state"], found.get("damaged", ["history"])) == ("CANCELED", ["history"])


def form():
    fields = {"rollout": (None, '{"devices": ["d1", "d2"], "phases": [100], "offline_wait": 100000}')}
    return {"files": {**fields, "file": ("fw.bin", b"image")}}


async def test_rollouts(service):
    """One that is damaged, or whose devices are not known any more, is listed so and can be removed."""
    http = service.http
    first, second, third = [(await http.post("/rollouts?bare=1", **form())).json()["id"] for _ in range(3)]
    await service.damage("rollouts", f"ada/{first}")
    await service.damage("rollout_rosters", f"ada/{second}/0000")
    listed = {each["id"]: each for each in (await http.get("/rollouts")).json()}
    assert listed[first] == {"id": first, "damaged": ["rollout"]}
    assert [listed[id]["state"] for id in (second, third)] == ["RUNNING"] * 2
    assert (await http.get(f"/rollouts/{second}/members")).status_code == 500
    assert (await http.get(f"/rollouts/{third}/members")).status_code == 200
    assert (await http.delete(f"/rollouts/{third}")).status_code == 409
    for id in (first, second):
        assert (await http.delete(f"/rollouts/{id}")).json() is True
    assert [each["id"] for each in (await http.get("/rollouts")).json()] == [third]


async def test_a_notification(service, caplog):
    """It is passed over by readers of the log."""
    logs = service.hub.backend.logs
    if service._scheme == "file":
        pytest.skip("a line of a file that is damaged ends the file: the check names it")
    await logs.append("notifications/ada", 1.0, [b'{"torn":'])
    await service.http.post("/devices", json={"id": "d4"})
    for query in ({"limit": 1000}, {"before": 10**6, "limit": 1000}, {"name": "created"}):
        found = (await service.http.post("/logs", json=query)).json()
        assert found[-1]["id"] == "d4"
    assert [item async for item in pages(service)][-1] > 0
    assert "cannot be read" in caplog.text


async def pages(service):
    for item in await service.hub.feed.page("ada", 0):
        yield item.offset


async def test_a_backup_leaves_out_what_is_damaged(service, caplog):
    """And is whole but for that: it can be imported."""
    await service.damage("devices", "ada/d1")
    lines = [line async for line in export_store(service.hub.backend)]
    damaged = [line for line in lines if b'"devices"' in line and b"ada/d1" in line]
    assert len(damaged) == (service._scheme == "memory")  # there it is JSON, and only no device
    assert b'"end":true' in lines[-1]
    assert set(COLLECTIONS) >= {"devices"}

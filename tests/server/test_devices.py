"""``/devices``: registered, listed, renamed, removed; and their tokens, which are shown once."""

from __future__ import annotations

import os
import socket
import struct
import time
from datetime import UTC, datetime
from itertools import pairwise

import pytest
import trio
import trio.lowlevel
import trio.testing
from rows import every_row

from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.hub import Hub, LogQuery
from mdashcore.identity import DeviceKey
from mdashcore.server.api import devices
from mdashcore.server.http.hangup import Hangup
from mdashcore.storage import open_backend
from mdashcore.testing.device import FRAME_TIMEOUT, connect_device
from mdashcore.trio.node import open_node
from mdashcore.trio.turns import WORK_SLICE

RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closing resets the connection


@pytest.fixture
def refused(server, open_raw):
    """Tells whether the server answers a device token with 401."""

    async def ask(token):
        async with open_raw(server) as raw:
            return (await raw.handshake(token)).status == 401

    return ask


def parsed(text):
    """RFC 3339, in UTC, as Unix seconds."""
    assert text.endswith("Z")
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


# Registration


async def test_a_device_gets_an_id_and_a_token(alice):
    """Without an id a device gets one, which is its name too, and a token that cannot be guessed."""
    response = await alice.http.post("/devices")
    device = response.json()
    assert response.status_code == 201
    assert device["id"].startswith("dev_")
    assert device["name"] == device["id"]
    assert device["token"].startswith("mdd_")
    assert len(device["token"]) >= 47  # 256 bits
    assert (device["online"], device["last_seen"], device["shared_with"]) == (False, None, [])
    assert device["shadow"] == {"state": {}, "metadata": {}, "version": 0, "timestamp": 0, "tags": {}}
    assert abs(parsed(device["created_at"]) - time.time()) < 60
    assert (await alice.http.post("/devices", content=b"{}")).json()["id"] != device["id"]


async def test_an_id_can_be_chosen(alice):
    """An id is whatever can stand in a URL as it is, and the URL with it works."""
    for id in ("d", "esp32_0A1B2C", "a.b~c:d@e+f=g-h", "0", "d" * 128, "...", "DELETE"):
        response = await alice.http.post("/devices", json={"id": id, "name": "Küche ☕"})
        assert (response.status_code, response.json()["id"], response.json()["name"]) == (201, id, "Küche ☕")
        assert (await alice.http.get(f"/devices/{id}")).json()["id"] == id


async def test_an_id_that_no_url_can_hold_is_refused(alice):
    """No device is made, and the answer says what an id may be."""
    for id in ("", " ", "a b", "a/b", "é", ".", "..", "d" * 129, "a\n", "a?b", "a#b", "a%", 7, ["a"]):
        response = await alice.http.post("/devices", json={"id": id})
        assert (id, response.status_code) == (id, 400)
        assert "1 to 128 characters" in response.json()["error"]["message"]
    assert (await alice.http.get("/devices")).json() == []


async def test_an_id_is_taken_once(alice):
    """The second registration is refused, and the first one's token goes on working."""
    token = await alice.register("d1")
    response = await alice.http.post("/devices", json={"id": "d1", "name": "another"})
    assert (response.status_code, response.json()["error"]["code"]) == (409, 409)
    assert (await alice.http.get("/devices/d1")).json()["name"] == "d1"
    async with connect_device(alice.server.device_url, token):
        pass


NO_DEVICES = [
    {"token": "mdd_mine"},
    {"id": "d1", "token": None},
    {"id": "d1", "nmae": "typo"},
    {"id": "d1", "online": True},
    {"name": "x" * 257},
    {"name": 7},
    [],
    "d1",
]


async def test_what_cannot_be_registered_is_refused_whole(alice):
    """A chosen token, a misspelt member, a name that is none: 400, and there is no device."""
    for body in NO_DEVICES:
        response = await alice.http.post("/devices", json=body)
        assert (body, response.status_code, response.json()["error"]["code"]) == (body, 400, 400)
    assert (await alice.http.get("/devices")).json() == []


# The token


async def test_a_token_is_shown_once_and_never_again(alice, root, server_log):
    """Not by any GET, list, log, notification, error or log line of the server; the store holds a hash of it only."""
    created = (await alice.http.post("/devices", json={"id": "d1"})).json()
    renewed = (await alice.http.post("/devices/d1/token")).json()
    assert renewed == {"id": "d1", "token": renewed["token"]}
    async with alice.listen(start=0) as ear:
        async with connect_device(alice.server.device_url, renewed["token"]) as device:
            await device.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"on": True}}}})
            updated = await ear.expect("updated")
        await ear.expect("offline")
        shown = [
            _json.encode(updated).decode(),
            (await alice.http.get("/devices")).text,
            (await alice.http.get("/devices/d1")).text,
            (await alice.http.put("/devices/d1", json={"name": "n"})).text,
            (await alice.http.post("/devices/d1", json={"name": "n"})).text,
            (await alice.http.post("/devices", json={"id": "d1"})).text,
            (await alice.http.get("/devices/d1/shadow")).text,
            (await alice.http.post("/logs", json={"limit": 1000})).text,
            (await alice.http.get("/keys")).text,
            (await root.http.get("/devices/d1")).text,
            server_log(),
        ]
        for collection in ("devices", "token_owners", "shadows", "presence"):
            shown += [
                f"{document.key} {document.body.decode()}"
                async for document in alice.server.service.hub.registry.records._documents.scan(collection)
            ]
    assert len(shown) > 13
    for token in (created["token"], renewed["token"]):
        assert not [text for text in shown if token.removeprefix("mdd_") in text]


async def test_a_new_token_ends_the_old_one_immediately(alice, refused):
    """The socket that was opened with the old token is closed, and only the new token opens another."""
    old = await alice.register("d1")
    async with connect_device(alice.server.device_url, old) as device:
        new = (await alice.http.post("/devices/d1/token")).json()["token"]
        code, reason = await device.wait_closed()
    assert (code, "revoked" in reason) == (1008, True)
    assert new != old
    assert await refused(old)
    async with connect_device(alice.server.device_url, new):
        await alice.told("online", "d1")
        assert (await alice.http.get("/devices/d1")).json()["online"]


async def test_a_device_token_is_no_api_key(alice, bob, refused):
    """Each secret opens what it is for, and nothing else."""
    token = await alice.register("d1")
    assert (await alice.http.get("/devices", headers={"Authorization": f"Bearer {token}"})).status_code == 401
    assert await refused(alice.key)
    assert await refused(bob.key)


# Presence


async def test_a_connected_device_is_online(alice):
    """A registered device is offline; connected, it is online; disconnected, offline again, and when it was seen."""
    before = time.time()
    async with alice.listen() as ear:
        async with await alice.connect("d1") as device:
            await ear.expect("online", "d1")
            (listed,) = (await alice.http.get("/devices")).json()
            assert (listed["id"], listed["online"]) == ("d1", True)
            await device.send({"id": 1, "method": "Dash.Shadow.Get"})
            await device.receive()
            heard = time.time()
            seen = (await alice.http.get("/devices/d1")).json()["last_seen"]
            assert before - 0.01 <= parsed(seen) <= heard + 0.01
        await ear.expect("offline", "d1")
    after = (await alice.http.get("/devices/d1")).json()
    assert not after["online"]
    assert parsed(seen) - 0.01 <= parsed(after["last_seen"]) <= time.time() + 0.01


async def test_the_newest_connection_wins(alice):
    """A second connection with the same token closes the first, and the device stays online throughout."""
    token = await alice.register("d1")
    async with connect_device(alice.server.device_url, token) as first:
        await alice.told("online", "d1")
        async with alice.listen() as ear, connect_device(alice.server.device_url, token) as second:
            code, reason = await first.wait_closed()
            assert (code, "newer" in reason) == (1008, True)
            assert (await ear.hear())["name"] == "online"
            await second.send({"id": 1, "method": "Dash.Shadow.Get"})
            assert (await second.receive())["result"] == {}
            assert (await alice.http.get("/devices/d1")).json()["online"]
            await alice.http.put("/devices/d1", json={"name": "mark"})
            assert (await ear.hear())["name"] == "updated"  # and no "offline" before it


# Lists and changes


async def test_the_list_is_a_bare_array_by_id(alice):
    """Every device with the same members as alone: its shadow, and whether it is online."""
    for id in ("b", "a", "c"):
        await alice.register(id)
    await alice.http.post("/devices/b/shadow", json={"state": {"desired": {"on": True}}})
    listed = (await alice.http.get("/devices")).json()
    assert [device["id"] for device in listed] == ["a", "b", "c"]
    assert listed == [(await alice.http.get(f"/devices/{id}")).json() for id in ("a", "b", "c")]
    assert listed[1]["shadow"]["state"]["delta"] == {"on": True}
    assert set(listed[0]) == {
        "id",
        "name",
        "online",
        "since",
        "last_seen",
        "created_at",
        "tags",
        "shared_with",
        "delta_limit",
        "shadow",
    }


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_device_is_renamed_and_its_shadow_updated(alice, method):
    """By PUT, and by POST as the later form of the API: the answer is the device as it is now."""
    await alice.register("d1")
    async with alice.listen() as ear:
        change = {"name": "Pump", "shadow": {"state": {"desired": {"on": True}}}}
        response = await alice.http.request(method, "/devices/d1", json=change)
        assert response.status_code == 200
        assert response.json() == (await alice.http.get("/devices/d1")).json()
        assert response.json()["name"] == "Pump"
        assert response.json()["shadow"]["state"]["desired"] == {"on": True}
        told = [await ear.expect("updated"), await ear.expect("updated")]
    assert [sorted(notification["data"]) for notification in told] == [["shadow"], ["name"]]
    assert told[1]["data"] == {"name": "Pump"}


async def test_what_was_read_can_be_written_back(alice):
    """A client that changes one member of the device that it got, and sends all of it, changes that member."""
    await alice.register("d1")
    device = (await alice.http.get("/devices/d1")).json()
    device["name"] = "Pump"
    del device["shadow"]
    assert (await alice.http.put("/devices/d1", json=device)).json()["name"] == "Pump"


NO_CHANGES = [
    {"name": 7},
    {"name": "x" * 257},
    {"name": "Pump", "shadow": {"state": {"delta": {}}}},
    {"name": "Pump", "shadow": {}},
    {"name": "Pump", "id": "d2"},
    {"name": "Pump", "token": "mdd_mine"},
    {"name": "Pump", "shared_with": ["bob"]},
    {"name": 7, "shadow": {"state": {"desired": {"on": True}}}},
    [],
]


async def test_a_change_that_is_refused_changes_nothing(alice):
    """Also the part of it that would have been right."""
    await alice.register("d1")
    before = (await alice.http.get("/devices/d1")).json()
    for change in NO_CHANGES:
        assert (change, (await alice.http.put("/devices/d1", json=change)).status_code) == (change, 400)
        assert (await alice.http.get("/devices/d1")).json() == before


async def test_a_deleted_device_is_gone_immediately(alice, refused):
    """Its socket is closed, its token opens nothing, and it is in no list; the answer is `true`."""
    token = await alice.register("d1")
    await alice.register("d2")
    async with connect_device(alice.server.device_url, token) as device:
        await alice.told("online", "d1")
        async with alice.listen() as ear:
            response = await alice.http.delete("/devices/d1")
            assert (response.status_code, response.json()) == (200, True)
            assert (await device.wait_closed())[0] == 1008
            assert (await ear.hear())["name"] == "deleted"
    assert await refused(token)
    assert [device["id"] for device in (await alice.http.get("/devices")).json()] == ["d2"]
    assert (await alice.http.get("/devices/d1")).status_code == 404
    assert (await alice.http.delete("/devices/d1")).status_code == 404


async def test_a_device_of_the_same_id_is_a_new_one(alice, refused):
    """It has another token and an empty shadow, whose versions go on from the deleted one's."""
    old = await alice.register("d1")
    for value in (1, 2, 3):
        await alice.http.post("/devices/d1/shadow", json={"state": {"reported": {"n": value}}})
    await alice.http.delete("/devices/d1")
    created = (await alice.http.post("/devices", json={"id": "d1"})).json()
    assert created["token"] != old
    assert await refused(old)
    assert (created["shadow"]["state"], created["shadow"]["version"]) == ({}, 3)
    assert (created["online"], created["last_seen"]) == (False, None)
    updated = (await alice.http.post("/devices/d1/shadow", json={"state": {"reported": {"n": 4}}})).json()
    assert updated["version"] == 4


async def test_devices_are_offline_after_a_crash():
    """A server that starts again on its store tells of the devices whose connections ended with the last process."""
    async with open_backend("memory://") as backend:
        hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
        await hub.create_device("alice", "d1")
        await hub.presence.claim(DeviceKey("alice", "d1"), "node")
        async with open_node(hub):
            await trio.testing.wait_all_tasks_blocked()
            assert not (await hub.presence.get(DeviceKey("alice", "d1"))).online
            names = [_json.decode(frame)["name"] for frame in await hub.feed.query("alice", LogQuery())]
        assert names == ["created", "offline"]


async def test_a_large_fleet_is_listed_without_stopping_others(alice, monkeypatch):
    """While the list is made, others have their turn: no more than a slice of time is spent without."""
    encoded = 0
    encode = devices.page_document

    def counted(*arguments):
        nonlocal encoded
        encoded += 1
        return encode(*arguments)

    monkeypatch.setattr(devices, "page_document", counted)
    monkeypatch.setattr("mdashcore.trio.turns.perf_counter", lambda: encoded * WORK_SLICE / 4)
    hub = alice.server.service.hub
    state = {"state": {"reported": {f"k{n}": {"a": n} for n in range(20)}}}
    for n in range(400):
        await hub.create_device("alice", f"d{n}")
        await hub.shadows.update(DeviceKey("alice", f"d{n}"), state)
    seen = set()

    async def others(task_status):
        task_status.started()
        while True:
            await trio.lowlevel.checkpoint()
            seen.add(encoded)

    async with trio.open_nursery() as nursery:
        await nursery.start(others)
        listed = (await alice.http.get("/devices")).json()
        nursery.cancel_scope.cancel()
    assert [device["id"] for device in listed] == sorted(f"d{n}" for n in range(400))
    assert all(len(device["shadow"]["state"]["reported"]) == 20 for device in listed)
    assert max(after - before for before, after in pairwise(sorted(seen))) <= 2 * 5  # two slices, each a bit too long


class Gate:
    """Delays the tasks that have just written to a store, as a slow disk does.

    Args:
        owner: has the function that writes: a store, or an object of the hub.
        verb: its name.
        collection: of which writes are delayed.
    """

    def __init__(self, monkeypatch, owner, verb, collection):
        self.written, self.noticed, self.open = trio.Event(), trio.Event(), trio.Event()
        inner, on_end = getattr(owner, verb), Hangup.on_end

        async def held(name, *args, **options):
            result = await inner(name, *args, **options)
            if name == collection:
                self.written.set()
                await self.open.wait()
            return result

        def noted(hangup, gone):
            on_end(hangup, gone)
            if gone:
                self.noticed.set()

        monkeypatch.setattr(owner, verb, held)
        monkeypatch.setattr(Hangup, "on_end", noted)

    async def leave_behind(self, open_raw, person, request, body=b""):
        """Send a request, hang up while it writes, and let the store go on when the server has noticed."""
        fields = f"Host: x\r\nAuthorization: Bearer {person.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        async with open_raw(person.server) as raw:
            await raw.send(f"{request} HTTP/1.1\r\n{fields}".encode() + body)
            with trio.fail_after(FRAME_TIMEOUT):
                await self.written.wait()
            raw.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with trio.fail_after(FRAME_TIMEOUT):
            await self.noticed.wait()
        await trio.testing.wait_all_tasks_blocked()  # what is cancelled has ended
        self.open.set()


@pytest.mark.parametrize("instant", [False])
@pytest.mark.parametrize("query", ["", "?access_token=x"])
async def test_a_shadow_update_goes_on_without_its_client(alice, monkeypatch, open_raw, query):
    """In either lane: the device and the subscribers get what is stored."""
    async with await alice.connect("d1") as device:
        await alice.told("online", "d1")
        gate = Gate(monkeypatch, alice.server.service.hub.shadows, "_put_and_append", "shadows")
        body = b'{"state":{"desired":{"on":true}}}'
        async with alice.listen() as ear:
            await gate.leave_behind(open_raw, alice, f"POST /api/v2/devices/d1/shadow{query}", body)
            assert (await ear.expect("updated"))["data"]["shadow"]["state"]["desired"] == {"on": True}
        with trio.fail_after(FRAME_TIMEOUT):
            while (said := await device.receive()).get("method") != "Shadow.Delta":
                pass
        assert said["params"]["state"] == {"on": True}


@pytest.mark.parametrize("collection", ["token_owners", "devices"])
async def test_a_removal_goes_on_without_its_client(alice, monkeypatch, open_raw, refused, collection):
    """Wherever it was: the socket is closed, nothing is left, and the removal is told."""
    token = await alice.register("d1")
    await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"on": True}}})
    hub = alice.server.service.hub
    async with connect_device(alice.server.device_url, token) as device:
        await alice.told("online", "d1")
        async with alice.listen() as ear:
            gate = Gate(monkeypatch, hub.backend.documents, "delete", collection)
            await gate.leave_behind(open_raw, alice, "DELETE /api/v2/devices/d1")
            await ear.expect("deleted", "d1")
        assert (await device.wait_closed())[0] == 1008
    assert await refused(token)
    assert (await alice.http.get("/devices/d1")).status_code == 404
    assert (await hub.shadows.get(DeviceKey("alice", "d1"))).desired is None


async def test_a_removal_that_failed_is_finished_by_the_next(alice, monkeypatch, refused):
    """503, and the device is there still, but its token opens nothing and its socket is closed; then 200."""
    token = await alice.register("d1")
    documents = alice.server.service.hub.backend.documents
    async with connect_device(alice.server.device_url, token) as device:
        await alice.told("online", "d1")
        with monkeypatch.context() as patch:
            inner = documents.put

            async def put(collection, *args, **options):
                if collection == "shadows":
                    raise StorageError("away")
                return await inner(collection, *args, **options)

            await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"on": True}}})
            patch.setattr(documents, "put", put)
            assert (await alice.http.delete("/devices/d1")).status_code == 503
        assert (await device.wait_closed())[0] == 1008
    assert await refused(token)
    assert (await alice.http.get("/devices/d1")).status_code == 200
    assert (await alice.http.post("/devices/d1/token")).status_code == 404
    assert (await alice.http.delete("/devices/d1")).status_code == 200
    assert (await alice.http.get("/devices/d1")).status_code == 404


async def test_an_upload_for_a_device_that_is_deleted_meanwhile(alice, monkeypatch):
    """404, and neither the update nor its image is left."""
    await alice.register("d1")
    hub = alice.server.service.hub
    begun, rest = trio.Event(), trio.Event()

    async def body():
        yield b"A" * 1000
        begun.set()
        await rest.wait()
        yield b"B" * 1000

    async with alice.calling("POST", "/devices/d1/ota?queue=1", content=body()) as response:
        with trio.fail_after(FRAME_TIMEOUT):
            await begun.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)  # the server has asked whether there is such a device
        assert (await alice.http.delete("/devices/d1")).status_code == 200
        rest.set()
        assert (await response()).status_code == 404
    assert await hub.updates.get(DeviceKey("alice", "d1")) is None
    assert [key async for key in hub.blobs.scan()] == []


# The limit of deltas


@pytest.mark.parametrize("limit", [1024, 4096, 131072, 0, None])
async def test_a_delta_limit_is_set_by_people(alice, limit):
    """Bytes, 0 for none, null for that of the platform; it is shown, told, and can be written back as it was read."""
    await alice.register("d1")
    assert (await alice.http.get("/devices/d1")).json()["delta_limit"] is None
    assert (await alice.http.put("/devices/d1", json={"delta_limit": 2048})).json()["delta_limit"] == 2048
    changed = (await alice.http.put("/devices/d1", json={"delta_limit": limit})).json()
    assert changed["delta_limit"] == limit
    assert (await alice.http.put("/devices/d1", json=changed)).json()["delta_limit"] == limit
    told = (await alice.http.post("/logs", json={"name": "updated"})).json()
    assert [each["data"]["delta_limit"] for each in told if "delta_limit" in each["data"]] == [2048, limit]
    assert (await alice.http.get("/devices")).json()[0]["delta_limit"] == limit


@every_row("limit", [1023, 131073, -1, 4096.0, "4096", True, [], {}])
async def test_a_delta_limit_that_makes_no_sense(alice, limit):
    """400, and nothing has changed."""
    await alice.http.post("/devices", json={"id": "d1"})  # there from the second row on
    response = await alice.http.put("/devices/d1", json={"name": "another", "delta_limit": limit})
    assert response.status_code == 400
    assert "delta_limit" in response.json()["error"]["message"]
    assert (await alice.http.get("/devices/d1")).json()["name"] == "d1"

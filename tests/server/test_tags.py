"""Tags of devices over REST."""

from __future__ import annotations

import json

import pytest
import trio

from mdash_backends.memory import MemoryDocuments


async def tags_of(alice, id):
    """The tags of a device, which its shadow shows too."""
    device = (await alice.http.get(f"/devices/{id}")).json()
    assert device["shadow"]["tags"] == device["tags"]
    return device["tags"]


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_tags_are_merged_and_notified(alice, method):
    """By `tags`, and by `shadow.tags` as other mDash clients have it. What changes nothing is not notified."""
    await alice.register("d1")
    async with alice.listen() as ear:
        for change in (
            {"tags": {"site": "berlin", "indoor": True}},
            {"tags": {"site": "berlin"}},
            {"shadow": {"tags": {"site": "x", "indoor": None}}},
            {"tags": {"a": "1"}, "shadow": {"tags": {"a": "1"}}},
        ):
            answer = await alice.http.request(method, "/devices/d1", json=change)
            assert (answer.status_code, answer.json()["tags"]) == (200, await tags_of(alice, "d1"))
        told = [await ear.expect("updated") for _ in range(3)]
    assert [each["data"] for each in told] == [
        {"tags": {"site": "berlin", "indoor": True}},
        {"tags": {"site": "x"}},
        {"tags": {"site": "x", "a": "1"}},
    ]
    assert (await alice.http.get("/devices")).json()[0]["tags"] == {"site": "x", "a": "1"}


async def test_tags_have_no_version(alice):
    """They leave the shadow's version alone, and a document with an old version that is written back leaves them."""
    await alice.register("d1")
    await alice.http.put("/devices/d1", json={"tags": {"site": "old"}})
    old = (await alice.http.get("/devices/d1")).json()["shadow"]
    assert old["version"] == 0
    await alice.http.put("/devices/d1", json={"tags": {"site": "new"}, "shadow": {"state": {"desired": {"on": True}}}})
    back = {"shadow": {"state": {"desired": {"on": False}}, "version": old["version"] + 5, "tags": old["tags"]}}
    assert (await alice.http.put("/devices/d1", json=back)).status_code == 409
    assert (await alice.http.post("/devices/d1/shadow", json=back["shadow"])).status_code == 409
    del back["shadow"]["version"]
    assert (await alice.http.post("/devices/d1/shadow", json=back["shadow"])).status_code == 200
    assert await tags_of(alice, "d1") == {"site": "new"}
    shadow = await alice.http.get("/devices/d1/shadow")
    assert "tags" not in shadow.json()
    assert shadow.headers["ETag"] == '"2"'


async def test_a_device_neither_sees_nor_writes_its_tags(alice):
    """It gets the state alone, and tags in its updates are ignored like any other member."""
    async with await alice.connect("d1") as device:
        await alice.http.put("/devices/d1", json={"tags": {"site": "x"}})
        update = {"state": {"reported": {"on": True}}, "tags": {"site": "mine"}}
        await device.send({"id": 1, "method": "Dash.Shadow.Update", "params": update})
        await device.send({"id": 2, "method": "Dash.Shadow.Get"})
        answers = {}
        while len(answers) < 2:
            frame = await device.receive()
            assert b"tags" not in json.dumps(frame).encode()
            if "method" not in frame:
                answers[frame["id"]] = frame["result"]
        assert answers[2] == {"reported": {"on": True}}
    assert await tags_of(alice, "d1") == {"site": "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"tags": {"a": 1}},
        {"tags": []},
        {"tags": {"a": True}, "shadow": {"tags": {"a": "b"}}},
        {"tags": {"a": True}, "shadow": {"state": {"delta": {}}}},
        {"shadow": {"tags": {"a": False}, "state": {"desired": {"on": True}}}},
        {"shadow": {"tags": {"a": True}, "version": 0}},
        {"tags": {"a": True}, "name": 5},
    ],
)
async def test_a_change_that_is_refused_changes_nothing(alice, change):
    """Neither the tags nor the rest."""
    await alice.register("d1")
    before = (await alice.http.get("/devices/d1")).json()
    assert (await alice.http.put("/devices/d1", json=change)).status_code == 400
    assert (await alice.http.get("/devices/d1")).json() == before


async def test_a_device_is_registered_with_tags(alice):
    """The notification has them, too. Wrong ones register no device."""
    async with alice.listen() as ear:
        assert (await alice.http.post("/devices", json={"id": "d0", "tags": {"a": 5}})).status_code == 400
        created = await alice.http.post("/devices", json={"id": "d1", "tags": {"site": "x"}})
        assert (created.status_code, created.json()["tags"]) == (201, {"site": "x"})
        assert (await ear.expect("created"))["data"] == {"name": "d1", "tags": {"site": "x"}}
    assert [each["id"] for each in (await alice.http.get("/devices")).json()] == ["d1"]


async def test_tags_find_devices(alice):
    """Filters read tags, and a term that is not understood is 400."""
    for id, tags in {"a": {"berlin": True}, "b": {"site": "berlin"}, "c": {}}.items():
        await alice.http.post("/devices", json={"id": id, "tags": tags})
    for terms, ids in {"tag=berlin": "a", "tag.site=berlin": "b", "tag!=*": "c", "!tag=berlin": "bc"}.items():
        found = await alice.http.get("/devices", params={"filter": terms})
        assert "".join(each["id"] for each in found.json()) == ids
    wrong = await alice.http.get("/devices", params={"filter": "tag<5"})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (400, "tag takes = != ~ !~ =*, not <")


async def test_each_changed_device_is_counted(alice, monkeypatch):
    """Also if the store lets other tasks run, so that several devices are changed at the same time."""
    put = MemoryDocuments.put

    async def waiting_put(*arguments, **options):
        await trio.lowlevel.checkpoint()
        return await put(*arguments, **options)

    ids = [f"d{n}" for n in range(20)]
    for id in ids:
        await alice.register(id)
    monkeypatch.setattr(MemoryDocuments, "put", waiting_put)
    changed = await alice.http.post("/tags", json={"devices": ids, "tags": {"site": "x"}})
    assert changed.json() == {"devices": 20, "changed": 20, "refused": []}

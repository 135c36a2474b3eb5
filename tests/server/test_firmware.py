"""``/firmware``: images are uploaded once, and then sent to devices, rolled out, downloaded, edited and removed."""

from __future__ import annotations

import hashlib
import io
import json
import random
from contextlib import ExitStack
from functools import partial

import attrs
import pytest
import trio
from rows import every_row

from mdashcore import firmware
from mdashcore.firmware_entry import MAX_NOTES, RemovalStep
from mdashcore.hub.updates.store import blob_key
from mdashcore.trio.agent import Backoff
from mdashcore.virtual_device import FirmwareBuild, VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device


def image(size=3000, **fields):
    """A firmware zip."""
    file = io.BytesIO()
    manifest = {"name": "lamp", "platform": "esp32", "version": "2.0", "build_id": "new"} | fields
    firmware.write_image(file, manifest, {"app": random.Random(size).randbytes(size)})
    return file.getvalue()


def form(data=None):
    return {"files": {"file": ("fw.zip", image() if data is None else data)}}


async def add(person, data=None, **query):
    response = await person.http.post("/firmware", params=query, **form(data))
    assert response.status_code in (200, 201), response.text
    return response.json()


@pytest.fixture
def blobs(server):
    """What is in the blob store."""

    async def keys():
        return [key async for key in server.service.hub.blobs.scan()]

    return keys


# Uploading


async def test_an_image_is_added_once(alice, blobs):
    """201 with its facts; the same image again is 200 with the same id, and takes no room."""
    data = image()
    digest = hashlib.sha256(data).hexdigest()
    response = await alice.http.post("/firmware?notes=first", **form(data))
    assert response.status_code == 201
    made = response.json()
    assert made["id"] == f"fw_{digest[:16]}"
    facts = {"name": "lamp", "notes": "first", "file": "fw.zip", "size": len(data), "sha256": digest, "build_id": "new"}
    facts |= {"version": "2.0", "platform": "esp32", "app": "lamp", "bare": False, "state": "KEPT"}
    assert {name: made[name] for name in facts} == facts
    again = await alice.http.post("/firmware?notes=second", content=data)
    assert (again.status_code, again.json()) == (200, made)
    assert len(await blobs()) == 1
    assert (await alice.http.get("/firmware")).json() == [made]
    assert (await alice.http.get(f"/firmware/{made['id']}")).json() == made
    limits = {each["name"]: each["use"] for each in (await alice.http.get("/limits")).json()["limits"]}
    assert (limits["firmware"], limits["image_bytes"]) == (1, len(data))
    told = await alice.told("firmware.added", made["id"])
    assert told["data"] == made


async def test_the_uploader_is_named(alice):
    """The user, or the key by its name; by its id, if it has no name."""
    made = await add(alice)
    assert made["uploaded_by"] == made["key"] != "alice"
    async with alice.as_user() as http:
        by_user = (await http.post("/firmware", **form(image(20)))).json()
    assert (by_user["uploaded_by"], by_user["key"]) == ("alice", None)
    key = (await alice.http.post("/keys", json={"name": "ci"})).json()
    headers = {"Authorization": f"Bearer {key['key']}"}
    response = await alice.http.post("/firmware", headers=headers, **form(image(10)))
    by_key = response.json()
    assert (by_key["uploaded_by"], by_key["key"]) == ("ci", key["id"])


@every_row(
    ("request_", "status", "words"),
    [
        ({"content": b""}, 400, "the image is empty"),
        ({"content": b"PK\x03\x04 and nothing more"}, 400, ""),
        ({"content": image()[:-30]}, 400, ""),
        ({"content": b"<html>"}, 400, "looks like HTML"),
        ({"params": {"bare": "yes"}, "content": b"x"}, 400, "bare is 1 or 0"),
        ({"params": {"keep": "1"}, "content": b"x"}, 400, "unknown parameter 'keep'"),
        ({"params": {"name": "x" * 257}, **form()}, 400, "a name is text"),
        ({"params": {"notes": "x" * 4097}, **form()}, 400, "notes have at most 4096"),
        ({"params": {"notes": "ü" * 2049}, **form()}, 400, "notes have at most 4096 bytes of UTF-8, not 4098"),
        ({"files": {"other": ("fw.zip", image())}}, 400, "not in the field 'file'"),
    ],
)
async def test_what_is_not_added(alice, blobs, request_, status, words):
    """It is told why, and nothing of it is kept."""
    response = await alice.http.post("/firmware", **request_)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert await blobs() == []
    assert (await alice.http.get("/firmware")).json() == []


# Reading, changing, removing


async def test_an_image_is_downloaded(alice):
    """Whole or in part; its tag is its digest, by which a client that has it is answered 304."""
    data = image(200_000)
    made = await add(alice, data)
    path, tag = f"/firmware/{made['id']}/image", f'"{made["sha256"]}"'
    whole = await alice.http.get(path)
    assert (whole.status_code, whole.content) == (200, data)
    assert (whole.headers["ETag"], whole.headers["Content-Length"]) == (tag, str(len(data)))
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["Content-Disposition"] == "attachment; filename*=UTF-8''fw.zip"
    head = await alice.http.head(path)
    assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", tag)
    assert head.headers["Content-Length"] == str(len(data))
    assert (await alice.http.get(path, headers={"If-None-Match": tag})).status_code == 304
    rest = await alice.http.get(path, headers={"Range": "bytes=100000-", "If-Range": tag})
    assert (rest.status_code, rest.content) == (206, data[100_000:])
    assert rest.headers["Content-Range"] == f"bytes 100000-{len(data) - 1}/{len(data)}"
    for range_, part in (("bytes=0-0", data[:1]), ("bytes=-5", data[-5:]), ("bytes=70000-70009", data[70_000:70_010])):
        response = await alice.http.get(path, headers={"Range": range_})
        assert (response.status_code, response.content) == (206, part)
    for headers in ({"Range": "bytes=0-1", "If-Range": '"old"'}, {"Range": "lines=1-2"}, {"Range": "bytes=0-1,4-5"}):
        assert (await alice.http.get(path, headers=headers)).content == data
    outside = await alice.http.get(path, headers={"Range": f"bytes={len(data)}-"})
    assert (outside.status_code, outside.headers["Content-Range"]) == (416, f"bytes */{len(data)}")


async def test_downloads_close_no_lists(alice, bob, server, monkeypatch):
    """They have a bound of their own, for the account and for the process."""
    made, theirs = await add(alice), await add(bob)
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(server.service.downloading("alice"))
        answer = await alice.http.get(f"/firmware/{made['id']}/image")
        assert (answer.status_code, answer.json()["error"]["limit"]) == (429, "downloads")
        assert (await alice.http.get("/firmware?devices=1")).status_code == 200
        assert (await bob.http.get(f"/firmware/{theirs['id']}/image")).status_code == 200
        monkeypatch.setattr("mdashcore.server.service.MAX_DOWNLOADS", 16)
        assert (await bob.http.get(f"/firmware/{theirs['id']}/image")).status_code == 429
    assert (await alice.http.get(f"/firmware/{made['id']}/image")).status_code == 200


async def test_name_and_notes_are_changed(alice):
    """By POST or PUT, each alone; anything else is refused."""
    made = await add(alice)
    path = f"/firmware/{made['id']}"
    changed = (await alice.http.post(path, json={"name": "Hall lamps"})).json()
    assert changed == made | {"name": "Hall lamps"}
    assert (await alice.told("firmware.updated", made["id"]))["data"] == changed
    assert (await alice.http.put(path, json={"notes": "fixes a leak"})).json()["notes"] == "fixes a leak"
    for wrong in ({"version": "3"}, {"name": 1}, {"name": None}, {"notes": ["x"]}, []):
        assert (await alice.http.post(path, json=wrong)).status_code == 400
    assert (await alice.http.get(path)).json()["name"] == "Hall lamps"


async def test_a_large_library_is_a_long_list(alice, server):
    """It comes in pieces, and counts as one of the account's lists."""
    made = await add(alice)
    library = server.service.hub.firmware
    entry = await library.get("alice", made["id"])
    for number in range(40):
        each = attrs.evolve(entry, id=f"fw_{number:016x}", notes="x" * MAX_NOTES, created=entry.created - 1 - number)
        await library.records.put(f"alice/{each.id}", each)
    for query in ("", "?devices=1"):
        answer = await alice.http.get(f"/firmware{query}")
        assert answer.headers["transfer-encoding"] == "chunked"
        ids = [each["id"] for each in answer.json()]
        assert ids == [made["id"], *(f"fw_{number:016x}" for number in range(40))]
        with ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(server.service.lists.one("alice"))
            answer = await alice.http.get(f"/firmware{query}")
            assert (answer.status_code, answer.json()["error"]["limit"]) == (429, "lists")


async def test_an_image_is_removed(alice, blobs):
    """With its bytes, and it is told."""
    made = await add(alice)
    assert (await alice.http.delete(f"/firmware/{made['id']}")).json() is True
    await alice.told("firmware.deleted", made["id"])
    assert await blobs() == []
    for path in ("", "/image", "/devices"):
        assert (await alice.http.get(f"/firmware/{made['id']}{path}")).status_code == 404
    assert (await alice.http.delete(f"/firmware/{made['id']}")).status_code == 404


async def test_another_account_has_a_library_of_its_own(alice, bob, blobs):
    """The same image is there twice, and each removes its own."""
    made = await add(alice)
    for method, path in (
        ("GET", ""),
        ("GET", "/image"),
        ("GET", "/devices"),
        ("POST", ""),
        ("DELETE", ""),
    ):
        body = {"json": {"name": "bob's"}} if method == "POST" else {}
        assert (await bob.http.request(method, f"/firmware/{made['id']}{path}", **body)).status_code == 404
    await bob.register("d1")
    assert (await bob.http.post(f"/devices/d1/ota?queue=1&firmware={made['id']}")).status_code == 404
    rollout = {"all": True, "firmware": made["id"]}
    assert (await bob.http.post("/rollouts", json=rollout)).status_code == 404
    assert (await add(bob))["id"] == made["id"]
    assert len(await blobs()) == 2
    await bob.http.delete(f"/firmware/{made['id']}")
    assert (await alice.http.get(f"/firmware/{made['id']}/image")).content == image()


# Updates and rollouts


async def test_a_device_is_updated_from_the_library(alice, server, blobs, tmp_path):
    """As with an upload; the image stays when the update has ended, and the device runs it."""
    made = await add(alice)
    token = await alice.register("d1")
    device = VirtualDevice("d1", tmp_path, build=FirmwareBuild("lamp", "1.0", "old", "esp32"))
    async with trio.open_nursery() as nursery:
        start = partial(run_virtual_device, device, alice.server.device_url, token, backoff=Backoff(first=0.01))
        await nursery.start(lambda task_status: start(task_status=task_status))
        response = await alice.http.post(f"/devices/d1/ota?firmware={made['id']}&commit_timeout=0")
        assert (response.status_code, response.json()) == (200, True)
        await alice.told("ota.COMMITTED", "d1")
        nursery.cancel_scope.cancel()
    assert await blobs() == [blob_key("alice", await blob_of(server, made))]
    found = (await alice.http.get(f"/firmware/{made['id']}/devices")).json()
    assert found["counts"] == {"running": 1, "updating": 0, "failed": 0}
    assert [(each["id"], each["state"]) for each in found["running"]] == [("d1", "COMMITTED")]
    (listed,) = (await alice.http.get("/firmware?devices=1")).json()
    assert listed == made | {"devices": found["counts"]}
    by_filter = (await alice.http.get("/devices", params={"filter": found["filter"]})).json()
    assert [each["id"] for each in by_filter] == ["d1"]


async def blob_of(server, made):
    return (await server.service.hub.firmware.get("alice", made["id"])).blob


async def test_an_image_in_use_stays(alice, blobs):
    """409 says what needs it; when that has ended, it can be removed."""
    await alice.register("d1")
    made = await add(alice)
    assert (await alice.http.post(f"/devices/d1/ota?queue=1&firmware={made['id']}")).status_code == 202
    refused = await alice.http.delete(f"/firmware/{made['id']}")
    assert refused.status_code == 409
    assert "the update of 'd1', which is QUEUED, needs the image" in refused.json()["error"]["message"]
    assert (await alice.http.get(f"/firmware/{made['id']}")).json()["state"] == "KEPT"
    await alice.http.delete("/devices/d1/ota")
    rollout = (await alice.http.post("/rollouts", json={"all": True, "firmware": made["id"]})).json()
    assert (rollout["name"], rollout["image"]["sha256"]) == ("fw.zip", made["sha256"])
    assert rollout["id"] in (await alice.http.delete(f"/firmware/{made['id']}")).json()["error"]["message"]
    await alice.http.post(f"/rollouts/{rollout['id']}/abort")
    await alice.told("rollout.ABORTED", rollout["id"])
    assert len(await blobs()) == 1
    assert (await alice.http.delete(f"/firmware/{made['id']}")).status_code == 200
    assert await blobs() == []


async def test_uploads_are_kept_only_if_asked_for(alice, blobs):
    """With keep=1, by an update and by a rollout; both images are one, and outlive both."""
    await alice.register("d1")
    data = image()
    assert (await alice.http.post("/devices/d1/ota?queue=1", **form(data))).status_code == 202
    assert (await alice.http.get("/firmware")).json() == []
    await alice.http.delete("/devices/d1/ota")
    assert (await alice.http.post("/devices/d1/ota?queue=1&keep=1", **form(data))).status_code == 202
    (made,) = (await alice.http.get("/firmware")).json()
    await alice.http.delete("/devices/d1/ota")
    fields = {"rollout": (None, json.dumps({"all": True, "approval": True})), "file": ("fw.zip", data)}
    rollout = await alice.http.post("/rollouts?keep=1", files=fields)
    assert rollout.status_code == 201
    assert (await alice.http.get("/firmware")).json() == [made]
    assert len(await blobs()) == 1


@every_row(
    ("path", "fields", "status", "words"),
    [
        ("/devices/d1/ota?queue=1&keep=1", {}, 409, "force"),
        ("/rollouts?keep=1", {"rollout": {"devices": ["d1"]}}, 409, "other_app"),
        ("/rollouts?keep=1", {"rollout": {"all": True, "phases": "bad"}}, 400, "phases"),
        ("/rollouts?keep=1", {}, 400, "the field 'rollout'"),
    ],
)
async def test_what_is_refused_is_not_kept(alice, blobs, path, fields, status, words):
    """Also if what is wrong is known only behind the image: it is for another application, or the plan is bad."""
    await alice.http.post("/devices", json={"id": "d1"})
    await alice.http.post("/devices/d1/shadow", json={"state": {"reported": {"ota": {"app": "pump"}}}})
    files = [("file", ("fw.zip", image())), *((name, (None, json.dumps(value))) for name, value in fields.items())]
    response = await alice.http.post(path, files=files)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert await blobs() == []
    assert (await alice.http.get("/firmware")).json() == []


@every_row(
    ("path", "options", "status", "words"),
    [
        ("/devices/d1/ota?queue=1&firmware=fw_none", {}, 404, "no image 'fw_none'"),
        ("/devices/d1/ota?queue=1&firmware=..%2Fx", {}, 404, "no image"),
        ("/devices/d1/ota?queue=1&firmware=x", {"content": b"body"}, 400, "has no body"),
        ("/devices/d1/ota?queue=1&firmware=x&keep=1", {}, 400, "keep is for an image that is uploaded"),
        ("/devices/d1/ota?firmware=fw_none", {}, 503, "not connected"),
        ("/rollouts", {"json": {"all": True, "firmware": "fw_none"}}, 404, "no image 'fw_none'"),
        ("/rollouts", {"json": {"all": True, "firmware": 1}}, 400, "firmware has to be the id"),
        ("/rollouts", {"json": {"all": True}}, 400, "is a form"),
        ("/rollouts", {"json": []}, 400, "is a form"),
        ("/rollouts", {"content": b""}, 400, "the field 'rollout'"),
        ("/rollouts?keep=1", {"json": {"all": True, "firmware": "x"}}, 400, "keep is for an image"),
        ("/rollouts", {"json": {"filter": ["colour=red"], "firmware": "x"}}, 400, "unknown field 'colour'"),
    ],
)
async def test_what_cannot_begin(alice, path, options, status, words):
    """It is told why."""
    await alice.http.post("/devices", json={"id": "d1"})
    response = await alice.http.post(path, **options)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


async def test_an_image_for_another_application_is_refused(alice):
    """As one that is uploaded: force sends it all the same."""
    await alice.register("d1")
    await alice.http.post("/devices/d1/shadow", json={"state": {"reported": {"ota": {"app": "pump"}}}})
    made = await add(alice)
    path = f"/devices/d1/ota?queue=1&firmware={made['id']}"
    refused = await alice.http.post(path)
    assert (refused.status_code, "force" in refused.json()["error"]["message"]) == (409, True)
    assert (await alice.http.post(f"{path}&force=1")).status_code == 202


async def test_an_update_that_begins_while_the_image_goes(alice, server):
    """The removal was interrupted after its mark: an update and a rollout are refused, and the next request for the
    image finishes the removal.
    """
    await alice.register("d1")
    made = await add(alice)
    library = server.service.hub.firmware
    place = f"alice/{made['id']}"
    found = await library.records.get(place)
    await library.records.put(place, found.value.after(RemovalStep.BEGIN), expected=found.version)
    refused = await alice.http.post(f"/devices/d1/ota?queue=1&firmware={made['id']}")
    assert (refused.status_code, "just being removed" in refused.text) == (409, True)
    assert (await alice.http.post("/rollouts", json={"all": True, "firmware": made["id"]})).status_code == 409
    again = await alice.http.post("/firmware", **form())
    assert (again.status_code, again.json()["state"]) == (201, "KEPT")
    assert (await alice.http.post(f"/devices/d1/ota?queue=1&firmware={made['id']}")).status_code == 202

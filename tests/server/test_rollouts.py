"""``/rollouts``: made with a form, looked at, changed; and the filter of ``/devices``."""

from __future__ import annotations

import io
import json
from functools import partial

import pytest
import trio
from rows import every_row
from selecting import of_all

from mdashcore import firmware
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.rollouts import preview
from mdashcore.hub.updates.store import blob_key
from mdashcore.rollout import RolloutState, ordered
from mdashcore.trio.agent import Backoff
from mdashcore.virtual_device import FirmwareBuild, VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device


def image(size=3000, **fields):
    """A firmware zip."""
    file = io.BytesIO()
    manifest = {"name": "lamp", "platform": "esp32", "version": "2.0", "build_id": "new"} | fields
    firmware.write_image(file, manifest, {"app": bytes(size)})
    return file.getvalue()


def form(asked=None, file=None, **options):
    """What curl sends with -F rollout=… -F file=@fw.zip."""
    text = json.dumps(of_all(asked or {}))
    return {"files": [("rollout", (None, text)), ("file", ("fw.zip", file or image()))], **options}


async def roll_out(person, **asked):
    """Make one."""
    response = await person.http.post("/rollouts", **form(asked))
    assert response.status_code == 201, response.text
    return response.json()


@pytest.fixture
async def fleet(alice):
    """Devices of alice that are not connected."""
    ids = [f"d{n}" for n in range(10)]
    for id in ids:
        await alice.register(id)
    return ids


@pytest.fixture
def blobs(server):
    """What is in the blob store."""

    async def keys():
        return [key async for key in server.service.hub.blobs.scan()]

    return keys


# Making one


async def test_a_rollout_is_made(alice, fleet, blobs):
    """The answer has all of it: the image's facts, the plan with its defaults, the phases with their devices."""
    made = await roll_out(alice, name="to all", filter=["offline"], phases=[10, 100], rate=5)
    assert made["state"] == "RUNNING"
    assert made["name"] == "to all"
    assert made["filter"] == ["offline"]
    assert (made["image"]["name"], made["image"]["build_id"], made["image"]["platform"]) == ("fw.zip", "new", "esp32")
    assert [(each["percent"], each["devices"]) for each in made["phases"]] == [(10, 1), (100, 9)]
    assert made["counts"] == {"pending": 10, "updating": 0, "succeeded": 0, "failed": 0, "skipped": 0}
    assert (made["plan"]["rate"], made["plan"]["error_percent"], made["plan"]["auto_commit"]) == (5, 10, True)
    assert await blobs() == [blob_key("alice", made["id"])]
    assert (await alice.http.get(f"/rollouts/{made['id']}")).json()["id"] == made["id"]
    assert (await alice.told("rollout.RUNNING", made["id"]))["data"]["state"] == "RUNNING"


async def test_the_fields_come_in_any_order(alice, fleet):
    """The image first, what is asked for after it."""
    request = form()
    request["files"].reverse()
    assert (await alice.http.post("/rollouts", **request)).status_code == 201


@every_row(
    ("request_", "status", "words"),
    [
        (form({"phases": [5]}), 400, "phases are"),
        (form({"filter": ["colour=red"]}), 400, "unknown field 'colour'"),
        (form({"filter": ["online"]}), 400, "the selection has no devices"),
        (form({"devices": ["d1", "nobody"]}), 404, "no device 'nobody'"),
        (form(file=b"PK\x03\x04 and nothing more"), 400, ""),
        (form(file=image()[:-30]), 400, ""),
        ({"files": {"file": ("fw.zip", image())}}, 400, "the field 'rollout'"),
        ({"files": {"rollout": (None, "{}")}}, 400, "not in the field 'file'"),
        ({"files": [("rollout", (None, "{")), ("file", ("fw.zip", image()))]}, 400, "not valid JSON"),
        (
            {"files": [("file", ("fw.zip", image())), ("rollout", (None, " " * 2**20 + "{}"))]},
            413,
            "'rollout' is larger",
        ),
        ({"content": image()}, 400, "is a form"),
        ({"json": {"all": True}}, 400, "is a form"),
    ],
)
async def test_what_cannot_be_made(alice, fleet, blobs, request_, status, words):
    """It is told why, and nothing of it is kept."""
    response = await alice.http.post("/rollouts", **request_)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert await blobs() == []
    assert (await alice.http.get("/rollouts")).json() == []


async def test_a_bad_request_in_front_is_told_before_the_image_is_read(alice, server, open_raw):
    """The upload may be large: it is not waited for."""
    part = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}'
    body = part.format("rollout", "", "{}\r\n") + part.format("file", '; filename="fw.zip"', "the first bytes")
    lines = ["POST /api/v2/rollouts HTTP/1.1", "Host: x", f"Authorization: Bearer {alice.key}"]
    lines += ["Content-Type: multipart/form-data; boundary=b", "Content-Length: 10000000", "", body]
    async with open_raw(server) as raw:
        await raw.send("\r\n".join(lines).encode())
        response = await raw.response()
    assert response.status == 400
    assert b"devices or a filter" in response.body


async def test_too_many(alice, fleet, monkeypatch):
    """Of those that have not ended, and of those that are kept."""
    rollouts = alice.server.service.hub.rollouts
    monkeypatch.setattr(rollouts, "_limits", AccountLimits(open_rollouts=2))
    first = await roll_out(alice)
    await roll_out(alice)
    assert (await alice.http.post("/rollouts", **form())).status_code == 429
    await alice.http.post(f"/rollouts/{first['id']}/abort")
    await alice.told("rollout.ABORTED", first["id"])
    await roll_out(alice)
    monkeypatch.setattr(rollouts, "_limits", AccountLimits(rollouts=3))
    refused = await alice.http.post("/rollouts", **form())
    assert (refused.status_code, refused.json()["error"]["limit"]) == (429, "rollouts")


# Looking at them


async def test_the_list_is_newest_first(alice, fleet):
    """Each as it is alone."""
    ids = [(await roll_out(alice, name=str(n)))["id"] for n in range(3)]
    listed = (await alice.http.get("/rollouts")).json()
    assert [each["id"] for each in listed] == ids[::-1]
    assert listed[0] == (await alice.http.get(f"/rollouts/{ids[2]}")).json()


async def test_members_in_pages(alice, fleet):
    """In their order, with their phase; `next` leads through all of them, and a filter picks some."""
    id = (await roll_out(alice, phases=[20, 100], offline_wait=0))["id"]
    await alice.told("rollout.PAUSED", id)
    seen, start = [], 0
    while start is not None:
        page = (await alice.http.get(f"/rollouts/{id}/members?start={start}&limit=3")).json()
        assert len(page["members"]) <= 3
        seen += page["members"]
        start = page["next"]
    assert [each["device"] for each in seen] == ordered("alice", fleet)
    assert [(each["phase"], each["outcome"]) for each in seen] == [(0, "SKIPPED")] * 2 + [(1, "PENDING")] * 8
    assert seen[0]["reason"] == "it did not come online in time"
    assert (seen[9]["changed"], seen[9]["attempt"]) == (None, 0)
    skipped = (await alice.http.get(f"/rollouts/{id}/members?outcome=SKIPPED")).json()
    assert skipped == {"members": seen[:2], "next": None}
    some = (await alice.http.get(f"/rollouts/{id}/members?outcome=PENDING&limit=2")).json()
    assert (some["members"], some["next"]) == (seen[2:4], 4)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "start=-1", "start=x", "outcome=GOOD", "start=١"])
async def test_a_bad_page(alice, fleet, query):
    """It is refused."""
    id = (await roll_out(alice))["id"]
    assert (await alice.http.get(f"/rollouts/{id}/members?{query}")).status_code == 400


# Changing them


async def test_all_that_can_be_done_with_one(alice, fleet, blobs):
    """Approve, pause, resume, retry, abort, remove; each answers with how it stands, and is told."""
    id = (await roll_out(alice, approval=True))["id"]

    async def do(action):
        response = await alice.http.post(f"/rollouts/{id}/{action}")
        body = response.json()
        return response.status_code, body.get("state") or body["error"]["message"]

    assert await do("pause") == (409, f"the rollout {id!r} is AWAITING_APPROVAL, it cannot be paused")
    assert await do("approve") == (200, "RUNNING")
    assert await do("pause") == (200, "PAUSED")
    assert await do("approve") == (409, f"the rollout {id!r} is PAUSED, it cannot be approved")
    assert await do("resume") == (200, "RUNNING")
    assert await do("retry") == (200, "RUNNING")
    assert (await alice.http.delete(f"/rollouts/{id}")).status_code == 409
    assert await do("abort") == (200, "ABORTING")
    await alice.told("rollout.ABORTED", id)
    assert await do("resume") == (409, f"the rollout {id!r} is ABORTED, it cannot be resumed")
    assert await do("explode") == (404, f"nothing is served at /api/v2/rollouts/{id}/explode")
    assert (await alice.http.delete(f"/rollouts/{id}")).json() is True
    assert (await alice.http.get(f"/rollouts/{id}")).status_code == 404
    assert await blobs() == []


@pytest.mark.parametrize("id", ["rol_aaaaaaaaaaaa", "x" * 600, "a%20b", "a%25"])
async def test_what_is_not_there(alice, id):
    """Whatever is asked of it."""
    for method, path in (("GET", ""), ("GET", "/members"), ("POST", "/pause"), ("DELETE", "")):
        assert (await alice.http.request(method, f"/rollouts/{id}{path}")).status_code == 404


async def test_another_account_s_do_not_exist(alice, bob, fleet):
    """To look at, to change or to remove; and its devices cannot be selected."""
    id = (await roll_out(alice))["id"]
    for method, path in (("GET", ""), ("GET", "/members"), ("POST", "/abort"), ("DELETE", "")):
        assert (await bob.http.request(method, f"/rollouts/{id}{path}")).status_code == 404
    assert (await bob.http.get("/rollouts")).json() == []
    assert (await bob.http.post("/rollouts", **form({"devices": ["d1"]}))).status_code == 404
    assert (await alice.http.get(f"/rollouts/{id}")).json()["state"] == RolloutState.RUNNING


async def test_with_a_real_device(alice, tmp_path):
    """It gets the image, is told to commit, and the rollout completes; everything over real sockets."""
    token = await alice.register("d1")
    device = VirtualDevice("d1", tmp_path, build=FirmwareBuild("lamp", "1.0", "old", "esp32"))
    async with trio.open_nursery() as nursery:
        start = partial(run_virtual_device, device, alice.server.device_url, token, backoff=Backoff(first=0.01))
        await nursery.start(lambda task_status: start(task_status=task_status))
        id = (await roll_out(alice, filter=["arch=esp32"], devices=["d1"], commit_after=1, phases=[100]))["id"]
        done = await alice.told("rollout.COMPLETED", id)
        assert done["data"]["reason"] == "1 of 1 devices succeeded, 0 failed"
        info = (await alice.http.get("/devices/d1/rpc/Sys.GetInfo")).json()
        assert info["fw_id"] == "new"
        assert (await alice.http.get("/devices/d1/ota")).json()["state"] == "COMMITTED"
        nursery.cancel_scope.cancel()


async def test_every_device_that_waits_says_why(alice, tmp_path):
    """In its phase, offline, in a pause, and on trial: until when it goes back, as its update says."""
    token = await alice.register("d1")
    await alice.register("d2")
    device = VirtualDevice("d1", tmp_path, build=FirmwareBuild("lamp", "1.0", "old", "esp32"))

    async def waits(id):
        members = (await alice.http.get(f"/rollouts/{id}/members")).json()["members"]
        return {each["device"]: (each["waiting"] or {}).get("what") for each in members}, members

    async with trio.open_nursery() as nursery:
        start = partial(run_virtual_device, device, alice.server.device_url, token, backoff=Backoff(first=0.01))
        await nursery.start(lambda task_status: start(task_status=task_status))
        id = (await roll_out(alice, approval=True, auto_commit=False, phases=[100]))["id"]
        assert (await waits(id))[0] == {"d1": "approval", "d2": "approval"}
        await alice.http.post(f"/rollouts/{id}/approve")
        await alice.told("ota.UNCOMMITTED", "d1")
        found, members = await waits(id)
        assert found == {"d1": "trial", "d2": "offline"}
        until = {each["device"]: each["waiting"]["until"] for each in members}
        assert until["d1"] == (await alice.http.get("/devices/d1/ota")).json()["commit_by"]
        begun = (await alice.http.get(f"/rollouts/{id}")).json()["phases"][0]["started"]
        assert until["d2"] == begun + 7 * 86_400
        await alice.http.post(f"/rollouts/{id}/pause")
        assert (await waits(id))[0] == {"d1": "trial", "d2": "resume"}
        await alice.http.get("/devices/d1/rpc/OTA.Commit")
        await alice.told("ota.COMMITTED", "d1")
        await alice.http.post(f"/rollouts/{id}/resume")
        await alice.http.post(f"/rollouts/{id}/abort")
        await alice.told("rollout.ABORTED", id)
        assert (await waits(id))[0] == {"d1": None, "d2": None}
        nursery.cancel_scope.cancel()


async def test_a_bulk_update_goes_to_its_end(alice, tmp_path):
    """One image for all of them: a device that takes it is committed, another that refuses it does not stop that."""
    token = await alice.register("d1")
    await alice.register("d2")
    await report(alice, "d2", arch="esp8266", app="lamp")
    device = VirtualDevice("d1", tmp_path, build=FirmwareBuild("lamp", "1.0", "old", "esp32"))
    async with trio.open_nursery() as nursery:
        start = partial(run_virtual_device, device, alice.server.device_url, token, backoff=Backoff(first=0.01))
        await nursery.start(lambda task_status: start(task_status=task_status))
        made = await roll_out(alice, kind="bulk", commit_after=1, offline_wait=0)
        assert (made["kind"], [each["devices"] for each in made["phases"]]) == ("bulk", [2])
        done = await alice.told("rollout.COMPLETED", made["id"])
        assert done["data"]["reason"] == "1 of 2 devices succeeded, 0 failed, 1 skipped"
        assert (await alice.http.get("/devices/d1/ota")).json()["state"] == "COMMITTED"
        nursery.cancel_scope.cancel()


# The filter of devices


async def test_devices_are_filtered(alice, fleet):
    """By every term that is given; a bad one is refused."""
    await alice.http.put("/devices/d3", json={"name": "Lamp", "shadow": {"state": {"reported": {"n": 5}}}})

    async def ids(*terms):
        response = await alice.http.get("/devices", params=[("filter", term) for term in terms])
        return [each["id"] for each in response.json()]

    assert await ids() == fleet
    assert await ids("offline") == fleet
    assert await ids("online") == []
    assert await ids("name~lam") == ["d3"]
    assert await ids("shadow.reported.n=5") == ["d3"]
    assert await ids("shadow.reported.n!=5", "id=d3,d4,d5") == ["d4", "d5"]
    async with await alice.connect("d10"):
        await alice.told("online", "d10")
        assert await ids("online") == ["d10"]
    response = await alice.http.get("/devices?filter=colour=red")
    assert (response.status_code, "unknown field" in response.text) == (400, True)


# Before one is made


async def report(person, id, **ota):
    """Let a device have reported its build."""
    body = {"state": {"reported": {"ota": ota}}}
    (await person.http.post(f"/devices/{id}/shadow", json=body)).raise_for_status()


async def test_a_preview_counts_the_devices_that_a_rollout_reaches(alice, fleet):
    """By platform, application and version, with how the image fits; nothing of it is stored."""
    for id in ("d0", "d1", "d2"):
        await report(alice, id, arch="ESP32", app="lamp", fw_version="1.0", fw_id="old")
    await report(alice, "d3", arch="esp32", app="lamp", fw_version="2.0", fw_id="new")
    await report(alice, "d4", arch="esp8266", app="lamp")
    await report(alice, "d5", arch="esp32", app="pump")
    await report(alice, "d6", arch=5, app=["lamp"], fw_version={})
    asked = {"all": True, "image": {"platform": "esp32", "app": "lamp", "build_id": "new"}}
    found = (await alice.http.post("/rollouts/preview", json=asked)).json()
    groups = {
        (each["platform"], each["app"], each["version"], each["fit"]): each["devices"] for each in found["groups"]
    }
    assert groups == {
        ("ESP32", "lamp", "1.0", "fits"): 3,
        ("esp32", "lamp", "2.0", "installed"): 1,
        ("esp8266", "lamp", None, "other_platform"): 1,
        ("esp32", "pump", None, "other_app"): 1,
        (None, None, None, "fits"): 4,
    }
    numbers = {name: found[name] for name in ("devices", "online", "offline", "fits", "installed", "unknown")}
    assert numbers == {"devices": 10, "online": 0, "offline": 10, "fits": 7, "installed": 1, "unknown": 4}
    assert (found["other_platform"], found["other_app"], found["other_groups"]) == (1, 1, 0)
    assert [each["devices"] for each in found["phases"]] == [1, 0, 9]
    assert found["missing"] == ["other_app"]
    allowed = (await alice.http.post("/rollouts/preview", json=asked | {"other_app": True})).json()
    assert (allowed["fits"], allowed["other_app"], allowed["missing"]) == (8, 0, [])
    forced = (await alice.http.post("/rollouts/preview", json=asked | {"force": True})).json()
    assert (forced["fits"], forced["missing"]) == (10, [])
    assert (await alice.http.get("/rollouts")).json() == []


async def test_a_preview_and_its_rollout_agree(alice, fleet, blobs):
    """What a preview misses is refused, and begins with it: for a file, a bare one, and one of the library."""
    await report(alice, "d5", arch="esp32", app="pump")
    kept = (await alice.http.post("/firmware", files={"file": ("fw.zip", image())})).json()["id"]
    one = {"devices": ["d5"], "approval": True}
    six = [("rollout", (None, json.dumps(one))), ("file", ("six.bin", b"\xe9byte!"))]

    async def missing(query="", **asked):
        answer = await alice.http.post(f"/rollouts/preview{query}", json=one | asked)
        assert answer.status_code == 200, answer.text
        return answer.json()["missing"]

    assert await missing(firmware=kept) == ["other_app"]
    assert await missing(firmware=kept, other_app=True) == []
    assert await missing(image={"bare": True}) == ["bare"]
    assert await missing("?bare=1", image={"bare": True}) == []
    assert await missing() == []
    for body, query, status in (
        ({"json": one | {"firmware": kept}}, "", 409),
        ({"json": one | {"firmware": kept, "other_app": True}}, "", 201),
        ({"files": six}, "", 409),
        ({"files": six}, "?bare=1", 201),
    ):
        answer = await alice.http.post(f"/rollouts{query}", **body)
        assert answer.status_code == status, answer.text


@every_row(
    ("asked", "status", "words"),
    [
        ({}, 400, 'for every device say "all": true'),
        ({"all": True, "image": []}, 400, "image is an object"),
        ({"all": True, "image": {"colour": 1}}, 400, "unknown member 'colour'"),
        ({"all": True, "image": {"app": 1}}, 400, "app of an image is a text"),
        ({"all": True, "image": {"app": "x" * 501}}, 400, "app of an image is a text"),
        ({"all": True, "image": {"bare": 1}}, 400, "bare is true or false"),
        ({"all": True, "image": {}, "firmware": "fw_x"}, 400, "not both"),
        ({"all": True, "firmware": 1}, 400, "firmware is the id"),
        ({"all": True, "firmware": "fw_none"}, 404, "no image 'fw_none'"),
        ({"devices": ["d0", "nobody"]}, 404, "no device 'nobody'"),
        ({"all": True, "phases": [3]}, 400, "phases are"),
    ],
)
async def test_what_cannot_be_previewed(alice, fleet, asked, status, words):
    """It is told why."""
    answer = await alice.http.post("/rollouts/preview", json=asked)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text


async def test_only_what_was_reviewed_begins(alice, fleet):
    """A request with the number of the preview is refused when the selection has another one."""
    kept = (await alice.http.post("/firmware", files={"file": ("fw.zip", image())})).json()["id"]
    asked = {"all": True, "firmware": kept, "other_app": True}
    seen = (await alice.http.post("/rollouts/preview", json=asked)).json()["devices"]
    await alice.register("newcomer")
    refused = await alice.http.post("/rollouts", json=asked | {"expect": seen})
    words = f"the selection has {seen + 1} devices now, and had {seen} when it was reviewed: review it again"
    assert (refused.status_code, refused.json()["error"]["message"]) == (409, words)
    assert (await alice.http.get("/rollouts")).json() == []
    assert (await alice.http.post("/rollouts", json=asked | {"expect": 0})).status_code == 400
    begun = await alice.http.post("/rollouts", json=asked | {"expect": seen + 1})
    assert (begun.status_code, begun.json()["counts"]["pending"]) == (201, seen + 1)


async def test_a_preview_counts_each_device_of_many_groups(alice, fleet, monkeypatch):
    """The largest groups are shown; others are counted. A selection that no rollout may have is refused."""
    monkeypatch.setattr(preview, "MAX_COUNTED_GROUPS", 4)
    monkeypatch.setattr(preview, "MAX_SHOWN_GROUPS", 2)
    for n in range(10):
        await report(alice, f"d{n}", fw_version=str(min(n, 7)))
    found = (await alice.http.post("/rollouts/preview", json={"all": True})).json()
    assert ([each["devices"] for each in found["groups"]], found["other_groups"]) == ([1, 1], 8)
    monkeypatch.setattr(preview, "MAX_MEMBERS", 9)
    refused = await alice.http.post("/rollouts/preview", json={"all": True})
    assert (refused.status_code, "more than 9 devices" in refused.json()["error"]["message"]) == (400, True)
    data = {"rollout": json.dumps({"all": True})}
    refused = await alice.http.post("/rollouts", data=data, files={"file": ("fw.zip", image())})
    assert (refused.status_code, "more than 9 devices" in refused.json()["error"]["message"]) == (400, True)

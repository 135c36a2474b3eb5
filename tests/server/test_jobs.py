"""``/jobs``: previewed, made, followed by notifications, canceled, removed; of one account."""

from __future__ import annotations

import pytest
import trio
from rows import every_row
from selecting import of_all

from mdashcore.hub.limits import AccountLimits
from mdashcore.testing.device import connect_device


@pytest.fixture
async def fleet(alice):
    """Devices of alice that are not connected; one has the value already."""
    ids = [f"d{n}" for n in range(5)]
    for id in ids:
        await alice.register(id)
    await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"interval": 30}}})
    await alice.http.post("/devices/d2/shadow", json={"state": {"desired": {"interval": 10}}})
    return ids


async def begin(person, **asked):
    """Make a job."""
    response = await person.http.post("/jobs", json=of_all(asked, desired={"interval": 30}))
    assert response.status_code == 201, response.text
    return response.json()


async def test_a_job_is_made_and_ends(alice, fleet):
    """Its results and its counts can be read, and subscribers are told; devices have the values."""
    made = await begin(alice, name="slower", filter=["offline"])
    assert made["state"] == "RUNNING"
    assert (made["name"], made["desired"], made["filter"]) == ("slower", {"interval": 30}, ["offline"])
    assert (made["devices"], made["counts"]["pending"], made["canceled_by"]) == (5, 5, None)
    said = await alice.told("job.COMPLETED", made["id"])
    counts = {"pending": 0, "changed": 4, "unchanged": 1, "failed": 0}
    assert said["data"]["counts"] == counts
    assert said["data"]["reason"] == "4 changed, 1 had the values already, 0 failed"
    assert "desired" not in said["data"]
    ended = (await alice.http.get(f"/jobs/{made['id']}")).json()
    assert (ended["state"], ended["counts"]) == ("COMPLETED", counts)
    page = (await alice.http.get(f"/jobs/{made['id']}/devices?limit=3")).json()
    assert [(each["device"], each["outcome"]) for each in page["results"]] == [
        ("d0", "CHANGED"),
        ("d1", "UNCHANGED"),
        ("d2", "CHANGED"),
    ]
    assert page["next"] == 3
    rest = (await alice.http.get(f"/jobs/{made['id']}/devices?start=3&outcome=CHANGED")).json()
    assert ([each["device"] for each in rest["results"]], rest["next"]) == (["d3", "d4"], None)
    for id in fleet:
        shadow = (await alice.http.get(f"/devices/{id}/shadow")).json()
        assert shadow["state"]["desired"] == {"interval": 30}
        assert shadow["version"] == 1 + (id == "d2")


async def test_the_caller_is_remembered(alice, fleet):
    """A user by the name, a key by its name, and one without a name by its id."""
    (own,) = (await alice.http.get("/keys")).json()
    assert (await begin(alice))["created_by"] == own["id"]
    request = {"all": True, "desired": {"interval": 31}}
    async with alice.as_user() as http:
        assert (await http.post("/jobs", json=request)).json()["created_by"] == "alice"
    key = (await alice.http.post("/keys", json={"name": "ci"})).json()
    headers = {"Authorization": f"Bearer {key['key']}"}
    assert (await alice.http.post("/jobs", headers=headers, json=request)).json()["created_by"] == "ci"


async def test_a_device_gets_the_values(alice, server):
    """One that is connected immediately, one that is offline when it comes back."""
    here, later = await alice.register("here"), await alice.register("later")
    async with connect_device(server.device_url, here) as device:
        made = await begin(alice)
        assert (await device.expect("Shadow.Delta"))["params"]["state"] == {"interval": 30}
        await alice.told("job.COMPLETED", made["id"])
    async with connect_device(server.device_url, later) as device:
        assert (await device.expect("Shadow.Delta"))["params"]["state"] == {"interval": 30}


async def test_a_preview_changes_nothing(alice, fleet):
    """It says how many devices change, from what to what, and shows some of them."""
    asked = {"desired": {"interval": 30, "old": None}, "devices": ["d1", "d2", "d3"], "filter": [], "preview": True}
    response = await alice.http.post("/jobs", json=asked)
    assert response.status_code == 200
    preview = response.json()
    assert {name: preview[name] for name in ("devices", "changed", "unchanged", "failed", "other_changes")} == {
        "devices": 3,
        "changed": 2,
        "unchanged": 1,
        "failed": 0,
        "other_changes": 0,
    }
    assert sorted(preview["changes"], key=str) == [
        {"path": ["interval"], "before": 10, "after": 30, "devices": 1},
        {"path": ["interval"], "before": None, "after": 30, "devices": 1},
    ]
    assert [each["device"] for each in preview["shown"]] == ["d2", "d3"]
    assert (await alice.http.get("/jobs")).json() == []
    assert (await alice.http.get("/devices/d3/shadow")).json()["version"] == 0


@every_row(
    ("asked", "status", "words"),
    [
        ({"all": True}, 400, "desired is an object"),
        ({"desired": {"a": 1}}, 400, "devices or a filter"),
        ({"desired": {"a": [None]}, "all": True}, 400, "must not contain null"),
        ({"desired": {"a": "x" * 40_000}, "all": True}, 413, "maximum size"),
        ({"desired": {"a": 1}, "filter": ["colour=red"]}, 400, "unknown field"),
        ({"desired": {"a": 1}, "filter": ["@nothing"]}, 400, "nothing"),
        ({"desired": {"a": 1}, "filter": ["online"]}, 400, "no devices"),
        ({"desired": {"a": 1}, "devices": ["d0", "d77"]}, 404, "no device 'd77'"),
        ({"desired": {"a": 1}, "all": True, "dry_run": True}, 400, "unknown member"),
        ([], 400, "JSON object"),
    ],
)
async def test_what_cannot_be_made(alice, fleet, asked, status, words):
    """It is told why, and nothing of it is kept."""
    response = await alice.http.post("/jobs", json=asked)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert (await alice.http.get("/jobs")).json() == []


async def test_a_saved_filter(alice, fleet):
    """It stands for its terms, which the job shows."""
    await alice.http.put("/filters/two", json={"filter": "id=d1|d2"})
    made = await begin(alice, filter=["@two"])
    assert (made["filter"], made["devices"]) == (["id=d1|d2"], 2)


async def test_canceled_and_removed(alice, fleet, server, monkeypatch):
    """A job that goes on is canceled, not removed; one that has ended is removed, not canceled."""
    held = trio.Event()
    get = server.service.hub.shadows.get

    async def slow(key):
        await held.wait()
        return await get(key)

    monkeypatch.setattr(server.service.hub.shadows, "get", slow)
    made = await begin(alice)
    path = f"/jobs/{made['id']}"
    assert (await alice.http.delete(path)).status_code == 409
    canceled = await alice.http.post(f"{path}/cancel")
    assert (canceled.json()["state"], canceled.json()["canceled_by"]) == ("CANCELING", made["created_by"])
    assert (await alice.http.post(f"{path}/cancel")).status_code == 409
    held.set()
    said = await alice.told("job.CANCELED", made["id"])
    assert said["data"]["reason"].startswith("canceled on request: 0 changed")
    assert (await alice.http.get(f"{path}/devices?outcome=CHANGED")).json()["results"] == []
    assert (await alice.http.post(f"{path}/cancel")).status_code == 409
    assert (await alice.http.delete(path)).json() is True
    await alice.told("job.deleted", made["id"])
    assert (await alice.http.get(path)).status_code == 404


async def test_too_many_at_the_same_time(alice, fleet, server, monkeypatch):
    """One more is refused with the limit's name, and the use of both limits is shown."""
    held = trio.Event()
    get = server.service.hub.shadows.get

    async def slow(key):
        await held.wait()
        return await get(key)

    monkeypatch.setattr(server.service.hub.shadows, "get", slow)
    monkeypatch.setattr(server.service.hub.jobs, "_limits", AccountLimits(open_jobs=1))
    made = await begin(alice)
    refused = await alice.http.post("/jobs", json={"desired": {"a": 1}, "all": True})
    assert (refused.status_code, refused.json()["error"]["limit"]) == (429, "open_jobs")
    use = {each["name"]: each["use"] for each in (await alice.http.get("/limits")).json()["limits"]}
    assert (use["jobs"], use["open_jobs"]) == (1, 1)
    held.set()
    await alice.told("job.COMPLETED", made["id"])


async def test_damaged(alice, fleet, server):
    """It is listed with its id, and can be removed."""
    made = await begin(alice)
    await alice.told("job.COMPLETED", made["id"])
    await server.service.hub.backend.documents.put("jobs", f"alice/{made['id']}", b"{")
    assert (await alice.http.get("/jobs")).json() == [{"id": made["id"], "damaged": ["job"]}]
    assert (await alice.http.delete(f"/jobs/{made['id']}")).json() is True
    assert (await alice.http.get("/jobs")).json() == []


async def test_another_account(alice, bob, fleet):
    """A job of one account does not exist for another, and changes only devices of its own."""
    await bob.register("d0")
    made = await begin(alice)
    await alice.told("job.COMPLETED", made["id"])
    path = f"/jobs/{made['id']}"
    for request in (bob.http.get(path), bob.http.get(f"{path}/devices"), bob.http.post(f"{path}/cancel")):
        assert (await request).status_code == 404
    assert (await bob.http.delete(path)).status_code == 404
    assert (await bob.http.get("/jobs")).json() == []
    assert (await bob.http.get("/devices/d0/shadow")).json()["version"] == 0
    assert (await alice.http.get(path)).status_code == 200

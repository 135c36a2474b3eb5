"""``GET /fleet``: the figures of an account, each with the filter that lists its devices."""

from __future__ import annotations

from mdashcore import _json, notifications
from mdashcore.hub.fleet.overview import LEAST_FLAPS


async def test_each_figure_leads_to_its_devices(alice, device):
    """The filter of a figure lists as many devices as the figure says."""
    for n, version in enumerate(["1.0", "1.0", 'odd "one"|two', None]):
        await alice.http.post("/devices", json={"id": f"e{n}"})
        if version is not None:
            state = {"reported": {"ota": {"app": "lamp", "fw_version": version, "is_committed": n > 0}}}
            await alice.http.post(f"/devices/e{n}/shadow", json={"state": state})
    changes = _json.encode({"changes": LEAST_FLAPS})
    await alice.server.service.hub.feed.emit("alice", notifications.OFFLINE, "e3", changes)
    update = {"params": {"queue": "1", "force": "1", "bare": "1"}, "content": b"an image"}
    assert (await alice.http.post("/devices/e1/ota", **update)).status_code == 202
    found = (await alice.http.get("/fleet")).json()
    expected = {"all": 5, "online": 1, "offline": 4, "never_seen": 4, "uncommitted": 1, "damaged": 0, "flapping": 1}
    assert found["devices"] == expected
    numbers = {**found["devices"], "silent": 0, "under_way": 1, "failed": 0}
    figures = [(numbers[name], terms) for name, terms in found["filters"].items()]
    figures += [(number, [f"update={state}"]) for state, number in found["updates"]["under_way"].items()]
    figures += [(build["devices"], build["filter"]) for build in found["builds"]]
    assert len(figures) == 14
    for number, terms in figures:
        listed = await alice.http.get("/devices", params={"filter": terms, "fields": "id"})
        assert len(listed.json()) == number, terms
    assert found["day"]["online"][-1] == 1
    assert len(found["day"]["online"]) * found["day"]["step"] == 86_400
    assert [event["name"] for event in found["events"]][-2:] == ["online", "created"]
    assert found["flapping"] == [{"id": "e3", "name": "e3", "changes": LEAST_FLAPS}]
    assert (found["updates"], found["rollouts"]) == (
        {"under_way": {"QUEUED": 1}, "failed": 0, "last_failed": []}, [],
    )  # fmt: skip


async def test_builds_that_no_filter_finds_are_counted_apart(alice):
    """A device may report any value: a number, a text that was cut, one too long for a term. Other members of the build
    may be odd. Each build that is shown leads to as many devices as it says.
    """
    builds = [
        {"app": 5, "fw_version": "1.0"}, {"app": "lamp", "fw_version": ["1"]}, {"app": "x" * 300, "fw_version": "1.0"},
        {"app": '"' * 256, "fw_version": "1.0"}, {"app": "lamp", "fw_version": "1.0", "arch": 7},
        {"app": "lamp", "fw_version": "1.0"}, {},
    ]  # fmt: skip
    for n, build in enumerate(builds):
        await alice.http.post("/devices", json={"id": f"e{n}"})
        await alice.http.post(f"/devices/e{n}/shadow", json={"state": {"reported": {"ota": build}}})
    found = (await alice.http.get("/fleet")).json()
    assert found["other_builds"] == 4
    assert sorted(build["devices"] for build in found["builds"]) == [1, 2]
    for build in found["builds"]:
        listed = await alice.http.get("/devices", params={"filter": build["filter"], "fields": "id"})
        assert len(listed.json()) == build["devices"], build


async def test_an_empty_fleet_has_figures_too(alice):
    """All of them are 0."""
    found = (await alice.http.get("/fleet")).json()
    assert set(found["devices"].values()) == {0}
    assert found["builds"] == found["silent"] == found["events"] == []


async def test_figures_follow_at_once(alice):
    """A change that was answered is in the next answer."""
    await alice.http.get("/fleet")
    async with await alice.connect("d1"):
        await alice.told("online", "d1")
        assert (await alice.http.get("/fleet")).json()["devices"]["online"] == 1
    await alice.told("offline", "d1")
    found = (await alice.http.get("/fleet")).json()
    assert found["devices"]["online"] == 0
    assert [device["id"] for device in found["silent"]] == ["d1"]

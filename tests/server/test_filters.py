"""Saved filters, the terms of a filter, and where both are used."""

from __future__ import annotations

import json

import pytest
from filter_cases import WRONG


async def ids(alice, *terms, expect=200):
    """The ids of the devices that a list with these terms has."""
    found = await alice.http.get("/devices", params={"filter": list(terms)})
    assert found.status_code == expect, found.text
    return "".join(each["id"] for each in found.json()) if expect == 200 else found.json()["error"]["message"]


async def test_a_filter_is_saved_used_and_removed(alice, bob):
    """Under its name it stands for its terms, in a list and in metrics; to another account it does not exist."""
    for id, tags in {"a": {"berlin": True}, "b": {"berlin": True, "old": True}, "c": {}}.items():
        await alice.http.post("/devices", json={"id": id, "tags": tags})
    assert (await alice.http.put("/filters/halls", json={"filter": "tag=berlin"})).status_code == 201
    again = await alice.http.put("/filters/halls", json={"filter": "tag=berlin a|c"})
    assert (again.status_code, again.json()) == (200, {"name": "halls", "filter": "tag=berlin a|c"})
    await alice.http.put("/filters/Büro", json={"filter": 'name="x y"'})
    listed = [("Büro", 'name="x y"'), ("halls", "tag=berlin a|c")]
    assert [(each["name"], each["filter"]) for each in (await alice.http.get("/filters")).json()] == listed
    assert await ids(alice, "@halls") == "a"
    assert await ids(alice, "@halls", "tag=old") == ""
    assert (await alice.http.get("/metrics", params={"filter": "@halls"})).text.count('mdash_device_online{id="a"') == 1
    assert (
        await ids(alice, "!@halls", expect=400) == "a saved filter cannot be used here, nor with ! before it: '@halls'"
    )
    assert await ids(alice, "@nothing", expect=400) == "no filter is saved as 'nothing'"
    assert (await bob.http.get("/filters")).json() == []
    assert await ids(bob, "@halls", expect=400) == "no filter is saved as 'halls'"
    assert (await bob.http.delete("/filters/halls")).status_code == 404
    assert (await alice.http.delete("/filters/halls")).json() is True
    assert (await alice.http.delete("/filters/halls")).status_code == 404


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a", {}),
        ("a", {"filter": ""}),
        ("a", {"filter": 5}),
        ("a", {"filter": ["online"]}),
        ("a", {"filter": "colour=red"}),
        ("a", {"filter": "@other"}),
        ("a", {"filter": "online", "colour": 1}),
        (".a", {"filter": "online"}),
        ("a b", {"filter": "online"}),
        ("x" * 65, {"filter": "online"}),
    ],
)
async def test_what_is_no_saved_filter_is_refused(alice, name, body):
    """400, and nothing is saved."""
    assert (await alice.http.put(f"/filters/{name}", json=body)).status_code == 400
    assert (await alice.http.get("/filters")).json() == []


async def test_an_account_has_a_bounded_number(alice):
    """One more is 409; an existing one can be replaced."""
    await alice.server.service.hub.saved_filters.save("alice", "f0", "online")
    for n in range(1, 50):
        await alice.server.service.hub.saved_filters.save("alice", f"f{n}", "online")
    assert (await alice.http.put("/filters/more", json={"filter": "online"})).status_code == 409
    assert (await alice.http.put("/filters/f7", json={"filter": "offline"})).status_code == 200


async def test_saved_terms_count(alice):
    """A filter has at most 16 terms, with those of saved filters."""
    await alice.http.put("/filters/nine", json={"filter": "online " * 9})
    assert "at most 16 terms" in await ids(alice, "@nine", "@nine", expect=400)
    terms = (await alice.http.get("/filter-terms", params={"text": "@nine @nine"})).json()
    assert "at most 16 terms" in terms["error"]


async def test_a_rollout_stores_the_resolved_terms(alice):
    """So a saved filter that changes later changes no rollout."""
    await alice.http.post("/devices", json={"id": "a", "tags": {"berlin": True}})
    await alice.http.put("/filters/halls", json={"filter": "tag=berlin a"})
    form = {"rollout": (None, json.dumps({"filter": ["@halls", "offline"]})), "file": ("fw.bin", b"\xe9bare image")}
    made = await alice.http.post("/rollouts?bare=1", files=form)
    assert (made.status_code, made.json()["filter"]) == (201, ["tag=berlin", "text~a", "offline"])


async def test_the_terms_of_a_filter(alice):
    """The parsed form has all that a client needs to apply the filter by itself."""
    await alice.http.put("/filters/old", json={"filter": "last_seen>1h"})
    found = (await alice.http.get("/filter-terms", params={"text": '!fw_version=1.10|"2" @old'})).json()
    assert found == {
        "terms": [
            {
                "text": 'fw_version!=1.10|"2"',
                "field": "shadow",
                "path": ["reported", "ota", "fw_version"],
                "operator": "=",
                "negated": True,
                "values": [{"text": "1.10", "scalar": 1.1}, {"text": "2"}],
            },
            {
                "text": "last_seen>1h",
                "field": "last_seen",
                "path": [],
                "operator": ">",
                "negated": False,
                "values": [{"text": "1h"}],
                "seconds": 3600.0,
            },
        ],
        "error": None,
        "completion": None,
    }


async def test_why_a_filter_is_not_understood(alice):
    """In the words of the grammar, as for every other endpoint."""
    for line in list(WRONG)[:5]:
        found = (await alice.http.get("/filter-terms", params={"text": line, "typed": ""})).json()
        assert (found["terms"], WRONG[line] in found["error"]) == ([], True)
        assert found["completion"]["kind"] == "field"


async def test_tags_of_many_devices(alice, bob):
    """A filter or ids select them; a preview counts, the change notifies for each device that it changes."""
    for id in "abc":
        await alice.http.post("/devices", json={"id": id, "tags": {"site": "x"} if id == "a" else {}})
        await bob.http.post("/devices", json={"id": id})
    await alice.http.put("/devices/c", json={"tags": {str(n): True for n in range(32)}})
    await alice.http.put("/filters/all", json={"filter": "text~a|b|c"})
    asked = {"filter": ["@all"], "tags": {"site": "x"}}
    preview = await alice.http.post("/tags", json=asked | {"preview": True})
    assert preview.json() == {"devices": 3, "changed": 1, "refused": ["c"]}
    assert await ids(alice, "tag.site=x") == "a"
    async with alice.listen() as ear:
        assert (await alice.http.post("/tags", json=asked)).json() == preview.json()
        told = await ear.expect("updated")
        assert (told["id"], told["data"]) == ("b", {"tags": {"site": "x"}})
    assert (await alice.http.post("/tags", json=asked)).json() == {"devices": 3, "changed": 0, "refused": ["c"]}
    removed = await alice.http.post("/tags", json={"devices": ["a", "c"], "tags": None})
    assert removed.json() == {"devices": 2, "changed": 2, "refused": []}
    assert await ids(alice, "tag=*") == "b"
    assert await ids(bob, "tag=*") == ""


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 400),
        ({"tags": {"a": True}}, 400),
        ({"all": True}, 400),
        ({"all": True, "tags": {"a": 5}}, 400),
        ({"filter": ["colour=red"], "tags": {}}, 400),
        ({"all": True, "tags": {}, "preview": 1}, 400),
        ({"devices": [], "tags": {}}, 400),
        ({"devices": ["missing"], "tags": {"a": True}}, 404),
    ],
)
async def test_a_wrong_change_of_many_is_refused(alice, change, status):
    """And changes no device."""
    await alice.register("d1")
    assert (await alice.http.post("/tags", json=change)).status_code == status
    assert await ids(alice, "tag=*") == ""

"""``GET /devices`` in pages: `limit`, `after`, `sort` and `fields`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urljoin

import pytest

from mdashcore.hub.fleet import pages
from mdashcore.identity import DeviceKey
from mdashcore.testing.device import connect_device

NAMES = {"d1": "Hall 10", "d2": "hall 9", "d3": "Attic", "d4": "Cellar", "d5": "Attic"}


@pytest.fixture
async def fleet(alice):
    """Five devices, three of which report a firmware."""
    for id, name in NAMES.items():
        await alice.http.post("/devices", json={"id": id, "name": name})
    for id, version in {"d1": "1.9", "d2": "1.10", "d4": "1.10"}.items():
        reported = {"ota": {"fw_version": version, "app": "lamp", "is_committed": id != "d4"}, "t": 20}
        await alice.http.post(f"/devices/{id}/shadow", json={"state": {"reported": reported}})
    return alice


@asynccontextmanager
async def connected(person, id):
    """A device that is connected, and known to be."""
    token = (await person.http.post(f"/devices/{id}/token")).json()["token"]
    async with connect_device(person.server.device_url, token):
        await person.told("online", id)
        yield


async def walk(person, query):
    """The ids of all pages, and the number of pages."""
    found, number = [], 0
    address = urljoin(str(person.http.base_url), f"devices?{query}")
    while address is not None:
        response = await person.http.get(address)
        assert response.status_code == 200, response.text
        found += [device["id"] for device in response.json()]
        number += 1
        link = response.headers.get("Link")
        assert link is None or link.endswith('; rel="next"')
        address = None if link is None else urljoin(address, link[1 : link.index(">")])
    return found, number


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("id", "d1 d2 d3 d4 d5"),
        ("-id", "d5 d4 d3 d2 d1"),
        ("name", "d3 d5 d4 d2 d1"),
        ("-name", "d1 d2 d4 d5 d3"),
        ("fw_version", "d3 d5 d1 d2 d4"),
        ("online", "d1 d2 d3 d4 d5"),
        ("last_seen", "d1 d2 d3 d4 d5"),
    ],
)
async def test_the_links_lead_through_the_list(fleet, sort, expected):
    """Each page names the next; the last one names none."""
    for limit in (1, 2, 5, 1000):
        found, number = await walk(fleet, f"sort={sort}&limit={limit}")
        assert " ".join(found) == expected
        assert number == -(-5 // limit)
    everything = await fleet.http.get(f"/devices?sort={sort}")
    assert [device["id"] for device in everything.json()] == expected.split()
    assert "Link" not in everything.headers


@pytest.mark.parametrize("sort", ["id", "name", "-fw_version"])
@pytest.mark.parametrize(
    ("terms", "total"),
    [("", 5), ("&filter=fw_version=*", 3), ("&filter=shadow.reported.t>30", 0), ("&filter=id=d1", 1)],
)
async def test_a_page_says_how_many_there_are(fleet, sort, terms, total):
    """If that is asked for: those that match, in all pages."""
    response = await fleet.http.get(f"/devices?limit=2&sort={sort}{terms}&count=1")
    assert (len(response.json()), response.headers["X-Total-Count"]) == (min(2, total), str(total))
    assert "X-Total-Count" not in (await fleet.http.get(f"/devices?limit=2{terms}")).headers
    assert (await fleet.http.get("/devices?count=1")).status_code == 400


async def test_a_link_keeps_what_was_asked_for(fleet, anyone):
    """Filters, fields and order; not the key, which stands in the log of no proxy because of it."""
    key = (await fleet.http.post("/keys", json={"name": "k"})).json()["key"]
    query = f"limit=1&sort=-name&filter=fw_version=1.10&filter=tag!=x&fields=id,name&access_token={key}"
    response = await anyone.get(f"/devices?{query}")
    assert response.json() == [{"id": "d2", "name": "hall 9"}]
    link = parse_qs(response.headers["Link"].partition("?")[2].partition(">")[0])
    assert set(link) == {"limit", "sort", "filter", "fields", "after"}
    assert link["filter"] == ["fw_version=1.10", "tag!=x"]
    assert key not in response.headers["Link"]
    assert await walk(fleet, query) == (["d2", "d4"], 2)


async def test_online_devices_come_together(fleet):
    """They count as seen now, so they are the last by `last_seen`, and the first in reverse."""
    async with connected(fleet, "d4"):
        for sort, expected in {
            "-online": "d4 d5 d3 d2 d1",
            "last_seen": "d1 d2 d3 d5 d4",
            "-last_seen": "d4 d5",
        }.items():
            found, _ = await walk(fleet, f"sort={sort}&limit=2")
            assert " ".join(found).startswith(expected)


@pytest.mark.parametrize("sort", ["id", "name"])
async def test_fields_are_what_a_device_has(fleet, sort):
    """Members of a device and of its build, in the order of the documents; a whole device without them."""
    response = await fleet.http.get(f"/devices?sort={sort}&fields=fw_version,is_committed,id,app&filter=fw_version=*")
    found = {device["id"]: device for device in response.json()}
    assert found["d4"] == {"id": "d4", "app": "lamp", "fw_version": "1.10", "is_committed": False}
    assert list(found["d4"]) == ["id", "app", "fw_version", "is_committed"]
    whole = (await fleet.http.get(f"/devices?limit=10&sort={sort}")).json()
    assert {device["id"]: device for device in whole} == {
        id: (await fleet.http.get(f"/devices/{id}")).json() for id in NAMES
    }


@pytest.mark.parametrize("sort", ["id", "-name"])
async def test_fields_are_places_in_the_shadow(fleet, sort):
    """As they are, `null` where there is none; a dot in a key has a backslash; no shadow comes with them."""
    odd = {"a.b": {"c": [1, 2]}, "t": 21}
    await fleet.http.post("/devices/d3/shadow", json={"state": {"reported": odd, "desired": {"t": 22}}})
    fields = r"id,shadow.delta.t,shadow.reported.a\.b.c,shadow.reported.t"
    response = await fleet.http.get("/devices", params={"sort": sort, "fields": fields, "limit": 10})
    found = {device["id"]: device for device in response.json()}
    assert found["d3"] == {
        "id": "d3",
        "shadow.delta.t": 22,
        r"shadow.reported.a\.b.c": [1, 2],
        "shadow.reported.t": 21,
    }
    assert found["d1"]["shadow.reported.t"] == 20
    assert found["d5"] == dict.fromkeys(found["d3"]) | {"id": "d5"}


async def test_a_list_is_a_table(fleet):
    """Its columns in the order of `fields`, over pages; what looks like a formula is quoted, whatever it is."""
    await fleet.http.put("/devices/d3", json={"name": '=HYPERLINK("x")', "tags": {"site": "b,c", "indoor": True}})
    values = {"t": -5, "deep": {"x": "@1"}}
    await fleet.http.post("/devices/d3/shadow", json={"state": {"reported": values}})
    fields = "name,id,tags,shadow.reported.t,shadow.reported.deep,is_committed"
    address, lines = f"/devices?format=csv&fields={fields}&limit=2", []
    while address:
        response = await fleet.http.get(address)
        assert response.headers["Content-Type"].startswith("text/csv")
        lines += response.text.splitlines()
        link = response.headers.get("Link")
        address = link and f"/devices{link[1 : link.index('>')]}"
    assert lines[0] == fields
    assert lines[1] == "Hall 10,d1,,20,,true"
    assert lines[3] == """\"'=HYPERLINK(""x"")",d3,"site=b,c; indoor","-5","{""x"":""@1""}","""
    assert len(lines) == 6
    whole = (await fleet.http.get("/devices?format=csv&filter=fw_version=1.9")).text.splitlines()
    assert whole[0] == "id,name,online,since,last_seen,created_at,tags,app,arch,fw_version,fw_id,is_committed"
    assert whole[1].startswith("d1,Hall 10,false,,,20")
    assert len(whole) == 2


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit is an integer from 1 to 1000"),
        ("limit=1001", "1000"),
        ("limit=x", "1000"),
        ("limit=", "1000"),
        ("sort=colour", "sort is one of id, name, online, last_seen, fw_version"),
        ("fields=id,colour", "unknown field 'colour'"),
        ("fields=", "known are id, name"),
        ("fields=shadow.reported", "a place is written as in reported.sensors.t"),
        ("fields=shadow.metadata.x", "a shadow has desired, reported and delta"),
        ("fields=" + ",".join(f"shadow.reported.t{n}" for n in range(17)), "at most 16 places"),
        ("format=xml", "format is csv or json"),
        ("after=x", "after is the cursor"),
        ("after=x&sort=name&limit=2", "after is the cursor"),
    ],
)
async def test_what_is_wrong_is_an_error(fleet, query, words):
    """400, with words that say what is right."""
    response = await fleet.http.get(f"/devices?{query}")
    assert (response.status_code, words in response.json()["error"]["message"]) == (400, True), response.text


async def test_a_cursor_outlives_its_device(fleet):
    """The page behind a device that was removed meanwhile begins where the device was."""
    link = (await fleet.http.get("/devices?sort=name&limit=3")).headers["Link"]
    await fleet.http.delete("/devices/d4")
    response = await fleet.http.get(f"/devices{link[1 : link.index('>')]}")
    assert [device["id"] for device in response.json()] == ["d2", "d1"]


async def test_a_long_list_is_asked_for_in_pages(fleet, monkeypatch):
    """Without `limit` a list of more than 10 000 devices is 413, with the way out; one that a filter makes short is
    not.
    """
    monkeypatch.setattr(pages, "MAX_WHOLE", 4)
    for query in ("", "?sort=name", "?filter=name~a"):
        response = await fleet.http.get(f"/devices{query}")
        assert (response.status_code, "limit" in response.json()["error"]["message"]) == (413, True)
    assert len((await fleet.http.get("/devices?filter=fw_version=*")).json()) == 3
    assert len((await fleet.http.get("/devices?limit=1000")).json()) == 5


async def test_lists_in_any_order_show_what_was_just_done(fleet):
    """A change that was answered is in the next list, also in one from memory."""
    assert (await walk(fleet, "sort=name"))[0][0] == "d3"
    await fleet.http.put("/devices/d1", json={"name": "A"})
    await fleet.http.post("/devices", json={"id": "d6", "name": "aa"})
    await fleet.http.delete("/devices/d3")
    await fleet.http.post("/devices/d5/shadow", json={"state": {"reported": {"ota": {"fw_version": "3"}}}})
    response = await fleet.http.get("/devices?sort=name&fields=name,fw_version&limit=3")
    assert [(each["name"], each["fw_version"]) for each in response.json()] == [
        ("A", "1.9"),
        ("aa", None),
        ("Attic", "3"),
    ]


async def test_another_account_has_its_own_rows(fleet, bob):
    """A summary is of one account."""
    await bob.http.post("/devices", json={"id": "d1", "name": "Bob's"})
    assert (await walk(fleet, "sort=name&limit=2"))[0] == ["d3", "d5", "d4", "d2", "d1"]
    assert [device["name"] for device in (await bob.http.get("/devices?sort=name")).json()] == ["Bob's"]


async def test_a_removed_account_leaves_no_rows(server, root, fleet):
    """A later account of that name begins anew."""
    await walk(fleet, "sort=name")
    assert server.service.hub.summaries.get(fleet.name) is not None
    async with root.as_user() as admin:
        assert (await admin.delete(f"/users/{fleet.name}")).status_code == 200
    assert server.service.hub.summaries.get(fleet.name) is None


async def test_last_seen_is_what_the_device_itself_shows(fleet):
    """In a list from memory too, for a device that is connected here."""
    async with connected(fleet, "d1"):
        (found,) = (await fleet.http.get("/devices?sort=name&filter=online&fields=id,last_seen")).json()
        assert found["last_seen"] is not None
        hub = fleet.server.service.hub
        row = hub.summaries.get(fleet.name).rows["d1"]
        assert row.online
        assert (await hub.presence.get(DeviceKey(fleet.name, "d1"))).online

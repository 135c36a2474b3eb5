"""Conditions of requests for a shadow, and headers that nothing heeds: the same in every lane."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import InvalidInput, PreconditionFailed
from mdashcore.identity import DeviceKey
from mdashcore.server.http.conditions import Conditions, etag

pytestmark = pytest.mark.every_lane


SHADOW = "/devices/d1/shadow"


async def versioned(alice: Any, number: int) -> str:
    """Register a device whose shadow has version 7; its id."""
    id, hub = f"d{number}", alice.server.service.hub
    await hub.create_device("alice", id)
    for n in range(7):
        await hub.shadows.update(DeviceKey("alice", id), {"state": {"desired": {"n": n}}})
    return id


@pytest.fixture
async def d1(alice: Any) -> Any:
    """Alice's client; her device d1 has a shadow of version 7."""
    await versioned(alice, 1)
    return alice.http


async def test_the_version_is_the_entity_tag(d1: Any) -> None:
    """Of what is read, and of what an update has made; errors have none."""
    answer = await d1.get(SHADOW)
    assert (answer.headers["etag"], answer.json()["version"]) == ('"7"', 7)
    answer = await d1.post(SHADOW, json={"state": {"desired": {"n": 8}}})
    assert (answer.headers["etag"], answer.json()["version"]) == ('"8"', 8)
    for answer in (await d1.post(SHADOW, json={"state": 5}), await d1.get("/devices/d2/shadow")):
        assert answer.status_code in (400, 404)
        assert "etag" not in answer.headers


MATCHES = [
    ('"7"', True),
    ('W/"7"', True),
    ("*", True),
    ('"6", "7"', True),
    ('"6",W/"7" , "8"', True),
    (', "7",', True),
    ('"6"', False),
    ('W/"8"', False),
    ('"07"', False),
    ('"7 "', None),
    ('"a,b", "7"', True),
    ('"a"b", "7"', None),
    ('""', False),
    ("7", None),
    ("w/\"7\"", None),
    ('"7', None),
    ('"7" "8"', None),
    ("*, \"7\"", None),
    (",", None),
]  # fmt: skip


async def test_if_match(alice: Any) -> None:
    """An update is applied to one of the versions that it names, else 412; what is no list of tags is 400."""
    for number, (value, matches) in enumerate(MATCHES):
        id = await versioned(alice, number)
        status = {True: 200, False: 412, None: 400}[matches]
        body = {"state": {"desired": {"on": True}}}
        answer = await alice.http.post(f"/devices/{id}/shadow", json=body, headers={"If-Match": value})
        assert (value, answer.status_code) == (value, status)
        shadow = await alice.server.service.hub.shadows.get(DeviceKey("alice", id))
        assert (shadow.version, "on" in shadow.desired) == ((8, True) if matches else (7, False))
        if matches is False:
            assert answer.json()["error"] == {"code": 412, "message": f"the shadow of '{id}' is at version 7"}


async def test_reading_on_a_condition(d1: Any) -> None:
    """304 without a body for a version that the client has, 412 for one that it does not want."""
    for headers, status in (
        ({"If-None-Match": '"7"'}, 304),
        ({"If-None-Match": 'W/"7"'}, 304),
        ({"If-None-Match": '"1", "7"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"6"'}, 200),
        ({"If-None-Match": "7"}, 400),
        ({"If-Match": '"7"'}, 200),
        ({"If-Match": '"6"'}, 412),
        ({"If-Match": '"6"', "If-None-Match": '"7"'}, 412),
        ({"If-Match": '"7"', "If-None-Match": '"7"'}, 304),
    ):
        answer = await d1.get(SHADOW, headers=headers)
        assert (headers, answer.status_code) == (headers, status)
        if status == 304:
            assert (answer.content, answer.headers["etag"]) == (b"", '"7"')
            assert "content-type" not in answer.headers
            assert (await d1.get(SHADOW)).status_code == 200  # the connection goes on
        assert (await d1.head(SHADOW, headers=headers)).status_code == status


async def test_if_none_match_of_an_update(d1: Any) -> None:
    """Not for a version that it names; and with `*` never: every device has a shadow."""
    for value, status in (('"7"', 412), ("*", 412), ('"6"', 200)):
        answer = await d1.post(SHADOW, json={"state": {}}, headers={"If-None-Match": value})
        assert (value, answer.status_code) == (value, status)


async def test_a_condition_and_a_version(d1: Any) -> None:
    """Both have to hold; the condition is looked at first."""
    for tag, version, status in (('"7"', 6, 409), ('"6"', 7, 412), ('"6"', 6, 412), ('"7"', 7, 200)):
        body = {"state": {}, "version": version}
        assert (await d1.post(SHADOW, json=body, headers={"If-Match": tag})).status_code == status


async def test_a_new_shadow_has_a_tag_too(alice: Any) -> None:
    """The first update can be one on a condition: of two, one succeeds."""
    await alice.register("d1")
    assert (await alice.http.get(SHADOW)).headers["etag"] == '"0"'
    statuses = [
        (await alice.http.post(SHADOW, json={"state": {}}, headers={"If-Match": '"0"'})).status_code for _ in range(2)
    ]
    assert statuses == [200, 412]


async def test_an_unknown_device_is_told_first(d1: Any) -> None:
    """404, whatever the condition."""
    assert (await d1.post("/devices/d2/shadow", json={"state": {}}, headers={"If-Match": '"7"'})).status_code == 404


HEADERS = [
    # name, value; the status of: reading a shadow, updating it, calling, removing the device
    ("Content-Encoding", "gzip", 200, 415, 415, 200),
    ("Content-Encoding", "identity", 200, 200, 200, 200),
    ("Content-Encoding", "identity, br", 200, 415, 415, 200),
    ("Content-Range", "bytes 0-9/10", 200, 400, 400, 200),
    ("X-HTTP-Method-Override", "PATCH", 400, 400, 400, 400),
    ("X-HTTP-Method", "put", 400, 400, 400, 400),
    ("X-Method-Override", "MERGE", 400, 400, 400, 400),
    ("If-Match", '"1"', 412, 412, 412, 412),
    ("If-Match", "*", 200, 200, 200, 200),
    ("If-None-Match", "*", 304, 412, 412, 412),
    ("If-None-Match", '"1"', 200, 200, 200, 200),
    # What RFC 9110 and 7240 let a server ignore, and what says nothing of the request
    ("If-Modified-Since", "Sat, 29 Oct 2044 19:43:31 GMT", 200, 200, 200, 200),
    ("If-Unmodified-Since", "Sat, 29 Oct 1994 19:43:31 GMT", 200, 200, 200, 200),
    ("If-Range", '"1"', 200, 200, 200, 200),
    ("Range", "bytes=0-3", 200, 200, 200, 200),
    ("Prefer", "return=minimal", 200, 200, 200, 200),
    ("Accept", "text/html", 200, 200, 200, 200),
    ("Accept-Encoding", "gzip, identity;q=0", 200, 200, 200, 200),
    ("Accept-Charset", "utf-16", 200, 200, 200, 200),
    ("Content-Type", "application/x-www-form-urlencoded", 200, 200, 200, 200),
    ("Content-Language", "de", 200, 200, 200, 200),
    ("Max-Forwards", "0", 200, 200, 200, 200),
    ("Cache-Control", "only-if-cached", 200, 200, 200, 200),
    ("Pragma", "no-cache", 200, 200, 200, 200),
]  # fmt: skip


async def test_headers_that_change_a_request(alice: Any) -> None:
    """Each is heeded, or refused, or one that a server may ignore; nothing of what is refused is done."""
    http, hub = alice.http, alice.server.service.hub
    for number, (name, value, *expected) in enumerate(HEADERS):
        path = f"/devices/{await versioned(alice, number)}"
        headers = {"Content-Type": "application/json", name: value}
        read = await http.get(f"{path}/shadow", headers=headers)
        update = await http.post(f"{path}/shadow", content=b'{"state":{"desired":{"x":1}}}', headers=headers)
        call = await http.post(f"{path}/rpc/Echo", content=b"[1]", headers=headers)
        version = (await hub.shadows.get(DeviceKey("alice", f"d{number}"))).version
        remove = await http.delete(path, headers=headers)
        statuses = [answer.status_code for answer in (read, update, call, remove)]
        statuses[2] = 200 if statuses[2] == 503 else statuses[2]  # it is offline, and was asked
        assert (name, value, statuses) == (name, value, expected)
        assert version == (8 if update.status_code == 200 else 7)
        assert (update.headers.get("accept-encoding") == "identity") == (update.status_code == 415)
        assert len(await hub.registry.of("alice")) == sum(HEADERS[n][5] != 200 for n in range(number + 1))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 20), st.booleans())
def test_a_list_names_versions(versions: list[int], current: int, weak: bool) -> None:
    """Whatever the order, and however often; as both conditions understand it."""
    value = ", ".join(("W/" if weak else "") + etag(version) for version in versions)
    wanted = Conditions.of(value, None)
    unwanted = Conditions.of(None, value)
    assert wanted is not None
    assert unwanted is not None
    assert wanted.allow(current) == (current in versions) == (not unwanted.allow(current)) == unwanted.is_known(current)


@given(st.text(max_size=20))
def test_any_text_is_a_list_or_refused(value: str) -> None:
    """Never anything else, and quickly."""
    try:
        found = Conditions.of(value, value)
        assert found is not None
        found.check_match(1)
    except (InvalidInput, PreconditionFailed):
        pass

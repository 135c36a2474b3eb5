"""Lists on the wire: short ones whole, long ones in pieces, and what fails in the middle never looks complete."""

from __future__ import annotations

import json
from contextlib import ExitStack, aclosing

import pytest
import trio
import trio.testing

from mdashcore._errors import StorageError
from mdashcore.identity import DeviceKey

DEVICES = 60

STATE = {"text": "x" * 3000}


@pytest.fixture
async def fleet(alice):
    """Alice's devices: a list of three pieces."""
    hub = alice.server.service.hub
    for number in range(DEVICES):
        await hub.create_device("alice", f"d{number:02}")
        await hub.shadows.update(DeviceKey("alice", f"d{number:02}"), {"state": {"reported": STATE}})
    return hub


def ask(key, method="GET", path="/devices"):
    """A request's bytes."""
    return f"{method} /api/v2{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def test_a_short_list_has_a_length(alice):
    """Also one without anything in it."""
    answer = await alice.http.get("/devices")
    assert (answer.json(), answer.headers["content-length"]) == ([], "2")
    await alice.register("d1")
    answer = await alice.http.get("/devices")
    assert [device["id"] for device in answer.json()] == ["d1"]
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_a_long_list_comes_in_chunks(alice, fleet):
    """All of it, and the connection can be used again."""
    for _ in range(2):
        answer = await alice.http.get("/devices")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["x-content-type-options"] == "nosniff"
        devices = answer.json()
        assert [device["id"] for device in devices] == [f"d{number:02}" for number in range(DEVICES)]
        assert all(device["shadow"]["state"]["reported"] == STATE for device in devices)
        one = (await alice.http.get("/devices", params={"filter": "id=d07"})).json()
        assert one == [devices[7]]


async def test_a_head_costs_no_list(alice, fleet, monkeypatch):
    """It has the fields of the answer, but for the length, which is not known yet."""
    monkeypatch.setattr(type(fleet.device_list), "select", lambda *_, **__: pytest.fail("listed"))
    answer = await alice.http.head("/devices")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/json"
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("after", [0, 1, DEVICES - 1])
async def test_a_list_that_fails_is_not_complete(alice, fleet, open_raw, monkeypatch, after, server_log):
    """Before anything was sent it is an error; later the connection ends without the last chunk."""
    select = type(fleet.device_list).select

    async def failing(self, *arguments, **options):
        count = 0
        async with aclosing(select(self, *arguments, **options)) as found:
            async for each in found:
                if count == after:
                    raise StorageError("the disk is gone")
                count += 1
                yield each

    monkeypatch.setattr(type(fleet.device_list), "select", failing)
    async with open_raw(alice.server) as raw:
        await raw.send(ask(alice.key))
        answer = await raw.rest() if after == DEVICES - 1 else b""
        if after == DEVICES - 1:
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert not answer.endswith(b"0\r\n\r\n")
        else:
            assert (await raw.response()).status == 503
    assert "the disk is gone" in server_log()
    assert alice.server.service.lists.of("alice") == 0


async def test_a_fifth_list_is_refused(alice, bob, fleet):
    """Until one of those in flight has ended; lists of others, and short ones, go on."""
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(alice.server.service.lists.one("alice"))
        for answer in (await alice.http.get("/devices"), await alice.http.post("/logs")):
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["error"]["limit"] == "lists"
        assert (await alice.http.get("/keys")).status_code == 200
        assert (await bob.http.get("/devices")).status_code == 200
    assert (await alice.http.get("/devices")).status_code == 200


@pytest.mark.parametrize("query", ["", "?limit=9", "?sort=name", "?fields=id&filter=name~d", "?sort=-name&fields=id"])
async def test_a_list_that_is_refused_reads_nothing(alice, fleet, monkeypatch, query):
    """However it is asked for: the bound holds for the reading, not for the sending alone."""
    for name in ("read", "check_whole"):
        monkeypatch.setattr(type(fleet.device_pages), name, lambda *_, **__: pytest.fail("read"))
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(alice.server.service.lists.one("alice"))
        assert (await alice.http.get(f"/devices{query}")).status_code == 429


async def test_a_client_that_leaves_ends_its_list(alice, fleet, open_raw):
    """Wherever that was."""
    service = alice.server.service
    for _ in range(8):
        async with open_raw(alice.server) as raw:
            await raw.send(ask(alice.key))
        with trio.fail_after(10):
            while service.lists.of("alice"):
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(json.loads((await alice.http.get("/devices")).content)) == DEVICES

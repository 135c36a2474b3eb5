"""Shadows end to end: REST on one side, the device on the other."""

from __future__ import annotations

import random
import time

import pytest
import trio

from mdashcore.identity import DeviceKey
from mdashcore.shadow import merge
from mdashcore.testing.device import connect_device
from mdashcore.trio.node import NodeSettings

pytestmark = pytest.mark.every_lane

of_the_device = pytest.mark.parametrize("lane", ["immediate", "fast lane"])
"""Nothing of interest goes through a lane of the API: the device's connection has a task for it, or none."""


@pytest.fixture
def update(alice):
    """Updates the shadow of d1; the answer's body."""

    async def post(status=200, **document):
        response = await alice.http.post("/devices/d1/shadow", json=document)
        assert response.status_code == status, response.text
        return response.json()

    return post


async def shadow_of(person, id="d1"):
    return (await person.http.get(f"/devices/{id}/shadow")).json()


def state_update(**state):
    """What a device sends."""
    return {"method": "Dash.Shadow.Update", "params": {"state": state}}


# Documents


async def test_a_new_shadow_is_empty(alice):
    """Version 0, and nothing in it."""
    await alice.register("d1")
    assert await shadow_of(alice) == {"state": {}, "metadata": {}, "version": 0, "timestamp": 0}


async def test_an_update_is_answered_with_what_was_accepted(alice, update):
    """The state that was sent, a timestamp for each of its leaves, the new version, the client's token."""
    await alice.register("d1")
    now = time.time()
    answer = await update(state={"desired": {"led": {"on": True}}, "reported": {"t": 21.5}}, clientToken="c1")
    assert answer["state"] == {"desired": {"led": {"on": True}}, "reported": {"t": 21.5}}
    assert (answer["version"], answer["clientToken"]) == (1, "c1")
    stamp = answer["metadata"]["desired"]["led"]["on"]["timestamp"]
    assert answer["metadata"]["reported"] == {"t": {"timestamp": stamp}}
    assert stamp == answer["timestamp"]
    assert abs(stamp - now) < 60


async def test_the_document_holds_all_three_sections(alice, update):
    """What is desired, what is reported, and what of the first the second lacks; the device object shows the same."""
    await alice.register("d1")
    await update(state={"desired": {"on": True, "level": {"r": 1, "g": 2}}})
    await update(state={"reported": {"on": True, "level": {"r": 9}, "extra": 1}})
    document = await shadow_of(alice)
    assert document["state"] == {
        "desired": {"on": True, "level": {"r": 1, "g": 2}},
        "reported": {"on": True, "level": {"r": 9}, "extra": 1},
        "delta": {"level": {"r": 1, "g": 2}},
    }
    assert document["version"] == 2
    assert set(document["metadata"]) == {"desired", "reported"}
    assert (await alice.http.get("/devices/d1")).json()["shadow"] == {**document, "tags": {}}


async def test_null_deletes(alice, update):
    """A member, a section, or both sections together; an emptied section disappears, and every update has a version."""
    await alice.register("d1")
    await update(state={"desired": {"a": 1, "b": {"c": 2, "d": 3}}, "reported": {"x": 1}})
    await update(state={"desired": {"a": None, "b": {"c": None}}})
    assert (await shadow_of(alice))["state"]["desired"] == {"b": {"d": 3}}
    await update(state={"desired": {"b": {"d": None}}})
    assert (await shadow_of(alice))["state"]["desired"] == {"b": {}}
    await update(state={"desired": {"b": None}})
    assert (await shadow_of(alice))["state"] == {"reported": {"x": 1}}
    await update(state={"reported": None, "desired": {"y": 1}})
    assert (await shadow_of(alice))["state"] == {"desired": {"y": 1}, "delta": {"y": 1}}
    assert (await update(state=None))["version"] == 6
    assert await shadow_of(alice) == {
        "state": {},
        "metadata": {},
        "version": 6,
        "timestamp": (await shadow_of(alice))["timestamp"],
    }


async def test_numbers_are_compared_as_numbers_and_kept_as_they_are(alice, update):
    """1 and 1.0 are equal, true is not 1, and an integer of thirty digits loses none."""
    await alice.register("d1")
    big = 123456789012345678901234567890
    await update(state={"desired": {"a": 1, "b": True, "n": big, "l": [1, 2]}})
    await update(state={"reported": {"a": 1.0, "b": 1, "n": big + 1, "l": [2, 1]}})
    assert (await shadow_of(alice))["state"]["delta"] == {"b": True, "n": big, "l": [1, 2]}


async def test_a_version_that_is_not_current_is_a_conflict(alice, update):
    """409, and nothing has changed, not even the version; the current one is accepted."""
    await alice.register("d1")
    await update(state={"desired": {"n": 1}})
    await update(state={"desired": {"n": 2}}, version=1)
    before = await shadow_of(alice)
    for version in (1, 3, 99):
        answer = await update(409, state={"desired": {"n": 3}}, version=version)
        assert answer["error"]["code"] == 409
    assert await shadow_of(alice) == before
    assert (await update(state={"desired": {"n": 3}}, version=2))["version"] == 3


NO_UPDATES = [
    b"",
    b"{}",
    b"[]",
    b'"state"',
    b'{"state":1}',
    b'{"state":{"delta":{}}}',
    b'{"state":{"desired":1}}',
    b'{"state":{"desired":{}},"version":"1"}',
    b'{"state":{"desired":{}},"version":null}',
    b'{"state":{"desired":{"a":[null]}}}',
    b'{"state":{"desired":{"a":NaN}}}',
    b'{"state":{"desired":{"a":1e999}}}',
    b'{"state":{"desired":{"a":"\\ud800"}}}',
    b'{"state":{"desired":{}},"clientToken":"' + b"x" * 65 + b'"}',
    b'{"state":{"desired":' + b'{"a":' * 11 + b"1" + b"}" * 11 + b"}}",
    b'{"state":{"tags":{}}}',
]


async def test_what_is_no_update_is_refused(alice):
    """400, and the shadow stays as it was."""
    await alice.register("d1")
    for document in NO_UPDATES:
        response = await alice.http.post("/devices/d1/shadow", content=document)
        assert (document, response.status_code, response.json()["error"]["code"]) == (document, 400, 400)
    assert (await shadow_of(alice))["version"] == 0


async def test_a_shadow_is_bounded(alice, update):
    """413 for an update that would make it larger than the limit; a smaller one is still accepted."""
    await alice.register("d1")
    await update(state={"desired": {"a": "x" * 20_000}})
    answer = await update(413, state={"reported": {"b": "x" * 20_000}})
    assert answer["error"]["code"] == 413
    assert (await shadow_of(alice))["version"] == 1
    await update(state={"reported": {"b": "x" * 10_000}})


# Towards the device


async def test_a_delta_is_pushed_immediately(device, update):
    """As a notification with the whole of what differs, and the shadow's version."""
    answer = await update(state={"desired": {"on": True, "level": 3}})
    frame = await device.expect("Shadow.Delta")
    assert "id" not in frame
    assert frame["params"] == {"state": {"on": True, "level": 3}, "version": 1, "timestamp": answer["timestamp"]}
    await update(state={"reported": {"on": True}})  # a report for the device, by another client
    assert (await device.expect("Shadow.Delta"))["params"]["state"] == {"level": 3}


async def test_nothing_is_pushed_where_nothing_differs(device, update):
    """An update after which no delta is left is none of the device's business."""
    await update(state={"reported": {"on": True}})
    await update(state={"desired": {"on": True}})
    await update(state={"desired": {"off": False}})
    assert (await device.expect("Shadow.Delta"))["params"] == {
        "state": {"off": False},
        "version": 3,
        "timestamp": pytest.approx(time.time(), abs=60),
    }


async def test_a_delta_waits_for_the_device(alice, update):
    """What was desired while the device was away is pushed when it connects; once, and again on the next connect."""
    token = await alice.register("d1")
    await update(state={"desired": {"on": True}})
    for _ in range(2):
        async with connect_device(alice.server.device_url, token) as device:
            frame = await device.receive()
            assert (frame["method"], frame["params"]["state"], frame["params"]["version"]) == (
                "Shadow.Delta",
                {"on": True},
                1,
            )
            await device.send({"id": 1, "method": "Dash.Shadow.Get"})
            assert (await device.receive())["id"] == 1  # and no second delta before it
        await alice.told("offline", "d1")


async def test_what_the_device_reports_empties_the_delta(alice, device, update):
    """A report that leaves a part of the delta is answered with that part; one that leaves none with silence."""
    await update(state={"desired": {"a": 1, "b": 2}})
    await device.expect("Shadow.Delta")
    async with alice.listen() as ear:
        await device.send(state_update(reported={"a": 1, "b": 0}))
        assert (await device.receive())["params"]["state"] == {"b": 2}
        await device.send(state_update(reported={"b": 2}))
        await device.send({"id": 1, "method": "Dash.Shadow.Get"})
        answer = await device.receive()
        assert answer["result"] == {"desired": {"a": 1, "b": 2}, "reported": {"a": 1, "b": 2}}
        told = [await ear.expect("updated"), await ear.expect("updated")]
    assert [notification["data"]["shadow"]["state"] for notification in told] == [
        {"reported": {"a": 1, "b": 0}},
        {"reported": {"b": 2}},
    ]
    assert [notification["data"]["shadow"]["version"] for notification in told] == [2, 3]


async def test_a_device_that_applies_deltas_ends_up_as_desired(alice, device):
    """Whatever is desired in whatever order, while the device merges each delta and reports it: nothing is left."""
    rng = random.Random(1526)
    state = {}

    async def live():
        while True:
            frame = await device.receive()
            if frame.get("method") == "Shadow.Delta":
                delta = frame["params"]["state"]
                state.update(merge(state, delta))
                await device.send(state_update(reported=delta))

    async with alice.listen() as ear, trio.open_nursery() as nursery:
        nursery.start_soon(live)
        for _ in range(40):
            value = rng.choice([rng.randrange(5), {"x": rng.randrange(3)}, [1], "s", {"y": {"z": rng.randrange(2)}}])
            await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {rng.choice("abcd"): value}}})
        while "delta" in (document := await shadow_of(alice))["state"]:
            await ear.expect("updated")
        nursery.cancel_scope.cancel()
    assert {key: state[key] for key in document["state"]["desired"]} == document["state"]["desired"]
    assert document["state"]["reported"] == state


async def test_many_writers_lose_nothing(alice, device, update):
    """Updates of people and of the device at the same time: each is in, and each had its own version."""
    versions = []

    async def person(n):
        versions.append((await update(state={"desired": {f"p{n}": n}}))["version"])

    async def machine():
        for n in range(20):
            await device.send({"id": n, **state_update(reported={f"d{n}": n})})
        answers = 0
        while answers < 20:
            frame = await device.receive()
            if "result" in frame:
                answers += 1
                versions.append(frame["result"]["version"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine)
        for n in range(20):
            nursery.start_soon(person, n)
    assert sorted(versions) == list(range(1, 41))
    document = await shadow_of(alice)
    assert document["version"] == 40
    assert document["state"]["reported"] == {f"d{n}": n for n in range(20)}
    assert document["state"]["desired"] == {f"p{n}": n for n in range(20)}


# From the device


@of_the_device
async def test_a_device_updates_by_notification(alice, device):
    """No answer: a frame without an id never gets one. The account hears of the change."""
    async with alice.listen() as ear:
        await device.send(state_update(reported={"t": 21.5}, desired={"on": False}))
        told = await ear.expect("updated", "d1")
        assert told["data"]["shadow"]["state"] == {"reported": {"t": 21.5}, "desired": {"on": False}}
    assert (await device.receive())["method"] == "Shadow.Delta"
    assert (await shadow_of(alice))["state"]["reported"] == {"t": 21.5}


@of_the_device
async def test_a_device_updates_by_request(device):
    """The answer is what was accepted, with the version that it made; a wrong version is error 409."""
    await device.send({"id": 1, **state_update(reported={"t": 1})})
    answer = await device.receive()
    assert (answer["id"], answer["result"]["version"], answer["result"]["state"]) == (1, 1, {"reported": {"t": 1}})
    params = {"state": {"reported": {"t": 2}}, "version": 7}
    await device.send({"id": "x", "method": "Dash.Shadow.Update", "params": params})
    answer = await device.receive()
    assert (answer["id"], answer["error"]["code"]) == ("x", 409)
    await device.send({"id": 3, "method": "Dash.Shadow.Get"})
    assert (await device.receive())["result"] == {"reported": {"t": 1}}


WRONG = [
    (None, 400),
    ([], 400),
    ({}, 400),
    ({"state": {"delta": {}}}, 400),
    ({"state": {"reported": {"a": [None]}}}, 400),
    ({"state": {"reported": {"a": "x" * 40_000}}}, 413),
]


@of_the_device
async def test_a_device_hears_what_was_wrong(alice, device):
    """A request is answered with the error; of a notification people are told that it was rejected, and why."""
    async with alice.listen() as ear:
        for params, code in WRONG:
            frame = {"method": "Dash.Shadow.Update"} | ({} if params is None else {"params": params})
            await device.send({"id": 1, **frame})
            assert (await device.receive())["error"]["code"] == code
            await device.send(frame)
            heard = await ear.hear()
            assert (heard["name"], set(heard["data"])) == ("rpc.out.Dash.Shadow.Update", {"rejected"})
    assert (await shadow_of(alice))["version"] == 0


@of_the_device
async def test_a_device_reads_its_shadow(device, update):
    """`Dash.Shadow.Get` gives the state, the delta too."""
    await update(state={"desired": {"a": 1}, "reported": {"b": 2}})
    await device.expect("Shadow.Delta")
    await device.send({"id": 5, "src": "d1", "method": "Dash.Shadow.Get"})
    answer = await device.receive()
    assert answer["result"] == {"desired": {"a": 1}, "reported": {"b": 2}, "delta": {"a": 1}}


# Reserved keys


INFO = {
    "app": "demo",
    "fw_version": "1.0",
    "fw_id": "20180520-1/master",
    "arch": "esp32",
    "mac": "A1",
    "wifi": {"ssid": None},
}


@of_the_device
@pytest.mark.parametrize("node_settings", [NodeSettings()])
async def test_a_silent_device_is_asked_what_it_runs(alice):
    """`Sys.GetInfo` with the time of day, about 750 ms after the connect; the answer is kept under `reported.ota`."""
    began = trio.current_time()
    async with await alice.connect("d1") as device:
        request = await device.receive()
        assert 0.7 < trio.current_time() - began < 10
        assert request["method"] == "Sys.GetInfo"
        assert request["params"] == {"utc_time": pytest.approx(time.time(), abs=60)}
        async with alice.listen() as ear:
            await device.reply(request, INFO)
            await ear.expect("updated")
        ota = (await shadow_of(alice))["state"]["reported"]["ota"]
        assert ota == {**INFO, "wifi": {}}  # a null would delete


@of_the_device
@pytest.mark.parametrize("node_settings", [NodeSettings()])
async def test_a_device_that_says_what_it_runs_is_not_asked(alice):
    """By a report with `ota`, or by a heartbeat as devices of the first generation send it on open."""
    ota = {"app": "demo", "status": 0}
    introductions = {
        "notified": state_update(reported={"ota": ota}),
        "requested": {"id": 1, **state_update(reported={"ota": ota})},
        "beating": {"id": 1, "method": "Dash.Heartbeat", "params": {**ota, "ip": None}},
    }

    async def introduce(id, frame):
        async with await alice.connect(id) as device:
            await device.send(frame)
            if "id" in frame:
                result = (await device.receive())["result"]
                assert result is True or result["version"] == 1
            with trio.move_on_after(1.1) as silence:
                frame = await device.receive()
                pytest.fail(f"the server sent {frame}")
            assert silence.cancelled_caught
            assert (await shadow_of(alice, id))["state"]["reported"]["ota"] == ota

    async with trio.open_nursery() as nursery:
        for id, frame in introductions.items():
            nursery.start_soon(introduce, id, frame)


@of_the_device
@pytest.mark.parametrize("node_settings", [NodeSettings(introduction_delay=0.01)])
@pytest.mark.parametrize("answer", ["error", "text", "empty", "null"])
async def test_a_device_that_does_not_say_what_it_runs_is_left_alone(alice, answer):
    """Not every JSON-RPC device knows the method: it stays connected, and nothing is kept."""
    async with await alice.connect("d1") as device:
        request = await device.expect("Sys.GetInfo")
        if answer == "error":
            await device.reply_error(request, 404, "No handler for Sys.GetInfo")
        else:
            await device.reply(request, {"text": "demo", "empty": {}, "null": None}[answer])
        await device.send({"id": 1, "method": "Dash.Shadow.Get"})
        assert (await device.receive())["result"] == {}


@of_the_device
async def test_stats_are_a_part_of_the_shadow(alice, device):
    """The statistics that a device reports every ten seconds are in the shadow, beside `ota`."""
    stats = {"ram_total": 281872, "ram_free": 221412, "ram_lwm": 213220}
    async with alice.listen() as ear:
        await device.send(state_update(reported={"ota": {"app": "demo"}}))
        await device.send(state_update(reported={"stats": stats}))
        await ear.expect("updated")
        await ear.expect("updated")
    assert (await shadow_of(alice))["state"]["reported"] == {"ota": {"app": "demo"}, "stats": stats}


async def test_the_versions_of_a_device_created_anew_go_on(alice, update):
    """So that a delta of the old device is never taken for a newer one of the new."""
    await alice.register("d1")
    for n in range(3):
        await update(state={"desired": {"n": n}})
    await alice.http.delete("/devices/d1")
    async with await alice.connect("d1") as device:
        await alice.told("online", "d1")
        assert await shadow_of(alice) == {"state": {}, "metadata": {}, "version": 3, "timestamp": 0}
        await update(409, state={"desired": {"n": 9}}, version=1)
        await update(state={"desired": {"n": 9}}, version=3)
        assert (await device.expect("Shadow.Delta"))["params"]["version"] == 4


async def test_an_unknown_device_has_no_shadow(alice):
    """404, to read and to write."""
    assert (await alice.http.get("/devices/d1/shadow")).status_code == 404
    assert (await alice.http.post("/devices/d1/shadow", json={"state": {}})).status_code == 404


@of_the_device
async def test_a_device_that_does_not_read_for_a_while_keeps_its_connection(alice):
    """However many write its shadow meanwhile: when it reads again, the last that it gets is the delta of now."""
    async with await alice.connect("d1") as device:
        await alice.told("online", "d1")
        shadows = alice.server.service.hub.shadows
        for n in range(2000):  # more than the system and the connection hold between them
            await shadows.update(DeviceKey("alice", "d1"), {"state": {"desired": {"n": n, "pad": "x" * 4000}}})
            if n % 100 == 0:
                await trio.lowlevel.checkpoint()
        seen = []
        while not seen or seen[-1] < 2000:
            said = await device.expect("Shadow.Delta")
            seen.append(said["params"]["version"])
        assert seen == sorted(seen)
        assert len(seen) < 2000
        await device.send({"id": 1, "method": "Dash.Shadow.Update", "params": {"state": {"reported": {"n": 1999}}}})
        while (said := await device.receive()).get("id") != 1:
            pass
        assert "error" not in said

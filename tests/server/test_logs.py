"""``/logs``: the stored notifications."""

from __future__ import annotations

import time

import httpx
import pytest

from mdashcore.server.config import load_config
from mdashcore.server.run import open_server


@pytest.fixture
def read(alice):
    """Reads alice's log; the answer's body."""

    async def post(**query):
        response = await alice.http.post("/logs", json=query)
        assert response.status_code == 200, response.text
        return response.json()

    return post


async def emit(person, *names, device="d1", data=None):
    """Notifications, as if they had happened."""
    return [await person.server.service.hub.feed.emit(person.name, name, device, data) for name in names]


async def test_an_empty_log(read):
    """An empty array."""
    assert await read() == []
    assert await read(start=7) == []


async def test_what_happened_is_read_from_an_offset(alice, read):
    """Oldest first, each with its offset and its time, in the form of the notification stream."""
    before = time.time()
    await alice.register("d1")
    async with alice.listen(start=0) as ear:
        heard = [await ear.hear()]
        await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"on": True}}})
        await alice.http.put("/devices/d1", json={"name": "Pump"})
        await alice.http.delete("/devices/d1")
        heard += [await ear.hear() for _ in range(3)]
    log = await read(start=0)
    assert log == heard
    assert [entry["name"] for entry in log] == ["created", "updated", "updated", "deleted"]
    assert [entry["offset"] for entry in log] == [0, 1, 2, 3]
    assert all(before - 0.01 <= entry["time"] <= time.time() + 0.01 for entry in log)
    assert log[0]["data"] == {"name": "d1"}
    assert "data" not in log[3]
    assert await read(start=2) == log[2:]
    assert await read(start=4) == []


async def test_an_empty_body_reads_from_the_beginning(alice, read):
    """As ``{}`` does: the first hundred."""
    await emit(alice, *["a"] * 120)
    for content in (b"", b"{}", b'{"start":0}'):
        assert [entry["offset"] for entry in (await alice.http.post("/logs", content=content)).json()] == [*range(100)]


async def test_a_limit_is_a_page(alice, read):
    """A thousand at most; the next page starts after the last offset of this one."""
    await emit(alice, *["a"] * 1200)
    assert len(await read(limit=1000)) == 1000
    pages, start = [], 0
    while page := await read(start=start, limit=500):
        pages += page
        start = page[-1]["offset"] + 1
    assert [entry["offset"] for entry in pages] == [*range(1200)]


async def test_a_log_is_read_backwards(alice, read):
    """The newest before an offset, oldest first; before the end of time: the newest of all."""
    await emit(alice, *["a", "b"] * 600)
    assert [entry["offset"] for entry in await read(before=2**63 - 1, limit=3)] == [1197, 1198, 1199]
    assert [entry["offset"] for entry in await read(before=1000, limit=3, name="b")] == [995, 997, 999]
    assert [entry["offset"] for entry in await read(before=2)] == [0, 1]
    assert [entry["offset"] for entry in await read(start=1, before=3)] == [1, 2]
    assert await read(before=0) == []
    pages, before = [], 1200
    while page := await read(before=before, limit=500):
        pages = page + pages
        before = page[0]["offset"]
    assert [entry["offset"] for entry in pages] == [*range(1200)]


async def test_a_log_is_filtered_by_device_and_name(alice, read):
    """Also by the beginning of a name; the limit counts what was selected."""
    await emit(alice, "online", "rpc.in.A", "rpc.out.Log", "offline", device="d1")
    await emit(alice, "online", "rpc.in.B", "rpc.out.Log", device="d10")
    await emit(alice, "rpc.in.A*", device='d"1')

    async def selected(**query):
        return [(entry["id"], entry["name"]) for entry in await read(**query)]

    assert await selected(id="d10") == [("d10", "online"), ("d10", "rpc.in.B"), ("d10", "rpc.out.Log")]
    assert await selected(id='d"1') == [('d"1', "rpc.in.A*")]
    assert await selected(name="online") == [("d1", "online"), ("d10", "online")]
    assert await selected(name="rpc.in.*") == [("d1", "rpc.in.A"), ("d10", "rpc.in.B"), ('d"1', "rpc.in.A*")]
    assert await selected(name="rpc.*", id="d1") == [("d1", "rpc.in.A"), ("d1", "rpc.out.Log")]
    assert await selected(name="rpc.in.*", limit=1, start=2) == [("d10", "rpc.in.B")]
    assert await selected(name="on") == []
    assert await selected(id="d2") == []
    assert len(await selected(name="*")) == 8
    assert len(await selected(name=None, id=None)) == 8


@pytest.mark.parametrize("data", [b"1e999", b"9" * 5000, b"[" * 63 + b"]" * 63, b'{"name":"x","id":"y"}', b'"\\u0000"'])
async def test_no_data_spoil_a_log(alice, data):
    """Whatever JSON a device sends, numbers that no computer can hold too: the log is still read and filtered."""
    async with await alice.connect("d1") as device:
        async with alice.listen() as ear:
            await device.send(f'{{"method":"Odd","params":{data.decode()}}}')
            socket = ear.socket.ws
            message = await socket.get_message()
            while "rpc.out.Odd" not in message:
                message = await socket.get_message()
    text = (await alice.http.post("/logs", json={"id": "d1", "name": "rpc.out.Odd"})).text
    assert f'"data":{data.decode()},' in text
    assert text == f"[{message}]"


NO_QUERIES = [
    {"start": -1},
    {"start": "0"},
    {"start": 1.0},
    {"start": True},
    {"start": None},
    {"start": 2**63},
    {"before": -1},
    {"before": None},
    {"limit": 0},
    {"limit": 1001},
    {"limit": "10"},
    {"id": 7},
    {"name": ["a"]},
    {"device": "d1"},
    [],
    7,
]


async def test_what_is_no_query_is_refused(alice):
    """400, and the message names the member."""
    for query in NO_QUERIES:
        response = await alice.http.post("/logs", json=query)
        assert (query, response.status_code, response.json()["error"]["code"]) == (query, 400, 400)
        if isinstance(query, dict):
            assert next(iter(query)) in response.json()["error"]["message"]


async def test_a_log_outlives_its_device(alice, read):
    """What happened to a deleted device stays there to be read."""
    await alice.register("d1")
    await alice.http.delete("/devices/d1")
    assert [entry["name"] for entry in await read(id="d1")] == ["created", "deleted"]


@pytest.mark.usefixtures("cheap_logins")
@pytest.mark.parametrize(("days", "left"), [("1e-9", []), ("30", ["d1", "d2", "d3"]), ("inf", ["d1", "d2", "d3"])])
@pytest.mark.parametrize("scheme", ["memory", "sqlite", "file"])
async def test_what_is_too_old_goes(tmp_path, scheme, days, left):
    """After the days that the configuration gives, at the second check."""
    store = "memory://" if scheme == "memory" else f"{scheme}://{tmp_path}/store"
    (tmp_path / "mdash.toml").write_text(
        f'bind = "127.0.0.1:0"\nstore = "{store}"\nnotification_retention_days = {days}\n'
        '[[users]]\nname = "alice"\npassword = "secret"\n'
    )
    async with open_server(load_config(tmp_path / "mdash.toml")) as server:
        async with httpx.AsyncClient(base_url=f"{server.url}/api/v2", auth=("alice", "secret"), timeout=20) as client:
            for id in ("d1", "d2", "d3"):
                assert (await client.post("/devices", json={"id": id})).status_code == 201
            for _ in range(2):
                async for _ in server.service.hub.retention.check():
                    pass
            log = (await client.post("/logs", json={})).json()
    assert [entry["id"] for entry in log] == left


async def test_a_search_goes_back_part_by_part(alice):
    """With the newest results first among the parts; each says how far it has come, and the last that it is the end."""
    for number in range(30):
        await emit(alice, "rpc.out.Log", data=b'{"data":"line %d"}' % number)
    await emit(alice, "online", "offline", device="d2")
    query = {"text": "LINE 2", "limit": "6", "name": "rpc.out.*|online", "id": "d1", "from": "0"}
    first = (await alice.http.get("/logs", params=query)).json()
    assert [each["data"]["data"] for each in first["notifications"]] == [f"line {n}" for n in (24, 25, 26, 27, 28, 29)]
    assert (first["next"], first["checked"]) == (24, 8)
    assert first["reached"] == pytest.approx(first["notifications"][0]["time"], abs=0.001)
    rest = (await alice.http.get("/logs", params={**query, "before": str(first["next"])})).json()
    assert [each["data"]["data"] for each in rest["notifications"]] == [f"line {n}" for n in (2, 20, 21, 22, 23)]
    assert rest["next"] is None
    empty = (await alice.http.get("/logs", params={"text": "line", "to": "1"})).json()
    assert (empty["notifications"], empty["next"], empty["checked"]) == ([], None, 32)


async def test_what_is_no_search_is_refused(alice, make_person):
    """400 that names the parameter; another account's notifications do not exist."""
    wrong = [{"before": "x"}, {"limit": "1001"}, {"from": "noon"}, {"text": "x" * 257}, {"name": "a|" * 17}]
    wrong += [{"name": ""}, {"name": "online|"}, {"from": "2", "to": "1"}]
    for query in wrong:
        response = await alice.http.get("/logs", params=query)
        assert (query, response.status_code) == (query, 400)
    await emit(alice, "online")
    bob = await make_person("bob")
    assert (await bob.http.get("/logs")).json() == {"notifications": [], "next": None, "reached": None, "checked": 0}

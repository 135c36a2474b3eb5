"""Two accounts, with devices of the same id: nothing of one is visible to the other, or changed by it.

`ROUTES` has every endpoint of the app; a test fails if one is missing, so that the author of an endpoint says here
what a stranger gets of it.
"""

from __future__ import annotations

from base64 import b64decode

import attrs
import pytest
import trio
import trio_websocket

from mdashcore import _json
from mdashcore.hub.maintenance.backup import export_store
from mdashcore.server.app import create_quart_app
from mdashcore.server.gateway import DEVICE_PATH, NOTIFY_PATH
from mdashcore.testing.device import connect_device

SECRET = "alices-secret"

SHADOW = {"state": {"desired": {"by": "bob"}}}


@attrs.frozen
class Request:
    """What bob asks, and what he gets: of a device or key of his own, with alice's having the same id."""

    body: object = None
    status: int = 200
    query: str = ""
    admin: bool = False
    """Bob is none: 403, whatever he asks for."""


ROUTES = {
    "GET /api/v2/devices": Request(),
    "GET /api/v2/fleet": Request(),
    "POST /api/v2/devices": Request({"id": "another"}, 201),
    "GET /api/v2/devices/<id>": Request(),
    "POST /api/v2/devices/<id>": Request({"name": "bob's", "shadow": SHADOW}),
    "PUT /api/v2/devices/<id>": Request({"name": "bob's", "shadow": SHADOW}),
    "DELETE /api/v2/devices/<id>": Request(),
    "POST /api/v2/devices/<id>/token": Request(),
    "GET /api/v2/devices/<id>/rpc/<method>": Request(),
    "POST /api/v2/devices/<id>/rpc/<method>": Request({"by": "bob"}),
    "POST /api/v2/devices/<id>/rpc": Request({"id": 1, "method": "By.Bob"}),
    "GET /api/v2/devices/<id>/shadow": Request(),
    "POST /api/v2/devices/<id>/shadow": Request(SHADOW),
    "GET /api/v2/devices/<id>/series": Request(query="?path=n"),
    "GET /api/v2/devices/<id>/ota": Request(None, 404),  # only alice's device was ever updated
    "POST /api/v2/devices/<id>/ota": Request(b"\xe9bob's image"),
    "DELETE /api/v2/devices/<id>/ota": Request(None, 404),
    "POST /api/v2/devices/<id>/ota/end": Request(None),
    "GET /api/v2/rollouts": Request(),
    "POST /api/v2/rollouts": Request(b"bob's image", 400),  # the form of a real one is in test_rollouts.py
    "POST /api/v2/rollouts/preview": Request({"devices": ["d1"]}),
    "GET /api/v2/rollouts/<id>": Request(None, 404),
    "GET /api/v2/rollouts/<id>/members": Request(None, 404),
    "POST /api/v2/rollouts/<id>/resume": Request({"forgive": 1}, 404),
    "POST /api/v2/rollouts/<id>/<action>": Request(None, 404),
    "DELETE /api/v2/rollouts/<id>": Request(None, 404),
    "GET /api/v2/firmware": Request(),
    "POST /api/v2/firmware": Request(b"\xe9bob's image", 201),
    "GET /api/v2/firmware/<image>": Request(),
    "GET /api/v2/firmware/<image>/devices": Request(),
    "GET /api/v2/firmware/<image>/image": Request(),
    "POST /api/v2/firmware/<image>": Request({"name": "bob's"}),
    "PUT /api/v2/firmware/<image>": Request({"name": "bob's"}),
    "DELETE /api/v2/firmware/<image>": Request(),
    "GET /api/v2/jobs": Request(),
    "POST /api/v2/jobs": Request({"devices": ["d1"], "desired": {"by": "bob"}}, 201),
    "GET /api/v2/jobs/<id>": Request(None, 404),
    "GET /api/v2/jobs/<id>/devices": Request(None, 404),
    "POST /api/v2/jobs/<id>/cancel": Request(None, 404),
    "DELETE /api/v2/jobs/<id>": Request(None, 404),
    "POST /api/v2/tags": Request({"devices": ["d1"], "tags": {"by": "bob"}}),
    "GET /api/v2/filters": Request(),
    "PUT /api/v2/filters/<filter>": Request({"filter": "online"}),
    "DELETE /api/v2/filters/<filter>": Request(),
    "GET /api/v2/filter-terms": Request(),
    "GET /api/v2/keys": Request(),
    "POST /api/v2/keys": Request({"name": "bob's"}, 201),
    "DELETE /api/v2/keys/<key>": Request(),
    "GET /api/v2/limits": Request(),
    "GET /api/v2/metrics": Request(),
    "GET /api/v2/logs": Request(),
    "POST /api/v2/logs": Request({"start": 0, "limit": 1000}),
    "GET /api/v2/me": Request(),
    "PUT /api/v2/me/password": Request({"old": "x", "new": "y"}, 403),  # he came with a key
    "POST /api/v2/login": Request({"user": "bob", "password": "not bob's"}, 401),
    "POST /api/v2/logout": Request(None, 400),  # he came with a key
    "GET /api/v2/session": Request(),
    "GET /api/v2/users": Request(None, 403, admin=True),
    "GET /api/v2/users/limits": Request(None, 403, admin=True),
    "GET /api/v2/users/<name>/limits": Request(None, 403, admin=True),
    "POST /api/v2/users": Request({"name": "carol", "password": "x"}, 403, admin=True),
    "PUT /api/v2/users/<name>": Request({"password": "x"}, 403, admin=True),
    "POST /api/v2/users/<name>/devices": Request({"id": "d1", "token": "x"}, 403, admin=True),
    "DELETE /api/v2/users/<name>": Request(None, 403, admin=True),
    "GET /api/v2/backup": Request(None, 403, admin=True),
    "GET /": Request(),
    "GET /healthz": Request(),
    "GET /livez": Request(),
    "GET /readyz": Request(),
    "GET /openapi.json": Request(),
    "GET /api/v2/rpc": Request(None, 426),
    "GET /api/v2/notify": Request(None, 426),
}
"""The sockets behind the last two have tests of their own below."""

OWN = [route for route in ROUTES if any(place in route for place in ("<id>", "<key>", "<image>"))]

PLACES = {"keys/<id>": "keys/<key>", "filters/<name>": "filters/<filter>", "firmware/<id>": "firmware/<image>"}
"""What is no device in a path, by its name there."""


async def test_every_route_is_here(server):
    """Every endpoint of the app, and the uploads, which are not in the app's map."""
    rules = create_quart_app(server.service).url_map.iter_rules()
    found = set()
    for rule in rules:
        path = rule.rule
        for place, name in PLACES.items():
            path = path.replace(place, name)
        found |= {f"{method} {path}" for method in rule.methods - {"HEAD", "OPTIONS"}}
    uploads = {"POST /api/v2/devices/<id>/ota", "POST /api/v2/rollouts", "POST /api/v2/firmware"}
    assert found | uploads == set(ROUTES)
    assert {f"GET {DEVICE_PATH}", f"GET {NOTIFY_PATH}"} <= set(ROUTES)


# Two people


class Home:
    """One person with a device, of an id that all accounts have, a subscriber, and a bit of all that there is."""

    def __init__(self, person, mark):
        self.person = person
        self.mark = mark
        self.calls = []
        """What was sent to the device."""
        self.closed = trio.Event()
        """Set when the device's connection has ended."""

    async def furnish(self, token):
        """Something of every kind, with a mark in it."""
        http, mark = self.person.http, self.mark
        self.token = token
        self.key = (await http.post("/keys", json={"name": mark})).json()
        shadow = {"state": {"desired": {mark: 1}, "reported": {"ota": {"app": mark}}}}
        await http.put("/devices/d1", json={"name": mark, "shadow": shadow, "tags": {mark: True}})
        await http.put(f"/filters/{mark}", json={"filter": mark})
        self.image = (await http.post(f"/firmware?name={mark}&bare=1", content=mark.encode())).json()["id"]
        await http.post("/devices/d1/rpc/Mark", json={mark: mark})

    async def live(self, device, task_status):
        """The device answers whatever it is asked with its person's mark."""
        self.device = device
        task_status.started()
        try:
            while True:
                frame = _json.decode(await device.ws.get_message())
                self.calls.append(frame)
                if "id" in frame and "method" in frame:
                    await device.reply(frame, {"by": self.mark})
        except trio_websocket.ConnectionClosed:
            self.closed.set()

    async def untouched(self, before):
        """Nothing has come to the device or the listener, and what is stored is as it was."""
        assert await self.stored() == before
        calls = len(self.calls)
        await self.person.http.post("/devices/d1/rpc/Still.There")
        assert [frame["method"] for frame in self.calls[calls:]] == ["Still.There"]
        assert (await self.ear.hear())["name"] == "rpc.in.Still.There"

    async def stored(self):
        """Everything in the store that has anything to do with the person."""
        name = self.person.name.encode()
        lines = [line async for line in export_store(self.person.server.service.hub.backend)]
        return [line for line in lines if name in line or self.mark.encode() in line]


@pytest.fixture
async def homes(alice, bob, monkeypatch):
    """Alice's and bob's. Their devices do not say what they run, and an update does not wait long for that."""
    monkeypatch.setattr("mdashcore.ota._actions.INTRODUCTION_TIME", 0.01)
    hers, his = Home(alice, SECRET), Home(bob, "bobs-own")
    async with trio.open_nursery() as nursery:
        async with (
            connect_device(alice.server.device_url, token := await alice.register("d1")) as her_device,
            connect_device(bob.server.device_url, his_token := await bob.register("d1")) as his_device,
        ):
            await nursery.start(hers.live, her_device)
            await nursery.start(his.live, his_device)
            await hers.furnish(token)
            await his.furnish(his_token)
            await alice.register("hers")
            upload = await alice.http.post("/devices/d1/ota", files={"file": (SECRET, SECRET.encode())})
            assert upload.content == b"true"
            async with alice.listen() as hers.ear, bob.listen() as his.ear:
                yield hers, his
        nursery.cancel_scope.cancel()


async def ask(home, route, **ids):
    """The request of a route; the response."""
    method, path = route.split(" ")
    names = {
        "id": "d1",
        "key": home.key["id"],
        "filter": home.mark,
        "image": home.image,
        "name": "alice",
        "method": "By.Bob",
        "action": "abort",
        **ids,
    }
    for name, value in names.items():
        path = path.replace(f"<{name}>", value)
    path += ROUTES[route].query
    body = ROUTES[route].body
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return await home.person.http.request(method, home.person.server.url + path, **content)


@pytest.mark.parametrize("route", ROUTES)
async def test_the_same_id_is_another_device(homes, route):
    """Bob's requests for "d1" are about his own: nothing of alice's is in the answers, and nothing of hers changes."""
    hers, his = homes
    before = await hers.stored()
    answer = await ask(his, route)
    assert answer.status_code == ROUTES[route].status
    assert SECRET not in answer.text
    assert "alice" not in answer.text
    await hers.untouched(before)
    assert not [frame for frame in hers.calls if "bob" in str(frame).lower()]


@pytest.mark.parametrize("route", OWN)
async def test_what_is_anothers_does_not_exist(homes, route):
    """For an id that only alice has, bob gets the very answer that he gets for an unknown one."""
    hers, his = homes
    before = await hers.stored()
    answers = [
        await ask(his, route, id="hers", key=hers.key["id"], image=hers.image),
        await ask(his, route, id="none", key="key_aaaaaaaaaaaa", image="fw_0000000000000000"),
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    texts = [answers[0].text.replace("hers", "ID"), answers[1].text.replace("none", "ID")]
    texts = [texts[0].replace(hers.key["id"], "KEY"), texts[1].replace("key_aaaaaaaaaaaa", "KEY")]
    assert texts[0].replace(hers.image, "IMAGE") == texts[1].replace("fw_0000000000000000", "IMAGE")
    await hers.untouched(before)


@pytest.mark.parametrize("route", [route for route, request in ROUTES.items() if request.admin])
async def test_an_admin_sees_accounts_and_no_devices(homes, root, route):
    """What only admins may do, others may not; an admin's own requests for devices are about an admin's devices."""
    hers, his = homes
    before = await hers.stored()
    for name in ("alice", "bob", "nobody"):
        assert (await ask(his, route, name=name)).status_code == 403
    for path in ("/devices", "/logs"):
        answer = await root.http.request("POST" if path == "/logs" else "GET", path)
        assert answer.json() == []
    for path in ("/devices/d1", "/devices/d1/shadow", "/devices/d1/ota"):
        assert (await root.http.get(path)).status_code == 404
    await hers.untouched(before)


# The sockets


async def test_listeners_hear_of_their_own(homes):
    """Live and from the log, at every offset: not one notification of another account."""
    hers, his = homes
    async with hers.person.listen(start=0) as her_ear, his.person.listen(start=0) as his_ear:
        for n in range(20):
            for home in homes:
                await home.person.http.post(f"/devices/d1/rpc/Round.{n}", json={home.mark: n})
                await home.device.send({"method": "Out", "params": {home.mark: n}})
        await hers.person.http.delete("/devices/hers")
        for home, ear, other in ((hers, her_ear, his), (his, his_ear, hers)):
            heard = []
            while sum(note["name"] == "rpc.out.Out" for note in heard) < 20:
                heard.append(await ear.hear())
            assert [note["offset"] for note in heard] == [*range(len(heard))]
            assert other.mark not in str(heard)
            assert home.mark in str(heard)
            for start in range(0, len(heard), 7):
                log = await home.person.http.post("/logs", json={"start": start, "limit": 1000})
                assert other.mark not in log.text
                assert log.json()[: len(heard) - start] == heard[start:]


async def test_calls_reach_the_caller_s_device(homes):
    """Side by side, many times, through every form of a call."""
    async with trio.open_nursery() as nursery:

        async def call(home, other):
            http = home.person.http
            for n in range(20):
                answers = [
                    await http.post("/devices/d1/rpc/Who", json={home.mark: n}),
                    await http.get("/devices/d1/rpc/Who"),
                    await http.post("/devices/d1/rpc", json={"id": n, "method": "Who", "params": {home.mark: n}}),
                ]
                for answer in answers:
                    assert home.mark in answer.text
                    assert other.mark not in answer.text

        hers, his = homes
        nursery.start_soon(call, hers, his)
        nursery.start_soon(call, his, hers)
    assert his.mark not in str(hers.calls)
    assert hers.mark not in str(his.calls)


async def test_a_device_speaks_for_its_own_account(homes):
    """What it reports and reads is the shadow of its account; the other account's device hears no delta of it."""
    hers, his = homes
    before = await hers.stored()
    report = {"state": {"reported": {"by": "bob"}, "desired": {"wish": "bob"}}}
    await his.device.send({"method": "Dash.Shadow.Update", "params": report})
    await his.device.send({"method": "Dash.Heartbeat", "params": {"app": "bob"}})
    await his.device.send({"id": 1, "method": "Dash.Shadow.Get"})
    await his.ear.expect("updated")
    await his.ear.expect("updated")
    await hers.untouched(before)
    shadow = (await hers.person.http.get("/devices/d1/shadow")).text
    assert "bob" not in shadow
    assert not [frame for frame in hers.calls if frame.get("method") == "Shadow.Delta" and "bob" in str(frame)]


async def test_devices_come_and_go_by_themselves(homes):
    """A connection, a lost one, a new token and a deletion of one account's device are nothing to the other's."""
    hers, his = homes
    before = await hers.stored()
    async with connect_device(his.person.server.device_url, his.token) as again:
        await his.closed.wait()
        await his.ear.expect("online")
        new = (await his.person.http.post("/devices/d1/token")).json()["token"]
        assert (await again.wait_closed())[0] == 1008
    async with connect_device(his.person.server.device_url, new) as third:
        await his.person.http.delete("/devices/d1")
        assert (await third.wait_closed())[0] == 1008
    await hers.untouched(before)
    assert (await hers.person.http.get("/devices/d1")).json()["online"]


async def test_keys_and_tokens_open_their_own_account(homes, anyone, open_raw):
    """A key acts for its account only, however it is given; a device token for its device."""
    hers, his = homes
    for home, other in ((hers, his), (his, hers)):
        secret = home.key["key"]
        for answer in (
            await anyone.get("/devices", headers={"Authorization": f"Bearer {secret}"}),
            await anyone.get(f"/devices?access_token={secret}"),
            await anyone.get("/keys", headers={"Authorization": f"Bearer {secret}"}),
        ):
            assert home.mark in answer.text
            assert other.mark not in answer.text
    assert (await his.person.http.delete(f"/keys/{hers.key['id']}")).status_code == 404
    assert (await anyone.get(f"/me?access_token={hers.key['key']}")).json()["name"] == "alice"


async def test_images_go_into_the_right_device(alice, bob):
    """Two updates of "d1" at the same time: each device gets its own image, and each account hears of its own."""
    images = {"alice": b"\xe9alices image " * 500, "bob": b"\xe9bobs image " * 500}
    taken = {}

    async def take(person):
        taken[person.name] = b""
        async with await person.connect("d1") as device:
            await person.told("online", "d1")
            async with person.calling("POST", "/devices/d1/ota", content=images[person.name]) as response:
                while True:
                    request = await device.receive()
                    if request["method"] == "OTA.Write":
                        taken[person.name] += b64decode(request["params"]["data"])
                    await device.reply(request, True)
                    if request["method"] == "OTA.End":
                        break
                assert (await response()).content == b"true"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, alice)
        nursery.start_soon(take, bob)
    assert taken == images
    for person in (alice, bob):
        standing = (await person.http.get("/devices/d1/ota")).json()
        assert standing["image"]["size"] == len(images[person.name])

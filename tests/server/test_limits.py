"""``/limits``, and what is answered beyond one."""

from __future__ import annotations

import json

import attrs
import httpx
import pytest
import trio
from websockets.frames import Opcode

from mdashcore._errors import InvalidInput
from mdashcore.hub.limits import AccountLimits, is_per_process
from mdashcore.server.config import ServerConfig, ServerLimits, User, load_config
from mdashcore.server.run import open_server

pytestmark = pytest.mark.usefixtures("cheap_logins")

LIMITS = ServerLimits(devices=2, keys=2, subscribers=1, image_bytes=1000)


@pytest.fixture
async def small():
    """A server whose accounts may have little, as the admin ada and as bob use it."""
    users = (User("ada", "pw", admin=True), User("bob", "pw"))
    config = ServerConfig(bind="127.0.0.1:0", store="memory://", users=users, limits=LIMITS)
    async with open_server(config) as server:
        url = f"{server.url}/api/v2"
        async with httpx.AsyncClient(base_url=url, auth=("ada", "pw"), timeout=20) as ada:
            async with httpx.AsyncClient(base_url=url, auth=("bob", "pw"), timeout=20) as bob:
                ada.server = server
                yield ada, bob


async def test_beyond_a_limit(small):
    """429 with the limit's name; nothing was made; another account goes on; what is removed makes room."""
    ada, bob = small
    for path, limit in (("/devices", "devices"), ("/keys", "keys")):
        made = [(await bob.post(path, json={})).json()["id"] for _ in range(2)]
        refused = await bob.post(path, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, 429)
        assert refused.json()["error"]["limit"] == limit
        assert "retry-after" not in refused.headers  # it would be refused again
        assert len((await bob.get(path)).json()) == 2
        assert (await ada.post(path, json={})).status_code == 201
        await bob.delete(f"{path}/{made[0]}")
        assert (await bob.post(path, json={})).status_code == 201


async def test_images_beyond_the_limit(small):
    """An upload is refused where there is no room, and leaves nothing."""
    _, bob = small
    await bob.post("/devices", json={"id": "d1"})
    refused = await bob.post("/devices/d1/ota?queue=1", content=b"x" * 1001)
    assert (refused.status_code, refused.json()["error"]["limit"]) == (429, "image_bytes")
    assert (await bob.post("/devices/d1/ota?queue=1", content=b"x" * 1000)).status_code == 202
    await bob.post("/devices", json={"id": "d2"})
    assert (await bob.post("/devices/d2/ota?queue=1", content=b"x")).status_code == 429
    await bob.delete("/devices/d1/ota")
    assert (await bob.post("/devices/d2/ota?queue=1", content=b"x")).status_code == 202


async def test_notification_sockets_beyond_the_limit(small, open_raw):
    """Refused at the handshake with 429; when one is closed there is room."""
    ada, bob = small
    key = (await bob.post("/keys", json={})).json()["key"]
    async with open_raw(ada.server) as first:
        assert (await first.handshake(key, path="/api/v2/notify")).status == 101
        async with open_raw(ada.server) as second:
            refused = await second.handshake(key, path="/api/v2/notify")
            assert (refused.status, json.loads(refused.body)["error"]["limit"]) == (429, "subscribers")
            assert "retry-after" in refused.headers
        assert ada.server.service.node.subscribers.of("bob") == 1
    while ada.server.service.node.subscribers.of("bob"):  # noqa: ASYNC110 - the connection's end is no event here
        await trio.sleep(0.01)
    async with open_raw(ada.server) as third:
        assert (await third.handshake(key, path="/api/v2/notify")).status == 101


async def test_a_page_is_told_why_its_socket_is_refused(small, open_raw):
    """A browser hides the answer to a handshake from the page: so the socket opens, and is closed with the reason."""
    ada, bob = small
    login = await bob.post("/login", json={"user": "bob", "password": "pw"})
    cookie = login.headers["set-cookie"].partition(";")[0]
    fields = (f"Cookie: {cookie}", "Sec-Fetch-Site: same-origin")
    async with open_raw(ada.server) as first, open_raw(ada.server) as second:
        assert (await first.handshake(None, *fields, path="/api/v2/notify")).status == 101
        assert (await second.handshake(None, *fields, path="/api/v2/notify")).status == 101
        closed = await second.frame()
        assert closed.opcode is Opcode.CLOSE
        code, reason = int.from_bytes(closed.data[:2], "big"), closed.data[2:].decode()
        assert (code, reason) == (1013, "the account has 1 notification sockets, and may have 1")


async def test_ones_own_use(small):
    """Each limit with its value, the accounts that it holds for, and what the account has of it."""
    _, bob = small
    await bob.post("/devices", json={"id": "d1"})
    await bob.post("/devices/d1/ota?queue=1", content=b"x" * 10)
    answer = (await bob.get("/limits")).json()
    assert answer["name"] == "bob"
    found = {each["name"]: each for each in answer["limits"]}
    assert list(found) == [field.name for field in attrs.fields(AccountLimits)]
    assert found["devices"] == {"name": "devices", "limit": 2, "per": "service", "use": 1}
    assert found["image_bytes"]["use"] == 10
    assert found["subscribers"]["per"] == "process"


async def test_everybodys_use(small):
    """For admins: of all accounts in one answer, with the disk; and of one. For others 403."""
    ada, bob = small
    await bob.post("/devices", json={"id": "d1"})
    answer = (await ada.get("/users/limits")).json()
    assert [limit["name"] for limit in answer["limits"]] == [field.name for field in attrs.fields(AccountLimits)]
    assert {account["name"]: account["use"]["devices"] for account in answer["accounts"]} == {"ada": 0, "bob": 1}
    assert answer["disk"] == {"free": None, "floor": 512 * 2**20}
    assert (await ada.get("/users/bob/limits")).json()["name"] == "bob"
    assert (await ada.get("/users/nobody/limits")).status_code == 404
    for path in ("/users/limits", "/users/bob/limits", "/users/ada/limits"):
        assert (await bob.get(path)).status_code == 403


def test_the_table_of_the_configuration(tmp_path):
    """Each limit is a key of it; what is none, or no whole number above 0, is refused with the name."""
    path = tmp_path / "mdash.toml"
    path.write_text("[limits]\ndevices = 7\nfree_disk = 1\n")
    assert load_config(path).limits == ServerLimits(devices=7, free_disk=1)
    assert {field.name for field in attrs.fields(AccountLimits) if is_per_process(field.name)} == {
        "uploads",
        "downloads",
        "subscribers",
        "lists",
    }
    for line in ("device = 7", "devices = 0", "devices = -1", 'devices = "7"', "devices = 1.5", "devices = true"):
        path.write_text(f"[limits]\n{line}\n")
        with pytest.raises(InvalidInput, match="limits"):
            load_config(path)

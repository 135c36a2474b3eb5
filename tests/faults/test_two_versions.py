"""Two versions side by side on one Redis, as while servers are upgraded one after the other.

The older one is a server whose store keeps what version 0.1 knew: of each document it reads and writes only the members
that stand in the backup of that version, which is kept with the tests. That is what an older version does to the data
of a newer one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio_websocket
from kept_service import fill, seen

from mdashcore import _json
from mdashcore.hub.maintenance.check import check_store
from mdashcore.server.config import ServerConfig, User
from mdashcore.server.run import open_server
from mdashcore.storage import Backend, Document, open_backend
from mdashcore.testing.device import ScriptedDevice, connect_device

BACKUP = Path(__file__).parents[1] / "backends" / "stored" / "0.1" / "backup.jsonl"
ADMIN = ("root", "secret")
OLDER = "older+"


def members() -> dict[str, set[str]]:
    """The members of the documents of version 0.1, by collection; those of other collections were never exported."""
    known: dict[str, set[str]] = {}
    for line in map(json.loads, BACKUP.read_bytes().splitlines()):
        if "collection" in line:
            known.setdefault(line["collection"], set()).update(line["body"])
    return known


class OlderDocuments:
    """A document store without the members that version 0.1 did not know."""

    def __init__(self, documents: Any) -> None:
        self._documents = documents
        self._known = members()

    def reduced(self, collection: str, body: bytes) -> bytes:
        """What is left of a document."""
        if (known := self._known.get(collection)) is None:
            return body
        return _json.encode({name: value for name, value in _json.decode(body).items() if name in known})

    async def get(self, collection: str, key: str) -> Document | None:
        found = await self._documents.get(collection, key)
        return found and Document(found.key, found.version, self.reduced(collection, found.body))

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        version: int = await self._documents.put(collection, key, self.reduced(collection, body), expected=expected)
        return version

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        return bool(await self._documents.delete(collection, key, expected=expected))

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        async for found in self._documents.scan(collection, prefix, after=after):
            yield Document(found.key, found.version, self.reduced(collection, found.body))


def older(backend: Backend) -> Backend:
    """A backend as that version used it."""
    documents = OlderDocuments(backend.documents)
    step = backend.put_and_append
    assert step is not None

    async def put_and_append(collection: str, key: str, body: bytes, **rest: Any) -> tuple[int, int]:
        return await step(collection, key, documents.reduced(collection, body), **rest)

    return attrs.evolve(backend, documents=documents, put_and_append=put_and_append)


@asynccontextmanager
async def open_either(url: str) -> AsyncIterator[Backend]:
    """The backend of a URL, as an older version uses it if the URL begins with that word."""
    async with open_backend(url.removeprefix(OLDER)) as backend:
        yield older(backend) if url.startswith(OLDER) else backend


@attrs.frozen
class Side:
    """One of the servers, and a client of an account's key."""

    url: str
    http: httpx.AsyncClient

    @property
    def ws(self) -> str:
        """Where the sockets are."""
        return f"ws{self.url.removeprefix('http')}/api/v2"


@pytest.fixture
async def sides(start_redis: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Side, Side, Any, str]]:
    """The newer server and the older one, which has filled the store; the secrets, and the store's URL."""
    redis = await trio.to_thread.run_sync(start_redis)
    monkeypatch.setattr("mdashcore.server.run.open_backend", open_either)
    url, users = f"{redis.url}/0", (User(*ADMIN, admin=True),)
    try:
        async with open_server(ServerConfig(bind="127.0.0.1:0", store=OLDER + url, users=users)) as old:
            secrets = await fill(old.url, ADMIN, image_size=1000)
            headers = {"Authorization": f"Bearer {secrets.key}"}
            async with (
                open_server(ServerConfig(bind="127.0.0.1:0", store=url, users=users)) as new,
                httpx.AsyncClient(base_url=f"{new.url}/api/v2", headers=headers, timeout=20) as new_http,
                httpx.AsyncClient(base_url=f"{old.url}/api/v2", headers=headers, timeout=20) as old_http,
            ):
                yield Side(new.url, new_http), Side(old.url, old_http), secrets, url
    finally:
        await trio.to_thread.run_sync(redis.kill)


async def attend(device: ScriptedDevice, name: str, deltas: trio.MemorySendChannel[Any]) -> None:
    """Answer every call with a name, and pass the deltas on."""
    try:
        while True:
            request = _json.decode(await device.ws.get_message())
            if request.get("method") == "Shadow.Delta":
                await deltas.send(request["params"]["state"])
            elif "id" in request and "method" in request:
                await device.reply(request, {"at": name})
    except trio_websocket.ConnectionClosed:
        pass


async def heard(listener: ScriptedDevice, name: str) -> Any:
    """The data of the next notification with that name about the lamp."""
    while True:
        found = await listener.receive()
        if (found["id"], found["name"]) == ("lamp", name):
            return found.get("data")


def within(old: Any, new: Any) -> bool:
    """Whether all that the older version answers is in the newer one's answer."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and within(old[name], new[name]) for name in old)
    if isinstance(old, Sequence) and not isinstance(old, str):
        return len(old) == len(new) and all(map(within, old, new))
    return bool(old == new)


async def test_two_versions_on_one_store(sides: tuple[Side, Side, Any, str]) -> None:
    """Users see the same on both, devices move between them, and calls, shadows and notifications cross."""
    new, old, secrets, url = sides
    assert within(await seen(old.url, ADMIN, secrets), await seen(new.url, ADMIN, secrets))
    async with (
        connect_device(f"{new.ws}/notify", secrets.key) as at_new,
        connect_device(f"{old.ws}/notify", secrets.key) as at_old,
        trio.open_nursery() as nursery,
    ):
        deltas, received = trio.open_memory_channel[Any](20)  # more than there are changes
        async with connect_device(f"{old.ws}/rpc", secrets.token) as device:
            nursery.start_soon(attend, device, "old", deltas)
            for listener in (at_new, at_old):
                await heard(listener, "online")
            assert (await new.http.post("/devices/lamp/rpc/Where", json={})).json() == {"at": "old"}
            for number, side in enumerate((new, old)):  # a change of either is notified on both, and reaches the device
                response = await side.http.post("/devices/lamp/shadow", json={"state": {"desired": {"n": number}}})
                assert response.status_code == 200, response.text
                for listener in (at_new, at_old):
                    while (await heard(listener, "updated"))["shadow"]["state"]["desired"].get("n") != number:
                        pass
            with trio.fail_after(20):
                while (await received.receive()).get("n") != 1:
                    pass
            async with connect_device(f"{new.ws}/rpc", secrets.token) as moved:
                nursery.start_soon(attend, moved, "new", deltas)
                with trio.fail_after(20):
                    while (await old.http.post("/devices/lamp/rpc/Where", json={})).json() != {"at": "new"}:
                        pass
        nursery.cancel_scope.cancel()
    async with open_backend(url) as backend:
        _, problems = await check_store(backend)
    assert problems == []


async def test_what_an_older_version_does_not_know(sides: tuple[Side, Side, Any, str]) -> None:
    """It leaves it out, keeps it as long as it does not write the document, and loses it then, as is documented."""
    new, old, _, url = sides
    assert (await new.http.put("/devices/lamp", json={"tags": {"floor": "2"}})).status_code == 200
    assert (await old.http.get("/devices/lamp")).status_code == 200
    assert (await new.http.get("/devices/lamp")).json()["tags"] == {"floor": "2"}
    assert (await old.http.put("/devices/lamp", json={"name": "Lamp"})).status_code == 200
    found = (await new.http.get("/devices/lamp")).json()
    assert (found["name"], found["tags"]) == ("Lamp", {})
    async with open_backend(url) as backend:
        _, problems = await check_store(backend)
    assert problems == []

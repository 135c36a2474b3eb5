"""What most tests need: a real server on a real port, people who may use it, and devices that do as they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import argon2
import attrs
import httpx
import pytest
import trio

from mdashcore.hub.feed import TOPIC, Feed, LogQuery
from mdashcore.notifications import decode
from mdashcore.server.config import ServerConfig
from mdashcore.server.run import RunningServer, open_server
from mdashcore.testing.device import PATIENCE, ScriptedDevice, connect_device

PASSWORD = "correct horse"
CHEAP_HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
"""Of `PASSWORD`, made with so little work that every test can have its own accounts."""


@attrs.define
class Person:
    """An account with an API key, and a client that uses it."""

    name: str
    key: str
    http: httpx.AsyncClient
    """Its base URL is the API's."""
    server: RunningServer

    async def register(self, id: str) -> str:
        """Register a device; its token."""
        response = await self.http.post("/devices", json={"id": id})
        assert response.status_code == 201, response.text
        return str(response.json()["token"])

    async def connect(self, id: str) -> AbstractAsyncContextManager[ScriptedDevice]:
        """Register a device and connect it: ``async with await person.connect("d1") as device``."""
        return connect_device(self.server.device_url, await self.register(id))

    async def told(self, name: str, device: str | None = None) -> dict[str, Any]:
        """The newest notification of that name, waiting for the first."""
        hub = self.server.service.hub
        with trio.fail_after(PATIENCE):
            async with hub.bus.subscribe(TOPIC) as messages:
                if found := await hub.feed.query(self.name, LogQuery(name=name, device=device)):
                    return decode(found[-1])
                async for message in messages:
                    account, item = Feed.parse(message)
                    value = decode(item.frame)
                    if account == self.name and value["name"] == name and device in (None, value["id"]):
                        return value
        raise AssertionError("the bus has ended")


MakePerson = Callable[[str], Awaitable[Person]]


@pytest.fixture
async def server() -> AsyncIterator[RunningServer]:
    """A server without accounts, on a free port."""
    async with open_server(ServerConfig(bind="127.0.0.1:0")) as running:
        yield running


@pytest.fixture
async def make_person(server: RunningServer) -> AsyncIterator[MakePerson]:
    """Makes accounts; all have the password `PASSWORD`; the one called "root" is an admin."""
    async with AsyncExitStack() as stack:

        async def make(name: str) -> Person:
            accounts = server.service.hub.accounts
            await accounts.register(name, CHEAP_HASH, admin=name == "root")
            key = (await accounts.create_key(name)).secret
            client = httpx.AsyncClient(
                base_url=f"{server.url}/api/v2", headers={"Authorization": f"Bearer {key}"}, timeout=20
            )
            return Person(name, key, await stack.enter_async_context(client), server)

        yield make


@pytest.fixture
async def alice(make_person: MakePerson) -> Person:
    """An account."""
    return await make_person("alice")


@pytest.fixture
async def bob(make_person: MakePerson) -> Person:
    """Another account."""
    return await make_person("bob")


@pytest.fixture
async def root(make_person: MakePerson) -> Person:
    """An admin."""
    return await make_person("root")


@pytest.fixture(scope="session")
def password() -> str:
    """Every test account's password."""
    return PASSWORD

"""Two admins who demote or remove each other at the same moment, on every kind of store: one of them stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from mdashcore.server.config import ServerConfig
from mdashcore.server.run import RunningServer, open_server

STORES = ["memory", "file", "sqlite", "redis", "redis, two servers"]

ROUNDS = 8

PASSWORD = "correct horse"


@pytest.fixture
async def servers(
    request: pytest.FixtureRequest, tmp_path: Path, cheap_hasher: Any
) -> AsyncIterator[list[RunningServer]]:
    """One or two servers on the store that a test is parametrized with, with the admin "a0"."""
    kind, _, two = request.param.partition(",")
    store = {"memory": "memory://", "file": f"file://{tmp_path}/store", "sqlite": f"sqlite://{tmp_path}/store"}
    if kind == "redis":
        store["redis"] = await trio.to_thread.run_sync(lambda: f"{request.getfixturevalue('start_redis')().url}/0")
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2 if two else 1):
            config = ServerConfig(bind="127.0.0.1:0", store=store[kind])
            found.append(await stack.enter_async_context(open_server(config)))
            found[-1].service.passwords._hasher = cheap_hasher
        await found[0].service.hub.accounts.register("a0", cheap_hasher.hash(PASSWORD), admin=True)
        yield found


@pytest.mark.parametrize("servers", STORES, indirect=True)
@pytest.mark.parametrize("how", ["demote", "remove"])
async def test_one_of_two_admins_stays(servers: list[RunningServer], how: str) -> None:
    """One of the two is answered 200; the other one 409, or that it is no admin any more. One admin is left."""
    async with AsyncExitStack() as stack:

        async def client(name: str, server: RunningServer) -> httpx.AsyncClient:
            options: dict[str, Any] = {"auth": (name, PASSWORD), "timeout": 30, "verify": False}
            opened = httpx.AsyncClient(base_url=f"{server.url}/api/v2", **options)
            return await stack.enter_async_context(opened)

        async def undo(asking: httpx.AsyncClient, name: str) -> None:
            if how == "remove":
                response = await asking.delete(f"/users/{name}")
            else:
                response = await asking.put(f"/users/{name}", json={"password": PASSWORD, "admin": False})
            statuses.append(response.status_code)

        left = await client("a0", servers[0])
        for number in range(1, ROUNDS + 1):
            name = f"a{number}"
            body = {"name": name, "password": PASSWORD, "admin": True}
            assert (await left.post("/users", json=body)).status_code == 201
            other = await client(name, servers[-1])
            for each in (left, other):
                assert (
                    await each.get("/users")
                ).status_code == 200  # their passwords are known: no check is in the way
            (mine,) = [user for user in [(await left.get("/me")).json()["name"]] if user != name]
            statuses: list[int] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(undo, left, name)
                nursery.start_soon(undo, other, mine)
            assert statuses.count(200) == 1
            assert set(statuses) <= {200, 401, 403, 409}
            left, gone = (left, other) if (await left.get("/users")).status_code == 200 else (other, left)
            assert (await gone.get("/users")).status_code in (401, 403)
            users = (await left.get("/users")).json()
            assert len([user for user in users if user["admin"]]) == 1

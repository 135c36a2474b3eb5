"""Two servers on one Redis that is slow, or from which one of them, in a network namespace of its own, is cut off.

The namespace needs root and `ip`. Long by nature: a node is declared dead after 15 seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio_websocket

from mdashcore import _json
from mdashcore.testing.device import ScriptedDevice, connect_device

pytestmark = pytest.mark.proof

TIMEOUT = 1  # seconds that a server gives Redis
FAST = 15.0  # seconds in which an outage shows, on a busy machine
DEAD = 60.0  # seconds in which the other node has declared a node dead: 20 on a quiet machine
BACK = 30.0  # seconds in which all works again


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@attrs.frozen
class Cable:
    """A pair of virtual devices: one here, and one in the namespace."""

    name: str
    here: str
    there: str

    def lay(self, namespace: str) -> None:
        """Connect the two ends."""
        ip("link", "add", self.name, "type", "veth", "peer", "name", "far", "netns", namespace)
        ip("-n", namespace, "link", "set", "far", "name", f"{self.name}x")
        ip("addr", "add", f"{self.here}/30", "dev", self.name)
        ip("-n", namespace, "addr", "add", f"{self.there}/30", "dev", f"{self.name}x")
        ip("link", "set", self.name, "up")
        ip("-n", namespace, "link", "set", f"{self.name}x", "up")

    def cut(self) -> None:
        """Carry nothing more: no connection is closed by it."""
        ip("link", "set", self.name, "down")

    def mend(self) -> None:
        """Carry again."""
        ip("link", "set", self.name, "up")


@attrs.frozen
class Island:
    """A namespace with a way to Redis, and another one to clients."""

    namespace: str
    redis: Cable
    clients: Cable


@pytest.fixture
def island() -> Iterator[Island]:
    """An island of this process, with addresses that are for tests of networks (RFC 2544)."""
    number = os.getpid() % 60 * 4
    namespace = f"mdash{os.getpid()}"
    found = Island(
        namespace,
        Cable(f"mr{os.getpid()}", f"198.18.1.{number + 1}", f"198.18.1.{number + 2}"),
        Cable(f"mc{os.getpid()}", f"198.18.2.{number + 1}", f"198.18.2.{number + 2}"),
    )
    try:
        ip("netns", "add", namespace)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no network namespace can be made here: {exc}")
    try:
        found.redis.lay(namespace)
        found.clients.lay(namespace)
        yield found
    finally:
        ip("netns", "delete", namespace)  # the cables go with it


@attrs.frozen
class Far:
    """The server on the island."""

    url: str
    http: httpx.AsyncClient
    log: Path

    @property
    def ws(self) -> str:
        """Where its sockets are."""
        return f"ws{self.url.removeprefix('http')}/api/v2"


@asynccontextmanager
async def serving_there(island: Island, store: str, folder: Path) -> AsyncIterator[Far]:
    """Run ``mdash serve`` on the island."""
    log = folder / "far.log"
    command = ["ip", "netns", "exec", island.namespace, sys.executable, "-m", "mdashcore.cli", "serve"]
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            [*command, "--bind", f"{island.clients.there}:0", "--store", store], stdout=subprocess.PIPE, stderr=errors
        )
    try:
        line = b""
        assert process.stdout is not None
        with trio.fail_after(40):
            while not line.endswith(b"\n"):
                data = await process.stdout.receive_some()
                assert data, log.read_text()
                line += data
        url = line.decode().split()[-1]
        async with httpx.AsyncClient(base_url=f"{url}/api/v2", auth=("root", "secret"), timeout=20) as http:
            yield Far(url, http, log)
    finally:
        process.kill()
        await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()


async def answer(device: ScriptedDevice) -> None:
    """Answer calls, until the connection ends."""
    try:
        while True:
            request = _json.decode(await device.ws.get_message())
            if "id" in request and "method" in request:
                await device.reply(request, {"id": "it"})
    except trio_websocket.ConnectionClosed:
        pass


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Ask until it is so: another process sets no event of ours."""
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110
            await trio.sleep(0.1)


async def status(server: Any, path: str) -> int:
    """The status of a page without a login."""
    return int((await server.http.get(f"{server.url}{path}", auth=lambda request: request)).status_code)


async def test_one_of_two_servers_is_cut_off(serving: Any, start_redis: Any, island: Island, tmp_path: Path) -> None:
    """It answers 503 and says why, once; the other goes on, and declares its devices offline. Then all comes back."""
    redis = await trio.to_thread.run_sync(
        lambda: start_redis(bind=f"127.0.0.1 {island.redis.here}", protected_mode="no")
    )
    far_store = f"redis://{island.redis.here}:{redis.port}/0?timeout={TIMEOUT}"
    async with (
        serving(f"{redis.url}/0?timeout={TIMEOUT}") as near,
        serving_there(island, far_store, tmp_path) as far,
        trio.open_nursery() as nursery,
    ):
        token = (await near.http.post("/devices", json={"id": "lamp"})).json()["token"]

        async def online() -> bool:
            return bool((await near.http.get("/devices/lamp")).json()["online"])

        async def offline() -> bool:
            return not await online()

        async def ready() -> bool:
            return await status(far, "/readyz") == 200

        async def unready() -> bool:
            return await status(far, "/readyz") == 503

        async def called() -> bool:
            return (await near.http.post("/devices/lamp/rpc/Demo.Who", json={})).status_code == 200

        async with connect_device(f"{far.ws}/rpc", token) as device:
            nursery.start_soon(answer, device)
            await until(online, FAST)
            assert await called()
            island.redis.cut()
            await until(unready, FAST)
            with trio.fail_after(FAST):
                assert (await far.http.get("/devices")).status_code == 503
            assert (await near.http.get("/devices")).status_code == 200
            assert await status(near, "/readyz") == 200
            await until(offline, DEAD)
            island.redis.mend()
            await until(ready, BACK)
        async with connect_device(f"{far.ws}/rpc", token) as device:
            nursery.start_soon(answer, device)
            await until(online, BACK)
            await until(called, BACK)

        async def over() -> bool:
            return "works again after" in far.log.read_text()

        await until(over, DEAD)  # when all that had failed has been tried again
        nursery.cancel_scope.cancel()
    said = far.log.read_text()
    assert said.count("subscriptions are interrupted") <= 3, said  # once for each cause: silence, then no connection
    assert said.count("waiting until it works") == said.count("works again after") == 1, said
    redis.kill()


async def test_redis_is_slow(serving: Any, start_redis: Any) -> None:
    """Silent for half of the time-out, again and again: no request of either server fails, and no node is lost."""
    redis = await trio.to_thread.run_sync(start_redis)
    store = f"{redis.url}/0?timeout={TIMEOUT}"
    async with serving(store) as one, serving(store) as other, trio.open_nursery() as nursery:
        token = (await one.http.post("/devices", json={"id": "lamp"})).json()["token"]

        async def be_slow() -> None:
            while True:
                redis.stop()
                await trio.sleep(TIMEOUT / 2)
                redis.go_on()
                await trio.sleep(TIMEOUT / 20)

        async with connect_device(f"{other.ws}/rpc", token) as device:
            nursery.start_soon(answer, device)
            nursery.start_soon(be_slow)
            for number in range(5):
                for server in (one, other):
                    response = await server.http.post("/devices/lamp/rpc/Demo.Who", json={})
                    assert response.status_code == 200, (number, response.text)
            assert (await one.http.get("/devices/lamp")).json()["online"]
        nursery.cancel_scope.cancel()
    redis.kill()

"""A real server on a real Redis that is killed, stopped and started again: it stays up, says so, and is healed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio_websocket

from mdashcore import _json
from mdashcore.testing.device import ScriptedDevice, connect_device

ROUNDS = [2, pytest.param(200, marks=pytest.mark.proof)]
TIMEOUT = 1  # seconds that the server gives Redis
FAST = TIMEOUT + 4.0  # seconds for an answer while Redis is away, on a machine that is busy
BACK = 20.0  # seconds after its return, in which everything has to work: on a quiet machine, one
WRITERS = 8
LOAD = (0.1, 0.5)  # seconds of load before Redis is killed


@pytest.fixture
def redis(start_redis: Any) -> Any:
    """A server of the test's own, which has every write on disk before it answers."""
    server = start_redis(appendonly="yes", appendfsync="always")
    yield server
    server.kill()


@pytest.fixture
def serving_on(serving):
    """Runs ``mdash serve`` on a Redis: ``async with serving_on(redis) as service``."""
    return lambda redis: serving(f"{redis.url}/0?durable=1&timeout={TIMEOUT}")


async def health(service: Any) -> tuple[int, str]:
    """The status of ``/healthz``, and what it says."""
    response = await service.http.get(f"{service.url}/healthz", auth=lambda request: request)
    return response.status_code, response.json()["status"]


async def readiness(service: Any) -> tuple[int, list[str]]:
    """The status of ``/readyz``, and the parts that are not ready."""
    response = await service.http.get(f"{service.url}/readyz", auth=lambda request: request)
    return response.status_code, [part for part, ready in response.json()["checks"].items() if not ready]


async def register(service: Any, id: str) -> str:
    """A device's token."""
    response = await service.http.post("/devices", json={"id": id})
    assert response.status_code == 201, response.text
    return str(response.json()["token"])


async def dial(service: Any, token: str) -> int:
    """The status of the answer to a device's handshake, which is the first request of its connection."""
    handshake = {
        "Authorization": f"Bearer {token}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with httpx.AsyncClient(timeout=20) as client:
        return (await client.get(f"{service.url}/api/v2/rpc", headers=handshake)).status_code


async def ask(device: ScriptedDevice, method: str, params: dict[str, Any]) -> None:
    """Have the device call the server, and be answered."""
    await device.send({"id": 1, "method": method, "params": params})
    while (answer := await device.receive()).get("id") != 1 or "method" in answer:
        pass
    assert "result" in answer


async def answer(device: ScriptedDevice) -> None:
    """Do as a device does: answer calls, until the connection ends."""
    try:
        while True:
            request = _json.decode(await device.ws.get_message())
            if "id" in request and "method" in request:
                await device.reply(request, {"id": "it"})
    except trio_websocket.ConnectionClosed:
        pass


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = BACK) -> None:
    """Ask until it is so, which has to be soon."""
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110 - another process sets no event of ours
            await trio.sleep(0.02)


async def heard(listener: ScriptedDevice, device: str) -> dict[str, Any]:
    """The next notification of a device."""
    while True:
        notification: dict[str, Any] = await listener.receive()
        if notification["id"] == device:
            return notification


@pytest.mark.parametrize(("away", "back"), [("kill", "start"), ("stop", "go_on")])
async def test_redis_goes_away_and_comes_back(serving_on, redis, away, back):
    """Killed, or silent: requests fail soon with 503, the health page says why, and sockets are refused with 503.

    A device that reports meanwhile is asked to come again; one that is quiet keeps its connection. Soon after the
    return all of it works by itself, on the sockets that there were.
    """
    async with serving_on(redis) as service:
        http = service.http
        key = (await http.post("/keys", json={"name": "k"})).json()["key"]
        quiet, busy = [await register(service, id) for id in ("quiet", "busy")]
        async with (
            connect_device(f"{service.ws}/notify", key) as listener,
            connect_device(f"{service.ws}/rpc", quiet) as quiet_device,
            connect_device(f"{service.ws}/rpc", busy) as busy_device,
            trio.open_nursery() as nursery,
        ):
            for device in (quiet_device, busy_device):
                await ask(device, "Dash.Heartbeat", {"fw_id": "1"})  # else the server asks what it runs, and stores it
            nursery.start_soon(answer, quiet_device)

            async def called() -> bool:
                response = await http.post("/devices/quiet/rpc/Demo.Who", json={})
                return response.status_code == 200 and response.json() == {"id": "it"}

            async def updated() -> bool:
                document = {"state": {"desired": {"on": True}}}
                return (await http.post("/devices/quiet/shadow", json=document)).status_code == 200

            async def healthy() -> bool:
                return await health(service) == (200, "ok")

            async def unhealthy() -> bool:
                return await health(service) == (503, "storage unavailable")

            async def listed() -> bool:
                return (await http.get("/devices")).status_code == 200

            for works in (called, updated, healthy, listed):
                assert await works()
            getattr(redis, away)()
            for request in (
                http.get("/devices"),
                http.post("/devices", json={"id": "new"}),
                http.post("/devices/quiet/shadow", json={"state": {"desired": {"on": False}}}),
                http.post("/logs", json={}),
            ):
                with trio.fail_after(FAST):
                    assert (await request).status_code == 503
            await until(unhealthy, FAST)  # an answer is repeated for a second
            assert await readiness(service) == (503, ["store"])
            with trio.fail_after(FAST):
                assert await dial(service, busy) == 503
            await busy_device.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"t": 1}}}})
            assert (await busy_device.wait_closed())[0] == 1013
            assert service.process.poll() is None

            await trio.to_thread.run_sync(getattr(redis, back))
            with trio.fail_after(BACK):
                for works in (healthy, listed, updated, called):
                    await until(works)
                async with connect_device(f"{service.ws}/rpc", busy) as again:
                    await ask(again, "Dash.Shadow.Update", {"state": {"reported": {"t": 2}}})
                response = await http.put("/devices/quiet", json={"name": "renamed"})
                assert response.status_code == 200, response.text
                while (await heard(listener, "quiet")).get("data") != {"name": "renamed"}:
                    pass
            assert service.process.poll() is None
            nursery.cancel_scope.cancel()


@attrs.define
class Writer:
    """Counts in one device's shadow."""

    device: str
    tried: int = 0
    refused: int = 0
    acknowledged: dict[int, int] = attrs.Factory(dict)
    """What was desired, by the version that the server gave it."""

    async def run(self, http: httpx.AsyncClient) -> None:
        """Go on, whatever is answered."""
        while True:
            self.tried += 1
            response = await http.post(
                f"/devices/{self.device}/shadow", json={"state": {"desired": {"n": self.tried, "pad": "x" * 500}}}
            )
            if response.status_code == 200:
                self.acknowledged[response.json()["version"]] = self.tried
            else:
                assert response.status_code == 503, response.text
                self.refused += 1
                await trio.sleep(0.01)


# httpx leaves the generator of a request's body open when the connection ends under it.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object ByteStream:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("rounds", ROUNDS)
async def test_redis_is_killed_in_the_middle_of_updates(serving_on, redis, rounds):
    """Again and again, under load: no update that was acknowledged is lost, nor its notification, and none is half."""
    writers = [Writer(f"d{n}") for n in range(WRITERS)]
    async with serving_on(redis) as service:
        http = service.http
        for writer in writers:
            await register(service, writer.device)
        async with trio.open_nursery() as nursery:
            for writer in writers:
                nursery.start_soon(writer.run, http)
            for _ in range(rounds):
                refused = [writer.refused for writer in writers]
                await trio.sleep(random.uniform(*LOAD))
                redis.kill()
                await until(lambda known=refused: grown([writer.refused for writer in writers], known), FAST)
                await trio.to_thread.run_sync(redis.start)
                done = [len(writer.acknowledged) for writer in writers]
                await until(lambda known=done: grown([len(writer.acknowledged) for writer in writers], known))
            nursery.cancel_scope.cancel()
        told: dict[tuple[str, int], dict[str, Any]] = {}
        offset = 0
        while page := (await http.post("/logs", json={"start": offset, "limit": 1000})).json():
            for entry in page:
                assert entry["offset"] == offset
                offset += 1
                if change := entry.get("data", {}).get("shadow"):
                    told[entry["id"], change["version"]] = change["state"]["desired"]
        for writer in writers:
            shadow = (await http.get(f"/devices/{writer.device}/shadow")).json()
            version, desired = shadow["version"], shadow["state"]["desired"]
            assert max(writer.acknowledged) <= version <= writer.tried
            assert desired["n"] >= writer.acknowledged[max(writer.acknowledged)]
            assert desired["pad"] == "x" * 500
            for version, n in writer.acknowledged.items():
                assert told[writer.device, version]["n"] == n


async def grown(now: list[int], before: list[int]) -> bool:
    """Whether all of them have."""
    return all(new > old for new, old in zip(now, before, strict=True))

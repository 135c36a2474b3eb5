"""kill -9 of the server that drives a job or a rollout: it is continued, and its end is announced."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import trio

from mdashcore.testing.device import connect_device

pytestmark = pytest.mark.proof

DEVICES = 200


async def ended(server: Any, id: str, within: float = 20, end: str = "job.COMPLETED") -> dict[str, Any]:
    """The job or rollout after its end, of which a subscriber is notified."""
    key = (await server.http.post("/keys", json={"name": "k"})).json()["key"]
    with trio.fail_after(within):
        async with connect_device(f"{server.ws}/notify?start=0", key) as listener:
            while (told := await listener.receive())["name"] != end or told["id"] != id:
                pass
    return dict((await server.http.get(f"/{end.partition('.')[0]}s/{id}")).json())


async def register(server: Any) -> None:
    async with trio.open_nursery() as nursery:
        limit = trio.CapacityLimiter(8)

        async def one(id: str) -> None:
            async with limit:
                assert (await server.http.post("/devices", json={"id": id})).status_code == 201

        for n in range(DEVICES):
            nursery.start_soon(one, f"d{n:03}")


async def begin(server: Any, n: int) -> str:
    response = await server.http.post("/jobs", json={"desired": {"n": n}, "all": True})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def check(server: Any, job: dict[str, Any], version: int) -> None:
    """All devices have the values, with that version of their shadows."""
    assert (job["state"], job["counts"]["changed"]) == ("COMPLETED", DEVICES)
    devices = (await server.http.get("/devices")).json()
    assert {each["shadow"]["version"] for each in devices} == {version}
    assert {each["shadow"]["state"]["desired"]["n"] for each in devices} == {version}


async def test_a_killed_server_goes_on_with_its_job(serving, tmp_path):
    """After its restart on the same store; killed forty times, at random moments from the answer to the request on."""
    url = f"sqlite://{tmp_path / 'store'}"
    async with serving(url) as server:
        await register(server)
    for n in range(1, 41):
        async with serving(url) as server:
            id = await begin(server, n)
            await trio.sleep(random.random() * 0.3 * (n % 3 > 0))
            server.kill()
        async with serving(url) as server:
            await check(server, await ended(server, id), n)


async def test_the_end_of_a_rollout_is_announced(serving, tmp_path):
    """It is aborted; the server is killed about when it ends, forty times."""
    url = f"sqlite://{tmp_path / 'store'}"
    plan = {"all": True, "phases": [100]}
    async with serving(url) as server:
        await register(server)
    for n in range(1, 41):
        async with serving(url) as server:
            files = {"rollout": (None, json.dumps(plan)), "file": ("fw.bin", b"%d" % n)}
            response = await server.http.post("/rollouts?bare=1", files=files)
            assert response.status_code == 201, response.text
            id = response.json()["id"]
            assert (await server.http.post(f"/rollouts/{id}/abort")).status_code == 200
            await trio.sleep(random.random() * 0.05 * (n % 3 > 0))
            server.kill()
        async with serving(url) as server:
            found = await ended(server, id, end="rollout.ABORTED")
            assert found["state"] == "ABORTED"


async def test_another_server_takes_over(serving, start_redis):
    """On one Redis, within 20 s after the driver was killed, and the time that the job itself takes."""
    redis = await trio.to_thread.run_sync(start_redis)
    try:
        async with serving(f"{redis.url}/0") as first, serving(f"{redis.url}/0") as second:
            await register(first)
            id = await begin(first, 1)
            first.kill()
            await check(second, await ended(second, id, within=40), 1)
    finally:
        redis.kill()

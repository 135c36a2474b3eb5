"""One tenant tries to have any number of everything, and the disk of all: each is bounded, and the others go on."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from mdashcore.testing.device import connect_device

LIMITS = {
    "devices": 20,
    "keys": 10,
    "subscribers": 5,
    "image_bytes": 200_000,
    "open_rollouts": 3,
    "rollouts": 5,
    "sessions": 4,
}

MIB = 2**20


def stored(folder: Path) -> int:
    """Bytes of everything in a folder, on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


async def beyond(send, limit, most):
    """Send a request again and again, eight at a time, until three times as many have come: `most` were taken."""
    answers = []

    async def some(number):
        answers.extend([await send(n) for n in range(number)])

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(some, 3 * most // 8 + 1)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.json()["error"].get("limit") for answer in refused} == {limit}
    assert len(answers) - len(refused) == most, [answer.text for answer in answers if answer not in refused][:3]


async def test_any_number_of_everything(open_attacked, standing_by):
    """No more than the limit of each is taken, however many are sent at the same time; another account has its own."""
    async with open_attacked(limits=LIMITS) as server, standing_by(server) as bystander:
        key = await server.account("mallory")
        async with server.http(key) as http:
            await beyond(lambda n: http.post("/devices", json={}), "devices", 20)
            await beyond(lambda n: http.post("/keys", json={}), "keys", 9)  # and the one in use
            devices = [each["id"] for each in (await http.get("/devices")).json()]

            async def roll_out(n):
                form = {"rollout": (None, f'{{"devices": ["{devices[0]}"]}}'), "file": ("fw.bin", b"image")}
                while True:
                    answer = await http.post("/rollouts?bare=1", files=form)
                    if answer.status_code == 429 and answer.json()["error"]["limit"] == "uploads":
                        continue
                    return answer

            answers = [await roll_out(n) for n in range(6)]
            assert [answer.status_code for answer in answers] == [201] * 3 + [429] * 3

            async with AsyncExitStack() as sockets:
                for _ in range(5):
                    await sockets.enter_async_context(connect_device(server.notify_url, key))
                stream = await server.stream()
                head = f"GET /api/v2/notify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
                upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                await stream.send_all(f"{head}{upgrade}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 429")
                await trio.aclose_forcefully(stream)
                await bystander.call_unharmed("a tenant at all its limits")
            use = {each["name"]: each for each in (await http.get("/limits")).json()["limits"]}
        for name in ("devices", "keys", "image_bytes", "open_rollouts"):
            assert use[name]["use"] <= use[name]["limit"]
        other = await server.account("other")
        async with server.http(other) as http:
            assert (await http.post("/devices", json={})).status_code == 201
        assert "Traceback" not in server.log


async def test_a_disk_full_of_images(open_attacked, standing_by):
    """Images of an account take no more of the disk than the limit says: at any moment, also while they come in."""
    most = 8 * MIB
    async with open_attacked(limits={"image_bytes": most}) as server, standing_by(server) as bystander:
        key = await server.account("mallory")
        devices = list(await server.devices("mallory", [f"d{n}" for n in range(30)]))
        folder = server.folder / "store" / "blobs"
        peak = 0
        statuses = []

        async def watch():
            nonlocal peak
            while True:
                peak = max(peak, stored(folder))
                await trio.sleep(0.005)

        async with server.http(key) as http, trio.open_nursery() as nursery:
            nursery.start_soon(watch)

            async def flood(ids):
                for id in ids:
                    answer = await http.post(f"/devices/{id}/ota?queue=1", content=bytes(MIB))
                    statuses.append(answer.status_code)

            async with trio.open_nursery() as floods:
                for start in range(6):
                    floods.start_soon(flood, devices[start::6])
                floods.start_soon(bystander.call_unharmed, "a flood of images")
            assert set(statuses) == {202, 429}
            while statuses.count(202) < 8:  # two that came at the same time have refused each other
                await flood(devices[-1:])
            await flood(devices[:1])
            nursery.cancel_scope.cancel()
        assert statuses.count(202) == 8
        assert peak <= most + 8 * 2**18  # what each upload has gathered for its next write
        assert stored(folder) <= most + 64 * 1024
        print(f"asked for 30 MiB of images; on the disk {peak / MIB:.1f} MiB at most")  # noqa: T201 - shown with -rP


@pytest.mark.parametrize("small_disk", ["48m"], indirect=True)
async def test_a_disk_that_is_almost_full(open_attacked, standing_by, small_disk):
    """Below the floor images are refused, and devices go on: calls, shadows, notifications, new devices."""
    options = {"store": str(small_disk / "store"), "limits": {"free_disk": 32 * MIB}}
    async with open_attacked(**options) as server, standing_by(server) as bystander:
        key = await server.account("mallory")
        await server.devices("mallory", ["d1"])
        async with server.http(key) as http:
            refused = 0
            for n in range(100):
                answer = await http.post("/devices", json={"id": f"image{n}"})
                assert answer.status_code == 201
                answer = await http.post(f"/devices/image{n}/ota?queue=1", content=bytes(MIB))
                refused += answer.status_code == 507
                if refused == 3:
                    break
            assert answer.json()["error"]["code"] == 507
            assert shutil.disk_usage(small_disk).free > 24 * MIB  # a write-ahead log has 4 MiB, and each image its step
            for n in range(20):
                update = {"state": {"desired": {"n": n}}}
                assert (await http.post("/devices/d1/shadow", json=update)).status_code == 200
            await bystander.call_unharmed("a disk that is almost full", 50)
            assert (await http.delete("/devices/image0/ota")).status_code == 200
            log = (await http.post("/logs", json={"id": "d1", "name": "updated", "limit": 1000})).json()
            assert log[-1]["data"]["shadow"]["state"]["desired"]["n"] == 19
        assert "Traceback" not in server.log

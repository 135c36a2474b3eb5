"""Updates and the processes that perform them: one that is killed in the middle, and how much memory one takes."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from forked import Forked

from mdashcore.firmware import write_image
from mdashcore.storage import open_backend
from mdashcore.testing.device import connect_device
from mdashcore.trio.agent import Backoff
from mdashcore.virtual_device import VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device

PATIENCE = 40.0  # seconds for what takes one

PROGRAM = """
import sys, trio
from mdashcore.server.config import ServerConfig, User
from mdashcore.server.run import open_server
from mdashcore.server.service import ServiceSettings

async def main():
    config = ServerConfig(bind=sys.argv[1], store=sys.argv[2], users=(User("root", "secret", admin=True),))
    async with open_server(config, settings=ServiceSettings(max_image=2**28)) as server:
        print("listening on", server.url, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@asynccontextmanager
async def server(store, bind="127.0.0.1:0"):
    """A server process, and an admin's client. It is killed at the end."""
    stdout, its_stdout = os.pipe()
    process = Forked("-c", PROGRAM, bind, store, stdout=its_stdout)
    os.close(its_stdout)
    try:
        said = b""
        async with trio.lowlevel.FdStream(stdout) as stream:
            with trio.fail_after(PATIENCE):
                while not said.endswith(b"\n"):
                    data = await stream.receive_some()
                    assert data, "the server did not start"
                    said += data
            url = said.decode().split()[-1]
            async with httpx.AsyncClient(
                base_url=f"{url}/api/v2", auth=("root", "secret"), timeout=PATIENCE, verify=False
            ) as client:
                yield process, client
    finally:
        process.kill()


class Counting(VirtualDevice):
    """A virtual device that stops in the middle of a transfer, and says when.

    Args:
        stops_at: how many chunks it was sent, the last of which it does not take; 0: it takes OTA.Begin, and does not
            answer that.
    """

    def __init__(self, *args, stops_at=20, **options):
        super().__init__(*args, **options)
        self.stops_at = stops_at
        self.offsets = []
        self.begun = 0
        self.stopped = trio.Event()

    async def handle(self, method, params):
        self.begun += method == "OTA.Begin"
        if method == "OTA.Write":
            self.offsets.append(params["offset"])
            await self._stop_at(len(self.offsets))
        result = await super().handle(method, params)
        if method == "OTA.Begin":
            await self._stop_at(0)
        return result

    async def _stop_at(self, chunks):
        if chunks == self.stops_at and not self.stopped.is_set():
            self.stopped.set()
            await trio.sleep_forever()  # the server dies first, and the link with it


def firmware_zip() -> bytes:
    """An image of forty chunks."""
    file = io.BytesIO()
    manifest = {"name": "virtual-device", "platform": "esp32", "version": "2.0", "build_id": "new"}
    write_image(file, manifest, {"app": random.Random(1).randbytes(40_000)})
    return file.getvalue()


async def told(client, name):
    """Wait for a notification of that name, from the beginning of the log on."""
    key = (await client.post("/keys", json={"name": "ear"})).json()["key"]
    url = f"ws://{client.base_url.host}:{client.base_url.port}/api/v2/notify?start=0"
    with trio.fail_after(PATIENCE):
        async with connect_device(url, key) as ear:
            while (await ear.receive())["name"] != name:
                pass


@pytest.mark.parametrize(("scheme", "chunks"), [("sqlite", 20), ("file", 20), ("sqlite", 0)])
async def test_another_process_goes_on_with_a_transfer(scheme, chunks, tmp_path):
    """kill -9 of the server in the middle, or before it heard that the transfer is open: the next one finds the update,
    asks the device, and goes on there."""
    store, data = f"{scheme}://{tmp_path / 'store'}", firmware_zip()
    device = Counting("lamp", tmp_path / "lamp", stops_at=chunks)
    async with trio.open_nursery() as nursery:
        async with server(store) as (process, client):
            token = (await client.post("/devices", json={"id": "lamp"})).json()["token"]
            address = f"{client.base_url.host}:{client.base_url.port}"
            run = partial(run_virtual_device, backoff=Backoff(first=0.01, most=0.1))
            await nursery.start(
                lambda task_status: run(device, f"ws://{address}/api/v2/rpc", token, task_status=task_status)
            )
            answer = await client.post("/devices/lamp/ota?queue=1&commit_timeout=0", content=data)
            assert answer.status_code == 202
            with trio.fail_after(PATIENCE):
                await device.stopped.wait()
            process.send_signal(signal.SIGKILL)
        async with server(store, address) as (_, client):
            await told(client, "ota.COMMITTED")
            update = (await client.get("/devices/lamp/ota")).json()
        nursery.cancel_scope.cancel()
    assert (update["state"], update["attempt"], device.begun) == ("COMMITTED", 1, 1)
    assert sorted(set(device.offsets)) == [*range(0, len(data), 1024)]
    assert len(device.offsets) - len(set(device.offsets)) == (1 if chunks else 0)
    assert not [
        path for path in (tmp_path / "store").rglob("*") if path.stat().st_size > 40_000 and "ota_" in path.name
    ]


async def test_another_server_goes_on_with_a_transfer(start_redis, tmp_path):
    """Two on one Redis: what one took is sent by that which has the device, and after kill -9 of it by the other."""
    redis = await trio.to_thread.run_sync(start_redis)
    store, device, data = f"{redis.url}/0", Counting("lamp", tmp_path), firmware_zip()

    async def connect(client, scope, *, task_status):
        url = f"ws://{client.base_url.host}:{client.base_url.port}/api/v2/rpc"
        with scope:
            await run_virtual_device(device, url, token, backoff=Backoff(first=0.01), task_status=task_status)

    async with trio.open_nursery() as nursery, server(store) as (_, other):
        token = (await other.post("/devices", json={"id": "lamp"})).json()["token"]
        async with server(store) as (process, client):
            link = trio.CancelScope()
            await nursery.start(connect, client, link)
            answer = await other.post("/devices/lamp/ota?queue=1&commit_timeout=0", content=data)
            assert answer.status_code == 202
            with trio.fail_after(PATIENCE):
                await device.stopped.wait()
            assert (await other.get("/devices/lamp/ota")).json()["offset"] == 19 * 1024
            process.send_signal(signal.SIGKILL)
        link.cancel()
        await nursery.start(connect, other, trio.CancelScope())
        await told(other, "ota.COMMITTED")
        update = (await other.get("/devices/lamp/ota")).json()
        nursery.cancel_scope.cancel()
    assert (update["attempt"], device.begun) == (1, 1)
    assert sorted(set(device.offsets)) == [*range(0, len(data), 1024)]


@pytest.mark.parametrize("declared", [True, pytest.param(False, marks=pytest.mark.proof)], ids=["declared", "noticed"])
async def test_another_server_goes_on_with_a_rollout(start_redis, tmp_path, declared):
    """kill -9 of the server that drives it, while the device is that of the other: that one takes it over.

    Within 20 s, in which it notices the death. To be quicker, the test declares the first one dead in its place.
    """
    redis = await trio.to_thread.run_sync(start_redis)
    store = f"{redis.url}/0"
    asked = {"all": True, "phases": [100], "rate": None, "commit_timeout": 0}
    async with trio.open_nursery() as nursery, server(store) as (_, other), open_backend(store) as backend:
        token = (await other.post("/devices", json={"id": "lamp"})).json()["token"]
        url = f"ws://{other.base_url.host}:{other.base_url.port}/api/v2/rpc"
        run = partial(run_virtual_device, VirtualDevice("lamp", tmp_path), url, token, backoff=Backoff(first=0.01))
        await nursery.start(lambda task_status: run(task_status=task_status))
        async with server(store) as (process, client):
            files = {"rollout": (None, json.dumps(asked)), "file": ("fw.zip", firmware_zip())}
            answer = await client.post("/rollouts", files=files)
            assert answer.status_code == 201, answer.text
            await told(other, "ota.TRANSFERRING")
            process.send_signal(signal.SIGKILL)
        key = f"root/{answer.json()['id']}"
        first = await driver(backend, key)
        if declared:
            await backend.documents.delete("nodes", first)
            await backend.bus.publish("nodes", b'x {"method":"Node.Left","params":{"id":"%b"}}' % first.encode())
        with trio.fail_after(20):
            while await driver(backend, key) == first:  # noqa: ASYNC110 - what another process writes has no event here
                await trio.sleep(0.1)
        await told(other, "rollout.COMPLETED")
        ended = (await other.get(f"/rollouts/{answer.json()['id']}")).json()
        nursery.cancel_scope.cancel()
    assert ended["reason"] == "1 of 1 devices succeeded, 0 failed"


async def driver(backend, rollout):
    """The server that drives a rollout, as it is stored."""
    return json.loads((await backend.documents.get("rollouts", rollout)).body)["driver"]


def memory(pid: int) -> dict[str, int]:
    """Of a process, in bytes: now, and at most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {name: int(kb) * 1024 for name, kb in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE)}


def forget_peak(pid: int) -> None:
    """Count the most memory from now on: checking a password has taken 64 MB for a moment."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


SIZE = 48_000_000  # bytes: three times what may be taken
PIECE = os.urandom(100_000)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(("scheme", "form"), [("file", False), ("sqlite", True)])
async def test_a_large_upload_takes_little_memory(scheme, form, tmp_path):
    """48 MB, as a body or in a form, stored, read and checked: never 16 MB more than before."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="fw.bin"\r\n\r\n' if form else b""
    tail = b"\r\n--x--\r\n" if form else b""
    headers = {"Content-Type": "multipart/form-data; boundary=x" if form else "application/octet-stream"}

    async def body(size):
        yield head
        for _ in range(size // len(PIECE)):
            yield PIECE
        yield tail

    async with server(f"{scheme}://{tmp_path / 'store'}") as (process, client):
        for id in ("first", "lamp"):
            await client.post("/devices", json={"id": id})
        first = await client.post("/devices/first/ota?queue=1", content=body(len(PIECE)), headers=headers)
        assert first.status_code == 202  # what is loaded for the first upload is not counted
        forget_peak(process.pid)
        before = memory(process.pid)
        answer = await client.post("/devices/lamp/ota?queue=1", content=body(SIZE), headers=headers)
        assert (answer.status_code, answer.json()["size"]) == (202, SIZE)
        after = memory(process.pid)
    assert after["VmHWM"] - before["VmRSS"] < 16_000_000

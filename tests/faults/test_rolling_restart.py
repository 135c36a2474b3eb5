"""Two servers on one Redis behind a load balancer are restarted one after the other, under load, and no client minds.

The load balancer is HAProxy, which asks `/readyz`. What a device sees as its time without a connection is measured by
the device.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from forked import CHEAP_MDASH, Piped, piped
from ports import free_port

from mdashcore._backoff import Backoff
from mdashcore._errors import MdashError
from mdashcore.client import Client
from mdashcore.trio.agent import Agent

PATIENCE = 60.0  # seconds for what has to come: far above what it takes on a busy machine

BACKOFF = Backoff(first=0.1, most=0.2)
"""The wait of a device before it dials again."""

BALANCER = """
defaults
    mode http
    retries 3
    option redispatch
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
    timeout check 5s
frontend all
    bind 127.0.0.1:{port}
    stats uri /stats
    default_backend servers
backend servers
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 100ms fall 1 rise 1
    server first 127.0.0.1:{first}
    server second 127.0.0.1:{second}
"""


IN_FLIGHT = ("the connection is closed", "the server is going down")
"""What ends calls that are in flight when the server closes the connection, which the device sees a moment later."""


NOTICE_TIME = 5.0  # seconds in which a device on a busy machine sees that its connection has ended


@attrs.define
class Device:
    """A device, and the times between two of its connections."""

    id: str
    gaps: list[tuple[float, float]] = attrs.Factory(list)
    left_at: float | None = None

    async def run(self, url: str, token: str) -> None:
        """Stay connected."""

        async def answer(method: str, params: Any) -> Any:
            return params

        async with trio.open_nursery() as nursery:
            agent = Agent(url, token, answer, backoff=BACKOFF)
            nursery.start_soon(agent.run)
            while True:
                await agent.wait_connected()
                with suppress(MdashError):
                    await agent.call("Dash.Shadow.Get")  # the server has begun its session
                    if self.left_at is not None:
                        self.gaps.append((self.left_at, trio.current_time()))
                        self.left_at = None
                while agent.connected:  # noqa: ASYNC110 - it says no more
                    await trio.sleep(0.005)
                self.left_at = self.left_at or trio.current_time() - 0.01

    def is_between(self, start: float, end: float) -> bool:
        """Return whether it had no connection at some time between two moments."""
        gaps = [*self.gaps, *([(self.left_at, end)] if self.left_at is not None else [])]
        return any(left < end and start < back for left, back in gaps)

    async def notices(self, start: float) -> bool:
        """Return whether it has had no connection since that moment, which it may notice later than its server."""
        with trio.move_on_after(NOTICE_TIME):
            while not self.is_between(start, trio.current_time()):  # noqa: ASYNC110 - it says no more
                await trio.sleep(0.01)
            return True
        return False


@asynccontextmanager
async def serving(store: str, port: int, *options: str) -> AsyncIterator[Piped]:
    """One server, which accepts connections."""
    environment = {**os.environ, "MDASH_REGISTER_ADMIN": "root:secret"}
    arguments = ("serve", "--bind", f"127.0.0.1:{port}", "--store", store, "--log-level", "warning", *options)
    async with piped(*CHEAP_MDASH, *arguments, env=environment) as process:
        line = b""
        with trio.fail_after(PATIENCE):
            while not line.endswith(b"\n"):
                line += await process.output.receive_some()
        yield process


async def until_up(balancer: str, name: str) -> None:
    """Wait until the balancer sends requests to a server."""
    async with httpx.AsyncClient() as http:
        with trio.fail_after(PATIENCE):
            while True:
                lines = csv.DictReader((await http.get(f"{balancer}/stats;csv")).text.removeprefix("# ").splitlines())
                if any((each["svname"], each["status"]) == (name, "UP") for each in lines):
                    return
                await trio.sleep(0.02)


@asynccontextmanager
async def balancing(folder: Path, first: int, second: int) -> AsyncIterator[str]:
    """HAProxy in front of two servers: its address."""
    program = shutil.which("haproxy")
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("haproxy is not installed: see tests/run")
    port = free_port()
    (folder / "haproxy.cfg").write_text(BALANCER.format(port=port, first=first, second=second))
    process = await trio.lowlevel.open_process(
        [program, "-db", "-f", str(folder / "haproxy.cfg")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient() as http:
            with trio.fail_after(PATIENCE):
                while True:
                    with suppress(httpx.TransportError):
                        if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                            break
                    await trio.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("devices", "drain"), [(6, 1), pytest.param(200, 10, marks=pytest.mark.proof)], ids=["some", "many"]
)
async def test_a_rolling_restart_is_noticed_by_no_client(
    start_redis: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, devices: int, drain: int
) -> None:
    """No call fails but those of a device that is between two connections, as it sees it or its server. No notification
    is lost, and a device is let in wherever it dials first."""
    caplog.set_level(logging.INFO, "mdashcore.trio.agent")
    redis = await trio.to_thread.run_sync(start_redis)
    store, ports = f"{redis.url}/0", (free_port(), free_port())
    options = ("--shutdown-delay", "1", "--drain-seconds", str(drain))
    failures: list[str] = []
    calls = 0
    stop = trio.Event()
    fleet = [Device(f"d{place}") for place in range(devices)]
    try:
        async with (
            serving(store, ports[0], *options) as first,
            serving(store, ports[1], *options) as second,
            balancing(tmp_path, *ports) as url,
            Client(url, user=("root", "secret")) as root,
            AsyncExitStack() as stack,
            trio.open_nursery() as nursery,
        ):
            key = (await root.create_key("k"))["key"]
            tokens = [(await root.create_device(device.id))["token"] for device in fleet]
            for device, token in zip(fleet, tokens, strict=True):
                nursery.start_soon(device.run, f"ws{url.removeprefix('http')}/api/v2/rpc", token)

            async def call(device: Device) -> None:
                nonlocal calls
                async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE) as http:
                    while not stop.is_set():
                        started = trio.current_time()
                        try:
                            answer = await http.post(f"{url}/api/v2/devices/{device.id}/rpc/Echo", json={"n": calls})
                            problem = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
                        except httpx.TransportError as exc:
                            problem = f"{type(exc).__name__} {exc}"
                        calls += 1
                        in_flight = any(words in problem for words in IN_FLIGHT)
                        if problem and not in_flight and not await device.notices(started):
                            failures.append(f"{device.id} {problem}")
                        await trio.sleep(0.02)

            async with Client(url, key=key) as client:
                heard: list[int] = []

                async def listen() -> None:
                    async with client.notifications(start=0) as notifications:
                        async for notification in notifications:
                            heard.append(notification["offset"])  # noqa: PERF401 - read while it grows

                nursery.start_soon(listen)
                with trio.fail_after(PATIENCE):
                    while len(await client.devices("online")) < devices:  # noqa: ASYNC110 - of other processes
                        await trio.sleep(0.05)
                for device in fleet[:: max(1, devices // 20)]:
                    nursery.start_soon(call, device)
                for name, process, port in (("first", first, ports[0]), ("second", second, ports[1])):
                    process.send_signal(signal.SIGTERM)
                    with trio.fail_after(PATIENCE):
                        assert await process.wait_async() == 0
                    await stack.enter_async_context(serving(store, port, *options))
                    await until_up(url, name)
                with trio.fail_after(PATIENCE):
                    while any(device.left_at is not None or not device.gaps for device in fleet):  # noqa: ASYNC110
                        await trio.sleep(0.02)
                stop.set()
                end = await client.end_of_log()
                with trio.fail_after(PATIENCE):
                    while not heard or heard[-1] < end - 1:  # noqa: ASYNC110
                        await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
    finally:
        redis.kill()
    assert calls > devices
    assert failures == []
    assert heard == list(range(len(heard)))
    lost = [record.getMessage() for record in caplog.records if record.name == "mdashcore.trio.agent"]
    assert len(lost) == sum(len(device.gaps) for device in fleet) >= devices
    left = [device.gaps[-1][0] for device in fleet]  # by the second server, which had all of them
    assert max(left) - min(left) >= drain / 2
    # Each was told to come again, and was let in at its first dial.
    assert {line.rpartition(": ")[2] for line in lost} == {"the server is going down"}

"""``mdash serve --workers 2`` on a real Redis: one service on one port, whichever process answers, or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from children import default_signals
from prometheus_client.parser import text_string_to_metric_families

from mdashcore._backoff import Backoff
from mdashcore.trio.agent import Agent

MDASH = Path(sys.executable).with_name("mdash")
PATIENCE = 60.0  # seconds for what has to come: far above what it takes on a busy machine


BACKOFF = Backoff(first=0.05, most=0.5)
"""The pauses of the devices."""


@attrs.frozen
class Service:
    """A service of two workers."""

    process: trio.Process
    url: str
    metrics_url: str
    log: Path

    @property
    def pids(self) -> list[int]:
        """The processes of the workers."""
        return _children(self.process.pid)

    async def samples(self) -> dict[str, dict[str, float]]:
        """Return each metric without further labels, by worker."""
        async with httpx.AsyncClient(timeout=PATIENCE) as http:
            text = (await http.get(self.metrics_url)).raise_for_status().text
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if set(sample.labels) == {"worker"}:
                    found.setdefault(sample.name, {})[sample.labels["worker"]] = sample.value
        return found


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()  # each thread has the children that it has started
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.fixture
async def service(start_redis: Any, tmp_path: Path) -> AsyncIterator[Service]:
    """One that runs."""
    redis = await trio.to_thread.run_sync(start_redis)
    arguments = [
        "--workers",
        "2",
        "--bind",
        "127.0.0.1:0",
        "--metrics-bind",
        "127.0.0.1:0",
        "--store",
        f"{redis.url}/0",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MDASH_")}
    environment["MDASH_REGISTER_ADMIN"] = "root:secret"
    log = tmp_path / "log"
    try:
        with log.open("w") as errors, default_signals():
            process = await trio.lowlevel.open_process(
                [MDASH, "serve", *arguments], stdout=subprocess.PIPE, stderr=errors, env=environment
            )
        try:
            line = b""
            with trio.fail_after(PATIENCE):
                while not line.endswith(b"\n"):
                    piece = await process.stdout.receive_some()
                    assert piece, log.read_text()
                    line += piece
                while "metrics are at " not in log.read_text():  # noqa: ASYNC110 - of another process
                    await trio.sleep(0.01)
            metrics_url = log.read_text().partition("metrics are at ")[2].split()[0]
            yield Service(process, line.decode().split()[-1], metrics_url, log)
        finally:
            process.kill()
            await process.wait()
    finally:
        redis.kill()


async def test_one_service_of_two_processes(service: Service) -> None:
    """Devices on either are called through either. Metrics are those of both, from either. A worker that is killed is
    started again while the other serves, and its device connects again. The end is in order, and without an error."""
    async with httpx.AsyncClient(base_url=f"{service.url}/api/v2", auth=("root", "secret"), timeout=PATIENCE) as http:
        key = (await http.post("/keys", json={"name": "k"})).json()["key"]
        tokens = [(await http.post("/devices", json={"id": f"d{n}"})).json()["token"] for n in range(8)]
    ws = f"ws{service.url.removeprefix('http')}/api/v2/rpc"

    async def answer(name: str, method: str, params: Any) -> Any:
        return {"at": name}

    async def call_all() -> None:
        """Call each device, over a new connection each: the kernel chooses the worker."""
        for number in range(8):
            with trio.fail_after(PATIENCE):
                while True:
                    headers = {"Authorization": f"Bearer {key}"}
                    async with httpx.AsyncClient(headers=headers, timeout=PATIENCE) as http:
                        try:
                            answer = await http.post(f"{service.url}/api/v2/devices/d{number}/rpc/Where", json={})
                        except httpx.TransportError:
                            continue  # it was in the queue of the worker that was killed
                    if answer.status_code == 200:
                        assert answer.json() == {"at": f"d{number}"}
                        break
                    assert answer.status_code in (503, 504), answer.text  # offline until it has connected again
                    await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for number, token in enumerate(tokens):
            nursery.start_soon(Agent(ws, token, partial(answer, f"d{number}"), backoff=BACKOFF).run)
        await call_all()
        assert (await service.samples())["mdash_worker_up"] == {"0": 1.0, "1": 1.0}
        assert len(service.pids) == 2
        victim = service.pids[0]
        os.kill(victim, signal.SIGKILL)
        await call_all()
        with trio.fail_after(PATIENCE):
            while victim in service.pids or set((await service.samples())["mdash_worker_up"].values()) != {1.0}:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert sorted((await service.samples())["mdash_worker_starts_total"].values()) == [1.0, 2.0]
        await call_all()
        nursery.cancel_scope.cancel()
    service.process.send_signal(signal.SIGTERM)
    with trio.fail_after(PATIENCE):
        assert await service.process.wait() == 0
    lines = service.log.read_text().splitlines()
    assert [line for line in lines if " ERROR " in line and "was killed by SIGKILL" not in line] == []
    assert not [line for line in lines if "Traceback" in line]


def test_a_store_of_one_process_is_refused() -> None:
    """Before anything listens: one line that names Redis, and the exit code for a mistake in the configuration."""
    command = [MDASH, "serve", "--workers", "2", "--bind", "127.0.0.1:0", "--store", "memory://"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    words = "2 workers need a store that they can share, such as redis://HOST/0; memory:// belongs to one process"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {words}\n")

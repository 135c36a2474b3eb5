"""A fleet that comes back in the same moment: all are let in, none is refused twice, and other clients are answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

PROGRAMS = Path(__file__).with_name("herd")
CLIENTS = 2  # processes of devices: each has as many sockets as one process may have
PATIENCE = 300.0  # seconds: far above what it takes on a busy machine


@contextmanager
def program(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of the folder; killed at the end."""
    command = [sys.executable, str(PROGRAMS / name), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Bystander:
    """A client of the REST API that keeps its connection, and measures how long it waits for answers."""

    def __init__(self, port: int, key: str) -> None:
        self.times: list[float] = []
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._headers = {"Authorization": f"Bearer {key}"}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.is_set():
            started = monotonic()
            self._connection.request("GET", "/api/v2/devices/d0/shadow", headers=self._headers)
            answer = self._connection.getresponse()
            answer.read()
            assert answer.status == 200
            self.times.append(monotonic() - started)
            sleep(0.02)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._ended.set()
        self._thread.join()
        self._connection.close()

    @property
    def p95(self) -> float:
        """The seconds in which 95 of 100 answers came."""
        return sorted(self.times)[len(self.times) * 95 // 100]


@pytest.mark.parametrize(
    ("store", "number"),
    [
        ("memory://", 300),
        pytest.param("memory://", 10_000, marks=pytest.mark.proof),
        pytest.param("redis", 10_000, marks=pytest.mark.proof),
    ],
)
def test_a_fleet_that_comes_back_together(start_redis: Any, store: str, number: int) -> None:
    """Each device is let in at its first or second dial, and its report is answered. A bystander is answered meanwhile.

    The times are written, not asserted: they are those of the machine.
    """
    redis = start_redis() if store == "redis" else None
    try:
        with program("server.py", store if redis is None else f"{redis.url}/0", str(number)) as server:
            assert server.stdout is not None
            found = json.loads(server.stdout.readline())
            before = processor_time(server.pid)
            results = []
            with Bystander(found["port"], found["key"]) as bystander:
                clients = [program("devices.py", str(found["port"]), str(1 + each), "1") for each in range(CLIENTS)]
                processes = [client.__enter__() for client in clients]
                try:
                    for place, process in enumerate(processes):
                        assert process.stdin is not None
                        process.stdin.write("\n".join(found["tokens"][place::CLIENTS]))
                        process.stdin.close()
                    for process in processes:
                        assert process.stdout is not None
                        assert process.stdout.readline() == "ready\n"
                        results.append(json.loads(process.stdout.readline()))
                finally:
                    for client in clients:
                        client.__exit__(None, None, None)
            spent = processor_time(server.pid) - before
    finally:
        if redis is not None:
            redis.kill()
    assert sum(result["back"] for result in results) == number
    assert max(result["most"] for result in results) <= 1, results
    assert bystander.times
    sys.stdout.write(f"{store}, {number}: {spent:.1f} s of the server, p95 {bystander.p95 * 1000:.0f} ms, {results}\n")


def processor_time(pid: int) -> float:
    """Return the seconds that a process has had a core."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

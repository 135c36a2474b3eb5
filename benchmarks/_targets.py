"""The compared servers: mdash and its peers, each a process on the server's core."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs

from benchmarks._figures import OURS
from benchmarks._machine import LOAD_CORE, ROOT, SERVER_CORE, Child, Failed, child

__all__ = [
    "Running",
    "Target",
    "busy",
    "durable",
    "fastapi",
    "load",
    "mdash",
    "missing_load",
    "mosquitto",
    "node",
    "open_all",
    "slow_lane",
    "sockets",
]

LOAD_NEEDS = ("picows", "uvloop")


@attrs.frozen
class Running:
    """A server that accepts connections."""

    process: Child
    port: int
    key: str
    """The token in a user's `Authorization: Bearer`."""
    devices: list[tuple[str, str]]
    """Ids and tokens."""

    def to_load(self, first: int = 0, count: int | None = None) -> dict[str, Any]:
        """Return the values that a load generator needs, with some of the devices."""
        devices = self.devices[first:] if count is None else self.devices[first : first + count]
        return {"port": self.port, "key": self.key, "devices": devices}


@attrs.frozen
class Target:
    """A server that can be started."""

    name: str
    command: Callable[[int], Sequence[str]]
    """Returns the command for a number of devices."""
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    """Packages of npm."""

    def missing(self) -> str | None:
        """Return why the server cannot be started here; `None` if it can."""
        lacking = [name for name in self.modules if find_spec(name) is None]
        lacking += [name for name in self.programs if find_program(name) is None]
        lacking += [f"npm {name}" for name in self.packages if not (ROOT / "node_modules" / name).is_dir()]
        return f"not installed: {', '.join(lacking)}" if lacking else None

    @contextmanager
    def open(self, devices: int) -> Iterator[Running]:
        """Run the server for as long as the context lasts."""
        with child(self.name, self.command(devices), core=SERVER_CORE) as process:
            said = process.read()
            yield Running(process, said["port"], said["key"], [(id, token) for id, token in said["devices"]])


def find_program(name: str) -> str | None:
    """Return the path of a program, also from the folders in which Debian puts servers."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _module(name: str, module: str, *needs: str, options: Sequence[str] = ()) -> Target:
    return Target(name, lambda n: [sys.executable, "-m", module, "--devices", str(n), *options], needs)


mdash = _module(OURS, "benchmarks._service")
slow_lane = _module("mdash, slow lane", "benchmarks._service", options=("--slow-lane",))
durable = _module("mdash on SQLite", "benchmarks._service", options=("--durable",))
fastapi = _module("FastAPI", "benchmarks.peers.fastapi_app", "fastapi", "uvicorn", "uvloop", "httptools", "msgspec")
node = Target(
    "Node ws",
    lambda n: ["node", str(ROOT / "benchmarks/peers/node.js"), str(n)],
    programs=("node",),
    packages=("ws",),
)
sockets = (
    _module("uvicorn", "benchmarks.peers.uvicorn_sockets", "uvicorn", "uvloop", "httptools"),
    _module("websockets", "benchmarks.peers.websockets_sockets", "websockets", "uvloop"),
    _module("picows", "benchmarks.peers.picows_sockets", "picows", "uvloop"),
    node,
)
"""Peers that only serve sockets, and Node, whose program stays small with the rest in it."""


class _Mosquitto(Target):
    """A foreign broker, which does not say when it is ready."""

    @contextmanager
    def open(self, devices: int) -> Iterator[Running]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
            config.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser {_user()}\n")
            config.flush()
            program = find_program("mosquitto") or "mosquitto"
            with child(self.name, [program, "-c", config.name], core=SERVER_CORE) as process:
                _wait_for(port, process)
                yield Running(process, port, "", [(f"d{n}", f"d{n}") for n in range(devices)])


mosquitto = _Mosquitto("Mosquitto", lambda _: [], programs=("mosquitto",))


def _user() -> str:
    """Return the user of this process. By default Mosquitto changes to another one, which could not read the file."""
    return Path.home().owner()


def _wait_for(port: int, process: Child) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Failed(f"{process.name} does not listen")


def open_all(stack: ExitStack, targets: Sequence[Target], devices: int) -> tuple[dict[str, Running], dict[str, str]]:
    """Start the servers that can be started. Returns them by name, and for the others the reason."""
    running: dict[str, Running] = {}
    missing: dict[str, str] = {}
    for target in targets:
        if why := target.missing():
            missing[target.name] = why
            continue
        try:
            running[target.name] = stack.enter_context(target.open(devices))
        except Failed as exc:
            if target.name == OURS:
                raise
            missing[target.name] = f"does not start: {exc}"
    return running, missing


def missing_load(*programs: str) -> str | None:
    """Return the missing requirements of the load generators; `None` if all are there."""
    lacking = [name for name in LOAD_NEEDS if find_spec(name) is None]
    lacking += [name for name in programs if find_program(name) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


@contextmanager
def load(module: str) -> Iterator[Child]:
    """Run a load generator of `benchmarks.load` on the other core."""
    with child(module, [sys.executable, "-m", f"benchmarks.load.{module}"], core=LOAD_CORE) as process:
        yield process


def busy(server: Running, work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Run `work`. Returns its result, the seconds it took, and the processor seconds of the server meanwhile."""
    before, start = server.process.cpu(), time.perf_counter()
    result = work()
    return result, time.perf_counter() - start, server.process.cpu() - before

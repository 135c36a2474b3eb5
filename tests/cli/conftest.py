"""The command as people run it: real processes whose output is waited for, and one demo for all tests with a server."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from forked import CHEAP_MDASH, Forked
from warm import warm_programs
from websockets.sync.client import connect

from mdashcore.cli import main

MDASH = Path(sys.executable).with_name("mdash")
PATIENCE = 40.0  # seconds for a line that has to come: far above what it takes on a busy machine
CLEAN_ENV = {name: value for name, value in os.environ.items() if not name.startswith("MDASH_")}
CLEAN_ENV |= dict.fromkeys(
    ["MDASH_STORE", "MDASH_DEMO_STORE"], "memory://"
)  # nothing stays in the folder where the tests run


@attrs.frozen
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Process:
    """A running ``mdash``; what it writes is kept, and can be waited for.

    Args:
        wrapper: the beginning of the command line, of a process that is not forked but started anew.
        program: what is run instead of the command, as `Forked` takes it.
        ignored: signals that it is started with ignored.
    """

    def __init__(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
        program: tuple[str, ...] = CHEAP_MDASH,
        ignored: tuple[int, ...] = (),
    ) -> None:
        (stdout, its_stdout), (stderr, its_stderr) = os.pipe(), os.pipe()
        environment = CLEAN_ENV | dict(env or {})
        if wrapper:
            command = [*wrapper, str(MDASH), *args]
            self.process: Any = subprocess.Popen(command, stdout=its_stdout, stderr=its_stderr, env=environment)
        else:
            self.process = Forked(
                *program, *args, env=environment, stdout=its_stdout, stderr=its_stderr, ignored=ignored
            )
        for end in (its_stdout, its_stderr):
            os.close(end)
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        self._ended: set[str] = set()
        self._news = threading.Condition()
        self._streams = {"out": os.fdopen(stdout), "err": os.fdopen(stderr)}
        self._readers = [threading.Thread(target=self._read, args=item, daemon=True) for item in self._streams.items()]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return "".join(self._lines["out"])

    @property
    def err(self) -> str:
        return "".join(self._lines["err"])

    def wait_for(self, pattern: str, stream: str = "out", *, count: int = 1) -> re.Match[str]:
        """Wait until so many lines of a stream match; the last of them."""

        def found() -> list[re.Match[str]]:
            matches = [re.search(pattern, line) for line in self._lines[stream]]
            return [match for match in matches if match]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count or stream in self._ended, PATIENCE)
            matches = found()
        assert len(matches) >= count, f"{pattern!r} not found in {self.out!r} {self.err!r}"
        return matches[count - 1]

    def end(self, number: int = signal.SIGTERM, *, timeout: float = PATIENCE) -> int:
        """Send a signal, and wait for the end: its exit code."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait until it ends by itself: its exit code."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def close(self) -> None:
        """Whatever happened: leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in self._streams.values():
            stream.close()

    def _read(self, name: str, stream: Any) -> None:
        for line in stream:
            with self._news:
                self._lines[name].append(line)
                self._news.notify_all()
        with self._news:
            self._ended.add(name)
            self._news.notify_all()


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, Mapping[str, str]], str]]:
    """Runs a line of shell, where `mdash` is found: what it prints. It has to succeed, and to complain of nothing."""
    folder = tmp_path_factory.mktemp("bin")

    def paste(line: str, env: Mapping[str, str] = CLEAN_ENV) -> str:
        env = {**env, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, env=env)
        assert (done.returncode, done.stderr) == (0, ""), line
        return done.stdout

    with warm_programs(folder):
        yield paste


Spawn = Callable[..., Process]
Mdash = Callable[..., Done]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment for processes that may be killed, and leave their temporary folders behind."""
    return {"TMPDIR": str(tmp_path_factory.mktemp("scratch"))}


@pytest.fixture
def spawn(scratch: dict[str, str]) -> Iterator[Spawn]:
    """Starts processes; those that still run at the end of the test are killed."""
    processes: list[Process] = []

    def start(*args: str, env: Mapping[str, str] | None = None, **options: Any) -> Process:
        processes.append(Process(*args, env={**scratch, **(env or {})}, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


@pytest.fixture(scope="session")
def run() -> Mdash:
    """Runs a command in a process of its own, to its end."""

    def run(*args: str, env: Mapping[str, str] | None = None, input: str = "", wrapper: tuple[str, ...] = ()) -> Done:
        done = subprocess.run(
            [*wrapper, str(MDASH), *args],
            capture_output=True,
            text=True,
            env=CLEAN_ENV | dict(env or {}),
            input=input,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@contextmanager
def logging_restored() -> Iterator[None]:
    """A command sets up logging for its process; this one is not its own."""
    loggers = [logging.getLogger(name) for name in (None, "mdashcore", "mdash_backends")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


@pytest.fixture
def mdash(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Mdash:
    """Runs a command within this process, which is quick; what it talks to is real all the same."""

    def call(*args: str, env: Mapping[str, str] | None = None, input: bytes = b"") -> Done:
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("MDASH_")]:
                patch.delenv(name)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input)))
            with logging_restored():
                code = main(args)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def wait_told() -> Callable[[Mapping[str, str], str, str], None]:
    """Waits for a notification of a device, that it is "online" say: the device itself knows it a moment before."""

    def wait(env: Mapping[str, str], name: str, id: str) -> None:
        key, user = env.get("MDASH_KEY"), env.get("MDASH_USER", "").encode()
        header = f"Bearer {key}" if key else f"Basic {base64.b64encode(user).decode()}"
        url = f"ws{env['MDASH_SERVER'].removeprefix('http')}/api/v2/notify?start=0"
        with connect(url, additional_headers={"Authorization": header}) as socket:
            while True:
                notification = json.loads(socket.recv(PATIENCE))
                if (notification["name"], notification["id"]) == (name, id):
                    return

    return wait


@attrs.frozen
class Demo:
    """A running ``mdash demo``, and what it says."""

    process: Process
    url: str
    password: str
    key: str
    curls: tuple[str, ...]
    cpu: float
    """Seconds of processor time until it was up."""

    @property
    def by_key(self) -> dict[str, str]:
        """The environment for a command that uses its key."""
        return {"MDASH_SERVER": self.url, "MDASH_KEY": self.key}

    @property
    def by_admin(self) -> dict[str, str]:
        """The environment for a command that uses its login."""
        return {"MDASH_SERVER": self.url, "MDASH_USER": f"demo:{self.password}"}


StartDemo = Callable[..., Demo]


def read_demo(process: Process) -> Demo:
    process.wait_for("Ctrl-C ends it")
    user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return Demo(
        process,
        process.wait_for("running at (http://[0-9.:]+)")[1],
        process.wait_for("admin login +demo / (.+)")[1],
        process.wait_for("API key +(mdk_.+)")[1],
        tuple(re.findall("^  (curl .+)$", process.out, re.MULTILINE)),
        (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"),
    )


@pytest.fixture
def start_demo(spawn: Spawn) -> StartDemo:
    """Starts a demo of the test's own."""
    return lambda *args, **options: read_demo(spawn("demo", "--bind", "127.0.0.1:0", *args, **options))


@pytest.fixture(scope="session")
def demo(scratch: dict[str, str]) -> Iterator[Demo]:
    """One demo for all tests that leave its devices as they are; a test that changes something registers a device."""
    process = Process("demo", "--bind", "127.0.0.1:0", env=scratch)
    try:
        yield read_demo(process)
    finally:
        process.close()

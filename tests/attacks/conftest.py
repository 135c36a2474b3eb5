"""A server that is attacked, and a bystander: another tenant, whose calls have to be answered meanwhile.

Each is a process of its own, so that what the attack costs the test's process is not measured with it. Nor is what the
rest of the machine costs: of each call, the time is taken off in which the server, or the bystander, was ready to run
and another program had the core.
"""

from __future__ import annotations

import functools
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import httpx
import pytest
import trio
import trustme
from forked import Forked

PATIENCE = 60.0  # seconds for what takes a moment, on a machine that has other work

BOUND = 0.05  # seconds: below this p95 no bystander has been hurt

CALLS = 21  # that a p95 is taken of: one of them may take longer, and in fewer none

PRIORITY = -10  # of both before all other programs

TRIES = 3  # to see the bystander unharmed: an attack goes on, and so does its harm


@attrs.frozen
class Latencies:
    """How long calls took, by the server's doing; in seconds."""

    sorted: Sequence[float]
    wall: Sequence[float]
    """The same by the clock on the wall."""

    @classmethod
    def of(cls, calls: Sequence[tuple[float, float]]) -> Latencies:
        """Those of calls, in any order: seconds in all, and by the server's doing."""
        return cls(sorted(harm for _, harm in calls), sorted(wall for wall, _ in calls))

    @property
    def p50(self) -> float:
        """The median."""
        return self.sorted[len(self.sorted) // 2]

    @property
    def p95(self) -> float:
        """What 95 of 100 calls stay below."""
        return self.sorted[len(self.sorted) * 95 // 100]

    def __str__(self) -> str:
        told = {"p50": self.p50, "p95": self.p95, "worst": self.sorted[-1], "on the wall p95": self.wall_p95}
        return ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in told.items())

    @property
    def wall_p95(self) -> float:
        """The p95 with all that the machine had to do besides."""
        return self.wall[len(self.wall) * 95 // 100]


class Program:
    """A child that answers each line of its stdin with a line of JSON."""

    def __init__(self, process: Forked, stdin: trio.lowlevel.FdStream, stdout: trio.lowlevel.FdStream) -> None:
        self.process = process
        self._stdin = stdin
        self._stdout = stdout
        self._data = b""
        self._asking = trio.Lock()

    async def line(self) -> Any:
        """The next line's value."""
        while b"\n" not in self._data:
            part = await self._stdout.receive_some()
            assert part, "the child has ended"
            self._data += part
        line, _, self._data = self._data.partition(b"\n")
        return json.loads(line)

    async def ask(self, line: str) -> Any:
        """The answer to a line."""
        async with self._asking:
            with trio.fail_after(PATIENCE):
                await self._stdin.send_all(line.encode() + b"\n")
                return await self.line()


def prefer(pid: int) -> None:
    """Have the system run a program before others, where it lets us: then there is less to be taken off."""
    with suppress(PermissionError, FileNotFoundError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), PRIORITY)
        Path(f"/proc/{pid}/autogroup").write_text(str(PRIORITY))  # of its session, see sched(7)


@asynccontextmanager
async def running(name: str, *arguments: str, stderr: int = 2) -> AsyncIterator[tuple[Program, Any]]:
    """A child program of this folder and its first line; killed at the end."""
    (its_stdin, stdin), (stdout, its_stdout) = os.pipe(), os.pipe()
    process = Forked(str(Path(__file__).parent / name), *arguments, stdin=its_stdin, stdout=its_stdout, stderr=stderr)
    os.close(its_stdin)
    os.close(its_stdout)
    try:
        async with trio.lowlevel.FdStream(stdin) as lines, trio.lowlevel.FdStream(stdout) as answers:
            program = Program(process, lines, answers)
            with trio.fail_after(PATIENCE):
                first = await program.line()
            prefer(process.pid)
            yield program, first
    finally:
        process.kill()


@attrs.define
class Attacked:
    """A server process with the default store."""

    program: Program
    url: str
    device_url: str
    pid: int
    folder: Path
    log_file: Path

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return str(urlsplit(self.url).hostname)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(urlsplit(self.url).port or 0)

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""
        return self.url.startswith("https")

    @property
    def notify_url(self) -> str:
        """Where notifications are."""
        return self.device_url.removesuffix("rpc") + "notify"

    async def account(self, name: str, **options: Any) -> str:
        """Make an account: its API key. `options` are those of the command in server_program.py."""
        return str(await self.command("account", name, *options.values()))

    async def devices(self, account: str, ids: Sequence[str], reported: Any = None) -> dict[str, str]:
        """Make devices with this reported state: their tokens by id."""
        found: dict[str, str] = await self.command("devices", account, list(ids), reported)
        return found

    async def command(self, *words: Any) -> Any:
        """Have a command of server_program.py carried out."""
        return await self.program.ask(json.dumps(words))

    def http(self, key: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A client of the API."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        options = {"timeout": PATIENCE, "verify": False, **options}
        return httpx.AsyncClient(base_url=f"{self.url}/api/v2", headers=headers, **options)

    async def stream(self) -> trio.abc.Stream:
        """A connection to it, with TLS where it speaks TLS."""
        stream = await trio.open_tcp_stream(self.host, self.port)
        return await self.secure(stream) if self.tls else stream

    async def secure(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """TLS on a connection."""
        secure = trio.SSLStream(stream, trusting_context(), server_hostname=self.host, https_compatible=True)
        await secure.do_handshake()
        return secure

    @property
    def memory(self) -> int:
        """Bytes of RAM that the process has now (its resident set)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    async def tasks(self) -> int:
        """How many Trio tasks there are."""
        return sum((await self.command("figures"))["tasks"].values())

    @property
    def log(self) -> str:
        """What it has logged so far, warnings and worse."""
        return self.log_file.read_text()

    async def until(self, condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
        """Wait for something that is only seen by looking: a figure of the process. Fails with the words of `what`."""
        with trio.move_on_after(within):
            while not condition():  # noqa: ASYNC110 - the system tells of no change
                await trio.sleep(0.05)
            return
        raise AssertionError(f"after {within:g} s: {what}")

    @contextmanager
    def peak_memory(self) -> Iterator[Callable[[], int]]:
        """Measure by how many bytes the memory grows at most: ``with server.peak_memory() as grown: …; grown()``."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # resets the high-water mark
        before = self.memory
        yield lambda: 1024 * int(_status(self.pid)["VmHWM"].split()[0]) - before


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@functools.cache  # to read the system's certificates takes as long as many handshakes
def trusting_context() -> ssl.SSLContext:
    """A client's TLS, for which any certificate is right."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


OpenAttacked = Callable[..., AbstractAsyncContextManager[Attacked]]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of a certificate for 127.0.0.1 and of its key."""
    folder = tmp_path_factory.mktemp("certificate")
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.fixture
def open_attacked(tmp_path: Path, certificate: tuple[str, str]) -> OpenAttacked:
    """Starts a server: ``async with open_attacked(tls=True, settings={"max_body": 100}) as server``.

    Args: `tls`, and the options of server_program.py.
    """

    @asynccontextmanager
    async def open_(*, tls: bool = False, **options: Any) -> AsyncIterator[Attacked]:
        options |= {"tls": certificate} if tls else {}
        log_file = tmp_path / "log"
        with log_file.open("wb") as log:
            async with running("server_program.py", str(tmp_path), json.dumps(options), stderr=log.fileno()) as (
                program,
                said,
            ):
                yield Attacked(program, folder=tmp_path, log_file=log_file, **said)

    return open_


@pytest.fixture
async def attacked(open_attacked: OpenAttacked) -> AsyncIterator[Attacked]:
    """A server that speaks plain HTTP."""
    async with open_attacked() as server:
        yield server


@attrs.define
class Bystander:
    """Another tenant with a connected device."""

    program: Program

    async def call(self, times: int = CALLS) -> Latencies:
        """Call the device so often, one call after the other."""
        with trio.fail_after(4 * PATIENCE):
            return Latencies.of(await self.program.ask(str(times)))

    async def call_unharmed(self, what: str, times: int = CALLS, tries: int = TRIES) -> Latencies:
        """The same during an attack. Fails where the calls take longer than they may."""
        for _ in range(tries):
            found = await self.call(times)
            sys.stdout.write(f"during {what}: {found}\n")  # pytest shows it with -rP
            if found.p95 <= BOUND:
                return found
        raise AssertionError(f"during {what}: {found}")


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.proof)], ids=["telling", "every"])
def every(request: pytest.FixtureRequest) -> bool:
    """Whether every kind of an attack is tried, and not only those that stand for the others where time is short."""
    return bool(request.param)


@asynccontextmanager
async def _standing_by(server: Attacked) -> AsyncIterator[Bystander]:
    key = await server.account("bystander")
    (token,) = (await server.devices("bystander", ["d1"])).values()
    arguments = (server.device_url, token, server.host, str(server.port), "d1", key, "01"[server.tls], str(server.pid))
    async with running("bystander_program.py", *arguments) as (program, _):
        bystander = Bystander(program)
        await bystander.call(10)
        yield bystander


@pytest.fixture(scope="session")
def standing_by() -> Callable[[Attacked], AbstractAsyncContextManager[Bystander]]:
    """Makes a bystander at a server: ``async with standing_by(server) as bystander``."""
    return _standing_by


@pytest.fixture
async def bystander(attacked: Attacked) -> AsyncIterator[Bystander]:
    """The bystander at `attacked`."""
    async with _standing_by(attacked) as found:
        yield found

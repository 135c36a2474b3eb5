"""A whole fleet on several servers and one Redis: what it takes, and what happens when a server is killed.

    python -m benchmarks.fleet --devices 100000

As many server and load processes run as the limit of file descriptors needs (``ulimit -n``), one server more than
that, because the others have to hold its devices after a ``kill -9``. The load connects from 127.0.0.x, because an
address has 28 000 ports. The phases:

    register    the devices are made in the store
    connect     all connect: a handshake, a request, its answer
    quiet       nothing but pings
    reports     as many reports as are answered
    kill        one server is killed under a fifth of that load, and is not started again: its devices go to the others

All processes share the cores of this machine, so each figure per second is that of servers, Redis and load together.
Processor time is that of the process itself. Results go to benchmarks/results/fleet.json and fleet.md;
``--write-docs`` puts the newest into docs/discussion/performance.md, and runs nothing.

It begins with what the run needs by calculation: processes, descriptors, memory and minutes. A run for which the
machine has too little memory is refused. ``--needs`` writes this alone. After each phase the figures so far are in
fleet-unfinished.json, so that a long run that fails has not been for nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks._machine import Child, child, describe, settle
from benchmarks._redis import find_redis, redis_server
from benchmarks._report import PAGE, RESULTS, number

BEGIN, END = "<!-- fleet: begin -->", "<!-- fleet: end -->"

RESERVED = 500  # descriptors of a process that are for no device: the store, the log, and connections on their way
MIN_SERVERS = 2
PATIENCE = 1200.0  # seconds for a phase: a hundred thousand registrations or handshakes on a machine with two cores
QUIET, REPORTS = 15.0, 10.0  # seconds of these phases; a round of pings takes 15
FEW = 500  # devices, below which a run only shows that it works, and its phases take a second
KILL_LOAD = 0.2  # of the reports a second that were answered
PER_CORE = 0.7  # of a core that should be used at most, for what a larger machine holds
LARGE = 1_000_000  # devices, for which the needs are calculated

SERVER_BYTES = 80 * 2**20  # of a server without devices
LOAD_BYTES = 25 * 2**20  # of a load process without devices
# Of a device, measured with 10 000: a server's 9 KiB and as much for what is under way, Redis' 2 and as much for the
# copy of a snapshot, the load's 2 and its token in two processes, and the kernel's of two sockets
DEVICE_BYTES = 32 * 2**10
DEVICE_SECONDS = 0.02  # on two cores with other work: registered, connected twice, and the share of the phases between
FIXED_SECONDS = 90.0  # starting, and the phases that last as long with any number


@attrs.frozen
class Use:
    """Processor seconds so far."""

    servers: float
    redis: float
    load: float

    def since(self, before: Use) -> Use:
        """Return what was used since then."""
        return Use(self.servers - before.servers, self.redis - before.redis, self.load - before.load)


@attrs.define
class Fleet:
    """The running processes."""

    redis: str
    servers: list[Child]
    loads: list[Child]

    def use(self) -> Use:
        """Return what the living processes have used. A killed server is left out, also before."""
        info = redis_info(self.redis)
        return Use(
            sum(server.cpu() for server in self.servers),
            float(info["used_cpu_user"]) + float(info["used_cpu_sys"]),
            sum(load.cpu() for load in self.loads),
        )

    def ask(self, command: dict[str, Any]) -> list[dict[str, Any]]:
        """Have all loads do something. Returns their answers."""
        for load in self.loads:
            load.write(command)
        return [load.read(PATIENCE) for load in self.loads]


def redis_info(url: str) -> dict[str, str]:
    """Return what a Redis server tells about itself."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port or 6379)) as link, link.makefile("rb") as answers:
        link.sendall(b"INFO\r\n")
        text = answers.read(int(answers.readline()[1:])).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def processes(devices: int, limit: int) -> tuple[int, int]:
    """Return how many servers and loads a number of devices needs, with a limit of descriptors."""
    each = max(1, limit - RESERVED)
    return max(MIN_SERVERS, math.ceil(devices / each) + 1), math.ceil(devices / each)


@attrs.frozen
class Needs:
    """What a run needs by calculation."""

    servers: int
    loads: int
    descriptors: int
    """Of all processes: the system's limit is `fs.file-max`."""
    memory: int
    """Bytes of all processes and of the kernel's sockets."""
    seconds: float

    @classmethod
    def of(cls, devices: int, limit: int) -> Needs:
        """Return the needs of a number of devices, with a limit of descriptors for each process."""
        servers, loads = processes(devices, limit)
        return cls(
            servers,
            loads,
            2 * devices + (servers + loads) * RESERVED,
            devices * DEVICE_BYTES + servers * SERVER_BYTES + loads * LOAD_BYTES,
            FIXED_SECONDS + devices * DEVICE_SECONDS,
        )

    def __str__(self) -> str:
        return (
            f"servers: {self.servers}, load processes: {self.loads}, descriptors: {number(self.descriptors)}, "
            f"{self.memory / 2**30:.1f} GiB of memory; about {math.ceil(self.seconds / 60)} minutes on two cores"
        )

    def check(self) -> None:
        """Exit if the machine has too little for the run."""
        free = available_memory()
        if self.memory > free:
            raise SystemExit(f"the run needs {self.memory / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are free")
        most = int(Path("/proc/sys/fs/file-max").read_text())
        if self.descriptors > most:
            raise SystemExit(f"the run needs {self.descriptors} descriptors, and the system has {most} (fs.file-max)")


def available_memory() -> int:
    """Return the bytes that new processes can have: what is free here, and below the limit of a container."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    try:
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, most - used)


def shares(count: int, parts: int) -> list[int]:
    """Return a number in nearly equal parts."""
    return [count // parts + (number < count % parts) for number in range(parts)]


@contextmanager
def running(program: str, devices: int) -> Iterator[tuple[Fleet, float]]:
    """Run all processes with a number of devices registered. Gives the seconds that registering took, too."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    servers, loads = processes(devices, limit)
    with ExitStack() as stack:
        url = stack.enter_context(redis_server(program))
        start = time.perf_counter()
        children = [
            stack.enter_context(child(f"server {number}", _service(number, count, url), core=None))
            for number, count in enumerate(shares(devices, servers))
        ]
        with ThreadPoolExecutor(servers) as threads:  # a long line in a full pipe holds the others up
            told = list(threads.map(lambda server: server.read(PATIENCE), children))
        seconds = time.perf_counter() - start
        known = [device for each in told for device in each["devices"]]
        fleet = Fleet(url, children, [])
        for number in range(loads):
            load = stack.enter_context(
                child(f"load {number}", [sys.executable, "-m", "benchmarks.load.fleet"], core=None)
            )
            load.write(
                {"ports": [each["port"] for each in told], "devices": known[number::loads], "source": number * 6}
            )
            fleet.loads.append(load)
        yield fleet, seconds


def _service(number: int, devices: int, url: str) -> list[str]:
    options = ["--devices", str(devices), "--account", f"fleet-{number}", "--store", f"{url}?timeout=10"]
    return [sys.executable, "-m", "benchmarks._service", *options]


def measure(
    program: str,
    devices: int,
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Run all phases. Returns the figures.

    Args:
        keep: called with the figures so far after each phase.
    """
    with running(program, devices) as (fleet, registering):
        count = len(fleet.servers)
        found: dict[str, Any] = {
            "devices": devices,
            "servers": count,
            "loads": len(fleet.loads),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": describe(),
            "register": {"per_second": devices / registering},
        }
        say(f"{devices} devices registered in {registering:.0f} s, on {count} servers")
        empty = sum(server.memory() for server in fleet.servers)
        found["connect"] = connect(fleet, devices)
        say(f"connected: {found['connect']['per_second']:.0f}/s")
        keep(found)
        found["quiet"] = quiet(fleet, devices, empty)
        say(f"quiet: {found['quiet']['server_bytes']:.0f} bytes a device in the servers")
        keep(found)
        found["reports"] = report(fleet, REPORTS if devices >= FEW else 1.0)
        say(f"reports: {found['reports']['per_second']:.0f}/s")
        keep(found)
        found["kill"] = kill(fleet, KILL_LOAD * found["reports"]["per_second"])
        say(f"killed: {found['kill']['lost']} devices back after {found['kill']['seconds']:.1f} s")
        return found


def connect(fleet: Fleet, devices: int) -> dict[str, float]:
    """Have all devices connect."""
    before, start = fleet.use(), time.perf_counter()
    tries = sum(answer["tries"] for answer in fleet.ask({"do": "connect"}))
    seconds, used = time.perf_counter() - start, fleet.use().since(before)
    return {
        "seconds": seconds, "per_second": devices / seconds, "tries": tries / devices,
        "server_us": 1e6 * used.servers / devices, "redis_us": 1e6 * used.redis / devices,
        "load_us": 1e6 * used.load / devices,
    }  # fmt: skip


def quiet(fleet: Fleet, devices: int, empty: int) -> dict[str, float]:
    """Leave all devices alone, and look at the memory."""
    if devices >= FEW:  # the server asks each new device what it runs
        for server in fleet.servers:
            settle(server, at_most=QUIET / len(fleet.servers))  # pings may keep a large one from ever being calm
    before, start = fleet.use(), time.perf_counter()
    time.sleep(QUIET if devices >= FEW else 1.0)
    seconds, used = time.perf_counter() - start, fleet.use().since(before)
    return {
        "server_cores": used.servers / seconds, "redis_cores": used.redis / seconds,
        "server_bytes": (sum(server.memory() for server in fleet.servers) - empty) / devices,
        "server_empty_bytes": empty / len(fleet.servers),
        "redis_bytes": float(redis_info(fleet.redis)["used_memory"]) / devices,
    }  # fmt: skip


def report(fleet: Fleet, seconds: float) -> dict[str, float]:
    """Take as many reports as are answered."""
    before, start = fleet.use(), time.perf_counter()
    count = sum(answer["reports"] for answer in fleet.ask({"do": "report", "seconds": seconds}))
    took, used = time.perf_counter() - start, fleet.use().since(before)
    return {
        "per_second": count / took, "server_us": 1e6 * used.servers / count, "redis_us": 1e6 * used.redis / count,
        "load_us": 1e6 * used.load / count,
    }  # fmt: skip


def kill(fleet: Fleet, rate: float) -> dict[str, float]:
    """Kill a server under load, and wait until all its devices are connected to the others."""
    for load in fleet.loads:
        load.write({"do": "watch", "rate": rate / len(fleet.loads)})
    time.sleep(1.0)  # of that load before
    victim = fleet.servers.pop()
    at = time.monotonic()
    victim.process.kill()
    answers = [load.read(PATIENCE) for load in fleet.loads]
    return {
        "lost": sum(answer["lost"] for answer in answers), "seconds": max(answer["back"] for answer in answers) - at,
        "tries": sum(answer["tries"] for answer in answers), "rate": rate,
        "reports": sum(answer["reports"] for answer in answers),
    }  # fmt: skip


# What people read


def table(found: dict[str, Any]) -> str:
    """Return the figures, and what a larger fleet needs by calculation, as Markdown."""
    connects, rest, reports, killed = (found[name] for name in ("connect", "quiet", "reports", "kill"))
    machine, devices = found["machine"], found["devices"]
    loads = "one load process" if found["loads"] == 1 else f"{found['loads']} load processes"
    kib = 1024
    rows = [
        ("devices registered", f"{number(found['register']['per_second'])}/s"),
        (
            "connections, each with a request",
            f"{number(connects['per_second'])}/s; processor time of a server {number(connects['server_us'])} µs, "
            f"of Redis {number(connects['redis_us'])} µs, of the load {number(connects['load_us'])} µs",
        ),
        (
            "memory of a server",
            f"{number(rest['server_empty_bytes'] / kib**2)} MiB, and {number(rest['server_bytes'] / kib)} KiB for each "
            "connected device",
        ),
        ("memory of Redis for each device", f"{number(rest['redis_bytes'] / kib)} KiB"),
        (
            "all quiet, with a ping for each device every 15 s",
            f"{rest['server_cores']:.2f} cores in the servers, {rest['redis_cores']:.2f} in Redis",
        ),
        (
            "reports",
            f"{number(reports['per_second'])}/s; processor time of a server {number(reports['server_us'])} µs, "
            f"of Redis {number(reports['redis_us'])} µs, of the load {number(reports['load_us'])} µs",
        ),
        (
            "one server killed (kill -9)",
            f"its {killed['lost']} devices were all back on the others after {killed['seconds']:.1f} s, under "
            f"{number(killed['rate'])} reports a second",
        ),
    ]
    lines = [
        f"{number(devices)} devices, {found['servers']} servers, one Redis and {loads}, on",
        f"{machine['cores']} cores of a machine with {machine['processor']} (load before: {machine['load']}), Python",
        f"{machine['python']}, {found['date']}:",
        "",
        "| What | Measured |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in rows),
        "",
        "By calculation from these figures, a larger installation needs:",
        "",
        f"| For | {number(devices)} devices | {number(LARGE)} devices |",
        "|---|---|---|",
        *(f"| {what} | {value(devices)} | {value(LARGE)} |" for what, value in needs(found)),
    ]
    return "\n".join(lines)


def needs(found: dict[str, Any]) -> Sequence[tuple[str, Callable[[int], str]]]:
    """Return what a number of devices needs, each as a text: memory, and cores of which a part stays free."""
    connects, rest, reports = found["connect"], found["quiet"], found["reports"]
    pings = rest["server_cores"] / found["devices"]

    def memory(size: float) -> str:
        return f"{number(size / 2**30)} GiB" if size >= 2**30 else f"{number(size / 2**20)} MiB"

    def cores(seconds: float) -> str:
        return number(max(0.01, seconds / PER_CORE))

    return (
        ("memory of all servers", lambda n: memory(n * rest["server_bytes"])),
        ("memory of Redis", lambda n: memory(n * rest["redis_bytes"])),
        ("cores for the servers, a report of each device a minute", lambda n: cores(
            n * (pings + reports["server_us"] / 60e6))),
        ("cores for Redis, a report of each device a minute", lambda n: cores(n * reports["redis_us"] / 60e6)),
        ("cores for the servers, if all come back within 60 s", lambda n: cores(n * connects["server_us"] / 60e6)),
        ("cores for Redis, if all come back within 60 s", lambda n: cores(n * connects["redis_us"] / 60e6)),
    )  # fmt: skip


def write_docs(folder: Path) -> None:
    """Put the newest figures between the two marks of the page."""
    found = json.loads((folder / "fleet.json").read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{PAGE} has lost its marks")
    PAGE.write_text(pattern.sub(lambda _: f"{BEGIN}\n{table(found)}\n{END}", page), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--write-docs", action="store_true", help="write the newest results into the docs; run nothing")
    parser.add_argument("--needs", action="store_true", help="write what the run needs; run nothing")
    arguments = parser.parse_args(argv)
    if arguments.write_docs:
        write_docs(arguments.results)
        return
    run = Needs.of(arguments.devices, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    print(run, flush=True)
    if arguments.needs:
        return
    run.check()
    if (program := find_redis()) is None:
        raise SystemExit("no Redis server is installed")
    arguments.results.mkdir(parents=True, exist_ok=True)
    unfinished = arguments.results / "fleet-unfinished.json"

    def keep(found: dict[str, Any]) -> None:
        unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    found = measure(program, arguments.devices, lambda line: print(line, flush=True), keep)
    unfinished.unlink()
    (arguments.results / "fleet.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (arguments.results / "fleet.md").write_text(table(found) + "\n", encoding="utf-8")
    print(f"\n{table(found)}\n\nWritten to {arguments.results}: fleet.json, fleet.md")


if __name__ == "__main__":
    main()

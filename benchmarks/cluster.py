"""Two nodes on one Redis: what a node without clients costs, and what a second node adds.

    python -m benchmarks.cluster [--long]

First all devices report to one node, while the other has no clients. Then each node has its own devices and its own
subscriber, in an account of its own.

The rates of the second comparison are calculated, because two servers, two load generators and Redis do not have a core
each on a small machine: a server that has a core for itself takes one report in the processor seconds that its process
used for one. So one node takes 1 / c1 reports a second, and two take 2 / c2, where c1 and c2 are the processor seconds
of the servers for a report. Redis has one core for both; two nodes take no more than 1 / r reports, where r is what
Redis used for one.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from benchmarks._figures import OURS, Form, Line
from benchmarks._machine import LOAD_CORE, SERVER_CORE, Child, child, settle
from benchmarks._redis import find_redis, redis_server
from benchmarks._targets import REDIS, Running, load, mdash, missing_load

ROW = "CLUSTER"
DEVICES = 64  # of each node
SIZE = 2_000  # bytes of a shadow
MOST_IDLE = 1.0  # percent of a core that a node without clients may use
AT_LEAST = 1.8  # times the reports of one node, by two
SHORTEST = 4.0  # seconds of a turn at least: an idle node beats every three seconds
BAR = "the bar"
ONE = "one node"


@attrs.frozen
class Node:
    """A server, with the load generator of its devices."""

    server: Running
    reporters: Child


@attrs.frozen
class Used:
    """What was used in a turn."""

    reports: int
    seconds: float
    servers: tuple[float, ...]
    """Processor seconds of each server."""
    redis: float
    """Processor seconds of Redis."""


@contextmanager
def _opened(form: Form) -> Iterator[tuple[list[Node], str]]:
    """Run Redis and two nodes on it, each with its devices connected. Gives the nodes and the URL of Redis."""
    with ExitStack() as stack:
        url = stack.enter_context(redis_server(find_redis() or "redis-server", core=LOAD_CORE))
        nodes = []
        for number, core in enumerate((SERVER_CORE, LOAD_CORE)):
            command = [sys.executable, "-m", "benchmarks._service", "--devices", str(DEVICES), "--store", url]
            process = stack.enter_context(child(f"node {number}", [*command, "--account", f"a{number}"], core=core))
            said = process.read()
            server = Running(process, said["port"], said["key"], [(id, token) for id, token in said["devices"]])
            nodes.append(Node(server, stack.enter_context(load("report"))))
        yield nodes, url


def connect(node: Node) -> None:
    """Connect the devices of a node and its subscriber."""
    assert node.reporters.ask(node.server.to_load() | {"size": SIZE})["connected"] == DEVICES


def report(nodes: Sequence[Node], all_nodes: Sequence[Node], url: str, seconds: float) -> Used:
    """Let the devices of some nodes report as quickly as they can."""
    for node in nodes:
        node.reporters.write({"seconds": seconds})
    for node in nodes:
        assert node.reporters.read() == "begin"
    servers, redis = [cpu(node.server.process) for node in all_nodes], redis_cpu(url)
    for node in nodes:
        assert node.reporters.read() == "end"
    after, redis_after = [cpu(node.server.process) for node in all_nodes], redis_cpu(url)
    found = [node.reporters.read() for node in nodes]
    return Used(
        sum(each["updates"] for each in found),
        max(each["seconds"] for each in found),
        tuple(end - start for start, end in zip(servers, after, strict=True)),
        redis_after - redis,
    )


def cpu(process: Child) -> float:
    """Return the processor seconds of all threads, to the nanosecond: an idle node uses less than a tick."""
    threads = Path(f"/proc/{process.process.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def redis_cpu(url: str) -> float:
    """Return the processor seconds of a Redis server."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as connection, connection.makefile("rb") as answer:
        connection.sendall(b"INFO cpu\r\n")
        size = int(answer.readline().removeprefix(b"$"))
        fields = dict(line.split(":", 1) for line in answer.read(size).decode().splitlines() if ":" in line)
    return float(fields["used_cpu_sys"]) + float(fields["used_cpu_user"])


def run(form: Form) -> list[Line]:
    """Measure the idle node, and the two loaded ones."""
    idle = Line(ROW, "a node without clients", "% of a core", {}, less_is_better=True, goal=1.0)
    two = Line(ROW, "reports of two nodes, by calculation", "/s", {}, goal=AT_LEAST)
    lines = [idle, two]
    if why := missing_load() or mdash(REDIS).missing():
        for line in lines:
            line.missing[OURS] = why
        return lines
    seconds = max(form.seconds, SHORTEST) if form.turns > 1 else form.seconds
    with _opened(form) as (nodes, url):
        first, second = nodes
        connect(first)
        settle(second.server.process)
        alone = [report([first], nodes, url, seconds) for _ in range(form.turns)]
        idle.samples = {OURS: [100 * each.servers[1] / each.seconds for each in alone], BAR: [MOST_IDLE] * form.turns}
        connect(second)
        turns: list[tuple[Used, Used]] = []
        measure: Callable[[Sequence[Node]], Used] = partial(report, all_nodes=nodes, url=url, seconds=seconds)
        for _ in range(form.turns):
            turns.append((measure([first]), measure(nodes)))
        two.samples = {OURS: [_two_nodes(both) for _, both in turns], ONE: [_one_node(one) for one, _ in turns]}
        two.busy = {"Redis, for each core of a node": max(both.redis / max(both.servers) for _, both in turns)}
    return lines


def _one_node(used: Used) -> float:
    """Return the reports a second of one node that has a core for itself."""
    return used.reports / used.servers[0]


def _two_nodes(used: Used) -> float:
    """Return the reports a second of two nodes that have a core each, as has Redis."""
    return min(2 * used.reports / sum(used.servers), used.reports / used.redis)


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)

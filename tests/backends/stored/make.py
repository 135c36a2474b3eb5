"""Keeps a store of each kind, and a backup, as this version writes them. Run once for each release::

    .venv/bin/python tests/backends/stored/make.py

It writes the folder of the version beside it. What is there of a released version never changes.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs
import trio

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "support"))

from kept_service import fill, seen  # noqa: E402

import mdashcore  # noqa: E402
from mdashcore.cli import main  # noqa: E402
from mdashcore.server.config import ServerConfig, User  # noqa: E402
from mdashcore.server.run import open_server  # noqa: E402

ADMIN = ("root", "secret")
VERSION = mdashcore.__version__.rpartition(".")[0]


def mdash(*arguments: str) -> None:
    """Run a command, which has to succeed."""
    if main(arguments) != 0:
        raise SystemExit(f"mdash {' '.join(arguments)} failed")


async def serve(store: Path) -> None:
    """Fill a service, and write down what its users know and see."""
    config = ServerConfig(bind="127.0.0.1:0", store=f"sqlite://{store}", users=(User(*ADMIN, admin=True),))
    async with open_server(config) as server:
        secrets = await fill(server.url, ADMIN, image_size=1000)
        kept = {"time": time.time(), "secrets": attrs.asdict(secrets), "seen": await seen(server.url, ADMIN, secrets)}
    (HERE / VERSION / "seen.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def dump_redis(backup: Path, folder: Path) -> None:
    """Write a backup into a Redis server, and what that has into a dump."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        while b"Ready to accept" not in server.stdout.readline():
            pass
        mdash("store", "import", f"redis://127.0.0.1:{port}/0", str(backup))
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(b"SAVE\r\n")
            assert link.recv(100) == b"+OK\r\n"
        server.kill()


if __name__ == "__main__":
    shutil.rmtree(HERE / VERSION, ignore_errors=True)
    (HERE / VERSION / "redis").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        trio.run(serve, Path(scratch) / "store")
        backup = HERE / VERSION / "backup.jsonl"
        mdash("store", "export", f"sqlite://{scratch}/store", str(backup))
    for kind in ("sqlite", "file"):
        mdash("store", "import", f"{kind}://{HERE / VERSION / kind}", str(backup))
    for name in ("lock", "reserve"):  # made anew
        for unused in (HERE / VERSION).rglob(name):
            unused.unlink()
    dump_redis(backup, HERE / VERSION / "redis")

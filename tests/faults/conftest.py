"""Real processes: `serving`, and Redis servers as the backends' own tests start them, `start_redis`."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from forked import CHEAP_MDASH, Forked

_spec = importlib.util.spec_from_file_location("redis_servers", Path(__file__).parents[1] / "backends" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_redis_servers = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _redis_servers  # what is defined there looks for its module
_spec.loader.exec_module(_redis_servers)

redis_program = _redis_servers.redis_program
start_redis = _redis_servers.start_redis


@attrs.frozen
class ServerProcess:
    """A running ``mdash serve``."""

    process: Forked
    url: str
    http: httpx.AsyncClient
    """An admin's; its base URL is the API's."""

    @property
    def ws(self) -> str:
        """Where its sockets are, without the last segment."""
        return f"ws{self.url.removeprefix('http')}/api/v2"

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)


@asynccontextmanager
async def _serving(store: str) -> AsyncIterator[ServerProcess]:
    stdout, its_stdout = os.pipe()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    process = Forked(
        *(*CHEAP_MDASH, "serve", "--bind", "127.0.0.1:0", "--log-level", "error", "--store", store),
        env={**os.environ, "MDASH_REGISTER_ADMIN": "root:secret"},
        stdout=its_stdout,
        stderr=nowhere,
    )
    os.close(its_stdout)
    os.close(nowhere)
    try:
        line = b""
        async with trio.lowlevel.FdStream(stdout) as stream:
            with trio.fail_after(20):
                while not line.endswith(b"\n"):
                    data = await stream.receive_some()
                    assert data, "the server did not start"
                    line += data
            url = line.decode().split()[-1]
            async with httpx.AsyncClient(
                base_url=f"{url}/api/v2", auth=("root", "secret"), timeout=20, verify=False
            ) as http:
                yield ServerProcess(process, url, http)
    finally:
        process.kill()


@pytest.fixture(scope="session")
def serving() -> Callable[[str], AbstractAsyncContextManager[ServerProcess]]:
    """Runs ``mdash serve`` on the store of a URL, and kills it at the end: ``async with serving(url) as server``."""
    return _serving

"""The tool `mos`, with a server in the place of its device; `mos.py` sends what it sends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

MOS = Path(__file__).with_name("mos.py")


async def mos(url: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run it."""
    return await trio.run_process(
        [sys.executable, str(MOS), "--port", url, "call", *arguments],
        capture_stdout=True, capture_stderr=True, check=False,
    )  # fmt: skip


def port(person: Any, user: str, secret: str, id: str = "d1", query: str = "") -> str:
    """The URL for ``--port``."""
    return f"http://{user}:{secret}@{person.server.url.removeprefix('http://')}/api/v2/devices/{id}/rpc{query}"


@pytest.fixture
async def echo(alice: Any) -> Any:
    """A device, d1, that answers with the method and what it was given, and refuses `Fail`."""
    async with await alice.connect("d1") as device, trio.open_nursery() as nursery:

        async def run() -> None:
            while True:
                request = await device.receive()
                if request.get("method") == "Fail":
                    await device.reply_error(request, -7, "I will not")
                elif "id" in request:
                    await device.reply(request, [request["method"], request.get("params")])

        nursery.start_soon(run)
        yield device
        nursery.cancel_scope.cancel()


async def test_mos_calls_with_a_key(alice: Any, echo: Any) -> None:
    """With any user name; the query, which it drops, is not missed."""
    for user, query in (("x", ""), ("alice", ""), ("", ""), ("x", "?access_token=y")):
        done = await mos(port(alice, user, alice.key, query=query), "Sys.GetInfo")
        assert (done.returncode, json.loads(done.stdout)) == (0, ["Sys.GetInfo", None]), done.stderr
    done = await mos(port(alice, "x", alice.key), "Config.Set", '{"config": {"a": [1, 2.5, "\u00fc"]}}')
    assert json.loads(done.stdout) == ["Config.Set", {"config": {"a": [1, 2.5, "\u00fc"]}}]


async def test_mos_calls_with_name_and_password(alice: Any, echo: Any, password: str) -> None:
    """As before."""
    done = await mos(port(alice, "alice", password.replace(" ", "%20")), "RPC.List")
    assert json.loads(done.stdout) == ["RPC.List", None]


async def test_mos_reads_the_device_s_own_error(alice: Any, echo: Any) -> None:
    """Code and message as the device gave them."""
    done = await mos(port(alice, "x", alice.key), "Fail")
    assert (done.returncode, done.stderr) == (1, b"Error: remote error -7: I will not\n")


async def test_mos_is_told_what_does_not_work(alice: Any, bob: Any, echo: Any) -> None:
    """A device that is away, one of another account, a key that is none: statuses, the only thing that it reads."""
    await alice.register("d2")
    unknown = alice.key[:-4] + "AAAA"
    for url, status in (
        (port(alice, "x", alice.key, "d2"), 503),
        (port(alice, "x", bob.key), 404),
        (port(alice, "alice", unknown), 401),
    ):
        done = await mos(url, "Sys.GetInfo")
        assert (done.returncode, done.stderr) == (1, f"Error: server returned an error: {status}\n".encode())

"""Node with the npm package `ws`: the script that mDash's users run to catch notifications, and a device."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

MODULES = Path(__file__).parents[2] / "node_modules"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (MODULES / "ws").exists(), reason="node, or its package ws, is not installed"
)

LISTENER = """
const Websocket = require('ws');
const address = 'ADDRESS/api/v2/notify?access_token=API_TOKEN';
const socket = new Websocket(address, { origin: address });
socket.on('open', () => console.log('open'));
socket.on('message', message => console.log(message.toString()));
"""

DEVICE = """
const Websocket = require('ws');
const socket = new Websocket('ADDRESS/api/v2/rpc', { headers: { Authorization: 'Bearer API_TOKEN' } });
socket.on('open', () => socket.send(JSON.stringify({ method: 'Hello', params: { from: 'node' } })));
socket.on('message', text => {
  const frame = JSON.parse(text);
  if (frame.id !== undefined) socket.send(JSON.stringify({ id: frame.id, result: { echo: frame.params || null } }));
});
"""

OFFER = """
const Websocket = require('ws');
const socket = new Websocket('ADDRESS', ['json-rpc', 'mqtt'], { headers: { Authorization: 'Bearer API_TOKEN' } });
socket.on('open', () => console.log(socket.protocol));
socket.on('error', error => console.log(error.message));
"""


class Node:
    """A running script, line by line."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""

    async def line(self) -> str:
        with trio.fail_after(20):
            while b"\n" not in self._buffer:
                data = await self._process.stdout.receive_some()
                assert data, "the script has ended"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


@pytest.fixture
async def run_node(nursery):
    """Starts a script with the address and the secret put in."""

    async def run(script: str, address: str, secret: str) -> Node:
        text = script.replace("ADDRESS", address).replace("API_TOKEN", secret)
        start = functools.partial(
            trio.run_process,
            ["node", "-e", text],
            stdout=subprocess.PIPE,
            env={**os.environ, "NODE_PATH": str(MODULES)},
            check=False,
        )
        process = await nursery.start(start)
        return Node(process)

    yield run
    nursery.cancel_scope.cancel()


async def test_the_listener_gets_what_happens(alice, run_node):
    """Notifications arrive as JSON objects with `name`, `id` and `data`."""
    node = await run_node(LISTENER, alice.server.url.replace("http", "ws"), alice.key)
    assert await node.line() == "open"
    async with await alice.connect("d1") as device:
        await device.send({"method": "MyStat", "params": {"temperature": 12.34}})
        frames = [json.loads(await node.line()) for _ in range(3)]
    assert [(frame["name"], frame["id"]) for frame in frames] == [
        ("created", "d1"),
        ("online", "d1"),
        ("rpc.out.MyStat", "d1"),
    ]
    assert frames[2]["data"] == {"temperature": 12.34}


async def test_a_device_in_node_is_called(alice, run_node):
    """`ws` as a device: connects with its token, tells, and answers."""
    token = await alice.register("d1")
    listener = await run_node(LISTENER, alice.server.url.replace("http", "ws"), alice.key)
    assert await listener.line() == "open"
    await run_node(DEVICE, alice.server.url.replace("http", "ws"), token)
    while json.loads(await listener.line())["name"] != "rpc.out.Hello":
        pass
    response = await alice.http.post("/devices/d1/rpc/Any", content=b'{"n": 12345678901234567890}')
    assert response.text == '{"echo":{"n":12345678901234567000}}'  # JavaScript's own rounding, passed on as it came


@pytest.mark.parametrize("path", ["rpc", "notify"])
async def test_a_client_that_offers_subprotocols_is_let_in(alice, run_node, path):
    """`ws` gives up on a server that chooses none of the sub-protocols that it was offered."""
    token = await alice.register("d1")
    address = f"{alice.server.url.replace('http', 'ws')}/api/v2/{path}"
    node = await run_node(OFFER, address, token if path == "rpc" else alice.key)
    assert await node.line() == "json-rpc"

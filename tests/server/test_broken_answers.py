"""Answers of devices that cannot be read, or are larger than is taken: on real sockets, in every lane."""

from __future__ import annotations

import pytest
import trio

from mdashcore.testing.device import connect_device
from mdashcore.trio.connections.conduct import MAX_REJECTED
from mdashcore.trio.node import NodeSettings

pytestmark = pytest.mark.every_lane


LARGE = 200_000  # bytes: more than a frame may have


async def test_a_broken_answer_is_502_immediately(alice, device):
    """With the place of the error; a client that sent a frame gets it as a frame; and other calls go on."""
    async with alice.calling("POST", "/devices/d1/rpc/A", content=b"{}") as other:
        waiting = await device.expect("A")
        async with alice.calling("POST", "/devices/d1/rpc/B", content=b"{}") as response:
            request = await device.expect("B")
            await device.send(f'{{"id":{request["id"]},"error":{{"code":500,"message":}}}}')
            answer = await response()
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == 502
        assert '"message":}}' in answer.json()["error"]["message"]
        frame = {"id": "x", "method": "C"}
        async with alice.calling("POST", "/devices/d1/rpc", json=frame) as response:
            request = await device.expect("C")
            await device.send(f'{{"id":{request["id"]}.0,"result":{{"t":nan}}}}')
            answer = await response()
        assert (answer.status_code, answer.json()["id"], answer.json()["error"]["code"]) == (502, "x", 502)
        await device.reply(waiting, 1)
        assert (await other()).text == "1"


@pytest.mark.parametrize("order", ["id first", "id last", "no id"])
async def test_an_answer_that_is_too_large_is_502_with_its_size(alice, device, order):
    """The caller learns the size; the connection and the device's other calls live on."""
    async with alice.calling("POST", "/devices/d1/rpc/A", content=b"{}") as response:
        request = await device.expect("A")
        id_, text = f'"id":{request["id"]}', "x" * LARGE
        body = {
            "id first": f'{{{id_},"result":"{text}"}}',
            "id last": f'{{"result":"{text}",{id_}}}',
            "no id": f'{{"result":"{text}"}}',
        }[order]
        await device.send(body)
        answer = await response()
    assert answer.status_code == 502
    assert f"a frame of {len(body)} bytes" in answer.json()["error"]["message"]
    async with alice.calling("POST", "/devices/d1/rpc/B", content=b"{}") as response:
        await device.reply(await device.expect("B"), True)
        assert (await response()).text == "true"
    rejected = await alice.told("rejected", "d1")
    assert (rejected["data"]["kind"], rejected["data"]["size"]) == ("too-large", len(body))


@pytest.mark.parametrize("node_settings", [NodeSettings(introduction_delay=60, max_answer=2**20)])
async def test_the_bound_of_answers_can_be_raised(alice, device):
    """An answer may then be larger than a frame; what the device says by itself may not."""
    async with alice.calling("POST", "/devices/d1/rpc/FS.Get", content=b"{}") as response:
        await device.reply(await device.expect("FS.Get"), "x" * LARGE)
        assert (await response()).json() == "x" * LARGE
        await device.send(
            {"id": 5, "method": "Dash.Shadow.Update", "params": {"state": {"reported": {"x": "y" * LARGE}}}}
        )
        refused = await device.receive()
    assert (refused["id"], refused["error"]["code"]) == (5, 413)


async def test_a_device_that_sends_garbage_is_let_in_later(alice, server, open_raw):
    """429 with Retry-After in place of the handshake, for its token only."""
    token, other = await alice.register("d1"), await alice.register("d2")
    async with connect_device(server.device_url, token) as device:
        for _ in range(MAX_REJECTED):
            await device.send("{")
        assert await device.wait_closed() == (1008, "too much that cannot be read; connect again in 10 s")
    async with open_raw(server) as raw:
        refused = await raw.handshake(token)
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 10
    async with connect_device(server.device_url, other):
        await alice.told("online", "d2")
    renewed = (await alice.http.post("/devices/d1/token")).json()["token"]
    async with connect_device(server.device_url, renewed):
        pass


@pytest.mark.parametrize(("frame", "code", "kind"), [(b'{"id":1}', 1003, "binary"), ("\ud800", 1007, "not-utf-8")])
async def test_frames_that_end_the_connection_are_seen_too(alice, open_raw, server, frame_bytes, frame, code, kind):
    """A library that sends binary frames is a mistake that people have to find."""
    token = await alice.register("d1")
    async with open_raw(server) as raw:
        await raw.handshake(token)
        first = 2 if isinstance(frame, bytes) else 1
        payload = frame if isinstance(frame, bytes) else frame.encode("utf-8", "surrogatepass")
        await raw.send(frame_bytes(first, payload))
        assert await raw.close_code() == code
    rejected = await alice.told("rejected", "d1")
    assert rejected["data"]["kind"] == kind
    with trio.fail_after(30):
        await alice.told("offline", "d1")

"""What the virtual device does with each character: alone, and on the wire of a real server."""

from __future__ import annotations

import base64
import io
import json

import pytest
import trio
import trio.testing

from mdashcore._errors import InvalidInput, RpcError
from mdashcore.firmware import write_image
from mdashcore.virtual_device import CHARACTERS, FirmwareBuild, VirtualDevice, join
from mdashcore.virtual_device.characters import PLAIN_DEVICE
from mdashcore.virtual_device.connect import run_virtual_device
from mdashcore.virtual_device.wire import CharacterWire

FACTORY = FirmwareBuild("ccm", "1.0", "old", "esp32")


def image():
    file = io.BytesIO()
    write_image(file, {"name": "ccm", "platform": "esp32", "version": "2.0", "build_id": "new"}, {"app": bytes(9000)})
    return file.getvalue()


@pytest.fixture
def open_device(tmp_path, nursery):
    """Switches a device on; what it sends is kept in `sent`."""

    def open_(*names, **options):
        device = VirtualDevice("d1", tmp_path, build=FACTORY, character=join(*names), **options)
        device.sent = []

        async def notify(method, params):
            device.sent.append((method, params))

        async def reboot():
            device.sent.append(("rebooted", None))

        nursery.start_soon(device.run, notify, reboot)
        return device

    return open_


async def write(device, data, **begin):
    await device.handle("OTA.Begin", {"size": len(data), "timeout": 600, "commit_timeout": 300} | begin)
    for offset in range(0, len(data), 1024):
        chunk = base64.b64encode(data[offset : offset + 1024]).decode()
        await device.handle("OTA.Write", {"offset": offset, "data": chunk})


async def update(device):
    await write(device, image())
    await device.handle("OTA.End", None)
    await trio.sleep(2)
    return (await device.handle("Sys.GetInfo", None))["fw_id"]


@pytest.mark.parametrize("name", CHARACTERS)
async def test_every_character_takes_an_update(autojump_clock, open_device, name):
    """They do it in their own way, but they do."""
    device = open_device(name)
    assert await update(device) == "new"
    await trio.sleep(400)
    runs = (await device.handle("Sys.GetInfo", None))["fw_id"]
    assert runs == ("new" if not CHARACTERS[name].has_trial else "old")


@pytest.mark.parametrize(
    ("name", "method", "code"),
    [("no-status", "OTA.Status", 404), ("no-trial", "OTA.Status", -32601), ("no-trial", "OTA.Commit", -32601)],
)
async def test_a_method_that_is_not_there(autojump_clock, open_device, name, method, code):
    """It is refused in the device's words, and not listed."""
    device = open_device(name)
    with pytest.raises(RpcError) as refused:
        await device.handle(method, None)
    assert refused.value.code == code
    assert method not in await device.handle("RPC.List", None)


@pytest.mark.parametrize("name", ["no-status", "no-trial"])
async def test_it_says_nothing_of_the_trial(autojump_clock, open_device, name):
    """Neither at the connect nor in a report."""
    device = open_device(name)
    ((method, params),) = device.hello()
    assert method == "Dash.Shadow.Update"
    assert "fw_id" in params["state"]["reported"]["ota"]
    await update(device)
    said = [json.dumps(params) for method, params in [*device.hello(), *device.sent]]
    assert not any("is_committed" in each or '"status"' in each for each in said)


async def test_a_heartbeat_comes_first(autojump_clock, open_device):
    """With what Sys.GetInfo answers."""
    device = open_device("heartbeat-first")
    ((method, params),) = device.hello()
    assert (method, params["fw_id"], "is_committed" in params) == ("Dash.Heartbeat", "old", False)


@pytest.mark.parametrize(
    ("names", "words"), [(["holds-transfers"], "OTA already in progress"), ([], "Update already in progress")]
)
async def test_a_transfer_that_is_held(autojump_clock, open_device, names, words):
    """For ever, by a device that does not forget; until its time-out by any other."""
    device = open_device(*names)
    await write(device, image()[:5000], size=len(image()))
    for pause in (0, 599):
        await trio.sleep(pause)
        with pytest.raises(RpcError, match=words):
            await device.handle("OTA.Begin", {"size": 1})
    await trio.sleep(2)
    if names:
        await trio.sleep(7200)
        with pytest.raises(RpcError, match=words):
            await device.handle("OTA.Begin", {"size": 1})
        await device.handle("OTA.End", None)  # of half an image: it reboots, and runs what it ran
        await trio.sleep(2)
        assert (await device.handle("Sys.GetInfo", None))["fw_id"] == "old"
    await device.handle("OTA.Begin", {"size": 1})


async def test_a_slow_flash(autojump_clock, open_device):
    """Each call takes its time."""
    device = open_device("slow-flash")
    began = trio.current_time()
    await update(device)
    assert trio.current_time() - began > 20 + 15 + 9 * 1.5


async def test_a_talkative_device(autojump_clock, open_device):
    """A notification for every chunk, and ten reports a second."""
    device = open_device("talkative")
    await write(device, image())
    await trio.sleep(1)
    percents = [params["ota"]["percent"] for method, params in device.sent if method == "State.Set"]
    assert percents == sorted(percents)
    assert len(percents) == -(-len(image()) // 1024)
    await trio.sleep(10)
    assert len([1 for method, params in device.sent if "stats" in str(params)]) > 90


def frames(name, message):
    return [*CharacterWire(CHARACTERS[name]).frames(json.dumps(message, separators=(",", ":")))]


def test_frames_of_a_device_that_writes_garbage():
    """Its errors can be read up to the message, its reports are followed by one that cannot; results are right."""
    assert frames("answers-garbage", {"id": 7, "error": {"code": 404, "message": 'no "x"'}}) == [
        '{"id":7,"error":{"code":404,"message":}}'
    ]
    report = {"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"on": True}}}}
    good, bad = frames("answers-garbage", report)
    assert json.loads(good) == report
    assert "nan" in bad
    assert frames("answers-garbage", {"id": 7, "result": {"message": "ok"}}) == ['{"id":7,"result":{"message":"ok"}}']


def test_frames_of_a_device_that_sends_bytes():
    """One each; and an error for what has no method."""
    assert "".join(frames("byte-per-frame", {"id": 1})) == '{"id":1}'
    assert len(frames("byte-per-frame", {"id": 1})) == 8
    wire = CharacterWire(CHARACTERS["byte-per-frame"])
    assert json.loads("".join(wire.answers('{"id":1,"result":null}')))["error"]["code"] == -32600
    assert [*wire.answers('{"id":1,"method":"RPC.List"}')] == []


async def test_on_a_server(alice, tmp_path):
    """A device that can talk is known, and answers; one that cannot is connected, and harms no other."""
    async with trio.open_nursery() as nursery:
        for name, character in CHARACTERS.items():
            token = await alice.register(name)
            device = VirtualDevice(name, tmp_path / name, character=character)
            await nursery.start(run_virtual_device, device, alice.server.device_url, token)
        for name, character in CHARACTERS.items():
            if character.can_talk:
                answer = await alice.http.get(f"/devices/{name}/rpc/RPC.List")
                assert answer.status_code == 200, name
        nursery.cancel_scope.cancel()


def test_joined_characters():
    """They have the habits of all; of none, those of a device of today."""
    assert join() == PLAIN_DEVICE
    both = join("no-trial", "slow-flash", "talkative")
    assert both.lacks == CHARACTERS["no-trial"].lacks
    assert both.delays == CHARACTERS["slow-flash"].delays
    assert (both.has_trial, both.tells_percent, both.no_method.code) == (False, True, -32601)
    with pytest.raises(InvalidInput, match="no character 'shy'"):
        join("shy")

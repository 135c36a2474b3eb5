"""Every end of an update, of a virtual device over real sockets; what can be asked for, and what can be seen of it."""

from __future__ import annotations

import io
import random
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from mdashcore import firmware, ota
from mdashcore.identity import DeviceKey
from mdashcore.ota import UPDATE_ENDS, UpdateState
from mdashcore.server.uploads import update_upload as server_upload
from mdashcore.server.uploads.update_query import PARAMETERS
from mdashcore.testing.device import FRAME_TIMEOUT
from mdashcore.trio.agent import Backoff
from mdashcore.virtual_device import FirmwareBuild, VirtualDevice, join
from mdashcore.virtual_device.connect import run_virtual_device

OLD, NEW = "20180501-000000/old", "20180601-120000/new"


def image(size=5000, **fields):
    """A firmware zip."""
    file = io.BytesIO()
    manifest = {"name": "ccm", "platform": "esp32", "version": "2.0", "build_id": NEW} | fields
    firmware.write_image(file, manifest, {"app": random.Random(size).randbytes(size)})
    return file.getvalue()


class Gated(VirtualDevice):
    """A virtual device that can be held up before it does what it is asked for; it keeps what it was called."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.calls = []
        self.holds = {}

    def hold(self, method, after=0):
        """From the call after so many others of a method on, wait; the event is set when it has come to that."""
        self.holds[method] = after, trio.Event(), trio.Event()
        return self.holds[method][1]

    def go_on(self, method):
        self.holds.pop(method)[2].set()

    async def handle(self, method, params):
        self.calls.append((method, params))
        if method in self.holds:
            left, came, gate = self.holds[method]
            if left == 0:
                came.set()
                await gate.wait()
            else:
                self.holds[method] = left - 1, came, gate
        return await super().handle(method, params)


@attrs.define(eq=False)
class Lamp:
    """The virtual device d1: its flash is a folder, and its power can be cut."""

    person: object
    token: str
    folder: object
    nursery: object
    device: Gated | None = None
    scope: trio.CancelScope | None = None

    def boot(self, **options):
        """Switch it on; it has no link yet."""
        self.device = Gated("d1", self.folder, build=FirmwareBuild("ccm", "1.0", OLD, "esp32"), **options)
        return self.device

    async def on(self, **options):
        """Switch it on, and wait until it is connected."""
        self.boot(**options)
        self.scope = trio.CancelScope()
        await self.nursery.start(self._run, self.scope)

    async def _run(self, scope, task_status):
        with scope:
            url = self.person.server.device_url
            await run_virtual_device(self.device, url, self.token, backoff=Backoff(first=0.01), task_status=task_status)

    async def off(self):
        """A power cut, noticed by the server."""
        self.scope.cancel()
        with trio.fail_after(FRAME_TIMEOUT):
            while DeviceKey("alice", "d1") in self.person.server.service.node.devices:
                await trio.testing.wait_all_tasks_blocked(0.005)

    def drop(self):
        """Cut the connection; the device does not notice more than that."""
        self.person.server.service.node.devices[DeviceKey("alice", "d1")].link.abort()

    def count(self, method):
        return [name for name, _ in self.device.calls].count(method)


@pytest.fixture
async def lamp(alice, tmp_path):
    """Registered, switched off."""
    token = await alice.register("d1")
    async with trio.open_nursery() as nursery:
        yield Lamp(alice, token, tmp_path, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
def upload(alice):
    """Uploads an image, with a query."""

    async def post(data=None, **query):
        return await alice.http.post("/devices/d1/ota", params=query, content=data or image())

    return post


async def stands(person):
    response = await person.http.get("/devices/d1/ota")
    assert response.status_code == 200, response.text
    return response.json()


@asynccontextmanager
async def ends_as(person, state):
    """What happens inside brings the update to this state, in the notifications and in the answer to GET."""
    async with person.listen() as ear:
        yield
        told = await ear.expect(f"ota.{state}", "d1")
    found = await stands(person)
    assert (found["state"], found["reason"]) == (told["data"]["state"], told["data"]["reason"])
    if state in UPDATE_ENDS:
        assert (found["deadline"], found["history"][0]["state"]) == (None, state)
        assert [key async for key in person.server.service.hub.blobs.scan()] == []


# The ends


async def test_committed_by_a_health_check(alice, lamp, upload):
    """The server commits by itself: the device is there for a second, and answers."""
    await lamp.on()
    async with ends_as(alice, UpdateState.COMMITTED):
        assert (await upload(commit="auto", commit_after=1)).content == b"true"
    assert lamp.count("OTA.Commit") == 1


async def test_committed_by_itself(alice, lamp, upload):
    """A device that was told not to wait for a commit."""
    await lamp.on()
    async with ends_as(alice, UpdateState.COMMITTED):
        assert (await upload(commit_timeout=0)).content == b"true"
    assert lamp.count("OTA.Commit") == 0


@pytest.mark.parametrize("cause", ["OTA.Revert", "commit time-out", "power cut"])
async def test_rolled_back(alice, lamp, upload, cause):
    """On request, without a commit in time, or by a reboot before the commit."""
    await lamp.on()
    async with ends_as(alice, UpdateState.ROLLED_BACK):
        async with ends_as(alice, UpdateState.UNCOMMITTED):
            assert (await upload(commit_timeout=1 if cause == "commit time-out" else 300)).content == b"true"
        if cause == "OTA.Revert":
            assert (await alice.http.post("/devices/d1/rpc/OTA.Revert")).content == b"null"
        elif cause == "power cut":
            await lamp.off()
            await lamp.on()


async def test_rolled_back_without_a_word(alice, lamp, upload):
    """It came back with the old build, and never said that the new one did not start: not done."""
    await lamp.on()
    async with ends_as(alice, UpdateState.ROLLED_BACK):
        async with ends_as(alice, UpdateState.REBOOTING):
            assert (await upload()).content == b"true"
            await lamp.off()
        lamp.boot()  # the new build, which crashes before it is connected,
        await lamp.on()  # and the boot loader has had enough of it
    assert OLD in (await stands(alice))["reason"]


async def test_failed(alice, lamp, upload):
    """The device's own words are in the answer, and stay in the state."""
    await lamp.on(slot_size=1000)
    async with ends_as(alice, UpdateState.FAILED):
        answer = await upload()
    words = "OTA.Begin: Image does not fit the slot of 1000 bytes (code 500)"
    assert (answer.status_code, words[:40] in answer.json()["error"]["message"]) == (422, True)
    assert (await stands(alice))["reason"][:40] == words[:40]


async def test_rejected_unless_forced(alice, lamp, upload):
    """An image for another platform is not sent; with force it is, and the device has the last word."""
    await lamp.on()
    other = image(platform="cc3200")
    async with ends_as(alice, UpdateState.REJECTED):
        answer = await upload(other)
    assert (answer.status_code, lamp.count("OTA.Begin")) == (422, 0)
    assert answer.json()["error"]["message"] == "the image is for cc3200, the device is esp32"
    async with ends_as(alice, UpdateState.REJECTED):
        answer = await upload(other, force=1)
    assert (answer.status_code, lamp.count("OTA.End")) == (422, 1)
    assert "Wrong platform" in answer.json()["error"]["message"]


async def test_timed_out(alice, lamp, upload, monkeypatch):
    """A device that is connected, and answers no more."""
    for call in (ota.Begin, ota.Ask):
        monkeypatch.setattr(call, "call_timeout", 0.02)
    await lamp.on()
    lamp.device.hold("OTA.Begin")
    async with ends_as(alice, UpdateState.TIMED_OUT):
        answer = await upload()
    assert (answer.status_code, "OTA.Begin" in answer.json()["error"]["message"]) == (504, True)


async def test_already_installed(alice, lamp, upload):
    """Nothing is sent to a device that runs the build."""
    await lamp.on()
    async with ends_as(alice, UpdateState.ALREADY_INSTALLED):
        answer = await upload(image(build_id=OLD, version="1.0"))
    assert (answer.status_code, lamp.count("OTA.Begin")) == (409, 0)


async def test_superseded(alice, lamp, upload):
    """A newer image takes the place of one that waits; the device gets the newer one, and the older is remembered."""
    async with ends_as(alice, UpdateState.QUEUED):
        assert (await upload(image(version="1.5", build_id="1.5"), queue=1)).status_code == 202
    async with alice.listen() as ear:
        assert (await upload(queue=1, commit_timeout=0)).status_code == 202
        told = await ear.expect("ota.SUPERSEDED", "d1")
    assert told["data"]["image"]["version"] == "1.5"
    async with ends_as(alice, UpdateState.COMMITTED):
        await lamp.on()
    now = await stands(alice)
    assert now["image"]["version"] == "2.0"
    assert [(past["version"], past["state"]) for past in now["history"]] == [
        ("2.0", "COMMITTED"),
        ("1.5", "SUPERSEDED"),
    ]


async def test_canceled_in_the_queue(alice, upload):
    """It never began."""
    await alice.register("d1")
    assert (await alice.http.delete("/devices/d1/ota")).status_code == 404
    await upload(queue=1)
    async with ends_as(alice, UpdateState.CANCELED):
        answer = await alice.http.delete("/devices/d1/ota")
    assert (answer.status_code, answer.json()["state"]) == (200, "CANCELED")
    again = await alice.http.delete("/devices/d1/ota")
    assert (again.status_code, "has ended already: CANCELED" in again.json()["error"]["message"]) == (409, True)


@pytest.mark.parametrize("method", ["OTA.Begin", "OTA.Write"])
async def test_canceled_in_the_transfer(alice, lamp, upload, method):
    """The upload is answered, and the device hears no more of it."""
    await lamp.on()
    held = lamp.device.hold(method)
    async with (
        ends_as(alice, UpdateState.CANCELED),
        alice.calling("POST", "/devices/d1/ota", content=image()) as response,
    ):
        await held.wait()
        assert (await alice.http.delete("/devices/d1/ota")).status_code == 200
        answer = await response()
    assert (answer.status_code, "canceled at" in answer.json()["error"]["message"]) == (409, True)
    calls = len(lamp.device.calls)
    lamp.device.go_on(method)
    assert (await alice.http.post("/devices/d1/rpc/RPC.List")).status_code == 200
    assert len(lamp.device.calls) == calls + 1


async def test_too_late_to_cancel(alice, lamp, upload):
    """From OTA.End on no call takes it back: 409, in words that say what can be done."""
    await lamp.on()
    held = lamp.device.hold("OTA.End")

    async def cancel(words):
        answer = await alice.http.delete("/devices/d1/ota")
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (409, True), answer.text

    async with alice.listen() as ear:
        await upload(queue=1)
        await held.wait()
        assert (await stands(alice))["state"] == "VERIFYING"
        await cancel("OTA.End")
        lamp.device.go_on("OTA.End")
        await ear.expect("ota.REBOOTING")
        await cancel("reboots into it")
        await ear.expect("ota.UNCOMMITTED")
        await cancel("call OTA.Revert")
        await alice.http.post("/devices/d1/rpc/OTA.Commit")
        await ear.expect("ota.COMMITTED")
        await cancel("has ended already: COMMITTED")


# Links, power, and a server that starts again


async def test_a_device_that_drops_out_goes_on_at_the_offset(alice, lamp, upload):
    """Three times in one transfer, without a waiting client; one OTA.Begin, and no chunk twice but that on its way."""
    await lamp.on()
    data = image(40_000)
    async with ends_as(alice, UpdateState.COMMITTED):
        held = lamp.device.hold("OTA.Write", after=5)
        await upload(data, queue=1, commit_timeout=0)
        for _ in range(3):
            await held.wait()
            lamp.drop()
            lamp.device.go_on("OTA.Write")
            held = lamp.device.hold("OTA.Write", after=6)
        await held.wait()
        lamp.device.go_on("OTA.Write")
    assert lamp.count("OTA.Begin") == 1
    offsets = [params["offset"] for method, params in lamp.device.calls if method == "OTA.Write"]
    assert sorted(set(offsets)) == [*range(0, len(data), 1024)]
    assert len(offsets) <= len(set(offsets)) + 3


async def test_a_power_cut_begins_the_transfer_again(alice, lamp, upload):
    """What was in the device's memory is gone; the second attempt is a whole one."""
    await lamp.on()
    async with ends_as(alice, UpdateState.COMMITTED):
        held = lamp.device.hold("OTA.Write", after=3)
        await upload(queue=1, commit_timeout=0)
        await held.wait()
        await lamp.off()
        await lamp.on()
    assert lamp.count("OTA.Begin") == 1  # of the new device's calls
    assert (await stands(alice))["attempt"] == 2


@pytest.mark.parametrize(("heard", "end"), [(False, UpdateState.ROLLED_BACK), (True, UpdateState.UNCOMMITTED)])
async def test_a_power_cut_while_the_image_is_checked(alice, lamp, upload, heard, end):
    """It is unknown whether the device has taken OTA.End: the build that it comes back with decides."""
    await lamp.on()
    held = lamp.device.hold("OTA.End")
    async with ends_as(alice, end):
        await upload(queue=1)
        await held.wait()
        if heard:
            await VirtualDevice.handle(lamp.device, "OTA.End", None)
        await lamp.off()
        await lamp.on()
    if not heard:
        assert "not with the new image; it is not known whether" in (await stands(alice))["reason"]


@pytest.mark.parametrize("cut", ["power", "link", "silence"])
@pytest.mark.parametrize(("heard", "status"), [(False, 409), (True, 200)])
async def test_an_upload_is_answered_without_a_guess(alice, lamp, upload, monkeypatch, cut, heard, status):
    """Where the answer to OTA.End is lost, the answer to the upload waits for what the device says."""
    monkeypatch.setattr(ota.End, "call_timeout", 0.3)
    await lamp.on()
    held = lamp.device.hold("OTA.End")
    answers = []

    async def send():
        answers.append(await upload())

    async with trio.open_nursery() as nursery, alice.listen() as ear:
        nursery.start_soon(send)
        await held.wait()
        if heard:
            await VirtualDevice.handle(lamp.device, "OTA.End", None)
        if cut == "power":
            await lamp.off()
        elif cut == "link":
            lamp.drop()
        await ear.expect("ota.REBOOTING", "d1")
        assert (await stands(alice))["state"] in ("REBOOTING", "VERIFYING")  # also time for an early answer
        assert answers == []
        if cut != "power":
            await lamp.off()
        await lamp.on()
    assert answers[0].status_code == status, answers[0].text
    assert status != 200 or answers[0].json() is True


# What can be asked for


async def test_queued_for_an_offline_device(alice, lamp, upload):
    """202 with the update; without queue it is 503, and nothing is kept. It begins when the device comes."""
    refused = await upload()
    assert refused.status_code == 503
    assert (await alice.http.get("/devices/d1/ota")).status_code == 404
    answer = await upload(queue="true")
    assert (answer.status_code, answer.json()["state"]) == (202, "QUEUED")
    assert answer.json()["deadline"] == answer.json()["created"] + 7 * 86_400
    async with ends_as(alice, UpdateState.UNCOMMITTED):
        await lamp.on()


async def test_a_device_that_is_gone_before_it_begins(alice, upload, monkeypatch):
    """It was said to be connected, to another node that is dead: 503 after a while, and nothing is left to begin."""
    monkeypatch.setattr(server_upload, "START_TIMEOUT", 0.05)
    await alice.register("d1")
    await alice.server.service.hub.presence.claim(DeviceKey("alice", "d1"), "another node")
    async with ends_as(alice, UpdateState.CANCELED):
        answer = await upload()
    assert (answer.status_code, "has gone" in answer.json()["error"]["message"]) == (503, True)


async def test_queue_does_not_wait(alice, lamp, upload):
    """Also not for a device that is connected."""
    await lamp.on()
    held = lamp.device.hold("OTA.Begin")
    answer = await upload(queue=1)
    assert (answer.status_code, answer.json()["state"]) == (202, "QUEUED")
    await held.wait()
    second = await upload(queue=1)
    assert (second.status_code, "it is TRANSFERRING" in second.json()["error"]["message"]) == (409, True)


async def test_the_size_and_number_of_chunks(alice, upload):
    """As many bytes as asked for, so many chunks on their way, and no more."""
    data = bytes(5000)
    async with (
        await alice.connect("d1") as device,
        alice.calling("POST", "/devices/d1/ota?chunk_size=500&in_flight=3&attempts=1", content=data) as response,
    ):
        ota = {"fw_id": "old", "arch": "esp32"}
        await device.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"ota": ota}}}})
        begin = await device.expect("OTA.Begin")
        await device.reply(begin)
        chunks = [await device.expect("OTA.Write") for _ in range(3)]
        with trio.move_on_after(0.05) as timer:
            await device.expect("OTA.Write")
        assert timer.cancelled_caught
        assert [chunk["params"]["offset"] for chunk in chunks] == [0, 500, 1000]
        await device.reply(chunks[0])
        assert (await device.expect("OTA.Write"))["params"]["offset"] == 1500
        await device.reply_error(chunks[1], -1, "flash is full")
        answer = await response()
    assert (answer.status_code, "flash is full" in answer.json()["error"]["message"]) == (422, True)


BAD = {
    "queue=maybe": "queue",
    "queue=": "queue",
    "force=2": "force",
    "bare=yes": "bare",
    "keep=always": "keep",
    "keep=1&firmware=fw_x": "firmware",
    "commit=later": "commit",
    "commit_after=30": "commit_after",
    "commit=auto&commit_after=0": "commit_after",
    "commit=auto&commit_after=300": "commit_after",
    "commit=auto&commit_after=x": "commit_after",
    "commit_timeout=86401": "commit_timeout",
    "commit_timeout=-1": "commit_timeout",
    "chunk_size=0": "chunk_size",
    "chunk_size=2945": "chunk_size",
    "chunk_size=1e3": "chunk_size",
    "chunk_size=99999999999999999999": "chunk_size",
    "attempts=11": "attempts",
    "in_flight=17": "in_flight",
    "in_flight=1&in_flight=2": "in_flight",
    "size=5": "size",
    "&".join(f"x{n}=1" for n in range(40)): "parameters",
    "queue=%ff": "not valid",
}


async def test_what_cannot_be_asked_for(alice, upload):
    """400 that names the parameter; the image is not even read."""
    await alice.register("d1")
    for query, name in BAD.items():
        answer = await alice.http.post(f"/devices/d1/ota?{query}", content=image())
        assert (query, answer.status_code, name in answer.json()["error"]["message"]) == (query, 400, True), answer.text
    assert (await alice.http.get("/devices/d1/ota")).status_code == 404
    assert {name for name in PARAMETERS if not any(name in query for query in BAD)} == set()


# What can be seen


async def test_everything_that_can_be_seen(alice, lamp, upload):
    """In the transfer how fast it goes, after the reboot until when it can be committed, and what was before."""
    await lamp.on()
    data = image()
    held = lamp.device.hold("OTA.Write", after=3)
    await upload(data, queue=1, commit="auto", commit_after=60)
    await held.wait()
    now = await stands(alice)
    assert (now["state"], now["offset"], now["size"]) == ("TRANSFERRING", 3072, len(data))
    assert now["progress_percent"] == 3072 * 100 // len(data)
    assert now["rate"] > 0
    assert now["created"] <= now["started"] <= now["changed"]
    assert now["deadline"] - now["changed"] > 800
    assert (now["commit"], now["commit_by"], now["commit_seconds_left"]) == ("auto", None, None)
    assert now["image"] == {
        "name": "image",
        "size": len(data),
        "sha256": now["image"]["sha256"],
        "build_id": NEW,
        "version": "2.0",
        "platform": "esp32",
        "app": "ccm",
        "bare": False,
    }
    async with ends_as(alice, UpdateState.UNCOMMITTED):
        lamp.device.go_on("OTA.Write")
    now = await stands(alice)
    assert now["commit_by"] == now["changed"] + 300
    assert 290 < now["commit_seconds_left"] <= 300
    async with ends_as(alice, UpdateState.ROLLED_BACK):
        await alice.http.post("/devices/d1/rpc/OTA.Revert")
    past = (await stands(alice))["history"][0]
    assert (past["name"], past["version"], past["build_id"], past["size"]) == ("image", "2.0", NEW, len(data))
    assert (past["state"], past["reason"]) == ("ROLLED_BACK", "reverted on request")
    assert past["created"] <= past["started"] <= past["ended"]


async def test_a_bare_image_is_marked_as_such(alice, lamp, upload):
    """It has no build that could be compared."""
    assert (await upload(b"\xe9 no zip", queue=1)).json()["image"]["bare"] is True


# Devices that say less, and transfers that they still hold


async def test_a_device_without_a_trial_over_the_wire(alice, lamp, upload):
    """It has no OTA.Commit: a person who calls that is told so, and the update is committed."""
    await lamp.on(character=join("no-trial"))
    async with ends_as(alice, UpdateState.COMMITTED):
        async with ends_as(alice, UpdateState.UNCOMMITTED):
            assert (await upload()).content == b"true"
        assert (await stands(alice))["commit_known"] is False
        answer = await alice.http.post("/devices/d1/rpc/OTA.Commit")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, -32601)
    assert "no OTA.Commit" in (await stands(alice))["reason"]


async def test_the_transfer_before_is_ended_by_a_person(alice, lamp, upload):
    """A canceled transfer is held for ever by some devices: the next update says that it waits, and goes on when a
    person ends the old one. While a transfer is an update's own, it is not ended so."""
    await lamp.on(character=join("holds-transfers"))
    held = lamp.device.hold("OTA.Write", after=2)
    await upload(queue=1)
    await held.wait()
    answer = await alice.http.post("/devices/d1/ota/end")
    assert (answer.status_code, "TRANSFERRING" in answer.json()["error"]["message"]) == (409, True)
    await alice.http.delete("/devices/d1/ota")
    lamp.device.go_on("OTA.Write")
    async with alice.listen() as ear:
        await upload(queue=1, commit_timeout=0)
        told = await ear.expect("ota.waiting", "d1")
        now = await stands(alice)
        assert now["waits_until"] == told["data"]["waits_until"] > now["changed"] + 600
        assert now["reason"].startswith("waits until the device has forgotten the transfer before, at the latest ")
        assert (await alice.http.post("/devices/d1/ota/end")).json() is True
        await ear.expect("ota.COMMITTED", "d1")
    answer = await alice.http.post("/devices/d1/ota/end")
    assert answer.status_code == 422
    assert (await alice.http.post("/devices/nosuch/ota/end")).status_code == 404

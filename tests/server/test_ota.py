"""``/devices/:id/ota``: an image goes from a request into a device; what becomes of it is told."""

from __future__ import annotations

import base64
import io
import json
import random

import attrs
import httpx
import pytest
import trio
import trio.testing

from mdashcore import firmware, ota
from mdashcore._errors import InvalidInput, StorageError
from mdashcore.hub.updates import performer
from mdashcore.identity import DeviceKey
from mdashcore.server.config import load_config
from mdashcore.server.run import open_server
from mdashcore.server.service import InFlight
from mdashcore.testing.device import FRAME_TIMEOUT, connect_device
from mdashcore.trio import background
from mdashcore.trio.agent import Backoff
from mdashcore.virtual_device import FirmwareBuild, VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device

OLD, NEW = "20180501-000000/old", "20180601-120000/new"


def image(size=5000, **fields):
    """A firmware zip."""
    file = io.BytesIO()
    manifest = {"name": "ccm", "platform": "esp32", "version": "2.0", "build_id": NEW} | fields
    firmware.write_image(file, manifest, {"app": random.Random(size).randbytes(size)})
    return file.getvalue()


def report(**fields):
    """What a device says of itself on connect."""
    ota = {
        "app": "ccm",
        "fw_version": "1.0",
        "fw_id": OLD,
        "arch": "esp32",
        "is_committed": True,
        "status": 0,
        **fields,
    }
    return {"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"ota": ota}}}}


@attrs.define
class Taker:
    """A device that takes an image as a real one does, and remembers every call."""

    device: object
    answer: object = True
    calls: list = attrs.Factory(list)
    image: bytearray = attrs.Factory(bytearray)
    errors: dict = attrs.Factory(dict)
    """Words of an error, by the method that is answered with it."""

    def progress(self):
        """In percent, as devices round it."""
        return len(self.image) * 100 // self.calls[0][1]["size"]

    async def take(self, last="OTA.End"):
        """Answer calls, up to and with the first of that name."""
        while True:
            request = await self.device.receive()
            method, params = request.get("method"), request.get("params")
            if method not in ("OTA.Begin", "OTA.Write", "OTA.End"):
                continue
            self.calls.append((method, params))
            if method in self.errors:
                await self.device.reply_error(request, -1, self.errors[method])
                return
            if method == "OTA.Write":
                assert params["offset"] == len(self.image)
                self.image += base64.b64decode(params["data"], validate=True)
            await self.device.reply(request, self.answer)
            if method == last:
                return


@pytest.fixture
async def taker(alice):
    """A connected device, d1, that has said what it runs."""
    async with await alice.connect("d1") as device:
        await device.send(report())
        await alice.told("updated", "d1")
        yield Taker(device)


@pytest.fixture
def blobs(server):
    """What is in the blob store."""

    async def keys():
        return [key async for key in server.service.hub.blobs.scan()]

    return keys


async def settled(condition):
    """Wait until something is so that no notification tells of."""
    with trio.fail_after(FRAME_TIMEOUT):
        while not await condition():
            await trio.testing.wait_all_tasks_blocked(0.005)


async def state_of(person):
    return (await person.http.get("/devices/d1/ota")).json()["state"]


# The transfer


FORMS = {
    "curl -F file=@fw.zip": {"files": {"file": ("fw.zip", image())}},
    "a form with other fields": {"data": {"a": "1", "b": "2" * 5000}, "files": {"file": ("fw.zip", image())}},
    "the raw body": {"content": image(), "headers": {"Content-Type": "application/zip"}},
    "curl --data-binary @fw.zip": {
        "content": image(),
        "headers": {"Content-Type": "application/x-www-form-urlencoded"},
    },
    "without a type": {"content": image()},
}


@pytest.mark.parametrize("form", FORMS)
async def test_an_image_is_taken_byte_for_byte(alice, taker, form):
    """Begin with its size, Write after Write, End; every frame fits a device, and the answer is `true`."""
    async with alice.calling("POST", "/devices/d1/ota", **FORMS[form]) as response:
        await taker.take()
        answer = await response()
    assert (answer.status_code, answer.content) == (200, b"true")
    assert bytes(taker.image) == image()
    size = len(image())
    assert taker.calls[0] == ("OTA.Begin", {"size": size, "timeout": 600, "commit_timeout": 300})
    assert taker.calls[-1] == ("OTA.End", None)
    writes = taker.calls[1:-1]
    assert [params["offset"] for _, params in writes] == [*range(0, size, 1024)]
    assert all(len(params["data"]) < 2000 for _, params in writes)  # with its envelope below 4096 bytes


@pytest.mark.parametrize("answer", [True, None, {"queued": 3}, {"success": 1}, 0, ""])
async def test_any_answer_that_is_no_error_is_success(alice, taker, answer):
    """Devices have many words for it."""
    taker.answer = answer
    async with alice.calling("POST", "/devices/d1/ota", content=b"\xe9 a bare image") as response:
        await taker.take()
        assert (await response()).content == b"true"
    assert taker.image == b"\xe9 a bare image"


async def test_a_large_image_streams_through(alice, taker):
    """A megabyte, in a form and in pieces of odd sizes: nothing is lost at the seams, and it is soon done."""
    data = image(1_000_000)

    async def body():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="fw.zip"\r\n\r\n'
        rng, rest = random.Random(7), memoryview(data)
        while rest:
            size = rng.randrange(1, 70_000)
            yield bytes(rest[:size])
            rest = rest[size:]
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with alice.calling("POST", "/devices/d1/ota", content=body(), headers=headers) as response:
        await taker.take()
        assert (await response()).content == b"true"
    assert taker.image == data


# What is told


async def test_progress_is_told_and_reported(alice, taker, monkeypatch):
    """As notifications, and in `reported.ota`, which the server keeps for a device that says nothing itself."""
    monkeypatch.setattr(performer, "UPDATE_PROGRESS_INTERVAL", 0)
    async with alice.listen() as ear:
        async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
            await taker.take()
            await response()
        heard = []
        while not heard or heard[-1]["name"] != "ota.REBOOTING":
            heard.append(await ear.hear())
    states = [note["name"] for note in heard if note["name"].startswith("ota.") and note["name"] != "ota.progress"]
    assert states == ["ota.QUEUED", "ota.TRANSFERRING", "ota.VERIFYING", "ota.REBOOTING"]
    progress = [note["data"] for note in heard if note["name"] == "ota.progress"]
    assert [note["offset"] for note in progress] == [*range(1024, len(image()), 1024)]
    assert [note["progress_percent"] for note in progress] == [n["offset"] * 100 // len(image()) for n in progress]
    assert {note["size"] for note in progress} == {len(image())}
    reported = [note["data"]["shadow"]["state"]["reported"]["ota"] for note in heard if note["name"] == "updated"]
    assert {report["status"] for report in reported} == {1}
    assert reported[0]["message"] == "receiving the image"
    percents = [report["progress_percent"] for report in reported]
    assert percents == sorted(percents)
    await settled(lambda: _is_reported(alice, status=3, progress_percent=100))


async def _is_reported(person, **fields):
    ota = (await person.http.get("/devices/d1/shadow")).json()["state"]["reported"]["ota"]
    return {key: ota.get(key) for key in fields} == fields


async def test_how_an_update_stands(alice, taker, blobs):
    """From the queue to the end, on the device itself: taken, uncommitted after the reboot, committed by a call."""
    assert (await alice.http.get("/devices/d1/ota")).status_code == 404
    token = (await alice.http.post("/devices/d1/token")).json()["token"]
    await taker.device.wait_closed()
    async with connect_device(alice.server.device_url, token) as device:
        await device.send(report())
        await alice.told("online", "d1")
        async with alice.calling("POST", "/devices/d1/ota", files={"file": ("fw.zip", image())}) as response:
            await Taker(device).take("OTA.Write")
            now = (await alice.http.get("/devices/d1/ota")).json()
            assert (now["state"], now["attempt"], now["image"]["size"]) == ("TRANSFERRING", 1, len(image()))
            assert (now["image"]["name"], now["image"]["build_id"]) == ("fw.zip", NEW)
            taker = Taker(device)
            taker.image += bytes(1024)
            await taker.take()
            await response()
        assert await state_of(alice) == "REBOOTING"
        assert len(await blobs()) == 1
    await alice.told("offline", "d1")
    async with alice.listen() as ear, connect_device(alice.server.device_url, token) as device:
        await device.send(report(fw_version="2.0", fw_id=NEW, is_committed=False, partition=1))
        await ear.expect("ota.UNCOMMITTED", "d1")
        await settled(lambda: _is_reported(alice, is_committed=False, fw_id=NEW))
        assert await state_of(alice) == "UNCOMMITTED"
        async with alice.calling("POST", "/devices/d1/rpc/OTA.Commit") as response:
            await device.reply(await device.expect("OTA.Commit"))
            assert (await response()).content == b"null"
        await ear.expect("ota.COMMITTED", "d1")
        await settled(lambda: _is_reported(alice, is_committed=True))
    done = (await alice.http.get("/devices/d1/ota")).json()
    assert (done["state"], done["progress_percent"], done["deadline"]) == ("COMMITTED", 100, None)
    assert await blobs() == []


async def test_a_device_that_went_back_is_shown_so(alice, taker):
    """Without a commit it comes back with the build that it had."""
    async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
        await taker.take()
        await response()
    token = (await alice.http.post("/devices/d1/token")).json()["token"]
    for build, state in ((NEW, "UNCOMMITTED"), (OLD, "ROLLED_BACK")):
        async with alice.listen() as ear, connect_device(alice.server.device_url, token) as device:
            await device.send(report(fw_id=build, is_committed=build == OLD))
            told = await ear.expect(f"ota.{state}", "d1")
    assert OLD in told["data"]["reason"]
    assert await state_of(alice) == "ROLLED_BACK"


# What goes wrong


@pytest.mark.parametrize(
    ("method", "words", "status", "state"),
    [
        ("OTA.Begin", "Previous update has not been committed yet", 422, "FAILED"),
        ("OTA.Begin", "Wrong platform", 422, "REJECTED"),
        ("OTA.End", "Invalid CRC", 422, "FAILED"),
        ("OTA.End", "Version is the same as current", 409, "ALREADY_INSTALLED"),
        ("OTA.Write", "Malformed archive", 422, "FAILED"),
    ],
)
async def test_the_device_s_words_come_back(alice, taker, blobs, method, words, status, state):
    """Why it did not want the image, in the answer and in the state; the image is not kept."""
    taker.errors[method] = words
    async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
        await taker.take(method)
        answer = await response()
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True)
    assert await state_of(alice) == state
    await settled(lambda: _empty(blobs))


async def _empty(blobs):
    return not await blobs()


BAD = {
    "a broken zip": image()[:-30],
    "a damaged zip": image().replace(b"manifest", b"manifets"),
    "an empty body": b"",
    "a zip that is none": b"PK\x03\x04" + bytes(100),
}


async def test_an_image_that_no_device_should_get(alice, taker, blobs):
    """400 with the reason; the device hears nothing of it, nothing is kept, and the next upload is taken."""
    for name, bad in BAD.items():
        answer = await alice.http.post("/devices/d1/ota", content=bad)
        assert (name, answer.status_code, answer.json()["error"]["code"]) == (name, 400, 400)
        assert await blobs() == []
        assert (await alice.http.get("/devices/d1/ota")).status_code == 404
    async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
        await taker.take()
        assert (await response()).content == b"true"
    assert taker.image == image()


FIELD = b'--x\r\nContent-Disposition: form-data; name="%b"; filename="f"\r\n\r\n'


NO_FORMS = [
    ("x", b""),
    ("x", b"garbage"),
    ("x", FIELD % b"file" + b"data"),
    ("x", FIELD % b"other" + b"data\r\n--x--\r\n"),
    ("x", FIELD % b"file" + b"\r\n--x--\r\n"),
    ("", FIELD % b"file" + b"data\r\n--x--\r\n"),
    ("y", FIELD % b"file" + b"data\r\n--x--\r\n"),
    ("x", (FIELD % b"other" + b"d\r\n") * 20 + FIELD % b"file" + b"data\r\n--x--\r\n"),
    ("x", b"--x\r\n" + b"A" * 100_000),
]


async def test_a_form_that_cannot_be_read(alice, taker, blobs):
    """400, and nothing is kept."""
    for boundary, body in NO_FORMS:
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = await alice.http.post("/devices/d1/ota", content=body, headers=headers)
        assert (body, answer.status_code, answer.json()["error"]["code"]) == (body, 400, 400)
        assert await blobs() == []


async def test_an_image_has_a_limit(alice, taker, blobs):
    """413, by its declared length and by what comes; and so many uploads at a time, then 429."""
    service = alice.server.service
    service.settings = attrs.evolve(service.settings, max_image=10_000)

    async def chunks():
        for _ in range(20):
            yield bytes(1000)

    for content in (bytes(10_001), chunks()):
        answer = await alice.http.post("/devices/d1/ota", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, 413)
        assert await blobs() == []
    service.settings = attrs.evolve(service.settings, max_uploads=1)
    with service.uploading("alice", "another device"):
        assert (await alice.http.post("/devices/d1/ota", content=b"x")).status_code == 429


@pytest.mark.usefixtures("cheap_logins")
@pytest.mark.parametrize(("setting", "size", "status"), [("", 5_000_000, 202), ("max_image = 9999", 10_000, 413)])
async def test_the_configuration_limits_images(tmp_path, setting, size, status):
    """To 256 MiB, unless it says otherwise; the answer names the limit."""
    (tmp_path / "mdash.toml").write_text(
        f'bind = "127.0.0.1:0"\nstore = "file://{tmp_path}/store"\n{setting}\n'
        '[[users]]\nname = "alice"\npassword = "secret"\n'
    )

    async def chunks():
        for start in range(0, size, 2**20):
            yield bytes(min(2**20, size - start))

    async with open_server(load_config(tmp_path / "mdash.toml")) as server:
        assert setting or server.service.settings.max_image == 256 * 2**20
        async with httpx.AsyncClient(base_url=f"{server.url}/api/v2", auth=("alice", "secret"), timeout=60) as client:
            assert (await client.post("/devices", json={"id": "d1"})).status_code == 201
            answer = await client.post("/devices/d1/ota?queue=1", content=chunks())
            assert answer.status_code == status, answer.text
            assert status == 202 or "9999" in answer.json()["error"]["message"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", '"1"', "inf"])
def test_a_limit_of_images_that_is_none(tmp_path, value):
    """It is a whole number above 0; the error names the setting."""
    (tmp_path / "mdash.toml").write_text(f"max_image = {value}\n")
    with pytest.raises(InvalidInput, match="max_image"):
        load_config(tmp_path / "mdash.toml")


async def test_an_image_for_no_device(alice):
    """404 and 503."""
    assert (await alice.http.post("/devices/d1/ota", content=image())).status_code == 404
    await alice.register("d1")
    assert (await alice.http.post("/devices/d1/ota", content=image())).status_code == 503
    assert (await alice.http.get("/devices/d1/ota")).status_code == 404


async def test_one_update_at_a_time(alice, taker, blobs):
    """The second is refused with 409 until the first has ended, also while the device reboots."""
    async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
        await taker.take("OTA.Begin")
        second = await alice.http.post("/devices/d1/ota", content=b"another")
        assert (second.status_code, second.json()["error"]["code"]) == (409, 409)
        assert len(await blobs()) == 1
        await taker.take()
        assert (await response()).content == b"true"
    assert taker.image == image()
    assert (await alice.http.post("/devices/d1/ota", content=b"another")).status_code == 409


async def test_while_it_waits_for_the_device_a_newer_one_takes_its_place(alice, blobs):
    """The device has got nothing of it yet, as it holds the transfer of an earlier one."""
    await alice.register("d1")
    updates, key = alice.server.service.hub.updates, DeviceKey("alice", "d1")
    assert (await alice.http.post("/devices/d1/ota", params={"queue": 1}, content=image())).status_code == 202
    for event in (ota.Started(ota.Build(id="0")), ota.StepFailed("OTA.Begin", -1, "Update already in progress")):
        await updates.apply(key, event)
    assert (await updates.get(key)).waits_until is not None
    newer = await alice.http.post("/devices/d1/ota", params={"queue": 1}, content=image())
    assert (newer.status_code, newer.json()["state"]) == (202, "QUEUED")
    assert [past.state for past in (await updates.history(key)).past] == ["SUPERSEDED"]
    assert len(await blobs()) == 1


async def test_two_at_the_same_time(alice, taker, blobs):
    """Of two for one device the second is refused while the first still comes in, and nothing of it stays."""
    gate = trio.Event()

    async def slow(data):
        yield data[:10]
        await gate.wait()
        yield data[10:]

    async with (
        alice.calling("POST", "/devices/d1/ota", content=slow(b"one" * 100)) as one,
        alice.calling("POST", "/devices/d1/ota", content=slow(b"two" * 100)) as two,
    ):
        await settled(lambda: _uploads(alice, 1))
        gate.set()
        await taker.take()
        answers = sorted([(await one()).status_code, (await two()).status_code])
    assert answers == [200, 409]
    assert bytes(taker.image) in (b"one" * 100, b"two" * 100)
    assert len(await blobs()) == 1


async def _uploads(person, count):
    return len(person.server.service.uploads) == count


@pytest.mark.parametrize("form", ["raw", "chunked", "multipart"])
async def test_a_client_that_goes_away_leaves_nothing(alice, taker, blobs, open_raw, form):
    """No blob and no update; the device hears nothing, and the next upload is taken."""
    head = f"POST /api/v2/devices/d1/ota HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n"
    rest = {
        "raw": b"Content-Length: 100000\r\n\r\n" + image(),
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + bytes(1024),
        "multipart": b"Content-Length: 100000\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
        + FIELD % b"file"
        + image(),
    }[form]
    async with open_raw(alice.server) as raw:
        await raw.send(head.encode() + rest)
        await settled(lambda: _uploads(alice, 1))
    await settled(lambda: _uploads(alice, 0))
    assert await blobs() == []
    assert (await alice.http.get("/devices/d1/ota")).status_code == 404
    async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
        await taker.take()
        assert (await response()).content == b"true"


async def test_an_upload_goes_on_without_its_client(alice, taker, open_raw):
    """Once the image is there, the update is the server's business."""
    head = f"POST /api/v2/devices/d1/ota HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n"
    async with open_raw(alice.server) as raw:
        await raw.send(f"{head}Content-Length: {len(image())}\r\n\r\n".encode() + image())
        await taker.take("OTA.Begin")
    await taker.take()
    await alice.told("ota.REBOOTING", "d1")
    assert taker.image == image()


async def test_a_stalled_upload_ends(alice, taker, blobs, open_raw):
    """Nothing of the body for too long: 408, and nothing stays."""
    service = alice.server.service
    service.settings = attrs.evolve(service.settings, body_timeout=0.05)
    head = f"POST /api/v2/devices/d1/ota HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n"
    async with open_raw(alice.server) as raw:
        await raw.send(f"{head}Content-Length: 1000\r\n\r\n".encode() + b"x")
        assert (await raw.response()).status == 408
    assert await blobs() == []


async def test_a_storage_that_fails_delays_an_update(alice, taker, monkeypatch):
    """The step is tried again until the storage is back: nothing is sent twice or left out."""
    monkeypatch.setattr(background, "STORAGE_BACKOFF", Backoff(first=0.01, most=0.01))
    hub = alice.server.service.hub
    read, put, failures = hub.blobs.read, hub.backend.documents.put, iter([True, False, True, True, False, True, True])

    def failing(verb):
        async def fail(*args, **options):
            if next(failures, False):
                raise StorageError("down")
            return await verb(*args, **options)

        return fail

    async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
        await taker.take("OTA.Begin")
        monkeypatch.setattr(hub.blobs, "read", failing(read))
        monkeypatch.setattr(hub.backend.documents, "put", failing(put))
        await taker.take()
        assert (await response()).content == b"true"
    assert taker.image == image()
    assert next(failures, None) is None


async def test_a_device_that_is_deleted_ends_its_update(alice, taker, blobs):
    """The upload is answered with 404 immediately, and the image goes."""
    async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
        await taker.take("OTA.Begin")
        await alice.http.delete("/devices/d1")
        answer = await response()
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404)
    assert await blobs() == []
    await alice.register("d1")
    assert (await alice.http.get("/devices/d1/ota")).status_code == 404


@pytest.mark.parametrize("talkative", [True, False])
async def test_a_dropped_link_is_no_failure(alice, talkative):
    """The device comes back, and says how far it is or is asked; the transfer goes on there, and ends as any other."""
    token = await alice.register("d1")

    async def say_how_far(device):
        status = {"progress_percent": taker.progress(), "is_committed": True}
        if talkative:
            await device.send(report(status=1, **status))
            return
        while (request := await device.receive())["method"] != "OTA.Status":
            await device.reply(request, {"fw_id": OLD, "fw_version": "1.0", "arch": "esp32"})
        await device.reply(request, {"state": 1, **status})

    async with connect_device(alice.server.device_url, token) as device:
        taker = Taker(device)
        await device.send(report())
        await alice.told("updated", "d1")
        async with alice.calling("POST", "/devices/d1/ota", content=image()) as response:
            await taker.take("OTA.Write")
            await taker.take("OTA.Write")
            await device.expect("OTA.Write")  # and is gone before it has taken this one
            await device.ws.aclose()
            async with connect_device(alice.server.device_url, token) as taker.device:
                await say_how_far(taker.device)
                await taker.take()
                assert (await response()).content == b"true"
    assert taker.image == image()
    assert [method for method, _ in taker.calls].count("OTA.Begin") == 1


# The virtual device


@pytest.fixture
async def virtual(alice, tmp_path):
    """The virtual device d1, connected, and staying so."""
    token = await alice.register("d1")
    device = VirtualDevice("d1", tmp_path, build=FirmwareBuild("ccm", "1.0", OLD, "esp32"))
    async with trio.open_nursery() as nursery:
        start = (run_virtual_device, device, alice.server.device_url, token)
        await nursery.start(
            lambda task_status: start[0](*start[1:], backoff=Backoff(first=0.01), task_status=task_status)
        )
        yield device
        nursery.cancel_scope.cancel()


async def info(person):
    return (await person.http.get("/devices/d1/rpc/Sys.GetInfo")).json()["fw_id"]


async def test_a_virtual_device_is_updated_and_committed(alice, virtual, blobs):
    """Uploaded, rebooted, shown uncommitted, committed by RPC: it runs the new build, and says so."""
    assert await info(alice) == OLD
    async with alice.listen() as ear:
        answer = await alice.http.post("/devices/d1/ota", files={"file": ("fw.zip", image(20_000))})
        assert (answer.status_code, answer.content) == (200, b"true")
        await ear.expect("offline")
        await ear.expect("ota.UNCOMMITTED")
        await settled(lambda: _is_reported(alice, fw_id=NEW, fw_version="2.0", is_committed=False))
        assert (await alice.http.post("/devices/d1/rpc/OTA.Commit")).content == b"null"
        await ear.expect("ota.COMMITTED")
    await settled(lambda: _is_reported(alice, fw_id=NEW, is_committed=True))
    assert await info(alice) == NEW
    again = await alice.http.post("/devices/d1/rpc/OTA.Commit")
    assert (again.status_code, again.json()["error"]["code"]) == (422, -1)
    assert await state_of(alice) == "COMMITTED"
    assert await blobs() == []
    same = await alice.http.post("/devices/d1/ota", content=image(20_000))
    assert (same.status_code, NEW in same.json()["error"]["message"]) == (409, True)


@pytest.mark.parametrize("cause", ["time", "reboot", "revert"])
async def test_a_virtual_device_rolls_back(alice, virtual, cause):
    """Without a commit in time, after a reboot before it, or on request the device runs the old build, and says so."""
    query = "?commit_timeout=1" if cause == "time" else ""
    async with alice.listen() as ear:
        assert (await alice.http.post(f"/devices/d1/ota{query}", content=image())).content == b"true"
        await ear.expect("ota.UNCOMMITTED")
        if cause != "time":
            method = {"reboot": "Sys.Reboot", "revert": "OTA.Revert"}[cause]
            assert (await alice.http.post(f"/devices/d1/rpc/{method}")).content == b"null"
        await ear.expect("ota.ROLLED_BACK")
        if cause == "revert":
            await ear.expect("online")
    await settled(lambda: _is_reported(alice, fw_id=OLD, is_committed=True))
    assert await info(alice) == OLD


async def test_a_virtual_device_refuses_what_is_not_for_it(alice, virtual):
    """An image for another platform is not even sent."""
    async with alice.listen() as ear:
        answer = await alice.http.post("/devices/d1/ota", content=image(platform="cc3200"))
        assert (answer.status_code, "cc3200" in answer.json()["error"]["message"]) == (422, True)
        await ear.expect("ota.REJECTED")
    assert await info(alice) == OLD


async def test_one_account_cannot_take_every_place(alice, bob, blobs, open_raw):
    """An account has a share of the uploads; beyond it 429, and others are served."""
    service = alice.server.service
    service.uploads = InFlight("uploads", 1, "uploads")
    async with await alice.connect("d1"), await alice.connect("d2"), await bob.connect("d1"):
        heads = [
            f"POST /api/v2/devices/{id}/ota HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {who.key}\r\n".encode()
            for who, id in ((alice, "d1"), (alice, "d2"), (bob, "d1"))
        ]
        async with open_raw(alice.server) as first, open_raw(alice.server) as second, open_raw(alice.server) as third:
            await first.send(heads[0] + b"Content-Length: 1000\r\n\r\nx")
            await settled(lambda: _uploads(alice, 1))
            await second.send(heads[1] + b"Content-Length: 1000\r\n\r\nx")
            refused = await second.response()
            assert (refused.status, json.loads(refused.body)["error"]["limit"]) == (429, "uploads")
            await third.send(heads[2] + b"Content-Length: 1000\r\n\r\nx")
            await settled(lambda: _uploads(alice, 2))
        await settled(lambda: _uploads(alice, 0))

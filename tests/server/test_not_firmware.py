"""What is no firmware is refused before anything is stored; what is likely meant for another device is asked back."""

from __future__ import annotations

import gzip
import io
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import every_row

from mdashcore import firmware, ota
from mdashcore._errors import InvalidFirmware
from mdashcore.identity import DeviceKey
from mdashcore.server.uploads.image_check import HEAD_SIZE, check_head


def image(**fields):
    """A firmware zip."""
    file = io.BytesIO()
    manifest = {"name": "ccm", "platform": "esp32", "version": "2.0", "build_id": "new"} | fields
    firmware.write_image(file, manifest, {"app": random.Random(1).randbytes(5000)})
    return file.getvalue()


BARE = b"\xe9\x05\x02\x20" + random.Random(2).randbytes(3000)  # as an ESP32 image begins
HTML = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>502 Bad Gateway</body></html>\n" * 20
PAGE = '<html lang="fr"><p>Accès refusé: réessayez</p>'.encode() * 100


def form(data, filename="fw.zip", *, headers=None, field="file"):
    """A form with one file."""
    return {"files": {field: (filename, data, "application/octet-stream", headers or {})}}


def without_a_name(data):
    """As `curl -F file=fw.zip`, without `@`, sends it."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + data + b"\r\n--b--\r\n"
    return {"content": part, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


REFUSED = {
    "a field without a file name": (without_a_name(b"fw.zip"), 400, "-F file=@fw.zip"),
    "a whole image without a file name": (without_a_name(image()), 400, "has no file name"),
    "an HTML page": ({"content": HTML}, 400, "looks like HTML"),
    "a short HTML page": ({"content": b"<p>no</p>"}, 400, "looks like HTML"),
    "an HTML page with accents": (form(PAGE, "fw.bin"), 400, "looks like HTML"),
    "the error of an API": ({"content": b' {"error": {"code": 404}}'}, 400, "looks like JSON"),
    "a JSON list as a file": (form(b"[1, 2, 3]\n", "fw.bin"), 400, "looks like JSON"),
    "a zip that is none": (form(BARE), 400, "fw.zip is no zip file"),
    "a text that is named a zip": (form(HTML, "FW.ZIP"), 400, "no zip file"),
    "another archive": (form(gzip.compress(BARE), "fw.tar.gz"), 400, "no zip file"),
    "a coding of the body": ({"content": gzip.compress(image()), "headers": {"Content-Encoding": "gzip"}}, 415, "gzip"),
    "a coding of the file": (
        form(image(), headers={"Content-Transfer-Encoding": "base64"}),
        415,
        "encoded as base64",
    ),
    "an empty file": (form(b""), 400, "empty"),
}

TAKEN = {
    "a raw body": {"content": BARE},
    "a raw body that is short": {"content": b"\xe9\x05"},
    "a file of another name": form(BARE, "fw.bin"),
    "a zip of any name": form(image(), "fw.bin"),
    "a text that is no page": {"content": b":10010000214601360121470136007EFE09D2190140\n" * 40},
    "binary that begins like a page": {"content": b"<\x00\x01\x02" + BARE},
}


@pytest.fixture
async def device(alice):
    """Registered, and offline: what is queued for it is not sent."""
    await alice.register("d1")

    async def post(request, **query):
        return await alice.http.post("/devices/d1/ota", params={"queue": 1, **query}, **request)

    return post


async def stored(person):
    return [key async for key in person.server.service.hub.blobs.scan()]


@every_row("name", REFUSED)
async def test_what_is_no_firmware(alice, device, name):
    """Refused, with words that help; nothing is stored, and there is no update."""
    request, status, words = REFUSED[name]
    answer = await device(request)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
    assert await stored(alice) == []
    assert (await alice.http.get("/devices/d1/ota")).status_code == 404


@pytest.mark.parametrize("name", TAKEN)
async def test_what_can_be_a_bare_image(alice, device, name):
    """It is taken."""
    answer = await device(TAKEN[name])
    assert answer.status_code == 202, answer.text
    assert answer.json()["image"]["bare"] is ("zip" not in name)


@pytest.mark.parametrize("request_", [form(BARE), {"content": HTML}, form(image()), form(b"{}", "fw.json")])
async def test_bare_takes_anything(alice, device, request_):
    """It was said that the image is one."""
    answer = await device(request_, bare=1)
    assert (answer.status_code, answer.json()["image"]["bare"]) == (202, True)


async def report(person, **ota_):
    """What the device said, when it was there."""
    state = {"state": {"reported": {"ota": {"fw_id": "old", **ota_}}}}
    await person.server.service.hub.shadows.update(DeviceKey(person.name, "d1"), state)


async def test_an_image_of_another_application(alice, device):
    """A question, which force answers; a device that has not said what it runs is asked when it comes."""
    assert (await device({"content": image()})).status_code == 202
    await report(alice, app="heater")
    answer = await device({"content": image()})
    assert answer.status_code == 409
    assert answer.json()["error"]["message"] == (
        "the image is of the application ccm, 'd1' runs heater; force sends it all the same"
    )
    assert (await alice.http.get("/devices/d1/ota")).json()["history"] == []
    assert (await device({"content": image()}, force=1)).status_code == 202
    for name in ("heater", ""):  # a manifest need not name it
        assert (await device({"content": image(name=name)})).status_code == 202
    assert (await device({"content": BARE})).status_code == 202


async def test_a_bare_image_for_a_device_that_took_zips(alice, device):
    """A question, which bare=1 answers; a device of which nothing is known is not asked about."""
    hub = alice.server.service.hub
    facts = ota.UpdateImage.of(firmware.read_image(io.BytesIO(image()), name="fw.zip"))
    for build in ("1", "2"):
        run = await hub.updates.create(DeviceKey("alice", "d1"), f"ota_{build}", facts)
        for event in (
            ota.Started(ota.Build(id="0")),
            ota.BeginAccepted(),
            ota.StepFailed("OTA.Write", -1, "Version is the same as current")
            if build == "1"
            else ota.ChunkAccepted(0, 1024),
        ):
            await run.apply(event)
        if build == "1":
            assert (await device({"content": BARE})).status_code == 202  # it has taken nothing yet
            await alice.http.delete("/devices/d1/ota")
    while (step := ota.next_step(run.update)) is not None and isinstance(step, ota.Write):
        await run.apply(ota.ChunkAccepted(step.offset, step.size))
    for event in (ota.EndAccepted(), ota.DeviceConnected(), ota.BuildReported(ota.Build(id="new", is_committed=True))):
        await run.apply(event)
    assert run.update.state is ota.UpdateState.COMMITTED
    answer = await device({"content": BARE})
    assert (answer.status_code, "took firmware zips so far" in answer.json()["error"]["message"]) == (409, True)
    assert (await device({"content": BARE}, bare=1)).status_code == 202


def rollout(data, filename="fw.zip", query="", **request):
    """What `POST /rollouts` takes."""
    asked = json.dumps({"devices": ["d1"], **request})
    return {"files": {"rollout": (None, asked), "file": (filename, data)}, "params": query}


async def test_the_same_for_rollouts(alice):
    """What is no firmware, and what is asked back."""
    await alice.register("d1")

    async def post(*args, **request):
        return await alice.http.post("/rollouts", **rollout(*args, **request))

    for data, filename, words in (
        (HTML, "fw.bin", "HTML"),
        (BARE, "fw.zip", "no zip"),
        (image(), "", "no file name"),
    ):
        answer = await post(data, filename)
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True), answer.text
    assert await stored(alice) == []
    assert (await post(BARE, "fw.zip", {"bare": 1})).status_code == 201
    assert (await post(BARE, "fw.zip", {"bare": 2})).status_code == 400
    assert (await post(BARE, "fw.bin", {"queue": 1})).status_code == 400
    await report(alice, app="heater")
    answer = await post(image())
    assert (answer.status_code, "'d1' runs heater" in answer.json()["error"]["message"]) == (409, True)
    assert (await post(image(), force=True)).status_code == 201


async def test_every_device_of_a_rollout_is_asked_about(alice):
    """Also the last of many, which runs another application; a bare image is asked about whatever devices took."""
    hub = alice.server.service.hub
    ids = [f"d{number:03}" for number in range(150)]
    for id in ids:
        await hub.create_device("alice", id)
    await alice.http.post(f"/devices/{ids[-1]}/shadow", json={"state": {"reported": {"ota": {"app": "heater"}}}})

    async def post(data, query=None, **request):
        return await alice.http.post("/rollouts", **rollout(data, "fw.zip", query or {}, devices=ids, **request))

    answer = await post(image())
    assert (answer.status_code, f"'{ids[-1]}' runs heater" in answer.json()["error"]["message"]) == (409, True)
    assert await stored(alice) == []
    assert (await post(image(), other_app=True)).status_code == 201
    for name in ("fw.bin", "fw"):
        answer = await alice.http.post("/rollouts", **rollout(b"\xe9image", name, devices=ids, force=True))
        assert (answer.status_code, "bare=1" in answer.json()["error"]["message"]) == (409, True)
    assert (await post(BARE, {"bare": 1})).status_code == 201


@given(st.binary(max_size=HEAD_SIZE))
def test_bytes_that_no_text_has_are_no_text(data):
    """Binary passes, whatever it begins like."""
    for beginning in (b"<\x01", b"{\x01", b"[\x1b", b"404: Not \x7f"):
        check_head((beginning + data)[:HEAD_SIZE], "fw.bin")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=100))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_pages_are_seen_in_any_encoding_and_wherever_they_are_cut(encoding, text):
    """A page is one also when its head ends in the middle of a character."""
    page = ("<p>" + text * 200).encode(encoding, "ignore")
    with pytest.raises(InvalidFirmware):
        check_head(page[:HEAD_SIZE], "fw.bin")


TEXTS = {
    "GitHub's answer": b"404: Not Found",
    "the answer of a Go server": b"404 page not found\n",
    "an answer of one JSON text": b'"not found"',
    "nothing, as JSON": b"null\n",
    "a number": b"404",
    "a page with a space that does not break": "<html><body>Erreur\u00a0404</body></html>".encode(),
    "a page with a space of no width": "<html>\u200b</html>".encode(),
    "a page in Latin-1": "<!DOCTYPE html><title>Nicht verf\u00fcgbar</title>".encode("latin-1"),
    "a page after a form feed": b"\x0c<html></html>",
    "a sentence in French": "Accès refusé : réessayez".encode(),
}
NAMES = ["fw.jar", "fw.cab", "fw.lzma", "fw.tar.lz4", "fw.zip ", "fw.zip.", "FW.7Z"]
HEX = [b":10010000214601360121470136007EFE09D2190140\r\n:00000001FF\r\n", b"S00F000068656C6C6F202020202000003C\n"]


@every_row("text", TEXTS)
def test_a_text_is_no_image(text):
    """What a download, a proxy or a server says in place of an image."""
    with pytest.raises(InvalidFirmware, match="looks like"):
        check_head(TEXTS[text], "fw.bin")


def test_images_that_are_text_and_archives_by_name():
    """Some images are text by design; an archive is told by its name, also where that was copied with a blank."""
    for head in HEX:
        check_head(head, "fw.hex")
    for name in NAMES:
        with pytest.raises(InvalidFirmware, match="no zip file"):
            check_head(b"\xe9\x05\x02\x20", name)

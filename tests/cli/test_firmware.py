"""``mdash firmware``, and ``mdash ota`` and ``mdash rollout`` with an image of the library."""

from __future__ import annotations

import hashlib
import io
import json
from itertools import count

import pytest

from mdashcore.firmware import write_image

NUMBERS = count()


@pytest.fixture
def image(tmp_path):
    """A firmware zip of the test's own; its path."""
    file = io.BytesIO()
    number = next(NUMBERS)
    manifest = {"name": "lamp", "platform": "esp32", "version": f"8.{number}", "build_id": f"2026/8.{number}"}
    write_image(file, manifest, {"app": bytes(3000)})
    path = tmp_path / "fw.zip"
    path.write_bytes(file.getvalue())
    return path


@pytest.fixture
def library(demo, mdash):
    """Runs a command of the library; what it has written. Or, with a code, what it says of its end."""

    def call(*args, code=0):
        done = mdash(*args, env=demo.by_key)
        assert done.code == code, done
        return done.out if code == 0 else done.err

    return call


def test_an_image_is_kept_and_sent_to_a_device(demo, mdash, spawn, library, image, wait_told, tmp_path):
    """Added once, listed, sent by its id, downloaded again, and removed; while a device waits for it, it is not."""
    id = library("firmware", "add", str(image), "--notes", "fixes a leak").strip()
    assert id == f"fw_{hashlib.sha256(image.read_bytes()).hexdigest()[:16]}"
    assert library("firmware", "add", str(image), "--notes", "again").strip() == id
    device = "keeps-firmware"
    token = library("devices", "add", device).split()[1]
    assert library("ota", device, "--firmware", id, "--queue", "--commit-timeout", "0").startswith("QUEUED")
    refused = library("firmware", "remove", id, "--yes", code=1)
    assert f"the update of '{device}', which is QUEUED, needs the image" in refused
    spawn("device", "--id", "lamp", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    wait_told(demo.by_key, "ota.COMMITTED", device)
    row = next(line for line in library("firmware", "list").splitlines() if line.startswith(id))
    assert row.split("\t")[1:4] == ["lamp", json.loads(library("firmware", "show", id, "--json"))["version"], "esp32"]
    assert row.split("\t")[5] == "1 running"
    shown = library("firmware", "show", id)
    assert "notes\tfixes a leak\n" in shown
    assert f"{device}\t{device}\trunning\tCOMMITTED\t-\n" in shown
    copy = tmp_path / "copy.zip"
    library("firmware", "download", id, str(copy))
    assert copy.read_bytes() == image.read_bytes()
    library("firmware", "edit", id, "--name", "hall lamps")
    assert json.loads(library("firmware", "show", id, "--json"))["name"] == "hall lamps"
    library("firmware", "remove", id, "--yes")
    assert f"no image '{id}'" in library("firmware", "show", id, code=1)


def test_a_rollout_of_a_kept_image(demo, library, image):
    """The file is uploaded with the first rollout, and kept; the second one names it."""
    library("devices", "add", "waits-for-firmware")
    first = library("rollout", "create", str(image), "--keep", "--device", "waits-for-firmware", "--approval", "--yes")
    id = f"fw_{hashlib.sha256(image.read_bytes()).hexdigest()[:16]}"
    second = library("rollout", "create", "--firmware", id, "--device", "waits-for-firmware", "--approval", "--yes")
    for line in (first, second):
        rollout, state, devices = line.split()
        assert (state, devices) == ("AWAITING_APPROVAL", "1")
        library("rollout", "abort", rollout)


@pytest.mark.parametrize(
    "args",
    [
        ("ota", "lamp"),
        ("ota", "lamp", "{image}", "--firmware", "fw_a"),
        ("ota", "lamp", "--firmware", "fw_a", "--keep"),
        ("ota", "lamp", "--status", "--firmware", "fw_a"),
        ("rollout", "create", "--all"),
        ("rollout", "create", "{image}", "--firmware", "fw_a", "--all"),
        ("rollout", "create", "--firmware", "fw_a", "--keep", "--all"),
        ("firmware", "edit", "fw_a"),
        ("firmware", "show", "../users"),
    ],
)
def test_what_does_not_go_together(library, image, args):
    """It is an error of usage, and nothing is sent."""
    library(*(each.format(image=image) for each in args), code=2)

"""curl, as people paste it: nothing but the address and the secret is changed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess

import pytest
import trio

from mdashcore.firmware import write_image

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


async def curl(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run the real curl."""
    return await trio.run_process(
        ["curl", "--silent", "--show-error", "--max-time", "20", *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=check,
    )


async def test_devices_are_listed_with_a_key(alice):
    """A key in a Bearer header lists the devices."""
    await alice.register("d1")
    done = await curl("-H", f"Authorization: Bearer {alice.key}", f"{alice.server.url}/api/v2/devices")
    assert [device["id"] for device in json.loads(done.stdout)] == ["d1"]


async def test_user_and_password_work_everywhere(alice, password):
    """`-u` works in place of a key: to make a key, for example."""
    url = f"{alice.server.url}/api/v2/keys"
    done = await curl("-u", f"alice:{password}", "-X", "POST", url)
    assert json.loads(done.stdout)["key"].startswith("mdk_")


async def test_a_call_needs_no_content_type(alice):
    """`-d` alone says that the body were a form; it is taken as the JSON that it is."""
    async with await alice.connect("d1") as device, trio.open_nursery() as nursery:

        async def toggle() -> None:
            request = await device.expect("GPIO.Toggle")
            assert request["params"] == {"pin": 2}
            await device.reply(request, True)

        nursery.start_soon(toggle)
        done = await curl(
            "-H", f"Authorization: Bearer {alice.key}",
            "-d", '{"pin": 2}',
            f"{alice.server.url}/api/v2/devices/d1/rpc/GPIO.Toggle",
        )  # fmt: skip
        assert done.stdout == b"true", done.stderr.decode()


async def test_firmware_is_sent_as_a_form_and_answers_true(alice, tmp_path):
    """`-v -F file=@fw.zip` prints `true` once the device has the whole image."""
    image = tmp_path / "fw.zip"
    with image.open("w+b") as file:
        write_image(
            file, {"name": "app", "platform": "esp32", "version": "2.0", "build_id": "b2"}, {"app": bytes(3000)}
        )
    received = bytearray()
    async with await alice.connect("d1") as device, trio.open_nursery() as nursery:

        async def take() -> None:
            while True:
                frame = await device.receive()
                if "id" not in frame:
                    continue
                if frame["method"] == "OTA.Write":
                    received.extend(base64.b64decode(frame["params"]["data"]))
                await device.reply(frame, {} if frame["method"] == "Sys.GetInfo" else None)
                if frame["method"] == "OTA.End":
                    return

        nursery.start_soon(take)
        done = await curl(
            "-v", "-F", f"file=@{image}",
            f"{alice.server.url}/api/v2/devices/d1/ota?access_token={alice.key}",
        )  # fmt: skip
        assert done.stdout == b"true", done.stderr.decode()
    assert bytes(received) == image.read_bytes()


async def test_a_body_that_is_too_large_is_told_so(alice, tmp_path):
    """curl shows the 413, not a broken connection, although most of its upload was never read."""
    (tmp_path / "large").write_bytes(bytes(5 * 2**20))
    done = await curl(
        "-H", f"Authorization: Bearer {alice.key}", "-H", "Expect:", "-w", "%{http_code}",
        "--data-binary", f"@{tmp_path / 'large'}", f"{alice.server.url}/api/v2/devices",
        check=False,
    )  # fmt: skip
    assert done.stdout.endswith(b"413"), done.stderr


async def test_chunked_bodies_are_held_to_the_same_limit(alice, tmp_path):
    """Without a Content-Length, what comes is counted."""
    (tmp_path / "large").write_bytes(bytes(5 * 2**20))
    done = await curl(
        "-H", f"Authorization: Bearer {alice.key}", "-H", "Transfer-Encoding: chunked", "-H", "Expect:",
        "-w", "%{http_code}", "--data-binary", f"@{tmp_path / 'large'}", f"{alice.server.url}/api/v2/devices",
        check=False,
    )  # fmt: skip
    assert done.stdout.endswith(b"413"), done.stderr

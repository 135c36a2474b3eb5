"""``/firmware``: the library of images. `mdashcore.server.uploads.firmware_upload` takes the uploads."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, Literal

from quart import Response

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.documents import (
    MAX_FIRMWARE_DEVICES,
    DamagedFirmware,
    FirmwareChange,
    FirmwareDevice,
    FirmwareDevicesDocument,
    FirmwareDevicesQuery,
    FirmwareDocument,
    FirmwareListQuery,
    FirmwareWithCounts,
)
from mdashcore.firmware_entry import FirmwareEntry
from mdashcore.hub import Hub
from mdashcore.hub.firmware.describe import describe
from mdashcore.hub.fleet.rows import DeviceRow
from mdashcore.server.api._blob_answer import send_blob
from mdashcore.server.api._lists import send_list
from mdashcore.server.api._request import answer, body_object, members, principal, service, whole_number
from mdashcore.server.endpoints import API, Routes, Text
from mdashcore.trio.shielding import finish, shielded
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/firmware", id=str)

_CHANGE: dict[str, Any] = {
    "body": FirmwareChange,
    "max_body": 2**15,
    "answers": {200: FirmwareDocument},
}  # bytes: notes


@routes.get(query=FirmwareListQuery, answers={200: list[FirmwareWithCounts | DamagedFirmware]}, errors=(413,))
async def list_firmware() -> Response:
    """List the images of the account's library, the newest first."""
    account, is_counted = principal().account, (whole_number("devices", 0, 1) or 0) == 1
    pace = Pace(account)
    return await send_list(_encoded(service().hub, account, pace, is_counted=is_counted), pace)


async def _encoded(hub: Hub, account: str, pace: Pace, *, is_counted: bool) -> AsyncGenerator[bytes, None]:
    """Yield each image as JSON. All reading is done in here: it counts as one of the account's lists."""
    damaged: list[str] = []
    entries = deque(await hub.firmware.of(account, damaged))
    counts = await hub.firmware_devices.counts(account, entries, pace) if is_counted else {}
    while entries:  # what was sent takes no memory while a slow client reads the rest
        document = describe(entry := entries.popleft())
        if is_counted:
            document["devices"] = counts[entry.id]
        yield _json.encode(document)
    for id in sorted(damaged):
        yield _json.encode({"id": id, "damaged": ["image"]})


@routes.get("/<id>", answers={200: FirmwareDocument})
async def get_firmware(id: str) -> Response:
    """Answer with one image of the library, without its bytes."""
    return answer(describe(await service().hub.firmware.get(principal().account, id)))


@routes.get("/<id>/devices", query=FirmwareDevicesQuery, answers={200: FirmwareDevicesDocument}, errors=(413,))
async def list_firmware_devices(id: str) -> Response:
    """Answer with the devices that run an image, are being updated with it, or failed to."""
    limit = whole_number("limit", 1, MAX_FIRMWARE_DEVICES) or 100
    account, hub = principal().account, service().hub
    entry = await hub.firmware.get(account, id)
    with service().lists.one(account):
        found = await hub.firmware_devices.of(account, entry, limit, Pace(account))
    described = {use: [_device(row, entry) for row in rows] for use, rows in found.devices.items()}
    return answer({"counts": found.counts, "filter": found.filter, **described})


@routes.get(
    "/<id>/image",
    answers={
        200: Text("application/octet-stream", "the image"),
        206: Text("application/octet-stream", "a part"),
        304: None,
    },
    errors=(416,),
    headers=("Range", "If-Range", "If-None-Match"),
)
async def download_image(id: str) -> Response:
    """Download an image, or a part of it (`Range`). Its `ETag` is its SHA-256."""
    account, library = principal().account, service().hub.firmware
    entry = await library.get(account, id)
    return await send_blob(
        library.blobs, f"{account}/{entry.blob}", entry.image.size, tag=entry.image.sha256, file=entry.image.name
    )


@routes.post("/<id>", **_CHANGE)
@routes.put("/<id>", **_CHANGE)
async def change_firmware(id: str) -> Response:
    """Change the name or the notes of an image. Answers with the image."""
    value = await body_object()
    members(value, FirmwareChange)
    if any(given is None for given in value.values()):
        raise InvalidInput("name and notes are text")
    account, library = principal().account, service().hub.firmware
    entry = await shielded(lambda: library.edit(account, id, name=value.get("name"), notes=value.get("notes")))
    return answer(describe(entry))


@routes.delete("/<id>", answers={200: Literal[True]}, errors=(409,))
async def remove_firmware(id: str) -> Response:
    """Remove an image. One that an update or a rollout needs which has not ended is refused, and stays."""
    account, removal = principal().account, service().hub.firmware.removal
    await finish(lambda: removal.remove(account, id, Pace(account)))
    return answer(True)


def _device(row: DeviceRow, entry: FirmwareEntry) -> FirmwareDevice:
    update = row.update if row.update is not None and row.update.image.sha256 == entry.image.sha256 else None
    return {
        "id": row.id,
        "name": row.name,
        "online": row.online,
        "state": None if update is None else update.state,
        "reason": "" if update is None else update.reason,
        "changed": None if update is None else update.changed,
    }

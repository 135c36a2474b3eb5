"""The firmware library."""

from __future__ import annotations

from typing import Annotated, Final, TypedDict

from mdashcore.documents._members import DamagedParts, DeviceId, Label, member
from mdashcore.firmware_entry import MAX_NOTES, EntryState
from mdashcore.ota import UpdateState

__all__ = [
    "MAX_FIRMWARE_DEVICES",
    "DamagedFirmware",
    "FirmwareChange",
    "FirmwareCounts",
    "FirmwareDevice",
    "FirmwareDevicesDocument",
    "FirmwareDevicesQuery",
    "FirmwareDocument",
    "FirmwareListQuery",
    "FirmwareUploadQuery",
    "FirmwareWithCounts",
]

MAX_FIRMWARE_DEVICES: Final = 1_000  # devices of each kind in one answer: 200 KB


class FirmwareDocument(TypedDict):
    """An image in the library. What its manifest does not say is `null`."""

    id: Annotated[str, member("`fw_` and the first 16 digits of the SHA-256: the same image always has the same id")]
    name: Annotated[str, member("text for people; the application, or the name of the file, unless it was changed")]
    notes: Annotated[str, member("text for people")]
    file: Annotated[str, member("the name of the file that was uploaded")]
    size: Annotated[int, member("bytes")]
    sha256: str
    build_id: str | None
    version: str | None
    platform: str | None
    app: str | None
    bare: Annotated[bool, member("whether it is no firmware zip")]
    state: Annotated[EntryState, member("`REMOVING`: no update begins with it any more")]
    created: Annotated[float, member("when it was added, in Unix seconds")]
    uploaded_by: Annotated[
        str, member("the user that has added it, or the name of its API key: its id, if it has no name")
    ]
    key: Annotated[str | None, member("the id of the key that has added it; `null` for a user")]


class FirmwareCounts(TypedDict):
    """Numbers of devices."""

    running: Annotated[int, member("that report its build; of a bare image, those that have committed it last")]
    updating: Annotated[int, member("that are being updated with it")]
    failed: Annotated[int, member("whose newest update was with it, and has failed")]


class FirmwareWithCounts(FirmwareDocument, total=False):
    """An image in the library, and how many devices have it."""

    devices: Annotated[FirmwareCounts, member("only with `devices=1`")]


class DamagedFirmware(TypedDict):
    """An image of which nothing but its id can be read."""

    id: str
    damaged: DamagedParts


class FirmwareListQuery(TypedDict, total=False):
    """The parameters of the list of images."""

    devices: Annotated[bool, member("`1`: also count the devices of each image", 0)]


class FirmwareUploadQuery(TypedDict, total=False):
    """The parameters of a new image."""

    name: Annotated[str, member("text for people, in place of the application's name", max_length=256)]
    notes: Annotated[str, member("text for people, such as what is new", max_length=MAX_NOTES)]
    bare: Annotated[bool, member("`1`: the image is a bare one, whatever its name or its first bytes look like", 0)]


class FirmwareChange(TypedDict, total=False):
    """What can be changed of an image."""

    name: Label
    notes: Annotated[str, member("text for people", max_length=MAX_NOTES)]


class FirmwareDevicesQuery(TypedDict, total=False):
    """The parameters of the devices of an image."""

    limit: Annotated[int, member("how many of each kind at most", 100, ge=1, le=MAX_FIRMWARE_DEVICES)]


class FirmwareDevice(TypedDict):
    """A device of an image."""

    id: DeviceId
    name: str
    online: bool
    state: Annotated[UpdateState | None, member("of its newest update, if that was with this image")]
    reason: Annotated[str, member("why that update is in its state")]
    changed: Annotated[float | None, member("when it came into its state, in Unix seconds")]


class FirmwareDevicesDocument(TypedDict):
    """The devices of an image."""

    counts: FirmwareCounts
    filter: Annotated[list[str], member("the filter for devices that report its build; `[]` if that is not known")]
    running: Annotated[list[FirmwareDevice], member("by id")]
    updating: Annotated[list[FirmwareDevice], member("by id")]
    failed: Annotated[list[FirmwareDevice], member("the last ones first")]

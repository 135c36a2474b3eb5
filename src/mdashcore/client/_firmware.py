"""The firmware library: images that are kept on the server for updates and rollouts."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final, cast

import anyio.to_thread

from mdashcore._errors import Damaged, InvalidInput, NotFound
from mdashcore.client._http import UPLOAD_TIMEOUT, Http
from mdashcore.documents import FirmwareDevicesDocument, FirmwareDocument, FirmwareWithCounts
from mdashcore.firmware_entry import entry_id

__all__ = ["FirmwareImages", "check_one_image"]

DOWNLOAD_TIMEOUT: Final = 60.0  # seconds for the next piece: the store reads it meanwhile


class FirmwareImages:
    """The images of an account's library: `Client.firmware`.

    ::

        image = await client.firmware.add("fw.zip", notes="fixes a leak")
        await client.update("lamp", firmware=image["id"])
    """

    def __init__(self, http: Http) -> None:
        self._http = http

    async def add(
        self, file: str | Path, *, name: str | None = None, notes: str | None = None, bare: bool = False
    ) -> FirmwareDocument:
        """Add an image to the library. One that is there already is not uploaded again, and stays as it is.

        Args:
            file: a Mongoose OS firmware zip, or a bare image.
            name: text for people, in place of the application's name.
            notes: text for people, such as what is new.
            bare: the image is a bare one, whatever it looks like.

        Raises:
            InvalidInput: the file is no image.
            LimitReached: the account has as many images, or bytes of them, as it may have.
        """
        path = Path(file)
        sha256, is_zip = await anyio.to_thread.run_sync(_digest, path)
        try:
            present = await self.get(entry_id(sha256))
        except NotFound:
            pass
        else:
            is_same_kind = present["bare"] is (bare or not is_zip)  # of another kind the server says what to do
            if present["sha256"] == sha256 and present["state"] == "KEPT" and is_same_kind:
                return present
        given = {"name": name, "notes": notes, "bare": "1" if bare else None}
        query = {key: value for key, value in given.items() if value is not None}
        return await self._upload(path, query)

    async def list(self, *, devices: bool = False) -> list[FirmwareWithCounts]:
        """Return the images, the newest first. One that is damaged has only `id` and `damaged`.

        Args:
            devices: also count the devices of each.
        """
        query = {"devices": "1"} if devices else None
        return cast("list[FirmwareWithCounts]", await self._http.fetch("GET", "firmware", query=query))

    async def get(self, id: str) -> FirmwareDocument:
        """Return an image. Raises `NotFound`."""
        return cast(FirmwareDocument, await self._http.fetch("GET", "firmware", id))

    async def devices(self, id: str, *, limit: int = 100) -> FirmwareDevicesDocument:
        """Return the devices that run an image, are being updated with it, or failed to: `limit` of each at most."""
        found = await self._http.fetch("GET", "firmware", id, "devices", query={"limit": str(limit)})
        return cast(FirmwareDevicesDocument, found)

    async def change(self, id: str, *, name: str | None = None, notes: str | None = None) -> FirmwareDocument:
        """Change the texts of an image. `None` leaves a text as it is."""
        given = {"name": name, "notes": notes}
        change = {key: value for key, value in given.items() if value is not None}
        return cast(FirmwareDocument, await self._http.fetch("POST", "firmware", id, json=change))

    async def remove(self, id: str) -> None:
        """Remove an image. Raises `Conflict` if an update or a rollout needs it that has not ended."""
        await self._http.request("DELETE", "firmware", id)

    async def download(self, id: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of an image in pieces.

        Raises:
            Damaged: after the last piece: they are not the bytes that were uploaded.
        """
        wanted, digest = (await self.get(id))["sha256"], hashlib.sha256()
        async with aclosing(self._http.stream("firmware", id, "image", timeout=DOWNLOAD_TIMEOUT)) as pieces:
            async for piece in pieces:
                digest.update(piece)
                yield piece
        if digest.hexdigest() != wanted:
            raise Damaged(f"the image {id!r} has not arrived as it was uploaded (SHA-256)")

    async def _upload(self, path: Path, query: Mapping[str, str]) -> FirmwareDocument:
        with path.open("rb") as file:
            files = {"file": (path.name, file)}
            found = await self._http.fetch("POST", "firmware", files=files, query=query, timeout=UPLOAD_TIMEOUT)
        return cast(FirmwareDocument, found)


def _digest(path: Path) -> tuple[str, bool]:
    """Return the SHA-256 of a file, and whether it begins as a zip does."""
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest(), is_zip


def check_one_image(file: object, firmware: str | None) -> None:
    """Check that an update or a rollout has exactly one image. Raises `InvalidInput`."""
    if (file is None) is (firmware is None):
        raise InvalidInput("an image is either a file or one of the firmware library")

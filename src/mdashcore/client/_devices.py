"""Devices, one by one and as a fleet."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from mdashcore.client._http import Resource
from mdashcore.client._pages import DevicesPage, all_devices, read_page
from mdashcore.client._selecting import selecting
from mdashcore.documents import (
    MAX_DEVICES_PAGE,
    DeviceDocument,
    DevicePart,
    FleetDocument,
    RegisteredDevice,
    SeriesDocument,
    TagPatch,
    TagsChanged,
)

__all__ = ["DeviceRequests"]


class DeviceRequests(Resource):
    """What `Client` does with devices."""

    async def devices(self, *terms: str) -> list[DeviceDocument]:
        """Return the account's devices by id, or those for which every term of a filter holds.

        They are read a page at a time. `iterate_devices` does not hold all of them.
        """
        return [cast(DeviceDocument, device) async for device in all_devices(self._http, terms)]

    def iterate_devices(
        self, *terms: str, sort: str | None = None, limit: int | None = None, fields: Sequence[str] | None = None
    ) -> AsyncGenerator[DevicePart, None]:
        """Yield the account's devices, or those for which every term of a filter holds. Reads a page at a time.

        A device that changes its place in the list meanwhile may be given twice, or not at all.

        Args:
            sort: as for `devices_page`.
            limit: the maximum number of devices in all.
            fields: as for `devices_page`.
        """
        return all_devices(self._http, terms, sort=sort, limit=limit, fields=fields)

    async def devices_page(
        self,
        *terms: str,
        limit: int = MAX_DEVICES_PAGE,
        after: str | None = None,
        sort: str | None = None,
        fields: Sequence[str] | None = None,
        count: bool = False,
    ) -> DevicesPage:
        """Return a part of the list of devices.

        Args:
            terms: every term has to hold.
            limit: the maximum number of devices, from 1 to 1000.
            after: the cursor of an earlier page (`DevicesPage.next`), with the same `sort`.
            sort: ``id``, ``name``, ``online``, ``last_seen`` or ``fw_version``, with ``-`` before it for the reverse.
            fields: the members that the devices have: those of a device, and ``app``, ``arch``, ``fw_id``,
                ``fw_version``, ``is_committed``, and places in the shadow such as ``shadow.reported.t``. By default
                those of a device.
            count: whether all devices that match are counted (`DevicesPage.total`).
        """
        return await read_page(self._http, terms, limit=limit, after=after, sort=sort, fields=fields, count=count)

    async def fleet(self) -> FleetDocument:
        """Return the figures of the account's devices: presence, builds, updates, rollouts, and what needs a look."""
        return cast(FleetDocument, await self._http.fetch("GET", "fleet"))

    async def device(self, id: str) -> DeviceDocument:
        """Return a device. Raises `NotFound`."""
        return cast(DeviceDocument, await self._http.fetch("GET", "devices", id))

    async def series(
        self,
        device: str,
        *paths: str,
        start: float | None = None,
        end: float | None = None,
        points: int | None = None,
    ) -> SeriesDocument:
        """Return what a device has reported over time. Raises `NotFound`.

        Args:
            paths: places of `reported`, such as ``sensors.t``; up to 16.
            start: Unix seconds; without it all that is stored.
            end: Unix seconds; without it now.
            points: into how many parts of equal length the time is divided, up to 2000.
        """
        wanted = {"path": paths, "from": _text(start), "to": _text(end), "points": _text(points)}
        query = {name: value for name, value in wanted.items() if value is not None}
        return cast(SeriesDocument, await self._http.fetch("GET", "devices", device, "series", query=query))

    async def create_device(
        self, id: str | None = None, *, name: str | None = None, tags: TagPatch = None
    ) -> RegisteredDevice:
        """Register a device. The answer has its token, which is shown this once. Raises `Conflict` if the id is taken.

        Args:
            id: without it, the server makes one.
            name: text for people.
            tags: names with text or `True`.
        """
        given = {"id": id, "name": name, "tags": tags}
        wanted = {key: value for key, value in given.items() if value is not None}
        return cast(RegisteredDevice, await self._http.fetch("POST", "devices", json=wanted))

    async def adopt_device(self, user: str, device: Mapping[str, Any]) -> bool:
        """Register a device of any account with a token that another service has made. Only for admins.

        Args:
            device: its `id`, its `token` or `token_sha256`, and optionally `name` and `tags`.

        Returns:
            Whether it is new; `False` if the account has it with this token already.

        Raises:
            InvalidInput: the token is too weak.
            Conflict: the id or the token is taken.
        """
        answer = await self._http.request("POST", "users", user, "devices", json=dict(device))
        return answer.status_code == 201

    async def rename_device(self, id: str, name: str) -> DeviceDocument:
        """Give a device another name. Raises `NotFound`."""
        return cast(DeviceDocument, await self._http.fetch("PUT", "devices", id, json={"name": name}))

    async def change_tags(self, id: str, patch: TagPatch) -> DeviceDocument:
        """Merge a patch into a device's tags: a value of `None` removes one, `None` for the patch all."""
        return cast(DeviceDocument, await self._http.fetch("PUT", "devices", id, json={"tags": patch}))

    async def change_tags_of_many(
        self,
        patch: TagPatch,
        *terms: str,
        devices: Sequence[str] | None = None,
        all_devices: bool = False,
        preview: bool = False,
    ) -> TagsChanged:
        """Merge a patch into the tags of the devices for which every term holds.

        Args:
            devices: ids, of which the terms pick; `None` for devices with any id.
            all_devices: every device, in place of terms and ids.
            preview: whether nothing is changed, only counted.
        """
        asked = {"tags": patch, "preview": preview, **selecting(terms, devices, all_devices=all_devices)}
        return cast(TagsChanged, await self._http.fetch("POST", "tags", json=asked, timeout=math.inf))

    async def limit_deltas(self, id: str, limit: int | None) -> DeviceDocument:
        """Limit the frames with a delta that a device is sent: bytes, 0 for none, `None` for its platform's limit."""
        return cast(DeviceDocument, await self._http.fetch("PUT", "devices", id, json={"delta_limit": limit}))

    async def renew_token(self, id: str) -> str:
        """Give a device a new token, and return it. The old one and its connection end immediately."""
        return str((await self._http.fetch("POST", "devices", id, "token"))["token"])

    async def remove_device(self, id: str) -> None:
        """Remove a device. Its token and its connection end immediately. Raises `NotFound`."""
        await self._http.request("DELETE", "devices", id)


def _text(number: float | None) -> str | None:
    return None if number is None else repr(number)

"""Devices as clients see them: whole, or the members that a client asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from mdashcore._errors import InvalidInput
from mdashcore.documents import DeviceDocument
from mdashcore.hub.deltas import limit_of_platform
from mdashcore.hub.device_list import ListedDevice
from mdashcore.hub.fleet.pages import PageDevice
from mdashcore.hub.fleet.rows import BUILD_FIELDS, DeviceRow
from mdashcore.identity import DeviceKey
from mdashcore.server.api._request import time_text
from mdashcore.server.service import Service
from mdashcore.shadow import Shadow

__all__ = ["ALL_FIELDS", "DEVICE_FIELDS", "DeviceFields", "device_document", "page_document", "parse_fields"]


@attrs.frozen
class _Source:
    """What a document is made of."""

    service: Service
    account: str
    device: PageDevice

    @property
    def row(self) -> DeviceRow:
        return self.device.row


def _last_seen(source: _Source) -> str | None:
    heard = source.service.node.devices.last_heard(DeviceKey(source.account, source.row.id))
    return time_text(source.row.last_seen if heard is None else heard)


def _delta_limit(source: _Source) -> int | None:
    row = source.row
    return limit_of_platform(row.delta_limit, row.build.arch, source.service.node.settings.delta_limits)


_MEMBERS: Final[Mapping[str, Callable[[_Source], Any]]] = MappingProxyType(
    {
        "id": lambda source: source.row.id,
        "name": lambda source: source.row.name,
        "online": lambda source: source.row.online,
        "since": lambda source: time_text(source.row.since),
        "last_seen": _last_seen,
        "created_at": lambda source: time_text(source.row.created_at),
        "tags": lambda source: {**source.row.tags},
        "shared_with": lambda source: [],
        "delta_limit": _delta_limit,
        "shadow": lambda source: {**cast(Shadow, source.device.shadow).document(), "tags": {**source.row.tags}},
    }
)
"""The members of every device, in their order."""

DEVICE_FIELDS: Final = (*_MEMBERS, *BUILD_FIELDS)
"""The members that a client may ask for: those of every device, and those of its reported build."""

_OF_BUILD: Final = frozenset((*BUILD_FIELDS, "delta_limit"))  # the limit may be that of the reported platform


@attrs.frozen
class DeviceFields:
    """The members of devices that a client asks for, in their order."""

    names: tuple[str, ...]

    @property
    def with_shadow(self) -> bool:
        """Whether they need the shadow."""
        return "shadow" in self.names

    @property
    def with_build(self) -> bool:
        """Whether they need the reported build."""
        return not _OF_BUILD.isdisjoint(self.names)


ALL_FIELDS: Final = DeviceFields(tuple(_MEMBERS))
"""The members of a device of which no fields were asked for."""


def parse_fields(text: str | None) -> DeviceFields:
    """Return the members that a text names, separated by commas; `None` stands for a whole device.

    Raises:
        InvalidInput: a device has no such member.
    """
    if text is None:
        return ALL_FIELDS
    wanted = set(text.split(","))
    unknown = sorted(wanted.difference(DEVICE_FIELDS))
    if unknown:
        raise InvalidInput(f"unknown field {unknown[0][:64]!r}; known are {', '.join(DEVICE_FIELDS)}")
    return DeviceFields(tuple(name for name in DEVICE_FIELDS if name in wanted))


def page_document(service: Service, account: str, device: PageDevice, fields: DeviceFields) -> dict[str, Any]:
    """Return the members of a device that were asked for, and ``damaged`` if a part of it cannot be read."""
    source = _Source(service, account, device)
    document = {
        name: _MEMBERS[name](source) if name in _MEMBERS else getattr(device.row.build, name) for name in fields.names
    }
    if device.row.damaged:
        document["damaged"] = list(device.row.damaged)
    return document


def device_document(service: Service, listed: ListedDevice) -> DeviceDocument:
    """Return a whole device."""
    device = PageDevice(DeviceRow.of(listed), listed.shadow)
    return cast(DeviceDocument, page_document(service, listed.device.account, device, ALL_FIELDS))

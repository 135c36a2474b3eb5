"""Devices as clients see them: whole, or the members that a client asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.documents import DeviceDocument
from mdashcore.filters import parse_place
from mdashcore.hub.deltas import limit_of_platform
from mdashcore.hub.device_list import ListedDevice
from mdashcore.hub.fleet.pages import PageDevice
from mdashcore.hub.fleet.rows import BUILD_FIELDS, DeviceRow
from mdashcore.identity import DeviceKey
from mdashcore.server.api._request import time_text
from mdashcore.server.metrics.device_table import MAX_PLACES
from mdashcore.server.service import Service
from mdashcore.shadow import Shadow

__all__ = [
    "ALL_FIELDS",
    "CSV_FIELDS",
    "DEVICE_FIELDS",
    "DeviceFields",
    "csv_cells",
    "device_document",
    "page_document",
    "parse_fields",
]

_PLACE: Final = "shadow."  # a field that begins so is a place in the shadow

CSV_FIELDS: Final = "id,name,online,since,last_seen,created_at,tags,app,arch,fw_version,fw_id,is_committed"
"""The columns of a list as CSV, unless a client names others."""


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
    return time_text(
        source.service.node.devices.last_seen(DeviceKey(source.account, source.row.id), source.row.last_seen)
    )


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
    places: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """By its name ``shadow.reported.t``: the keys that lead to a value in the shadow."""

    @property
    def with_shadow(self) -> bool:
        """Whether they need the shadow."""
        return bool(self.places) or "shadow" in self.names

    @property
    def with_build(self) -> bool:
        """Whether they need the reported build."""
        return not _OF_BUILD.isdisjoint(self.names)


ALL_FIELDS: Final = DeviceFields(tuple(_MEMBERS))
"""The members of a device of which no fields were asked for."""


def parse_fields(text: str | None) -> DeviceFields:
    """Return the members that a text names, separated by commas; `None` stands for a whole device.

    Raises:
        InvalidInput: a device has no such member, or the text names too many places in the shadow.
    """
    if text is None:
        return ALL_FIELDS
    wanted = dict.fromkeys(text.split(","))
    places = {name: parse_place(name.removeprefix(_PLACE)) for name in wanted if name.startswith(_PLACE)}
    if len(places) > MAX_PLACES:
        raise InvalidInput(f"a list has at most {MAX_PLACES} places in the shadow")
    unknown = sorted(wanted.keys() - places.keys() - set(DEVICE_FIELDS))
    if unknown:
        raise InvalidInput(
            f"unknown field {unknown[0][:64]!r}; known are {', '.join(DEVICE_FIELDS)}, and places such as "
            "shadow.reported.t"
        )
    return DeviceFields(tuple(name for name in DEVICE_FIELDS if name in wanted), places)


def page_document(service: Service, account: str, device: PageDevice, fields: DeviceFields) -> dict[str, Any]:
    """Return the members of a device that were asked for, and ``damaged`` if a part of it cannot be read."""
    source = _Source(service, account, device)
    document = {
        name: _MEMBERS[name](source) if name in _MEMBERS else getattr(device.row.build, name) for name in fields.names
    }
    for name, (section, *keys) in fields.places.items():
        document[name] = _value_at(getattr(cast(Shadow, device.shadow), section), keys)
    if device.row.damaged:
        document["damaged"] = list(device.row.damaged)
    return document


def _value_at(section: Any, keys: Sequence[str]) -> Any:
    """Return the value at a place of a section of a shadow; `None` if there is none."""
    for key in keys:
        section = section.get(key) if isinstance(section, Mapping) else None
    return section


def csv_cells(document: Mapping[str, Any], names: Sequence[str]) -> list[str | float]:
    """Return members of a device as cells: tags as in ``site=berlin; indoor``, objects and arrays as JSON."""
    return [_tags_cell(document[name]) if name == "tags" else _cell(document.get(name)) for name in names]


def _cell(value: Any) -> str | float:
    if value is None:
        return ""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return _json.encode(value).decode()


def _tags_cell(tags: Mapping[str, str | bool]) -> str:
    return "; ".join(name if value is True else f"{name}={value}" for name, value in tags.items())


def device_document(service: Service, listed: ListedDevice) -> DeviceDocument:
    """Return a whole device."""
    device = PageDevice(DeviceRow.of(listed), listed.shadow)
    return cast(DeviceDocument, page_document(service, listed.device.account, device, ALL_FIELDS))

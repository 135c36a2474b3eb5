"""A device in the summary of its account: what lists and figures show of it, without its shadow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import attrs
import msgspec

from mdashcore import _json
from mdashcore.hub.device_list import ListedDevice
from mdashcore.hub.records.schema import DEVICES, PRESENCE, SHADOWS, UPDATES
from mdashcore.hub.records.store import Collection
from mdashcore.ota import UpdateState
from mdashcore.selection import Facts, Selection
from mdashcore.tags import Tags

__all__ = [
    "BUILD_FIELDS",
    "NO_BUILD",
    "PARTS",
    "DeviceRow",
    "ReportedBuild",
    "RowPart",
    "UpdateFacts",
    "build_size",
    "reads_only_rows",
    "row_size",
]

ROW_SIZE: Final = 400  # bytes of a row without its texts

MAX_BUILD_TEXT: Final = 256  # characters of a member of a build: more are no version

BUILD_FIELDS: Final = ("app", "arch", "fw_id", "fw_version", "is_committed")
"""The members of `reported.ota` that a row has."""


class ReportedBuild(msgspec.Struct, frozen=True, gc=False):
    """The firmware that a device reports in `reported.ota`. A member that is missing, or no text, is `None`."""

    app: str | None = None
    arch: str | None = None
    fw_id: str | None = None
    fw_version: str | None = None
    is_committed: bool | None = None
    odd: tuple[str, ...] = ()
    """The members whose value is left out, or cut: only the shadow tells whether a filter matches it."""

    @classmethod
    def of(cls, reported: Mapping[str, Any] | None) -> ReportedBuild:
        """Return the build in the reported section of a shadow."""
        ota = (reported or {}).get("ota")
        return cls._checked(ota) if isinstance(ota, dict) else NO_BUILD

    @classmethod
    def _checked(cls, ota: Mapping[str, Any]) -> ReportedBuild:
        app, arch, fw_id, fw_version = (_text(ota.get(name)) for name in BUILD_FIELDS[:-1])
        committed = ota.get("is_committed")
        kept = (app, arch, fw_id, fw_version, committed if isinstance(committed, bool) else None)
        pairs = zip(BUILD_FIELDS, kept, strict=True)
        return cls(*kept, tuple(name for name, value in pairs if value is not ota.get(name)))

    @classmethod
    def from_stored_shadow(cls, body: bytes) -> ReportedBuild:
        """Return the build in a stored shadow, of which nothing else is decoded."""
        ota = _read_shadow(body).state.reported.ota
        try:
            return cls._checked(_read_members(ota))
        except msgspec.ValidationError:  # no object, or a member of another type: a device may report any value
            return cls.of({"ota": _json.decode(bytes(ota))})


def _text(value: object) -> str | None:
    return value[:MAX_BUILD_TEXT] if isinstance(value, str) else None


NO_BUILD: Final = ReportedBuild()

NO_TAGS: Final[Tags] = MappingProxyType({})


class _ReportedSection(msgspec.Struct, frozen=True, gc=False):
    ota: msgspec.Raw = msgspec.Raw(b"null")


class _State(msgspec.Struct, gc=False):
    reported: _ReportedSection = _ReportedSection()


class _StoredShadow(msgspec.Struct, gc=False):
    state: _State


_read_shadow: Callable[[bytes], _StoredShadow] = msgspec.json.Decoder(_StoredShadow).decode

_Members = msgspec.defstruct("_Members", [(name, str | bool | None, None) for name in BUILD_FIELDS], gc=False)

_decode_members: Callable[[msgspec.Raw], Any] = msgspec.json.Decoder(_Members).decode


def _read_members(ota: msgspec.Raw) -> dict[str, Any]:
    return msgspec.structs.asdict(_decode_members(ota))


class _Named(msgspec.Struct, gc=False):
    """The members of a registered device that a row has."""

    name: str
    created_at: float
    delta_limit: int | None = None
    tags: dict[str, str | bool] = msgspec.field(default_factory=dict)


class _Presence(msgspec.Struct, gc=False):
    """The members of a presence record that a row has."""

    node: str | None = None
    since: float | None = None
    last_seen: float | None = None


class _UpdateImage(msgspec.Struct, frozen=True, gc=False):
    sha256: str = ""


class UpdateFacts(msgspec.Struct, frozen=True, gc=False):
    """The newest update of a device."""

    id: str
    state: UpdateState
    changed: float
    """Unix seconds."""
    reason: str = ""
    image: _UpdateImage = _UpdateImage()
    """The digest of the image, by which the library knows it."""


class DeviceRow(msgspec.Struct, gc=False):
    """A device in a summary, with the facts that a filter tests. About 700 bytes, as most texts are shared between
    devices: see `row_size`.
    """

    id: str
    name: str
    created_at: float | None = None
    """Unix seconds; `None` if the device cannot be read."""
    delta_limit: int | None = None
    """The device's own limit, as in `Device`."""
    tags: Tags = NO_TAGS
    online: bool = False
    since: float | None = None
    """Unix seconds of the last change between online and offline."""
    last_seen: float | None = None
    """Unix seconds of the newest sign of the device that is stored; `None` if it was never connected."""
    presence_offset: int = -1
    """The offset of the newest notification of its presence that was heeded."""
    build: ReportedBuild = NO_BUILD
    update: UpdateFacts | None = None
    presence_changes: int = 0
    """The changes of presence in the last day, as `Summaries.counted` counted them the last time."""
    damaged: tuple[str, ...] = ()
    """As in `ListedDevice`."""
    name_order: str | None = None
    """The place of the name in a sorted list, once it was needed."""
    size: int = ROW_SIZE
    """The bytes that it takes, as `row_size` estimated them when it was last read."""

    @classmethod
    def of(cls, listed: ListedDevice) -> DeviceRow:
        """Return the row of a device that was read with its shadow."""
        device, presence = listed.device, listed.presence
        return cls(
            device.id,
            device.name,
            None if "device" in listed.damaged else device.created_at,
            device.delta_limit,
            device.tags,
            presence.online,
            presence.since,
            presence.last_seen,
            build=ReportedBuild.of(listed.shadow.reported),
            damaged=listed.damaged,
        )

    def state(self) -> dict[str, Any]:
        """Return what a filter reads of the shadow, which is the build alone: see `reads_only_rows`."""
        build = {name: value for name in BUILD_FIELDS if (value := getattr(self.build, name)) is not None}
        return {"reported": {"ota": build}}

    def facts(self, state: Callable[[], Mapping[str, Any]]) -> Facts:
        """Return the facts that a filter tests, with a shadow that was read."""
        return Facts(
            self.id,
            self.name,
            self.online,
            state,
            self.tags,
            self.since,
            self.last_seen,
            self.created_at,
            self.update_state,
            self.update_changed,
            self.presence_changes,
            self.damaged,
        )

    @property
    def update_state(self) -> str | None:
        """The state of the newest update; `None` without one."""
        return None if self.update is None else self.update.state

    @property
    def update_changed(self) -> float | None:
        """Unix seconds of the last change of that state."""
        return None if self.update is None else self.update.changed

    def mark(self, part: str, *, damaged: bool) -> None:
        """Note whether a part of the device can be read."""
        if damaged != (part in self.damaged):
            others = [each for each in self.damaged if each != part]
            self.damaged = tuple(sorted([*others, part] if damaged else others))


def row_size(row: DeviceRow) -> int:
    """Return about how many bytes a row takes, without its build, which it shares with others."""
    size = ROW_SIZE + 3 * _text_size(row.name)  # the place of a name is up to twice as long as the name
    if row.tags:
        size += sum(
            _TAG_SIZE + _text_size(name) + (_text_size(value) if isinstance(value, str) else 0)
            for name, value in row.tags.items()
        )
    if row.update is not None:
        size += _UPDATE_SIZE + _text_size(row.update.reason)
    return size


def build_size(build: ReportedBuild) -> int:
    """Return about how many bytes a build takes."""
    texts = (build.app, build.arch, build.fw_id, build.fw_version)
    return _BUILD_SIZE + sum(_text_size(text) for text in texts if text is not None)


_TAG_SIZE: Final = 32  # bytes of an entry of a dict
_UPDATE_SIZE: Final = 350  # bytes of an update without its reason: 140 of them for the digest of its image
_BUILD_SIZE: Final = 200  # bytes of a build without its texts, and of its entry among the shared ones


def _text_size(text: str) -> int:
    """Return the most bytes that a text of so many characters takes in CPython."""
    return 64 + (len(text) if text.isascii() else 4 * len(text))


_BUILD_PLACES: Final = frozenset(("reported", "ota", name) for name in BUILD_FIELDS)


def reads_only_rows(selection: Selection) -> bool:
    """Return whether the facts of rows are enough for a selection."""
    return all(term.field.name != "shadow" or term.field.path in _BUILD_PLACES for term in selection.terms)


# The parts of a row, each of which is read from a collection of its own


def _set_device(row: DeviceRow, found: _Named | None) -> None:
    if found is None:
        row.name, row.created_at, row.delta_limit, row.tags = row.id, None, None, NO_TAGS
    else:
        row.name, row.created_at, row.delta_limit = found.name, found.created_at, found.delta_limit
        row.tags = cast(Tags, found.tags or NO_TAGS)
    row.name_order = None


def _set_presence(row: DeviceRow, found: _Presence | None) -> None:
    presence = found or _Presence()
    row.online, row.since, row.last_seen = presence.node is not None, presence.since, presence.last_seen


def _set_build(row: DeviceRow, found: ReportedBuild | None) -> None:
    row.build = found or NO_BUILD


def _set_update(row: DeviceRow, found: UpdateFacts | None) -> None:
    row.update = found


@attrs.frozen
class RowPart:
    """A part of a row."""

    view: Collection[Any]
    """The collection of its records, of which few members are read."""
    set: Callable[[DeviceRow, Any], None]
    """Puts what was read into a row; `None` stands for no record, or one that is damaged."""


def _view(collection: Collection[Any], decode: Callable[[bytes], Any]) -> Collection[Any]:
    return attrs.evolve(collection, decode=decode)


PARTS: Final[Mapping[str, RowPart]] = MappingProxyType(
    {
        "device": RowPart(_view(DEVICES, msgspec.json.Decoder(_Named).decode), _set_device),
        "presence": RowPart(_view(PRESENCE, msgspec.json.Decoder(_Presence).decode), _set_presence),
        "shadow": RowPart(_view(SHADOWS, ReportedBuild.from_stored_shadow), _set_build),
        "update": RowPart(_view(UPDATES, msgspec.json.Decoder(UpdateFacts).decode), _set_update),
    }
)
"""The parts, in the order in which they are read: a row begins with the device."""

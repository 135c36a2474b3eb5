"""The order of a list of devices, and cursors: places in a list at which it continues.

A cursor names the last device of a page by its place: the value that the list is sorted by, and the id. The next page
has the devices behind that place. So a device that keeps its place is given exactly once, whatever comes, goes and
moves meanwhile. A device that moves may be given twice, or not at all.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import attrs

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore._natural_order import compact_key
from mdashcore.hub.fleet.rows import DeviceRow

__all__ = ["BY_ID", "MAX_CURSOR", "SORTS", "Order", "Place", "natural_place", "part_of"]

MAX_CURSOR: Final = 2_400  # characters: a name of 256 characters of 6 bytes as JSON, an id of 128, in base 64

MAX_VALUE: Final = 256  # characters of a value in a cursor: of a name, or of a version in a row

Place: TypeAlias = tuple[Any, str]
"""Where a device stands in a list: the comparable form of its value, and its id."""


def natural_place(text: str) -> str:
    """Return the comparable form of a text: in natural order, upper and lower case alike."""
    return compact_key(text.casefold())


def _place_of_name(row: DeviceRow) -> Any:
    if row.name_order is None:
        row.name_order = natural_place(row.name)
    return row.name_order


@attrs.frozen
class _Sort:
    """A value that lists can be sorted by."""

    value: Callable[[DeviceRow], Any]
    """Returns the value of a device, as a cursor holds it."""
    place: Callable[[Any], Any]
    """Returns the comparable form of a value."""
    kinds: tuple[type, ...]
    """The types that a value may have."""
    part: str | None
    """The part of a row that has the value; `None` for one that never changes."""
    place_of: Callable[[DeviceRow], Any] | None = None
    """Returns the comparable form of a device's value, if that is remembered."""


def _version_place(version: str | None) -> tuple[bool, str]:
    return (False, "") if version is None else (True, natural_place(version))


MAX_VERSIONS: Final = 1_000  # versions whose places are remembered: a fleet has few

_remembered_version_place = lru_cache(MAX_VERSIONS)(_version_place)

MAX_SHORT: Final = 64  # characters of a version whose place is remembered: 500 KB of the most that are


def _place_of_version(row: DeviceRow) -> tuple[bool, str]:
    version = row.build.fw_version
    is_short = version is None or len(version) <= MAX_SHORT
    return _remembered_version_place(version) if is_short else _version_place(version)


_SORTS: Final[Mapping[str, _Sort]] = MappingProxyType(
    {
        "id": _Sort(lambda row: "", lambda value: "", (str,), None),
        "name": _Sort(lambda row: row.name, natural_place, (str,), "device", _place_of_name),
        "online": _Sort(lambda row: row.online, lambda value: value, (bool,), "presence"),
        # A device that is online counts as seen now, and all of those stand in one place: it does not move with each
        # message. A device that was never connected is the first.
        "last_seen": _Sort(
            lambda row: [row.online, None if row.online else row.last_seen],
            lambda value: (value[0], float("-inf") if value[1] is None else value[1]),
            (list,),
            "presence",
        ),
        "fw_version": _Sort(
            lambda row: row.build.fw_version, _version_place, (str, type(None)), "shadow", _place_of_version
        ),
    }
)

SORTS: Final = tuple(_SORTS)
"""The values that a list can be sorted by."""


def part_of(sort: str) -> str | None:
    """Return the part of a row that decides its place in a list: one of `PARTS`, `None` if no change moves it."""
    return _SORTS[sort].part


@attrs.frozen
class Order:
    """The order of a list. Devices whose values are equal are sorted by id."""

    sort: str
    """One of `SORTS`."""
    is_descending: bool = False

    @classmethod
    def parse(cls, text: str) -> Order:
        """Return the order that a text says: a name of `SORTS`, with ``-`` before it for the reverse.

        Raises:
            InvalidInput: there is no such order.
        """
        name = text.removeprefix("-")
        if name not in _SORTS:
            raise InvalidInput(
                f"sort is one of {', '.join(SORTS)}, with - before it for the reverse; not {text[:64]!r}"
            )
        return cls(name, text.startswith("-"))

    def __str__(self) -> str:
        return f"-{self.sort}" if self.is_descending else self.sort

    def place_of(self, row: DeviceRow) -> Place:
        """Return the place of a device."""
        sort = _SORTS[self.sort]
        return (sort.place(sort.value(row)) if sort.place_of is None else sort.place_of(row)), row.id

    def is_before(self, one: Place, other: Place) -> bool:
        """Return whether a place comes before another."""
        return one > other if self.is_descending else one < other

    def cursor(self, row: DeviceRow) -> str:
        """Return the cursor behind a device."""
        text = _json.encode([str(self), _SORTS[self.sort].value(row), row.id])
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    def after(self, cursor: str) -> Place:
        """Return the place of a cursor of this order. Raises `InvalidInput` for other text."""
        try:
            if len(cursor) > MAX_CURSOR:
                raise ValueError
            raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            order, value, id = _json.decode(raw)
            sort = _SORTS[self.sort]
            if order != str(self) or not isinstance(id, str) or not isinstance(value, sort.kinds):
                raise ValueError
            if isinstance(value, str) and len(value) > MAX_VALUE:
                raise ValueError
            if isinstance(value, list):
                is_online, seen = value
                if not isinstance(is_online, bool) or not isinstance(seen, float | int | None):
                    raise ValueError
            return sort.place(value), id
        except (ValueError, TypeError, InvalidInput, binascii.Error):
            raise InvalidInput(f"after is the cursor of a page that was sorted by {self}") from None


BY_ID: Final = Order("id")

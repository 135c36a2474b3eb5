"""The metrics of an account's devices, for an engine that keeps their history: a table, and its text.

Both text formats want all values of a metric together, while devices are read one by one. So the values are kept in
columns of 8 bytes each, beside the labels of each device.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from math import isnan, nan
from typing import Any, Final, TypeAlias

from mdashcore._errors import InvalidInput
from mdashcore.filters import parse_place
from mdashcore.hub.device_list import ListedDevice
from mdashcore.series import number_at
from mdashcore.shadow import Shadow

__all__ = ["MAX_PLACES", "DeviceTable", "Places", "parse_places"]

MAX_PLACES: Final = 16  # of a request: 13 MB for 100 000 devices. One that needs more makes several requests

Places: TypeAlias = Mapping[str, tuple[str, ...]]
"""Places in a shadow as they were asked for, with the keys that lead to them."""

_FREE: Final = (("stats", "ram_free"), ("ota", "ram_free"))
_SIZE: Final = (("stats", "ram_total"), ("ota", "ram_size"))
_UPTIME: Final = (("stats", "uptime"), ("ota", "uptime"))
"""The places in `reported` where firmware of different ages has a value; the first that has a number counts."""

_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
"""For the value of a label, in either format."""

ONLINE_METRIC: Final = "mdash_device_online"
LAST_SEEN_METRIC: Final = "mdash_device_last_seen_timestamp_seconds"
RAM_FREE_METRIC: Final = "mdash_device_ram_free_bytes"
RAM_SIZE_METRIC: Final = "mdash_device_ram_size_bytes"
UPTIME_METRIC: Final = "mdash_device_uptime_seconds"
VALUE_METRIC: Final = "mdash_device_value"

METRICS: Final = {
    ONLINE_METRIC: "1 if the device is connected.",
    LAST_SEEN_METRIC: "When the device was last heard of.",
    RAM_FREE_METRIC: "Free RAM, as the device has last reported it.",
    RAM_SIZE_METRIC: "RAM in all, as the device has last reported it.",
    UPTIME_METRIC: "Time since the start of the device.",
    VALUE_METRIC: "The number at a place of the shadow.",
}
"""The text of each metric. All are gauges."""


def parse_places(texts: Sequence[str]) -> Places:
    """Return the places that a request names, each once. Raises `InvalidInput`."""
    if len(texts) > MAX_PLACES:
        raise InvalidInput(f"a request has at most {MAX_PLACES} places")
    return {text: parse_place(text) for text in texts}


class DeviceTable:
    """The metrics of devices.

    Args:
        now: Unix seconds.
    """

    def __init__(self, places: Places, now: float) -> None:
        self._places = places
        self._now = now
        self._labels: list[str] = []
        self._columns: dict[tuple[str, str], array[float]] = {
            **{(name, ""): array("d") for name in METRICS if name != VALUE_METRIC},
            **{(VALUE_METRIC, f',place="{place.translate(_ESCAPED)}"'): array("d") for place in places},
        }

    def add(self, listed: ListedDevice, last_seen: float | None) -> None:
        """Add a device.

        Args:
            last_seen: Unix seconds; `None` if the device was never heard of.
        """
        device, shadow, online = listed.device, listed.shadow, listed.presence.online
        self._labels.append(f'id="{device.id}",name="{device.name.translate(_ESCAPED)}"')
        values = (
            float(online),
            nan if last_seen is None else last_seen,
            _first(shadow, _FREE),
            _first(shadow, _SIZE),
            self._uptime(shadow) if online else nan,
            *(_at(_section(shadow, section), path) for section, *path in self._places.values()),
        )
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def _uptime(self, shadow: Shadow) -> float:
        """Return the reported uptime, and the time since the report: most devices report it once a connection."""
        for path in _UPTIME:
            if not isnan(reported := _at(shadow.reported, path)):
                since = shadow.reported_at(*path)
                return reported if since is None else reported + max(0.0, self._now - since)
        return nan

    def lines(self, *, open_metrics: bool) -> Iterator[str]:
        """Yield the text line by line. A value that a device does not have is left out."""
        last = ""
        for (name, label), column in self._columns.items():
            if name != last:
                yield f"# HELP {name} {METRICS[name]}\n# TYPE {name} gauge\n"
                last = name
            for labels, value in zip(self._labels, column, strict=True):
                if not isnan(value):
                    yield f"{name}{{{labels}{label}}} {value!r}\n"
                else:
                    yield ""  # the caller counts its steps
        if open_metrics:
            yield "# EOF\n"


def _section(shadow: Shadow, name: str) -> Any:
    return shadow.reported if name == "reported" else shadow.desired if name == "desired" else shadow.delta


def _first(shadow: Shadow, paths: Sequence[tuple[str, ...]]) -> float:
    """Return the number at the first of these places in `reported` that has one; NaN if none has."""
    reported = shadow.reported
    return next((value for path in paths if not isnan(value := _at(reported, path))), nan)


def _at(found: Any, path: Sequence[str]) -> float:
    """Return the number at a place, as `number_at` does; NaN for anything else: an array of doubles keeps it."""
    number = number_at(found, path)
    return nan if number is None else number

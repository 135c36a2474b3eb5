"""The size limit of deltas: some devices accept no frame of more than 4 KiB, and drop the connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mdashcore import jsonrpc
from mdashcore._connection_limits import ConnectionLimits
from mdashcore._errors import InvalidInput
from mdashcore.identity import Device
from mdashcore.ota import Build
from mdashcore.shadow import Shadow

__all__ = [
    "DELTA_METHOD",
    "MAX_DELTA_LIMIT",
    "MIN_DELTA_LIMIT",
    "check_delta_limit",
    "delta_frame_size",
    "delta_limit",
    "limit_of_platform",
    "reported_platform",
]

DELTA_METHOD: Final = "Shadow.Delta"

MIN_DELTA_LIMIT: Final = 1024  # bytes: every device that has a shadow accepts so many, so no smaller delta is checked

MAX_DELTA_LIMIT: Final = ConnectionLimits().max_frame  # bytes: no frame is larger


def check_delta_limit(value: object) -> int | None:
    """Return a limit set by a user: bytes, 0 for none, `None` for the platform's limit. Raises `InvalidInput`."""
    if value is None or (type(value) is int and (value == 0 or MIN_DELTA_LIMIT <= value <= MAX_DELTA_LIMIT)):
        return value
    sizes = f"from {MIN_DELTA_LIMIT} to {MAX_DELTA_LIMIT}"
    raise InvalidInput(f"delta_limit is a number of bytes {sizes}, 0 for none, or null for that of the platform")


def delta_limit(device: Device, shadow: Shadow, platforms: Mapping[str, int]) -> int | None:
    """Return the limit of a device in bytes: its own, else that of the platform that it reports.

    A device that does not report its platform gets the smallest limit of all platforms: it may be the one that needs
    it. Returns `None` if it has none, and 0 if a user has set none.
    """
    if device.delta_limit is not None or not platforms:
        return device.delta_limit
    return limit_of_platform(None, reported_platform(shadow), platforms)


def limit_of_platform(own: int | None, platform: str | None, platforms: Mapping[str, int]) -> int | None:
    """Do the same as `delta_limit`, with the device's own limit and the platform that it reports."""
    if own is not None or not platforms:
        return own
    return min(platforms.values()) if platform is None else platforms.get(platform)


def reported_platform(shadow: Shadow) -> str | None:
    """Return the platform that a device reports, or `None` if it has not reported it."""
    ota = (shadow.reported or {}).get("ota")
    return Build.from_wire(ota).platform if isinstance(ota, dict) else None


def delta_frame_size(params: bytes) -> int:
    """Return the number of bytes of the frame that carries a delta with these params."""
    return _FRAME_AROUND + len(params)


_FRAME_AROUND: Final = len(jsonrpc.encode_request(DELTA_METHOD, b"0")) - len(b"0")  # bytes around the params

"""The meaning of devices' reports: the words of their errors, and the firmware that a report describes."""

from __future__ import annotations

from enum import Enum, auto

from mdashcore.ota._builds import Build
from mdashcore.ota._values import Update, UpdateState


class ErrorMeaning(Enum):
    """The meaning of a device's error for the update."""

    SAME_BUILD = auto()
    WRONG_PLATFORM = auto()
    BUSY = auto()
    BAD_IMAGE = auto()
    OTHER = auto()


_WORDS = (
    ("same as current", ErrorMeaning.SAME_BUILD),
    ("wrong platform", ErrorMeaning.WRONG_PLATFORM),
    ("already in progress", ErrorMeaning.BUSY),
    # Mongoose OS closes the transfer with these errors: the same chunk again only brings another error.
    ("invalid crc", ErrorMeaning.BAD_IMAGE),
    ("malformed archive", ErrorMeaning.BAD_IMAGE),
    ("compressed .zip", ErrorMeaning.BAD_IMAGE),
    ("manifest", ErrorMeaning.BAD_IMAGE),
)


def judge(message: str) -> ErrorMeaning:
    """Return the meaning of a device's error message. Devices say it in words, not in codes."""
    message = message.lower()
    return next((verdict for words, verdict in _WORDS if words in message), ErrorMeaning.OTHER)


def lacks_method(code: int, message: str) -> bool:
    """Return whether a device's error means that it does not have the method."""
    message = message.lower()
    return code in _NO_METHOD_CODES or any(words in message for words in _NO_METHOD_WORDS)


_NO_METHOD_CODES = (404, 501, -32601)
_NO_METHOD_WORDS = ("no handler", "method not found", "no such method", "unknown method", "unknown command")


class Runs(Enum):
    """The firmware that a report describes."""

    NEW = auto()
    OLD = auto()
    ANOTHER = auto()
    UNKNOWN = auto()


def runs(update: Update, build: Build) -> Runs:
    """Return which firmware the device runs after the reboot, by its own report.

    Build ids are compared, or versions if one side has no id. If old and new cannot be told apart (a bare
    image, or the same build once more), another sign decides: only an update leaves a device uncommitted, or on
    another partition.
    """
    image, old = update.image, update.previous_build or Build()
    is_image = same(build.id, image.build_id, build.version, image.version)
    is_old = same(build.id, old.id, build.version, old.version)
    if is_image is False:
        return Runs.ANOTHER if is_old is False else Runs.OLD
    if (is_image and not is_old) or is_old is False or build.is_committed is False:
        return Runs.NEW
    if same(build.partition, old.partition) is False:
        return Runs.NEW
    if (
        update.state is UpdateState.UNCOMMITTED and not update.reconnected
    ):  # the build was new, and there was no reboot since
        return Runs.NEW
    if is_old is None:
        return Runs.UNKNOWN
    if update.commit_unknown and is_image:
        return Runs.NEW
    if update.state is UpdateState.UNCOMMITTED:  # any reboot while uncommitted rolls back
        return Runs.OLD
    return Runs.NEW if is_image else Runs.OLD


def same(*values: object) -> bool | None:
    """Return whether the first pair of values that are both known is equal; `None` if there is no such pair."""
    for one, other in zip(values[::2], values[1::2], strict=True):
        if one is not None and other is not None:
            return one == other
    return None


def taken(update: Update, build: Build) -> list[int]:
    """Return the offsets that a device may have reached when its link dropped: unanswered chunks may have arrived."""
    options, size = update.options, update.image.size
    sent = 0 if update.begun is None else options.chunks_in_flight  # none before OTA.Begin was answered
    reach = [update.offset + n * options.chunk_size for n in range(sent + 1)]
    return [
        offset
        for offset in sorted({min(offset, size) for offset in reach})
        if build.progress_percent in (None, offset * 100 // size)
    ]

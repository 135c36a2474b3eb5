"""A frame that is too large to be kept: its bytes are skipped, except for its ends."""

from __future__ import annotations

from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # installed without a compiler
    from websockets.utils import apply_mask

from mdashcore._events import TOO_LARGE
from mdashcore._salvage import END_SIZE
from mdashcore.trio.transport.stream import BrokenMessage

__all__ = ["MAX_SKIPPED", "SKIP_TIMEOUT", "SkippedFrame"]

MAX_SKIPPED: Final = 2**24  # bytes of a frame: more than the flash of most devices; a larger one closes the connection

SKIP_TIMEOUT: Final = 30.0  # seconds: 16 MiB at 4 Mbit/s; no other frame can come in that time, not even a pong


class SkippedFrame:
    """The payload of a frame that is being received.

    Args:
        mask: the 4 bytes of RFC 6455, section 5.3.
        size: bytes of the payload.
    """

    __slots__ = ("_head", "_mask", "_tail", "missing", "size")

    def __init__(self, mask: bytes, size: int) -> None:
        self._mask = mask
        self._head = bytearray()
        self._tail = bytearray()
        self.size: int = size
        self.missing: int = size
        """Bytes that have not come yet."""

    def receive(self, data: bytes, start: int) -> int:
        """Skip the bytes of `data` that belong to the frame. Returns the index of the rest."""
        end = min(len(data), start + self.missing)
        self.missing -= end - start
        if (room := END_SIZE - len(self._head)) > 0:
            self._head += data[start : min(end, start + room)]
        self._tail += data[max(start, end - END_SIZE) : end]
        del self._tail[:-END_SIZE]
        return end

    def message(self) -> BrokenMessage:
        """Return the known parts of the message. An incomplete one has no tail."""
        turn = (self.size - len(self._tail)) % 4
        tail = b"" if self.missing else apply_mask(bytes(self._tail), self._mask[turn:] + self._mask[:turn])
        return BrokenMessage(TOO_LARGE, self.size, apply_mask(bytes(self._head), self._mask), tail)

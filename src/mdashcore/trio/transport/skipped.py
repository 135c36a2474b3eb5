"""A frame that is too large to be kept: its bytes are passed over, but for its ends."""

from __future__ import annotations

from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # where there was no compiler
    from websockets.utils import apply_mask

from mdashcore._events import TOO_LARGE
from mdashcore._salvage import ENDS
from mdashcore.trio.transport.stream import BrokenMessage

__all__ = ["MAX_SKIPPED", "SKIP_TIMEOUT", "SkippedFrame"]

MAX_SKIPPED: Final = 2**24  # bytes of a frame: more than the flash of most devices; whoever sends more has to be closed

SKIP_TIMEOUT: Final = 30.0  # seconds: 16 MiB at 4 Mbit/s; nothing else can come meanwhile, not even an answer to a ping


class SkippedFrame:
    """The payload of a frame, while it comes.

    Args:
        mask: of RFC 6455, section 5.3: 4 bytes.
        size: bytes.
    """

    __slots__ = ("_head", "_mask", "_tail", "missing", "size")

    def __init__(self, mask: bytes, size: int) -> None:
        self._mask = mask
        self._head = bytearray()
        self._tail = bytearray()
        self.size: int = size
        self.missing: int = size
        """Bytes that have not come yet."""

    def take(self, data: bytes, start: int) -> int:
        """Pass over what of `data` belongs to the frame; returns where its rest begins."""
        end = min(len(data), start + self.missing)
        self.missing -= end - start
        if (room := ENDS - len(self._head)) > 0:
            self._head += data[start : min(end, start + room)]
        self._tail += data[max(start, end - ENDS) : end]
        del self._tail[:-ENDS]
        return end

    def message(self) -> BrokenMessage:
        """What is known of it; of one that is not complete without an end."""
        turn = (self.size - len(self._tail)) % 4
        tail = b"" if self.missing else apply_mask(bytes(self._tail), self._mask[turn:] + self._mask[:turn])
        return BrokenMessage(TOO_LARGE, self.size, apply_mask(bytes(self._head), self._mask), tail)

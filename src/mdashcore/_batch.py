"""The answers to a batch of requests."""

from __future__ import annotations

from mdashcore import _json

__all__ = ["BatchAnswer"]


class BatchAnswer:
    """The answers to one batch. They are sent together when the last one is there (section 6).

    Args:
        max_frame: bytes of a frame. Answers that do not fit into one are sent in several.
    """

    __slots__ = ("_max_frame", "_parts", "_size", "missing")

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._parts: list[bytes] = []
        self._size = 1  # bytes of the frame: each part adds a comma or the last bracket
        self.missing: int = 1
        """Answers that are not there yet. One more, until every member of the batch has been processed."""

    def add(self, answer: bytes) -> bytes | None:
        """Add an answer. Returns the frame of the answers before it, if it does not fit into that."""
        frame = self._frame() if self._size + len(answer) + 1 > self._max_frame else None
        self._parts.append(answer)
        self._size += len(answer) + 1
        return frame

    def finish_one(self) -> bytes | None:
        """Count one answer that is there. Returns the frame of the answers after the last one."""
        self.missing -= 1
        return self._frame() if self.missing == 0 else None

    def _frame(self) -> bytes | None:
        parts, self._parts, self._size = self._parts, [], 1
        return _json.json_array(parts) if parts else None

"""Places for calls under way, and the lines in which other calls wait for one.

Each line is served in order, and the lines take turns, one call each. So a call waits for one call of every other line,
and for those before it in its own, however many wait in all: ten thousand devices that come back read and write four or
five collections, and the sign of life of their node, which is another, has its turn among these.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeAlias

import anyio

__all__ = ["CallPlaces"]

_CallLine: TypeAlias = OrderedDict[anyio.Event, None]
"""The calls that wait in a line, each with the event that gives it a place. A call that gives up leaves from anywhere.
"""


class CallPlaces:
    """A number of places, which tasks take and release.

    Args:
        most: the number of places.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._lines: OrderedDict[Hashable, _CallLine] = OrderedDict()  # the one whose turn is next is the first

    def acquire_nowait(self) -> bool:
        """Take a place if one is free: no task waits then. Returns whether it was taken."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def acquire(self, name: Hashable) -> None:
        """Wait in a line for a place, after `acquire_nowait` has returned `False`.

        Args:
            name: of the line.
        """
        turn = anyio.Event()
        if (line := self._lines.get(name)) is None:
            line = self._lines[name] = OrderedDict()
        line[turn] = None
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # the place has come at this very moment
                self.release()
            else:
                del line[turn]
                if not line:
                    del self._lines[name]
            raise

    def release(self) -> None:
        """Hand a place to the first task of the line whose turn it is."""
        if not self._lines:
            self._free += 1
            return
        name, line = next(iter(self._lines.items()))
        turn, _ = line.popitem(last=False)
        turn.set()
        if line:
            self._lines.move_to_end(name)
        else:
            del self._lines[name]

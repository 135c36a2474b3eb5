"""Times as arguments of commands."""

from __future__ import annotations

import time
from typing import Final

from mdashcore._errors import InvalidInput
from mdashcore._moments import parse_moment
from mdashcore.cli.options import Checked
from mdashcore.filters import Value

__all__ = ["MOMENT"]


def _moment(text: str) -> float:
    if text[-1:] in ("s", "m", "h", "d", "w"):
        return max(0.0, time.time() - Value(text).seconds)
    try:
        return parse_moment(text)
    except InvalidInput as exc:
        raise InvalidInput(f"{exc}, or as an age: 90s, 15m, 2h, 7d") from None


MOMENT: Final = Checked("TIME", _moment)
"""A time: an age, Unix seconds, or RFC 3339. The value is in Unix seconds."""

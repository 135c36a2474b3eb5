"""The ratios as a plot: a row for each comparison, a dot for each contender; further right is better for mdash.

The default store and memory stand side by side, each with an axis of its own. Work without a store is in the column of
memory. A contender that is only a reference has a ring.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

from benchmarks._figures import OURS, Line

__all__ = ["svg"]

LEFT, WIDTH, GAP, ROW, TOP = 330, 430, 30, 34, 54  # pixels
COLORS = ("#0b6e99", "#b5482a", "#4d7c3a", "#7a4fa3", "#a07800", "#666666")
COLUMNS = {"SQLite": "on SQLite, the default store", "memory": "in memory"}
"""The stores that have a column, with its title."""

_STORED = re.compile(r"(.*), (SQLite|memory|Redis)(.*)")


def svg(lines: Sequence[Line]) -> str:
    """Return a whole SVG file."""
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        title, store = _place(line)
        if store in COLUMNS and points(line):
            rows.setdefault(title, {})[store] = line
    shown = [points(line) for row in rows.values() for line in row.values()]
    names = list(dict.fromkeys(name for found in shown for name, _ in found))
    values = [value for found in shown for _, value in found] + [0.5, 2.0]
    low, high = floor(log10(min(values)) * 2) / 2, ceil(log10(max(values)) * 2) / 2
    height, width = TOP + ROW * len(rows) + 30, LEFT + len(COLUMNS) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="16">mdash against each, logarithmic: right of 1 is better; | is the goal</text>',
    ]
    parts += [f'<text x="8" y="{TOP + ROW * n + 14}">{escape(title)}</text>' for n, title in enumerate(rows)]
    for number, (store, title) in enumerate(COLUMNS.items()):
        axis = _Axis(LEFT + number * (WIDTH + GAP), low, high)
        parts += axis.drawn(title, height)
        for n, row in enumerate(rows.values()):
            if store in row:
                parts += _comparison(row[store], names, axis, TOP + ROW * n + 10)
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """The horizontal axis of one column, logarithmic from 10**low to 10**high."""

    def __init__(self, left: int, low: float, high: float) -> None:
        self._left, self._low, self._high = left, low, high

    def x(self, value: float) -> float:
        """Return the place of a value; that of the nearest end for one beyond."""
        exponent = min(max(log10(value), self._low), self._high)
        return round(self._left + WIDTH * (exponent - self._low) / (self._high - self._low), 1)

    def drawn(self, title: str, height: int) -> list[str]:
        """Return the lines of the powers of ten, and the column's title."""
        parts = [f'<text x="{self._left}" y="34" font-weight="bold">{escape(title)}</text>']
        for power in range(ceil(self._low), floor(self._high) + 1):
            at = self.x(10.0**power)
            parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP - 14}" y2="{height - 24}" stroke="#bbb"/>')
            parts.append(f'<text x="{at}" y="{height - 8}" text-anchor="middle">{10.0**power:g}</text>')
        return parts


def _comparison(line: Line, names: Sequence[str], axis: _Axis, y: int) -> list[str]:
    """Return the dots of one comparison, and its goal."""
    parts = []
    if line.goal is not None:
        at = axis.x(1 / line.goal if line.less_is_better else line.goal)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{y - 9}" y2="{y + 9}" stroke="black" stroke-width="2"/>')
    for index, (name, value) in enumerate(points(line)):
        color, at = COLORS[names.index(name) % len(COLORS)], axis.x(value)
        paint = f'fill="{"white" if name in line.reference else color}" stroke="{color}"'
        parts.append(f'<circle cx="{at}" cy="{y}" r="4" {paint}><title>{value:.2f}</title></circle>')
        lift = -7 if index % 2 else 16
        place = f'x="{at}" y="{y + lift}" fill="{color}" font-size="9" text-anchor="middle"'
        parts.append(f"<text {place}>{escape(name)}</text>")
    return parts


def _place(line: Line) -> tuple[str, str]:
    """Return the title of a line's row without its store, and the store."""
    found = _STORED.fullmatch(line.what)
    work, store = (line.what, "memory") if found is None else (found[1] + found[3], found[2])
    return f"{line.row}: {work}", store


def points(line: Line) -> list[tuple[str, float]]:
    """Return how much better mdash is than each contender; below 1 if it is worse."""
    if OURS not in line.samples or line.median(OURS) <= 0:
        return []
    found = []
    for name in line.samples:
        if name != OURS and line.median(name) > 0:
            ratio = line.median(OURS) / line.median(name)
            found.append((name, 1 / ratio if line.less_is_better else ratio))
    return sorted(found, key=lambda each: each[1])  # neighbours have their names above and below

"""The ratios as a plot: a row for each comparison, in it a line for each contender; further right is better for mdash.

The default store and memory stand side by side, each with an axis of its own. Work without a store is in the column of
memory. A contender that is only a reference has a ring. A ratio beyond the axis stands at its end, as a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from math import log10

from benchmarks._figures import OURS, Line

__all__ = ["svg"]

LEFT, WIDTH, GAP, LINE, BETWEEN, TOP = 310, 300, 100, 12, 10, 54  # pixels; a gap has room for a name
LOWEST, HIGHEST = -1.0, 1.0  # powers of ten at the ends of an axis
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
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
    names = list(dict.fromkeys(name for row in rows.values() for line in row.values() for name, _ in points(line)))
    tops, height = [], TOP
    for row in rows.values():
        tops.append(height)
        height += LINE * max(len(points(line)) for line in row.values()) + BETWEEN
    height, width = height + 30, LEFT + len(COLUMNS) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="16">mdash against each, logarithmic: right of 1 is better; | is the goal</text>',
    ]
    parts += [f'<text x="8" y="{top + 4}">{escape(title)}</text>' for title, top in zip(rows, tops, strict=True)]
    for number, (store, title) in enumerate(COLUMNS.items()):
        axis = _Axis(LEFT + number * (WIDTH + GAP))
        parts += axis.drawn(title, height)
        for row, top in zip(rows.values(), tops, strict=True):
            if store in row:
                parts += _comparison(row[store], names, axis, top)
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """The horizontal axis of one column, logarithmic."""

    def __init__(self, left: int) -> None:
        self._left = left

    def x(self, value: float) -> float:
        """Return the place of a value; that of the nearest end for one beyond."""
        exponent = min(max(log10(value), LOWEST), HIGHEST)
        return round(self._left + WIDTH * (exponent - LOWEST) / (HIGHEST - LOWEST), 1)

    def drawn(self, title: str, height: int) -> list[str]:
        """Return the lines of round ratios, and the column's title."""
        parts = [f'<text x="{self._left}" y="34" font-weight="bold">{escape(title)}</text>']
        for value in TICKS:
            at = self.x(value)
            color = "#888" if value == 1 else "#ddd"
            parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP - 12}" y2="{height - 24}" stroke="{color}"/>')
            parts.append(f'<text x="{at}" y="{height - 8}" text-anchor="middle">{value:g}</text>')
        return parts


def _comparison(line: Line, names: Sequence[str], axis: _Axis, y: int) -> list[str]:
    """Return the dots of one comparison, each with its contender's name, and the goal."""
    parts = []
    found = points(line)
    if line.goal is not None:
        at = axis.x(1 / line.goal if line.less_is_better else line.goal)
        end = y + LINE * len(found) - 6
        parts.append(f'<line x1="{at}" x2="{at}" y1="{y - 6}" y2="{end}" stroke="black" stroke-width="2"/>')
    for index, (name, value) in enumerate(found):
        color, at, middle = COLORS[names.index(name) % len(COLORS)], axis.x(value), y + LINE * index
        paint = f'fill="{"white" if name in line.reference else color}" stroke="{color}"'
        parts.append(f'<circle cx="{at}" cy="{middle}" r="4" {paint}><title>{value:.2f}</title></circle>')
        said = name if LOWEST <= log10(value) <= HIGHEST else f"{name} {value:.3g}"
        parts.append(f'<text x="{at + 8}" y="{middle + 3}" fill="{color}" font-size="9">{escape(said)}</text>')
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

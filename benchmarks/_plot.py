"""The ratios as a plot: a row for each comparison, a dot for each contender; further right is better for mdash.

A contender that is only a reference has a ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

from benchmarks._figures import OURS, Line

__all__ = ["svg"]

LEFT, WIDTH, ROW, TOP = 330, 640, 34, 40  # pixels
COLORS = ("#0b6e99", "#b5482a", "#4d7c3a", "#7a4fa3", "#a07800", "#666666")


def svg(lines: Sequence[Line]) -> str:
    """Return a whole SVG file."""
    shown = [(line, points(line)) for line in lines if points(line)]
    names = list(dict.fromkeys(name for _, found in shown for name, _ in found))
    values = [value for _, found in shown for _, value in found] + [0.5, 2.0]
    low, high = floor(log10(min(values)) * 2) / 2, ceil(log10(max(values)) * 2) / 2

    def x(value: float) -> float:
        return round(LEFT + WIDTH * (log10(value) - low) / (high - low), 1)

    height = TOP + ROW * len(shown) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 40}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="16">mdash against each, logarithmic: right of 1 is better; | is the goal</text>',
    ]
    for power in range(ceil(low), floor(high) + 1):
        at = x(10.0**power)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP - 14}" y2="{height - 24}" stroke="#bbb"/>')
        parts.append(f'<text x="{at}" y="{height - 8}" text-anchor="middle">{10.0**power:g}</text>')
    for n, (line, found) in enumerate(shown):
        y = TOP + ROW * n + 10
        parts.append(f'<text x="8" y="{y + 4}">{escape(f"{line.row}: {line.what}")}</text>')
        if line.goal is not None:
            at = x(min(max(1 / line.goal if line.less_is_better else line.goal, 10**low), 10**high))
            parts.append(f'<line x1="{at}" x2="{at}" y1="{y - 9}" y2="{y + 9}" stroke="black" stroke-width="2"/>')
        for index, (name, value) in enumerate(found):
            color = COLORS[names.index(name) % len(COLORS)]
            paint = f'fill="{"white" if name in line.reference else color}" stroke="{color}"'
            parts.append(f'<circle cx="{x(value)}" cy="{y}" r="4" {paint}><title>{value:.2f}</title></circle>')
            lift = -7 if index % 2 else 16
            place = f'x="{x(value)}" y="{y + lift}" fill="{color}" font-size="9" text-anchor="middle"'
            parts.append(f"<text {place}>{escape(name)}</text>")
    return "\n".join([*parts, "</svg>", ""])


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

"""Small plots of the cost of a report, against what may grow: devices connected, shadows, subscribers, devices stored.

    python -m benchmarks.curves [--quick] [--results FOLDER]

Ten devices report, on SQLite and in memory. The cost is the processor time of the server for each accepted report.
Writes `curves.json` and one SVG for each plot.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from html import escape
from math import floor, log10
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import _report
from benchmarks._machine import settle
from benchmarks._targets import MEMORY, SQLITE, load, mdash, missing_load
from benchmarks.reports import measured, reporting

ACTIVE = 10  # devices that report
USUAL = 1_000  # bytes of a shadow
STORES = (SQLITE, MEMORY)
TURNS, SECONDS = 3, 0.4  # of each point: the median counts

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 220, 50, 40, 30  # pixels
COLORS = {SQLITE: "#0b6e99", MEMORY: "#b5482a"}

Points = list[tuple[float, float]]
"""What grows, and microseconds."""


def cost(store: str, *, connected: int = 0, size: int = USUAL, subscribers: int = 0, stored: int = 0) -> float:
    """Return the microseconds of processor time for a report. One subscriber more than asked for counts them."""
    with ExitStack() as stack:
        server = stack.enter_context(mdash(store).open(max(ACTIVE, connected, stored)))
        if connected > ACTIVE:
            idle = stack.enter_context(load("answer"))
            devices = server.to_load(ACTIVE, connected - ACTIVE)
            assert idle.ask(devices, timeout=300.0)["connected"] == connected - ACTIVE
        if subscribers > 1:
            others = stack.enter_context(load("listen"))
            assert others.ask(server.to_load() | {"subscribers": subscribers - 1})["connected"] == subscribers - 1
        reporters = reporting(stack, server, 0, ACTIVE, size)
        settle(server.process)
        turns = [measured(reporters, server, SECONDS) for _ in range(TURNS)]
        found = [1e6 * part * each["seconds"] / each["updates"] for each, part in turns if each["updates"]]
        assert found, "the disk is too slow: no report was stored"
        return median(found)


PLOTS: Mapping[str, tuple[str, Sequence[int], Callable[[str, int], float]]] = {
    "devices": ("devices connected", (10, 100, 1_000, 10_000), lambda store, n: cost(store, connected=n)),
    "shadow": ("KB of the shadow", (1, 4, 16, 30), lambda store, n: cost(store, size=1_000 * n)),
    "subscribers": ("subscribers", (1, 10, 100), lambda store, n: cost(store, subscribers=n)),
    "stored": ("devices stored", (10, 1_000, 10_000), lambda store, n: cost(store, stored=n)),
}
"""By name: what grows, its values, and how to measure one point."""


def measure(folder: Path, *, quick: bool = False) -> None:
    """Measure all plots, and write them."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, (what, values, point) in PLOTS.items():
        shown = values[:2] if quick else values
        series = {store: [(n, point(store, n)) for n in shown] for store in STORES}
        found[name] = {"what": what, "series": series}
        (folder / f"{name}.svg").write_text(svg(what, series), encoding="utf-8")
        print(name, series, flush=True)
    (folder / "curves.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def svg(what: str, series: Mapping[str, Points]) -> str:
    """Return one plot: microseconds of a report against what grows, on a logarithmic axis."""
    values = sorted({x for points in series.values() for x, _ in points})
    most = 1.1 * max(y for points in series.values() for _, y in points)
    low, span = log10(values[0]), max(0.1, log10(values[-1]) - log10(values[0]))

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - 20) * (log10(x) - low) / span
        return round(across, 1), round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * y / most, 1)

    base = HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="16">µs of processor time for a report</text>',
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{base}" y2="{base}" stroke="#888"/>',
        f'<text x="{WIDTH - 12}" y="{HEIGHT - 6}" text-anchor="end">{escape(what)}</text>',
    ]
    for x in values:
        parts.append(f'<text x="{at(x, 0)[0]}" y="{base + 14}" text-anchor="middle">{x:g}</text>')
    for tick in ticks(most):
        y = at(values[0], tick)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for n, (store, points) in enumerate(series.items()):
        color = COLORS[store]
        line = " ".join("{},{}".format(*at(x, y)) for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += ['<circle cx="{}" cy="{}" r="3" fill="{}"/>'.format(*at(x, y), color) for x, y in points]
        parts.append(f'<text x="{WIDTH - 12}" y="{16 + 13 * n}" text-anchor="end" fill="{color}">{store}</text>')
    return "\n".join([*parts, "</svg>", ""])


def ticks(most: float) -> list[float]:
    """Return two to five round values above zero that divide an axis up to `most`."""
    power = 10.0 ** floor(log10(most))
    step = next(part * power for part in (0.2, 0.5, 1.0, 2.0) if most / (part * power) < 6)
    return [step * n for n in range(1, floor(most / step) + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two points of each")
    parser.add_argument("--results", type=Path, default=_report.RESULTS, metavar="FOLDER")
    arguments = parser.parse_args()
    if why := missing_load():
        raise SystemExit(why)
    measure(arguments.results, quick=arguments.quick)


if __name__ == "__main__":
    main()

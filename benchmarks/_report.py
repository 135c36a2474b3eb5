"""Results, written for machines, for people, and into the docs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _plot
from benchmarks._figures import OURS, Form, Line
from benchmarks._machine import ROOT, describe

__all__ = ["RESULTS", "entry", "read", "table", "write", "write_docs"]

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "discussion" / "performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

Entry = dict[str, Any]


def entry(form: Form, lines: Sequence[Line], took: float) -> Entry:
    """Return the stored form of a row's results."""
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return {
        "form": form.name, "date": date, "took": took, "turns": form.turns, "seconds": form.seconds,
        "machine": describe(), "lines": [line.to_json() for line in lines],
    }  # fmt: skip


def read(folder: Path) -> dict[str, Entry]:
    """Return the stored results of a folder; an empty dict if there are none."""
    file = folder / "results.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def write(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Write all three files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    parts = [f"## {row} ({found['form']}, {found['date']})\n\n{table(_lines(found))}" for row, found in entries.items()]
    (folder / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    lines = [line for found in entries.values() for line in _lines(found)]
    (folder / "results.svg").write_text(_plot.svg(lines), encoding="utf-8")


def table(lines: Iterable[Line]) -> str:
    """Return the medians of all contenders, and the comparison, as Markdown."""
    found = ["| Work | Who | Median | Spread | Core used | Ratio | Goal | |", "|---|---|---|---|---|---|---|---|"]
    for line in lines:
        for name in line.samples:
            cells = [line.what if name == OURS else "", name, f"{number(line.median(name))} {line.unit}"]
            cells += [f"{line.spread(name):.0%}", _core(line, name)]
            cells += [_ratio(line), goal(line), verdict(line)] if name == OURS else [_note(line, name), "", ""]
            found.append(f"| {' | '.join(cells)} |")
        for name, why in line.missing.items():
            first = why.splitlines()[0].replace("|", "/")
            found.append(f"| {line.what if name == OURS else ''} | {name} | not measured: {first} | | | | | |")
    return "\n".join(found)


def number(value: float) -> str:
    """Return a number with three significant digits."""
    if value >= 1000:
        return f"{round(value, 3 - len(str(int(value)))):,.0f}"
    return f"{value:.3g}"


def goal(line: Line) -> str:
    """Return the goal, such as ≥ 1.2; an empty text without a goal."""
    if line.most is not None:
        return f"≤ {line.most:g} {line.unit}"
    return "" if line.goal is None else f"{'≤' if line.less_is_better else '≥'} {line.goal:.3g}"


def verdict(line: Line) -> str:
    """Return whether the goal is met, and if not, by how much it is missed."""
    if line.most is not None and line.met is not None:
        return "met" if line.met else f"MISSED by {line.median(OURS) / line.most - 1:.0%}"
    if line.goal is None or line.ratio is None or line.met is None:
        return "" if line.goal is None else "not compared"
    return "met" if line.met else f"MISSED by {abs(line.ratio / line.goal - 1):.0%}"


def _ratio(line: Line) -> str:
    if line.ratio is None or line.ratios is None:
        return ""
    low, high = line.ratios
    return f"{line.ratio:.2f} to {line.best} ({low:.2f}–{high:.2f})"


def _core(line: Line, name: str) -> str:
    """Return the share of its core that the server used, in total and for each counted event."""
    if name not in line.busy:
        return ""
    each = (
        f", {1e6 * line.busy[name] / line.median(name):.3g} µs each" if line.unit == "/s" and line.median(name) else ""
    )
    return f"{line.busy[name]:.0%}{each}"


def _note(line: Line, name: str) -> str:
    return "reference" if name in line.reference else "best" if name == line.best else ""


IMAGES = ROOT / "docs" / "images" / "performance"

PICTURES = {
    "results": "Ratios to other programs, on SQLite and in memory",
    "devices": "Cost of a report against the number of connected devices",
    "shadow": "Cost of a report against the size of the shadow",
    "subscribers": "Cost of a report against the number of subscribers",
    "stored": "Cost of a report against the number of stored devices",
}
"""The plots of a folder of results, with the words for a reader who does not see them."""


def write_docs(folder: Path) -> None:
    """Put the ratios between the two marks of the page, and the plots beside it."""
    entries = read(folder)
    if not entries:
        raise SystemExit(f"there are no results in {folder}")
    page = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{PAGE} has lost its marks")
    figures = f"{BEGIN}\n{ratios(entries)}\n{_pictures(folder)}{END}"
    PAGE.write_text(pattern.sub(lambda _: figures, page), encoding="utf-8")


def _pictures(folder: Path) -> str:
    """Copy the plots that there are. Returns the Markdown that shows them."""
    found = []
    for name, words in PICTURES.items():
        if (plot := folder / f"{name}.svg").exists():
            IMAGES.mkdir(parents=True, exist_ok=True)
            (IMAGES / plot.name).write_bytes(plot.read_bytes())
            found.append(f"![{words}](../images/performance/{plot.name})\n")
    return "\n" + "\n".join(found) if found else ""


def ratios(entries: Mapping[str, Entry]) -> str:
    """Return the ratios only, because figures of one machine say nothing about another."""
    found = ["| Row | Work | Ours to that of | Goal | |", "|---|---|---|---|---|"]
    for row, kept in entries.items():
        for line in _lines(kept):
            found.append(f"| {row} | {line.what} | {_each(line)} | {goal(line)} | {verdict(line)} |")
    machines = sorted({_where(kept) for kept in entries.values()})
    return "\n".join([*found, "", *(f"Measured {each}." for each in machines)])


def _each(line: Line) -> str:
    """Return the figure of mdash over that of each other contender, the best peer first."""
    if OURS not in line.samples:
        return "not measured"
    order = sorted(line.samples, key=line.median, reverse=not line.less_is_better)
    if len(order) == 1:
        return f"{number(line.median(OURS))} {line.unit}"
    others = sorted((name for name in order if name != OURS), key=lambda name: name != line.best)
    return ", ".join(f"{name} {line.median(OURS) / line.median(name):.2f}" for name in others if line.median(name))


def _where(kept: Entry) -> str:
    machine = kept["machine"]
    return (
        f"on {kept['date']} ({kept['form']} form) with Python {machine['python']} "
        f"on {machine['cores']} cores of a machine with {machine['processor']}"
    )


def _lines(kept: Entry) -> list[Line]:
    return [Line.from_json(line) for line in kept["lines"]]

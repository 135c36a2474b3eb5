"""Merge and delta of documents, from small to large, against libraries for that; and the growth of an update's cost.

    python -m benchmarks.merge [--long]

The patch sets one leaf at the bottom of the tree, and the delta is that leaf. A merge has to give a new document
and keep the old one, because a store may refuse the new one: json-merge-patch changes its argument, so it gets
a copy. Its time without a copy is shown for reference.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import SERVER_CORE, on_core
from benchmarks.shadow import FAN_OUT, ROOMY, leftmost, tree
from mdashcore.shadow import Shadow, delta, merge

ROW = "MERGE"
LEAF = 24  # bytes of a leaf with its share of the objects above it
LONGEST = 0.3  # seconds of a turn
SLOW = 1.0  # seconds of a call: one turn is enough
IN_PLACE = "json-merge-patch, in place"

Function = Callable[[], Any]


def rate(function: Function, seconds: float) -> float:
    """Return calls per second of processor time; at least one call is made."""
    done, start = 0, time.process_time()
    while True:
        function()
        done += 1
        if (now := time.process_time()) >= start + seconds:
            return done / (now - start)


def with_library(
    module: str, make: Callable[[Any], Function], sides: dict[str, Function], missing: dict[str, str], name: str
) -> None:
    """Add a side, if its library is installed."""
    try:
        sides[name] = make(import_module(module))
    except ImportError as exc:
        missing[name] = f"not installed: {exc.name}"


def compare(form: Form, line: Line, sides: dict[str, Function]) -> Line:
    """Measure in turns. A side whose calls take seconds is measured once."""
    slow = []
    for name, function in sides.items():
        start = time.process_time()
        function()
        if time.process_time() - start > SLOW:
            slow.append(name)
    seconds = min(LONGEST, form.seconds)
    line.samples = in_turns(form.turns, {name: partial(rate, f, seconds) for name, f in sides.items()}, single=slow)
    return line


def merging(form: Form, size: int) -> Line:
    """Compare merges of one document with a patch of one leaf."""
    document = tree(size // LEAF, "a value of it")
    patch = leftmost(document, "another value")
    missing: dict[str, str] = {}
    sides: dict[str, Function] = {OURS: lambda: merge(document, patch)}
    spare = copy.deepcopy(document)
    with_library(
        "json_merge_patch",
        lambda m: lambda: m.merge(copy.deepcopy(document), patch),
        sides,
        missing,
        "json-merge-patch",
    )
    with_library("jsonmerge", lambda m: lambda: m.merge(document, patch), sides, missing, "jsonmerge")
    before = copy.deepcopy(document)
    wanted = sides[OURS]()
    for name, function in sides.items():
        assert function() == wanted != document == before, name
    with_library("json_merge_patch", lambda m: lambda: m.merge(spare, patch), sides, missing, IN_PLACE)
    line = Line(ROW, f"merge into {named(size)}", "/s", {}, goal=10.0, reference=(IN_PLACE,), missing=missing)
    return compare(form, line, sides)


def comparing(form: Form, size: int) -> Line:
    """Compare deltas of two documents that share nothing, and differ in one leaf."""
    reported = tree(size // LEAF, "a value of it")
    desired = copy.deepcopy(merge(reported, leftmost(reported, "another value")))
    missing: dict[str, str] = {}
    sides: dict[str, Function] = {OURS: lambda: delta(desired, reported)}
    with_library("dictdiffer", lambda m: lambda: list(m.diff(reported, desired)), sides, missing, "dictdiffer")
    with_library("deepdiff", lambda m: lambda: m.DeepDiff(reported, desired), sides, missing, "deepdiff")
    assert sides[OURS]() == leftmost(reported, "another value")
    if "dictdiffer" in sides:
        ((kind, _, change),) = sides["dictdiffer"]()
        assert (kind, change[1]) == ("change", "another value")
    if "deepdiff" in sides:
        ((_, change),) = sides["deepdiff"]()["values_changed"].items()
        assert change["new_value"] == "another value"
    return compare(form, Line(ROW, f"delta of {named(size)}", "/s", {}, goal=10.0, missing=missing), sides)


def updating(form: Form, small: int, large: int) -> Line:
    """Compare the same update of a leaf three levels down, in a large shadow and in a small one."""
    way = tree(FAN_OUT**3, "a value of it")
    document: Any = {"state": {"reported": {"way": leftmost(way, "another value")}}}

    def side(size: int) -> Function:
        sections = {name: {"way": way, "rest": tree(size // 2 // LEAF, name)} for name in ("desired", "reported")}
        shadow, _ = Shadow().update({"state": sections}, now=1, limits=ROOMY)
        _, change = shadow.update(document, now=2, limits=ROOMY)
        assert (change.delta_document() or {})["state"] == {
            "rest": sections["desired"]["rest"],
            "way": leftmost(way, "a value of it"),
        }
        return lambda: shadow.update(document, now=2, limits=ROOMY)

    line = Line(ROW, f"update of a leaf in {named(large)}", "µs", {}, less_is_better=True, goal=1.3)
    compare(form, line, {OURS: side(large), named(small): side(small)})
    line.samples = {name: [1e6 / rate for rate in rates] for name, rates in line.samples.items()}
    return line


def named(size: int) -> str:
    """Return a size such as 1 KB, 1 MB."""
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1_000} KB"


def run(form: Form) -> list[Line]:
    """Measure every size, for both functions."""
    with on_core(SERVER_CORE):
        lines = [merging(form, size) for size in form.sizes]
        lines += [comparing(form, size) for size in form.sizes]
        lines.append(updating(form, form.sizes[0], 1_000_000))
    return lines


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)

"""The cost of a shadow update, and its growth with the document.

    python benchmarks/shadow.py [--json]

Documents are trees of 8 members an object, in both sections; sizes are those of both together. `update`
reports one leaf at the bottom of the tree; `flat` does so if all the leaves are in one object, which
is copied. `merge` is that part of `update`. `delta`, `size` and `load` (`Shadow.from_stored`) are computed
from the whole, which `update` never does. `update` and `merge` should stay level, the last three grow
with the document.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns
from typing import Any

from mdashcore import shadow as shadows
from mdashcore._json import encode
from mdashcore.shadow import Shadow, ShadowLimits, delta, merge

FAN_OUT = 8
SIZES = [1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000]  # bytes, both sections
ROOMY = ShadowLimits(max_bytes=10**8)
SAMPLES = 7
SAMPLE_NS = 20_000_000  # long enough for the clock, short enough that the table takes seconds


def tree(leaves: int, value: str) -> Any:
    """Return an object tree of that many leaves, with at most `FAN_OUT` members an object."""
    if leaves <= 1:
        return value
    share, rest = divmod(leaves, FAN_OUT)
    counts = [share + (i < rest) for i in range(FAN_OUT)]
    return {f"k{i}": tree(count, value) for i, count in enumerate(counts) if count}


def leftmost(section: Any, value: Any) -> Any:
    """Return a patch that sets the leaf below the first key of every level."""
    return {"k0": leftmost(section["k0"], value)} if isinstance(section, dict) else value


def cost(function: Callable[[], object]) -> float:
    """Return microseconds per call: the median of the samples, each over many calls."""
    start = perf_counter_ns()
    function()
    loops = max(1, SAMPLE_NS // (perf_counter_ns() - start + 1))
    samples = []
    for _ in range(SAMPLES):
        start = perf_counter_ns()
        for _ in range(loops):
            function()
        samples.append((perf_counter_ns() - start) / loops / 1000)
    return median(samples)


def measure(size: int) -> dict[str, float]:
    leaves = max(2, size // 2 // 21)  # a leaf and its share of the objects above it have about 21 bytes
    desired, reported = tree(leaves, "desired value"), tree(leaves, "reported val.")
    sections = {"desired": desired, "reported": reported}
    shadow, _ = Shadow().update({"state": sections}, now=1, limits=ROOMY)
    patch = leftmost(reported, "another value")
    document: Any = {"state": {"reported": patch}}
    stored = shadow.to_stored()
    section = {f"key number {i:05}": i for i in range(leaves)}
    flat, _ = Shadow().update({"state": {"desired": section, "reported": section}}, now=1, limits=ROOMY)
    flat_document: Any = {"state": {"reported": {"key number 00000": "another value"}}}
    return {
        "bytes": shadow.size,
        "patch": len(encode(document)),
        "update": cost(lambda: shadow.update(document, now=2, limits=ROOMY)),
        "flat": cost(lambda: flat.update(flat_document, now=2, limits=ROOMY)),
        "merge": cost(lambda: merge(reported, patch)),
        "delta": cost(lambda: delta(desired, reported)),
        "size": cost(lambda: len(encode(sections))),
        "load": cost(lambda: Shadow.from_stored(stored).delta),
    }


def main() -> None:
    rows = [measure(size) for size in SIZES]
    if "--json" in sys.argv[1:]:
        print(json.dumps(rows))
        return
    print(f"{shadows.__name__}: microseconds a call, median of {SAMPLES}; sizes in bytes")
    print("".join(f"{name:>11}" for name in rows[0]))
    for row in rows:
        print("".join(f"{v:>11,}" if isinstance(v, int) else f"{v:>11,.1f}" for v in row.values()))


if __name__ == "__main__":
    main()

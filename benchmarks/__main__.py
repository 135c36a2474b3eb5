"""Runs all comparisons, or those that are named, and writes their results.

    python -m benchmarks                       a look at all, in about ten minutes
    python -m benchmarks --long                the real one: an hour
    python -m benchmarks RPC FANOUT --long     some of them
    python -m benchmarks --write-docs          put the newest results into docs/discussion/performance.md

Results go to benchmarks/results, as JSON, as a Markdown table and as a plot. A row that is not run
keeps its older results there.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import _report
from benchmarks._figures import Form, Line
from benchmarks._machine import LOAD_CORE, SERVER_CORE

MODULES = {
    "RPC": "rpc",
    "LATENCY": "latency",
    "SHADOW": "reports",
    "FANOUT": "fanout",
    "IDLE": "idle",
    "CODEC": "codec",
    "MERGE": "merge",
    "GROWTH": "growth",
    "REST": "rest",
    "CLUSTER": "cluster",
}


def measure(rows: Sequence[str], form: Form, results: Path) -> bool:
    """Run rows, and write the results after each. Returns whether none has failed."""
    if SERVER_CORE == LOAD_CORE:
        print("There is only one core here: servers and load share it, and every figure is too low.")
    kept, sound = _report.read(results), True
    for row in rows:
        started = time.perf_counter()
        run: Callable[[Form], list[Line]] = import_module(f"benchmarks.{MODULES[row]}").run
        try:
            lines = run(form)
        except Exception as exc:  # the other rows are still measured
            traceback.print_exc()
            print(f"\n{row} has failed: {type(exc).__name__}: {exc}", file=sys.stderr)
            sound = False
            continue
        kept[row] = _report.entry(form, lines, time.perf_counter() - started)
        _report.write(results, {name: kept[name] for name in MODULES if name in kept})
        print(f"\n## {row} ({form.name}, {kept[row]['took']:.0f} s)\n\n{_report.table(lines)}", flush=True)
    print(f"\nWritten to {results}: results.json, results.md, results.svg")
    return sound


def main(argv: Sequence[str] | None = None, *, only: str | None = None, description: str | None = __doc__) -> None:
    """Run the command line. `only` is the row of a module that is run alone."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if only is None:
        parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(MODULES))
        parser.add_argument(
            "--write-docs", action="store_true", help="write the newest results into the docs; run nothing"
        )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--long", dest="form", action="store_const", const="long", default="short")
    forms.add_argument("--quick", dest="form", action="store_const", const="quick", help="only to see that it works")
    parser.add_argument("--results", type=Path, default=_report.RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    rows = [only] if only else [row.upper() for row in arguments.rows] or list(MODULES)
    if unknown := [row for row in rows if row not in MODULES]:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(MODULES)}")
    if only is None and arguments.write_docs:
        _report.write_docs(arguments.results)
    elif not measure(rows, Form.named(arguments.form), arguments.results):
        sys.exit(1)


def run_alone(row: str, description: str | None) -> None:
    """Run the command line of a module that is run alone."""
    main(only=row, description=description)


if __name__ == "__main__":
    main()

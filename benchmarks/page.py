"""Measures all that docs/discussion/performance.md shows, within a time, and writes it there.

    python -m benchmarks.page [--minutes 12] [--quick]

Runs the rows in their short form, the most telling first, then the curves; no row is begun when its time may not be
enough any more, and says so. Then the figures and plots of the results are put into the page.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import _report, curves
from benchmarks.__main__ import measure
from benchmarks._figures import Form
from benchmarks._targets import missing_load

ROWS = {
    "SHADOW": 100,
    "RPC": 100,
    "IDLE": 260,
    "REST": 60,
    "LATENCY": 80,
    "CODEC": 15,
    "MERGE": 35,
    "FANOUT": 130,
    "GROWTH": 50,
}
"""Rows in the order of their importance, with seconds that each takes at most on two quiet cores."""

CURVES = 170  # seconds that they take; they run before the rows that may be left out
BEFORE_CURVES = 5  # rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--quick", action="store_true", help="only to see that it works; does not write the page")
    parser.add_argument("--results", type=Path, default=_report.RESULTS, metavar="FOLDER")
    arguments = parser.parse_args()
    form = Form.named("quick" if arguments.quick else "short")
    end = time.monotonic() + 60 * arguments.minutes
    for number, (row, seconds) in enumerate(ROWS.items()):
        if number == BEFORE_CURVES and not missing_load() and time.monotonic() + CURVES < end:
            curves.measure(arguments.results, quick=arguments.quick)
        if time.monotonic() + seconds < end:
            measure([row], form, arguments.results)
        else:
            print(
                f"{row} is left out: it may take {seconds} s, and {end - time.monotonic():.0f} s are left", flush=True
            )
    if not arguments.quick:
        _report.write_docs(arguments.results)
        print(f"Written: {_report.PAGE}, {_report.IMAGES}")


if __name__ == "__main__":
    main()

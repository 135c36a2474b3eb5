"""Writes the machine of firmware updates into discussion/ota.md: the drawing, its arrows and its limits, from the code.

::

    python docs/ota_machine.py            write them
    python docs/ota_machine.py --check    fail if they are not what would be written
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from mdashcore.ota import ENDS, LIMITS, TRANSITIONS, UpdateState

PAGE = Path(__file__).parent / "discussion" / "ota.md"


def arrows() -> Iterator[tuple[UpdateState, UpdateState, str, str]]:
    """From, to, the kind of event, and the condition in words; in the order of the table."""
    for (state, event), cell in TRANSITIONS.items():
        for arrow in cell:
            yield state, arrow.to, event.__name__, arrow.label or ("otherwise" if len(cell) > 1 else "")


def drawing() -> str:
    """The arrows that lead from one state to another, as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> QUEUED"]
    labels: dict[tuple[UpdateState, UpdateState], dict[str, list[str]]] = {}
    for state, to, event, label in arrows():
        if to is not state:
            labels.setdefault((state, to), {}).setdefault(event, []).append(label)
    for (state, to), events in labels.items():
        said = [f"{event} ({', '.join(words)})" if any(words) else event for event, words in events.items()]
        text = r"\n".join(said).replace(":", " –").replace(";", ",")  # neither is allowed in a label
        lines.append(f"    {state} --> {to}: {text}")
    lines += [f"    {state} --> [*]" for state in UpdateState if state in ENDS]
    return "\n".join([*lines, "```"])


def table() -> str:
    """Every arrow, also those that stay in a state: of a kind of event, the first whose condition holds is taken."""
    lines = ["| State | Event | Condition | Leads to |", "|---|---|---|---|"]
    for _, group in groupby(arrows(), key=lambda arrow: arrow[0]):
        for state, to, event, label in group:
            target = "stays" if to is state else f"`{to}`"
            lines.append(f"| `{state}` | `{event}` | {label or 'always'} | {target} |")
    return "\n".join(lines)


def limits() -> str:
    """How long a state may last."""
    lines = ["| State | Without getting on | In all |", "|---|---|---|"]
    lines += [f"| `{state}` | {_time(limit.idle)} | {_time(limit.total)} |" for state, limit in LIMITS.items()]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def written(page: str) -> str:
    """The page with what the code says between its marks."""
    for name, text in (("drawing", drawing()), ("table", table()), ("limits", limits())):
        marks = rf"(<!-- {name}: begin[^\n]*-->\n).*?(<!-- {name}: end -->)"
        page, count = re.subn(marks, lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE.name} has no place for its {name}")
    return page


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    new = written(page)
    if sys.argv[1:] == ["--check"]:
        sys.exit("the machine in docs/discussion/ota.md is old: run python docs/ota_machine.py" if new != page else 0)
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()

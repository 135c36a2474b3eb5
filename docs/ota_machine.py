"""Write the machine of firmware updates into discussion/ota.md: the drawing, its arrows and its limits, from the code.

::

    python docs/ota_machine.py            write them
    python docs/ota_machine.py --check    fail if they are not what would be written
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from _pages import main, replace_marked

from mdashcore.ota import STATE_LIMITS, UPDATE_ENDS, UPDATE_TRANSITIONS, UpdateState

PAGE = Path(__file__).parent / "discussion" / "ota.md"


def arrows() -> Iterator[tuple[UpdateState, UpdateState, str, str]]:
    """Yield from, to, the kind of event, and the condition in words; in the order of the table."""
    for (state, event), cell in UPDATE_TRANSITIONS.items():
        for arrow in cell:
            yield state, arrow.to, event.__name__, arrow.label or ("otherwise" if len(cell) > 1 else "")


def drawing() -> str:
    """Return the arrows that lead from one state to another, as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> QUEUED"]
    labels: dict[tuple[UpdateState, UpdateState], dict[str, list[str]]] = {}
    for state, to, event, label in arrows():
        if to is not state:
            labels.setdefault((state, to), {}).setdefault(event, []).append(label)
    for (state, to), events in labels.items():
        texts = [f"{event} ({', '.join(words)})" if any(words) else event for event, words in events.items()]
        text = r"\n".join(texts).replace(":", " –").replace(";", ",")  # neither is allowed in a label
        lines.append(f"    {state} --> {to}: {text}")
    lines += [f"    {state} --> [*]" for state in UpdateState if state in UPDATE_ENDS]
    return "\n".join([*lines, "```"])


def table() -> str:
    """Return every arrow, also those that stay in a state. The first arrow whose condition holds counts."""
    lines = ["| State | Event | Condition | Leads to |", "|---|---|---|---|"]
    for _, group in groupby(arrows(), key=lambda arrow: arrow[0]):
        for state, to, event, label in group:
            target = "stays" if to is state else f"`{to}`"
            lines.append(f"| `{state}` | `{event}` | {label or 'always'} | {target} |")
    return "\n".join(lines)


def limits() -> str:
    """Return the longest time of each state."""
    lines = ["| State | Without getting on | In all |", "|---|---|---|"]
    lines += [f"| `{state}` | {_time(limit.idle)} | {_time(limit.total)} |" for state, limit in STATE_LIMITS.items()]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def write(page: str) -> str:
    """Return the page with the machine of the code between its marks."""
    return replace_marked(page, {"drawing": drawing(), "table": table(), "limits": limits()})


if __name__ == "__main__":
    main(PAGE, write)

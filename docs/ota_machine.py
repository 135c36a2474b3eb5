"""Write the machine of firmware updates into discussion/ota.md: its drawing, ends, arrows and limits, from the code.

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

EARLY_ENDS = [state for state in UpdateState if state in UPDATE_ENDS - {UpdateState.COMMITTED, UpdateState.ROLLED_BACK}]
"""The ends of an update whose image the device has not tried."""


def arrows() -> Iterator[tuple[UpdateState, UpdateState, str, str]]:
    """Yield from, to, the kind of event, and the condition in words; in the order of the table."""
    for (state, event), cell in UPDATE_TRANSITIONS.items():
        for arrow in cell:
            yield state, arrow.to, event.__name__, arrow.label or ("otherwise" if len(cell) > 1 else "")


def events_between() -> dict[tuple[UpdateState, UpdateState], list[str]]:
    """Return the kinds of events that lead from one state to another."""
    found: dict[tuple[UpdateState, UpdateState], list[str]] = {}
    for state, to, event, _ in arrows():
        if to is not state and event not in found.setdefault((state, to), []):
            found[state, to].append(event)
    return found


def drawing() -> str:
    """Return the arrows of the course that an update takes if nothing prevents it, as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {UpdateState.QUEUED}"]
    for (state, to), events in events_between().items():
        if to not in EARLY_ENDS:
            lines.append(f"    {state} --> {to}: " + r"\n".join(events))
    lines += [f"    {state} --> [*]" for state in UpdateState if state in UPDATE_ENDS and state not in EARLY_ENDS]
    return "\n".join([*lines, "```"])


def early_ends() -> str:
    """Return the events that lead to each other end, from each state."""
    found = events_between()
    lines = ["| From | " + " | ".join(f"`{end}`" for end in EARLY_ENDS) + " |", "|---" * (len(EARLY_ENDS) + 1) + "|"]
    for state in UpdateState:
        if state not in UPDATE_ENDS:
            cells = (", ".join(f"`{event}`" for event in found.get((state, end), ())) for end in EARLY_ENDS)
            lines.append(f"| `{state}` | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    return replace_marked(page, {"drawing": drawing(), "ends": early_ends(), "table": table(), "limits": limits()})


if __name__ == "__main__":
    main(PAGE, write)

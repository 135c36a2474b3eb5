"""Writes the states of a connection into discussion/connection.md: the drawings and their arrows, from the code.

::

    python docs/connection_machine.py            write them
    python docs/connection_machine.py --check    fail if they are not what would be written
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mdashcore._lifecycle import TRANSITIONS, CallState, ConnectionState, RequestState

PAGE = Path(__file__).parent / "discussion" / "connection.md"

MACHINES = {"connection": ConnectionState, "call": CallState, "request": RequestState}


def drawing(states: type) -> str:
    """The arrows that lead from one state to another, as a Mermaid diagram."""
    members = list(states)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {members[0]}"]
    labels: dict[tuple[str, str], list[str]] = {}
    left = set()
    for (state, cause), outcome in TRANSITIONS.items():
        if isinstance(state, states) and outcome.to is not state:
            labels.setdefault((state, outcome.to), []).append(cause.replace("`", "").replace(":", " –"))
            left.add(state)
    lines += [rf"    {state} --> {to}: " + r"\n".join(causes) for (state, to), causes in labels.items()]
    lines += [f"    {state} --> [*]" for state in members if state not in left]
    return "\n".join([*lines, "```"])


def table(states: type) -> str:
    """Every arrow, also those that stay in a state."""
    lines = ["| State | Cause | Leads to | Event | Also |", "|---|---|---|---|---|"]
    for (state, cause), outcome in TRANSITIONS.items():
        if isinstance(state, states):
            target = "stays" if outcome.to is state else f"`{outcome.to}`"
            event = f"`{outcome.tells.__name__}`" if outcome.tells else ""
            also = f"raises `{outcome.raises.__name__}`" if outcome.raises else "sends a frame" if outcome.sends else ""
            lines.append(f"| `{state}` | {cause} | {target} | {event} | {also} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with what the code says between its marks."""
    for name, states in MACHINES.items():
        text = f"{drawing(states)}\n\n{table(states)}"
        marks = rf"(<!-- {name}: begin[^\n]*-->\n).*?(<!-- {name}: end -->)"
        page, count = re.subn(marks, lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE.name} has no place for its {name}")
    return page


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    new = written(page)
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"the states in {PAGE.name} are old: run python docs/connection_machine.py" if new != page else 0)
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()

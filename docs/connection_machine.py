"""Write the states of a connection into discussion/connection.md: the drawings and their arrows, from the code.

::

    python docs/connection_machine.py            write them
    python docs/connection_machine.py --check    fail if they are not what would be written
"""

from __future__ import annotations

from pathlib import Path

from _pages import main, replace_marked

from mdashcore._lifecycle import LIFECYCLE, CallState, ConnectionState, RequestState

PAGE = Path(__file__).parent / "discussion" / "connection.md"

MACHINES = {"connection": ConnectionState, "call": CallState, "request": RequestState}


def drawing(states: type) -> str:
    """Return the arrows that lead from one state to another, as a Mermaid diagram."""
    members = list(states)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {members[0]}"]
    labels: dict[tuple[str, str], list[str]] = {}
    left = set()
    for (state, cause), outcome in LIFECYCLE.items():
        if isinstance(state, states) and outcome.to is not state:
            labels.setdefault((state, outcome.to), []).append(cause.replace("`", "").replace(":", " –"))
            left.add(state)
    lines += [rf"    {state} --> {to}: " + r"\n".join(causes) for (state, to), causes in labels.items()]
    lines += [f"    {state} --> [*]" for state in members if state not in left]
    return "\n".join([*lines, "```"])


def table(states: type) -> str:
    """Return every arrow, also those that stay in a state."""
    lines = ["| State | Cause | Leads to | Event | Also |", "|---|---|---|---|---|"]
    for (state, cause), outcome in LIFECYCLE.items():
        if isinstance(state, states):
            target = "stays" if outcome.to is state else f"`{outcome.to}`"
            event = f"`{outcome.tells.__name__}`" if outcome.tells else ""
            also = f"raises `{outcome.raises.__name__}`" if outcome.raises else "sends a frame" if outcome.sends else ""
            lines.append(f"| `{state}` | {cause} | {target} | {event} | {also} |")
    return "\n".join(lines)


def write(page: str) -> str:
    """Return the page with the states and arrows of the code between its marks."""
    texts = {name: f"{drawing(states)}\n\n{table(states)}" for name, states in MACHINES.items()}
    return replace_marked(page, texts)


if __name__ == "__main__":
    main(PAGE, write)

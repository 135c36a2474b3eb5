"""The watching of a rollout until it ends or waits for a person, and the exit codes of its states."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import click

from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit, describe
from mdashcore.cli.text import printable, show_json
from mdashcore.rollout import RolloutState

__all__ = ["ROLLOUT_EXITS", "watch_to_end"]

ROLLOUT_EXITS: Final[Mapping[str, Exit]] = MappingProxyType(
    {
        RolloutState.COMPLETED: Exit.OK,
        RolloutState.ABORTED: Exit.FAILED,
        RolloutState.PAUSED: Exit.NOT_NOW,
        RolloutState.AWAITING_APPROVAL: Exit.NOT_NOW,
    }
)
"""The states in which the watching ends, with its exit code. In the last two the rollout waits for a person."""


def watch_to_end(remote: Remote, id: str, *, as_json: bool) -> None:
    """Show a rollout until it ends or waits for a person, and end the command with the code of its state."""
    import trio

    from mdashcore.cli.live_watch import watch
    from mdashcore.cli.rollout_watch import RolloutDisplay

    with RolloutDisplay() as display:
        try:
            present = trio.run(watch, remote, id, "rollout.", lambda client: client.rollout(id), display, ROLLOUT_EXITS)
        except BaseException as exc:
            found = describe(exc)
            if found is not None and found[1] is Exit.INTERRUPTED:
                click.echo(f"The rollout goes on: mdash rollout show {id}, or pause, or abort.", err=True)
            raise
    if as_json:
        show_json(present)
    _report(present, as_json=as_json)


def _report(present: Mapping[str, Any], *, as_json: bool) -> None:
    id, state = present["id"], present["state"]
    code = ROLLOUT_EXITS[state]
    line = f"{state}: {present['reason']}" if present["reason"] else state
    if code is Exit.OK and not as_json:
        click.echo(printable(line))
    if state == RolloutState.AWAITING_APPROVAL:
        raise CliError(f"the rollout waits for an approval: mdash rollout approve {id}", code)
    if state == RolloutState.PAUSED:
        raise CliError(f"{line}; mdash rollout show {id} says more, then retry, abort or resume it", code)
    if code is not Exit.OK:
        raise CliError(line, code)

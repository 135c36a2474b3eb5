"""A live view of a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mdashcore.cli.live_watch import LiveDisplay
from mdashcore.cli.text import printable

__all__ = ["RolloutDisplay"]

_COLUMNS: Final = ("pending", "updating", "succeeded", "failed", "skipped")


class RolloutDisplay(LiveDisplay):
    """The display of a rollout: a table of the phases on a terminal, elsewhere a line for each state and phase."""

    def __init__(self) -> None:
        super().__init__(_table, _line)


def _line(present: Mapping[str, Any]) -> str:
    return f"{present['state']} phase {present['phase'] + 1} of {len(present['phases'])}"


def _table(present: Mapping[str, Any]) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    title = f"{present['name']}: {present['state']} {present['reason']}".rstrip()
    table = Table("phase", "", *_COLUMNS, title=Text(printable(title)), box=None, pad_edge=False, title_justify="left")
    for number, phase in enumerate(present["phases"]):
        counts = phase["counts"]
        ended = counts["succeeded"] + counts["failed"] + counts["skipped"]
        bar = ProgressBar(total=max(1, phase["devices"]), completed=ended, width=30)
        cells = (Text(str(counts[name]), style="red" if name == "failed" and counts[name] else "") for name in _COLUMNS)
        table.add_row(f"{number + 1} ({phase['percent']:g} %)", bar, *cells)
    return table

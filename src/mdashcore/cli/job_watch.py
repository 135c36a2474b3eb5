"""A live view of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mdashcore.cli.live_watch import LiveDisplay
from mdashcore.cli.text import printable

__all__ = ["JobDisplay"]

_COLUMNS: Final = ("pending", "changed", "unchanged", "failed")


class JobDisplay(LiveDisplay):
    """The display of a job: its counts with a bar on a terminal, elsewhere a line for each state."""

    def __init__(self) -> None:
        super().__init__(_table, lambda present: str(present["state"]))


def _table(present: Mapping[str, Any]) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    title = f"{present['name'] or present['id']}: {present['state']} {present['reason']}".rstrip()
    table = Table("", *_COLUMNS, title=Text(printable(title)), box=None, pad_edge=False, title_justify="left")
    counts = present["counts"]
    bar = ProgressBar(total=max(1, present["devices"]), completed=present["devices"] - counts["pending"], width=30)
    cells = (Text(str(counts[name]), style="red" if name == "failed" and counts[name] else "") for name in _COLUMNS)
    table.add_row(bar, *cells)
    return table

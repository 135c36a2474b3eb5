"""Output for the terminal: lines, tables and JSON, without control sequences."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

__all__ = ["devices_text", "examples", "json_line", "printable", "show_json", "show_table", "size_text", "time_text"]

FOLDED_WIDTH: Final = 8  # characters of a column that folds, with the gap before it: fewer cannot be read

_CONTROLS: Final = [*range(0x20), 0x7F, *range(0x80, 0xA0)]  # ESC and CSI are among them
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in _CONTROLS} | {10: "\\n", 13: "\\r", 9: "\\t"}
_ESCAPED_IN_JSON: Final = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 0x7F}  # JSON escapes the others


def printable(value: object) -> str:
    r"""Return the text of a value as one line, with its control characters escaped.

    >>> printable("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\\nc'
    """
    text = str(value).translate(_ESCAPED)
    return text.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair cannot be written


def show_json(value: Any) -> None:
    """Write a value, or JSON as `bytes` unchanged: indented on a terminal, on one line elsewhere."""
    import msgspec

    from mdashcore import _json

    data = value if isinstance(value, bytes) else _json.encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data)
    click.echo(json_line(data.decode()))


def json_line(text: str) -> str:
    """Return JSON with its control characters escaped. Its meaning does not change."""
    return text.translate(_ESCAPED_IN_JSON)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table on a terminal; elsewhere lines of tab-separated values, without a heading.

    No text is cut off: the first column, which names the row, stays on one line, and the others fold where the terminal
    is too narrow.
    """
    cells = [["-" if value in (None, "") else printable(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            click.echo("\t".join(row))
        return
    if not cells:
        click.echo("Nothing to list.")
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))  # as text: rich must not read markup in it
    console = Console(highlight=False)
    names = max((cell_len(row[0]) for row in cells), default=0)
    # A terminal folds a line that is longer than itself; rich would cut the names.
    console.print(table, width=max(console.width, names + FOLDED_WIDTH * (len(columns) - 1)), crop=False)


def devices_text(number: int) -> str:
    """Return a number of devices in words."""
    return "1 device" if number == 1 else f"{number} devices"


def time_text(seconds: float) -> str:
    """Return Unix seconds as the API writes times: RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def size_text(size: int) -> str:
    """Return a number of bytes for people.

    >>> [size_text(size) for size in (0, 1023, 1536, 2**32)]
    ['0 bytes', '1023 bytes', '1.5 KiB', '4 GiB']
    """
    if size < 1024:
        return f"{size} bytes"
    power = min((size.bit_length() - 1) // 10, 4)
    return f"{size / 1024**power:.3g} {'KMGT'[power - 1]}iB"


def examples(*lines: str) -> str:
    """Return the last part of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])

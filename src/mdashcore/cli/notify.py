"""``mdash notify`` and ``mdash logs``: live notifications, and stored ones."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.options import DEVICE, json_option, remote_options
from mdashcore.cli.text import examples, show_json, show_table, time_text

__all__ = ["logs", "notify"]

MAX_RESULTS: Final = 1000  # the most that the server gives in one answer

LISTED: Final = 100  # notifications that a terminal shows: some screens of them

BEYOND: Final = 2**63 - 1  # an offset after every other

_start_option = click.option(
    "--start", type=click.IntRange(0), metavar="OFFSET", help="Begin with the notification of this offset."
)


@click.command(
    short_help="Stream the notifications of your devices.", epilog=examples("mdash notify", "mdash notify --start 0")
)
@_start_option
@remote_options()
def notify(remote: Remote, *, start: int | None) -> None:
    """Stream the notifications of your devices, until Ctrl-C.

    Each notification is one line of JSON on stdout: name, id (the device's), data, offset, time. If the server is gone
    for a while, the command waits for it, and goes on where it was: none is missed or comes twice.
    """
    import trio

    from mdashcore.cli.notify_stream import print_notifications

    trio.run(print_notifications, remote, start)


@click.command(
    short_help="List stored notifications of your devices.",
    epilog=examples(
        "mdash logs",
        "mdash logs --last 20 --device lamp --name 'ota.*'",
        "mdash logs --start 100 --limit 50 --json",
    ),
)
@click.option("--last", type=click.IntRange(1, MAX_RESULTS), metavar="N", help="The newest N.")
@_start_option
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_RESULTS),
    help="How many at most, from the oldest or from --start on.  [default: 100]",
)
@click.option("--device", type=DEVICE, metavar="ID", help="Only those of this device.")
@click.option("--name", metavar="NAME", help="Only those of this name; with * at the end, all names that begin so.")
@json_option
@remote_options()
def logs(
    remote: Remote,
    *,
    last: int | None,
    start: int | None,
    limit: int | None,
    device: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """List stored notifications of devices, in their order. (The server's own log is on its stderr.)

    Without --last, --start and --limit a terminal shows the newest 100; elsewhere the output begins with the oldest.
    """
    if last is not None and (start, limit) != (None, None):
        raise click.UsageError("Give --last, or --start and --limit.")
    if (last, start, limit) == (None, None, None) and sys.stdout.isatty():
        last = LISTED
    wanted = {"start": start, "limit": limit, "before": None, "id": device, "name": name}
    if last is not None:
        wanted |= {"limit": last, "before": BEYOND}
    query = {key: value for key, value in wanted.items() if value is not None}
    found = remote.request("POST", ("logs",), json=query)
    if as_json:
        show_json(found)
        return
    show_table(("offset", "time", "name", "device", "data"), [_row(each) for each in _json.decode(found)])


def _row(notification: dict[str, Any]) -> tuple[object, ...]:
    data = _json.encode(notification["data"]).decode() if "data" in notification else ""
    time = time_text(notification["time"])
    return notification["offset"], time, notification["name"], notification["id"], data

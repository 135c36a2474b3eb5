"""``mdash notify`` and ``mdash logs``: live notifications, and stored ones."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.options import DEVICE, json_option, remote_options
from mdashcore.cli.text import examples, show_json, show_table, time_text
from mdashcore.cli.times import MOMENT

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
        "mdash logs --text 'out of memory' --from 2d",
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
@click.option("--text", metavar="TEXT", help="Only those with this text in name, id or data, in any case.")
@click.option("--from", "since", type=MOMENT, help="Not before this time.")
@click.option("--to", "until", type=MOMENT, help="Not after this time.")
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
    text: str | None,
    since: float | None,
    until: float | None,
    as_json: bool,
) -> None:
    """List stored notifications of devices, in their order. (The server's own log is on its stderr.)

    Without --last, --start and --limit a terminal shows the newest 100; elsewhere the output begins with the oldest.
    With --text, --from or --to all that is kept is searched, and the newest 100 that fit are shown, or --last. A TIME
    is an age (90s, 15m, 2h, 7d), Unix seconds, or 2026-12-31T23:59:59Z.
    """
    if last is not None and (start, limit) != (None, None):
        raise click.UsageError("Give --last, or --start and --limit.")
    if (text, since, until) != (None, None, None):
        if (start, limit) != (None, None):
            raise click.UsageError(
                "--text, --from and --to search from the newest back: give --last, not --start or --limit."
            )
        parts = {"text": text, "id": device, "name": name, "from": since, "to": until}
        found = _search(remote, {key: str(value) for key, value in parts.items() if value is not None}, last or LISTED)
        _show(remote, found, device, as_json=as_json)
        return
    if (last, start, limit) == (None, None, None) and sys.stdout.isatty():
        last = LISTED
    wanted = {"start": start, "limit": limit, "before": None, "id": device, "name": name}
    if last is not None:
        wanted |= {"limit": last, "before": BEYOND}
    query = {key: value for key, value in wanted.items() if value is not None}
    _show(remote, remote.request("POST", ("logs",), json=query), device, as_json=as_json)


def _search(remote: Remote, query: dict[str, str], most: int) -> bytes:
    """Return the newest notifications that fit, the oldest first, as JSON. Says on stderr how far it came."""
    found: list[Any] = []
    checked, cursor, reached = 0, None, None
    while True:
        rest = {"limit": str(most - len(found)), **({} if cursor is None else {"before": str(cursor)})}
        page = _json.decode(remote.request("GET", ("logs",), query=query | rest))
        found[:0] = page["notifications"]
        checked += page["checked"]
        reached, cursor = page["reached"] or reached, page["next"]
        if cursor is None or len(found) >= most:
            break
    back = "" if reached is None else f", back to {time_text(reached)}"
    click.echo(f"Searched {checked} notifications{back}{'' if cursor is None else '; there are older ones'}", err=True)
    return _json.encode(found)


def _show(remote: Remote, found: bytes, device: str | None, *, as_json: bool) -> None:
    """Write notifications. If there are none, says why on stderr where that is known."""
    notifications = _json.decode(found)
    if not notifications:
        known = device is None or remote.has_device(device)
        click.echo(
            "No notification fits" if known else f"There is no device {device!r}, and no notification of one", err=True
        )
    if as_json:
        show_json(found)
    elif notifications:
        show_table(("offset", "time", "name", "device", "data"), [_row(each) for each in notifications])


def _row(notification: dict[str, Any]) -> tuple[object, ...]:
    data = _json.encode(notification["data"]).decode() if "data" in notification else ""
    time = time_text(notification["time"])
    return notification["offset"], time, notification["name"], notification["id"], data

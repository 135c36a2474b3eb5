"""``mdash notify`` and ``mdash logs``: live notifications, and stored ones."""

from __future__ import annotations

from typing import Any

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.options import DEVICE, json_option, remote_options
from mdashcore.cli.text import examples, json_line, show_json, show_table, time_text

__all__ = ["logs", "notify"]

_start_option = click.option(
    "--start", type=click.IntRange(0), metavar="OFFSET", help="Begin with the notification of this offset."
)


@click.command(epilog=examples("mdash notify", "mdash notify --start 0"))
@_start_option
@remote_options()
def notify(remote: Remote, *, start: int | None) -> None:
    """Stream the notifications of your devices, until Ctrl-C.

    Each notification is one line of JSON on stdout: name, id (the device's), data, offset, time. If the server goes
    down, go on with --start and the offset after your last one.
    """
    import trio

    trio.run(_stream, remote, start)


async def _stream(remote: Remote, start: int | None) -> None:
    from mdashcore.cli.stream import open_notifications

    async with open_notifications(remote, start) as frames:
        click.echo(f"Listening to {remote.server}", err=True)
        async for frame in frames:
            click.echo(json_line(frame))


@click.command(
    epilog=examples("mdash logs", "mdash logs --device lamp --name 'ota.*'", "mdash logs --start 100 --limit 50 --json")
)
@_start_option
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
@click.option("--device", type=DEVICE, metavar="ID", help="Only those of this device.")
@click.option("--name", metavar="NAME", help="Only those of this name; with * at the end, all names that begin so.")
@json_option
@remote_options()
def logs(remote: Remote, *, start: int | None, device: str | None, name: str | None, limit: int, as_json: bool) -> None:
    """List stored notifications, oldest first."""
    wanted = {"start": start, "limit": limit, "id": device, "name": name}
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

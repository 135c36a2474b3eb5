"""The stream of notifications on stdout, which survives a restart of the server."""

from __future__ import annotations

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.text import json_line, printable

__all__ = ["print_notifications"]


async def print_notifications(remote: Remote, start: int | None) -> None:
    """Write each notification as a line of JSON, in their order, each once, until the command is interrupted.

    Args:
        start: the offset of the first one; by default only new ones are written.

    Raises:
        CliError: the first connection fails, the credentials end, or the server was away for too long.
    """

    def say(text: str) -> None:
        click.echo(printable(text), err=True)

    with remote.reaching():
        async with remote.client() as client, remote.notifications(client, start, say=say) as news:
            say(f"Listening to {remote.server}")
            while True:
                notification = await news.receive()
                if notification is None:
                    news.end_outage()
                else:
                    click.echo(json_line(_json.encode(notification).decode()))

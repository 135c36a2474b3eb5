"""``mdash key``: API keys."""

from __future__ import annotations

import sys
from typing import Any

import click

from mdashcore.cli.client import Remote
from mdashcore.cli.groups import Group
from mdashcore.cli.options import KEY_ID, confirm, json_option, remote_options, yes_option
from mdashcore.cli.text import examples, show_json, show_table

__all__ = ["key"]


@click.group(cls=Group, epilog=examples("mdash key add laptop --user alice", "mdash key list"))
def key() -> None:
    """Manage API keys.

    A key acts for its user, but cannot manage users. It is shown once, when it is made.
    """


def _name(key: dict[str, Any]) -> str:
    return "(damaged)" if key.get("damaged") else str(key["name"])


@key.command("list", epilog=examples("mdash key list --user alice", "mdash key list --json"))
@json_option
@remote_options()
def list_keys(remote: Remote, *, as_json: bool) -> None:
    """List your keys, without their secrets.

    The last use may be an hour too early.
    """
    found = remote.get("keys")
    if as_json:
        show_json(found)
    else:
        rows = [(each["id"], _name(each), each["created_at"], each["last_used"]) for each in found]
        show_table(("id", "name", "created", "last used"), rows)


@key.command("add", epilog=examples("mdash key add laptop --user alice", "export MDASH_KEY=$(mdash key add ci)"))
@click.argument("name", default="")
@json_option
@remote_options()
def add_key(remote: Remote, *, name: str, as_json: bool) -> None:
    """Create a key and write it to stdout. NAME helps you to recognise it later."""
    created = remote.post("keys", json={"name": name})
    if as_json:
        show_json(created)
        return
    click.echo(created["key"])
    if sys.stdout.isatty():
        click.echo(f"Its id is {created['id']}. Keep it: it cannot be shown again.", err=True)


@key.command(
    "remove",
    short_help="Remove a key: it is refused immediately.",
    epilog=examples("mdash key remove key_aaaaaaaaaaaa"),
)
@click.argument("id", type=KEY_ID, metavar="ID")
@yes_option
@remote_options()
def remove_key(remote: Remote, *, id: str, yes: bool) -> None:
    """Remove a key: it stops working immediately, and its open connections are closed. On a terminal it asks first."""
    confirm(f"Remove the key {id}? Programs that use it are refused.", yes=yes)
    remote.delete("keys", id)

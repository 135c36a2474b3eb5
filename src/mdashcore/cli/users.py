"""``mdash user``: accounts."""

from __future__ import annotations

import sys
from typing import Any

import click

from mdashcore.cli.client import Remote
from mdashcore.cli.device_import import import_tokens
from mdashcore.cli.groups import Group
from mdashcore.cli.options import USER_NAME, confirm, json_option, new_password, remote_options, yes_option
from mdashcore.cli.text import examples, show_json, show_table, size_text

__all__ = ["limits", "user"]

_BYTES = ("image_bytes",)  # limits in bytes; the others are numbers of things

_password_option = click.option(
    "--password", metavar="PASSWORD", help="Better left out: then it is asked for, or read from stdin."
)


@click.group(cls=Group, epilog=examples("mdash user list --user admin:SECRET", "mdash user add alice --user admin"))
def user() -> None:
    """Manage users, as an admin.

    Each user has devices and keys that no other user sees. An admin manages users, by name and password; a key
    cannot. Create the first admin with "mdash serve --register-admin NAME:PASSWORD".
    """


@user.command("list", epilog=examples("mdash user list --user admin:SECRET", "mdash user list --user admin --json"))
@json_option
@remote_options(keys=False)
def list_users(remote: Remote, *, as_json: bool) -> None:
    """List all users."""
    found = remote.get("users")
    if as_json:
        show_json(found)
    else:
        rows = [(each["name"], _role(each), each["created_at"]) for each in found]
        show_table(("name", "role", "created"), rows)


def _role(user: dict[str, Any]) -> str:
    if user.get("damaged"):
        return "damaged"
    return "admin" if user["admin"] else "user"


@user.command(
    "add",
    epilog=examples("mdash user add alice --user admin", "echo SECRET | mdash user add alice --user admin:SECRET"),
)
@click.argument("name", type=USER_NAME)
@_password_option
@click.option("--admin", is_flag=True, help="May manage users.")
@remote_options(keys=False)
def add_user(remote: Remote, *, name: str, password: str | None, admin: bool) -> None:
    """Create a user."""
    remote.post("users", json={"name": name, "password": new_password(password), "admin": admin})


@user.command(
    "limits",
    short_help="Show what users may have, and what they have.",
    epilog=examples("mdash user limits --user admin:SECRET", "mdash user limits alice --user admin"),
)
@click.argument("name", type=USER_NAME, metavar="[NAME]", required=False)
@json_option
@remote_options(keys=False)
def show_limits(remote: Remote, *, name: str | None, as_json: bool) -> None:
    """Show each limit of a user with its use; without a NAME, those of every user that are in use.

    Limits are set in the server's configuration. Uploads, downloads, subscribers and lists are those of the server that
    answers.
    """
    found = remote.get("users", "limits") if name is None else remote.get("users", name, "limits")
    if as_json:
        show_json(found)
    elif name is not None:
        _show_limits(found)
    else:
        rows = [
            (each["name"], *_limit_row(limit, each["use"][limit["name"]]))
            for each in found["accounts"]
            for limit in found["limits"]
            if each["use"][limit["name"]]
        ]
        show_table(("user", "limit", "used", "of"), rows)
        if found["disk"]["free"] is not None and found["disk"]["free"] < found["disk"]["floor"]:
            click.echo("The disk is almost full: no images are taken, devices go on.", err=True)


def _show_limits(found: dict[str, Any]) -> None:
    show_table(("limit", "used", "of"), [_limit_row(each, each["use"]) for each in found["limits"]])


def _limit_row(limit: dict[str, Any], use: int) -> tuple[str, object, object]:
    if limit["name"] in _BYTES and sys.stdout.isatty():
        return limit["name"], size_text(use), size_text(limit["limit"])
    return limit["name"], use, limit["limit"]


@click.command(epilog=examples("mdash limits", "mdash limits --json"))
@json_option
@remote_options()
def limits(remote: Remote, *, as_json: bool) -> None:
    """Show each limit of your account with its use."""
    found = remote.get("limits")
    if as_json:
        show_json(found)
    else:
        _show_limits(found)


@user.command(
    "password",
    short_help="Change a password, or who is an admin.",
    epilog=examples(
        "mdash user password --user alice",
        "mdash user password alice --user admin",
        "mdash user password alice --admin --user admin",
    ),
)
@click.argument("name", type=USER_NAME, metavar="[NAME]", required=False)
@_password_option
@click.option("--admin/--no-admin", default=None, help="Also let the user manage users, or no longer.")
@remote_options(keys=False)
def change_password(remote: Remote, *, name: str | None, password: str | None, admin: bool | None) -> None:
    """Give a user a new password; without a NAME, change your own. All sessions of that user end."""
    if name is None:
        if admin is not None:
            raise click.UsageError("--admin and --no-admin go with a NAME.")
        assert remote.credentials.user is not None  # noqa: S101 - for the type checker: this command takes no key
        old = remote.credentials.user[1]
        remote.put("me", "password", json={"old": old, "new": new_password(password)})
        return
    change = {"password": new_password(password)}
    remote.put("users", name, json=change if admin is None else {**change, "admin": admin})


@user.command(
    "remove",
    short_help="Remove a user with all devices and keys.",
    epilog=examples("mdash user remove alice --user admin"),
)
@click.argument("name", type=USER_NAME)
@yes_option
@remote_options(keys=False)
def remove_user(remote: Remote, *, name: str, yes: bool) -> None:
    """Remove a user with all devices and keys. Their open connections are closed. On a terminal it asks first.

    A user that the server's configuration names is made again at its next start: take it out there too.
    """
    confirm(f"Remove the user {name} with all devices, their shadows and tokens, and all keys?", yes=yes)
    remote.delete("users", name)


user.add_command(import_tokens)

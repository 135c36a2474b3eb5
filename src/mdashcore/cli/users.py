"""``mdash user``: accounts."""

from __future__ import annotations

from typing import Any

import click

from mdashcore.cli.client import Remote
from mdashcore.cli.groups import Group
from mdashcore.cli.options import USER_NAME, json_option, new_password, remote_options
from mdashcore.cli.text import examples, show_json, show_table

__all__ = ["user"]

_password_option = click.option(
    "--password", metavar="PASSWORD", help="Better left out: then it is asked for, or read from stdin."
)


@click.group(cls=Group, epilog=examples("mdash user list --user root:SECRET", "mdash user add alice --user root"))
def user() -> None:
    """Manage users, as an admin.

    Each user has devices and keys that no other user sees. An admin manages users, by name and password; a key
    cannot. Create the first admin with "mdash serve --register-admin NAME:PASSWORD".
    """


@user.command("list", epilog=examples("mdash user list --user root:SECRET", "mdash user list --user root --json"))
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
    "add", epilog=examples("mdash user add alice --user root", "echo SECRET | mdash user add alice --user root:SECRET")
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
    epilog=examples("mdash user limits --user root:SECRET", "mdash user limits alice --user root"),
)
@click.argument("name", type=USER_NAME, metavar="[NAME]", required=False)
@json_option
@remote_options(keys=False)
def show_limits(remote: Remote, *, name: str | None, as_json: bool) -> None:
    """Show each limit of a user with its use; without a NAME, those of every user.

    Limits are set in the server's configuration. Uploads, subscribers and lists are those of the server that answers.
    """
    found = remote.get("users", "limits") if name is None else remote.get("users", name, "limits")
    if as_json:
        show_json(found)
    elif name is not None:
        show_table(("limit", "of", "used"), [(each["name"], each["limit"], each["use"]) for each in found["limits"]])
    else:
        names = [limit["name"] for limit in found["limits"]]
        rows = [(each["name"], *(each["use"][limit] for limit in names)) for each in found["accounts"]]
        show_table(("user", *names), [("LIMIT", *(limit["limit"] for limit in found["limits"])), *rows])
        if found["disk"]["free"] is not None and found["disk"]["free"] < found["disk"]["floor"]:
            click.echo("The disk is almost full: no images are taken, devices go on.", err=True)


@user.command("password", epilog=examples("mdash user password alice --user root"))
@click.argument("name", type=USER_NAME)
@_password_option
@remote_options(keys=False)
def change_password(remote: Remote, *, name: str, password: str | None) -> None:
    """Give a user a new password."""
    remote.put("users", name, json={"password": new_password(password)})


@user.command(
    "remove",
    short_help="Remove a user with all devices and keys.",
    epilog=examples("mdash user remove alice --user root"),
)
@click.argument("name", type=USER_NAME)
@remote_options(keys=False)
def remove_user(remote: Remote, *, name: str) -> None:
    """Remove a user with all devices and keys. Their open connections are closed."""
    remote.delete("users", name)

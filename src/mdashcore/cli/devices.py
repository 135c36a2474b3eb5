"""``mdash devices``: the devices of a user."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from mdashcore.cli.client import Remote
from mdashcore.cli.device_import import import_devices
from mdashcore.cli.groups import Group
from mdashcore.cli.options import DEVICE, TERM, confirm, json_option, remote_options, yes_option
from mdashcore.cli.tags import TAG, tags_text
from mdashcore.cli.text import examples, show_json, show_table

__all__ = ["devices"]

TABLE_FIELDS: Final = ("id", "name", "online", "last_seen", "app", "fw_version", "tags")


@click.group(cls=Group, epilog=examples("mdash devices list", "mdash devices add lamp --name 'Lamp in the hall'"))
def devices() -> None:
    """Manage your devices."""


@devices.command(
    "list",
    epilog=examples(
        "mdash devices list",
        "mdash devices list --filter online --filter 'fw_version!=2.0' --json",
        "mdash devices list --filter 'tag.site=berlin' --filter 'last_seen>1h'",
        "mdash devices list --sort last_seen --limit 20",
        "mdash devices list --fields id,fw_version,shadow.reported.stats.ram_free --json",
        "mdash devices list --filter 'fw_version<1.4' --count",
    ),
)
@click.option("--filter", "terms", type=TERM, multiple=True, help="Only devices for which this holds; repeatable.")
@click.option(
    "--sort",
    default="id",
    show_default=True,
    help="id, name, online, last_seen or fw_version, with - before it for the reverse.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first devices of the list.  [default: all]")
@click.option("--fields", help="With --json: the members of each device, separated by commas.  [default: all]")
@click.option("--count", is_flag=True, help="Show only how many devices there are.")
@json_option
@remote_options()
def list_devices(
    remote: Remote,
    *,
    terms: tuple[str, ...],
    sort: str,
    limit: int | None,
    fields: str | None,
    count: bool,
    as_json: bool,
) -> None:
    """List your devices. They are read a page at a time, for any number of them.

    With --sort last_seen the devices that are silent for longest come first: one that is online counts as seen now.

    A filter is online, offline, FIELD=VALUE, FIELD~TEXT, FIELD<VALUE or @NAME of a saved one; also with !=, !~, <=, >
    and >=. A FIELD is id, name, tag, tag.NAME, app, arch, fw_id, fw_version, last_seen, or a place in the shadow:
    shadow.reported.stats.ram_free. VALUE may be several with | between them; =* asks whether there is one; ! in front
    means not. Ages are written as in last_seen>1h.
    """
    if count:
        if limit is not None or fields is not None:
            raise click.UsageError("--count shows no devices: it goes without --limit and --fields")
        number = remote.count_devices(terms)
        show_json(number) if as_json else click.echo(number)
        return
    if as_json:
        show_json(remote.devices(terms, sort=sort, limit=limit, fields=None if fields is None else fields.split(",")))
        return
    if fields is not None:
        raise click.UsageError("--fields needs --json: the table has columns of its own")
    found = remote.devices(terms, sort=sort, limit=limit, fields=TABLE_FIELDS)
    rows = [
        (
            each["id"],
            each["name"],
            _online(each),
            each["last_seen"],
            _firmware_text(each),
            tags_text(each["tags"]),
        )
        for each in found
    ]
    show_table(("id", "name", "online", "last seen", "firmware", "tags"), rows)


@devices.command(
    "show", short_help="Show a device.", epilog=examples("mdash devices show lamp", "mdash devices show lamp --json")
)
@click.argument("id", type=DEVICE, metavar="ID")
@json_option
@remote_options()
def show_device(remote: Remote, *, id: str, as_json: bool) -> None:
    """Show a device: its name, its connection, its firmware, its tags, and its delta limit.

    With --json also its shadow, which "mdash shadow get" shows alone.
    """
    found = remote.get("devices", id)
    if as_json:
        show_json(found)
        return
    limit = {None: "none", 0: "none"}.get(found["delta_limit"], f"{found['delta_limit']} bytes")
    rows = [
        ("id", found["id"]),
        ("name", found["name"]),
        ("online", _online(found)),
        ("last seen", found["last_seen"]),
        ("created", found["created_at"]),
        ("firmware", _firmware(found)),
        ("tags", tags_text(found["tags"])),
        ("delta limit", limit),
        ("shadow", f"version {found['shadow']['version']}"),
    ]
    show_table(("", ""), rows)


@devices.command(
    "add",
    short_help="Register a device, and show its token.",
    epilog=examples("mdash devices add", "mdash devices add lamp --name 'Lamp in the hall'"),
)
@click.argument("id", type=DEVICE, metavar="[ID]", required=False)
@click.option("--name", help="A name for people.  [default: the id]")
@click.option("--tag", "tags", type=TAG, metavar="NAME[=VALUE]", multiple=True, help="A tag; repeatable.")
@json_option
@remote_options()
def add_device(
    remote: Remote, *, id: str | None, name: str | None, tags: tuple[tuple[str, str | bool], ...], as_json: bool
) -> None:
    """Register a device, and write its id and its token to stdout. Without an ID, it gets one."""
    wanted = {"id": id, "name": name, "tags": dict(tags) or None}
    created = remote.post("devices", json={key: value for key, value in wanted.items() if value is not None})
    _show_token(remote, created, as_json=as_json)


@devices.command(
    "rename",
    short_help="Give a device another name.",
    epilog=examples("mdash devices rename lamp 'Lamp in the kitchen'"),
)
@click.argument("id", type=DEVICE, metavar="ID")
@click.argument("name")
@remote_options()
def rename_device(remote: Remote, *, id: str, name: str) -> None:
    """Give a device another name. Its id stays."""
    remote.put("devices", id, json={"name": name})


@devices.command(
    "delta-limit",
    short_help="Limit the deltas that a device is sent.",
    epilog=examples("mdash devices delta-limit lamp 4096", "mdash devices delta-limit lamp platform"),
)
@click.argument("id", type=DEVICE, metavar="ID")
@click.argument("limit", metavar="BYTES|none|platform")
@remote_options()
def limit_deltas(remote: Remote, *, id: str, limit: str) -> None:
    """Limit the frames with a delta that a device is sent, in bytes: Mongoose OS takes 4096.

    A larger delta is not sent: a notification says so, and the device can ask for it. With "none" there is no limit,
    with "platform" the one that the server has for the device's platform.
    """
    words: dict[str, int | None] = {"none": 0, "platform": None}
    if limit not in words and not limit.isdecimal():
        raise click.BadParameter("a number of bytes, none or platform", param_hint="BYTES")
    remote.put("devices", id, json={"delta_limit": words[limit] if limit in words else int(limit)})


@devices.command("remove", epilog=examples("mdash devices remove lamp", "mdash devices remove lamp --yes"))
@click.argument("id", type=DEVICE, metavar="ID")
@yes_option
@remote_options()
def remove_device(remote: Remote, *, id: str, yes: bool) -> None:
    """Remove a device. Its connection and its token end immediately. On a terminal it asks first."""
    confirm(f"Remove the device {id} with its shadow? Its token ends, and cannot be restored.", yes=yes)
    remote.delete("devices", id)


@devices.command(
    "token", short_help="Give a device a new token, and show it.", epilog=examples("mdash devices token lamp")
)
@click.argument("id", type=DEVICE, metavar="ID")
@yes_option
@json_option
@remote_options()
def renew_token(remote: Remote, *, id: str, yes: bool, as_json: bool) -> None:
    """Give a device a new token, and write it to stdout. The old one stops working immediately.

    The device stays disconnected until it has the new token. On a terminal it asks first.
    """
    confirm(f"Give {id} a new token? It stays disconnected until it has that.", yes=yes)
    _show_token(remote, remote.post("devices", id, "token"), as_json=as_json)


devices.add_command(import_devices)


def _show_token(remote: Remote, document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(document)
        return
    click.echo(f"{document['id']}\t{document['token']}")  # no table: a line that can be copied on any terminal
    if sys.stdout.isatty():
        words = ["mdash", "device", "--server", remote.server, "--id", document["id"], "--token", document["token"]]
        click.echo("Keep the token: it cannot be shown again. A virtual device that uses it:", err=True)
        click.echo(f"  {shlex.join(words)}", err=True)


def _online(device: Mapping[str, Any]) -> str:
    if device.get("damaged"):
        return "damaged"
    return "yes" if device["online"] else "no"


def _firmware(device: dict[str, Any]) -> str:
    """Return the firmware that the device last reported. A device may report values of any type."""
    reported = device["shadow"]["state"].get("reported", {}).get("ota")
    said = reported if isinstance(reported, dict) else {}
    return _firmware_text(said)


def _firmware_text(said: Mapping[str, Any]) -> str:
    return " ".join(str(said[field]) for field in ("app", "fw_version") if said.get(field))

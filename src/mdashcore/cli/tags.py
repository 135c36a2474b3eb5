"""``mdash tags`` and ``mdash filters``: tags of devices, and filters that have a name."""

from __future__ import annotations

import math
from typing import Any

import click

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit
from mdashcore.cli.groups import Group
from mdashcore.cli.options import SAVED_NAME, TERM, Checked, json_option, remote_options
from mdashcore.cli.text import examples, printable, show_json, show_table
from mdashcore.cli.which import chosen, which_options
from mdashcore.tags import check_patch

__all__ = ["TAG", "filters", "tags", "tags_text"]


def _tag(text: str) -> tuple[str, str | bool]:
    name, equals, value = text.partition("=")
    tag = (name, value if equals else True)
    check_patch(dict([tag]))
    return tag


def _tag_name(text: str) -> str:
    if "=" in text:
        raise InvalidInput("a tag is removed by its name alone")
    check_patch({text: None})
    return text


TAG = Checked("TAG", _tag)
"""``NAME`` or ``NAME=VALUE``."""


@click.group(
    cls=Group,
    short_help="Set and remove tags of your devices.",
    epilog=examples(
        "mdash tags set site=berlin indoor --device lamp",
        "mdash tags set site=berlin --filter 'name~berlin' --preview",
        "mdash tags remove site --all",
    ),
)
def tags() -> None:
    """Set and remove tags, by which devices are grouped and found. "mdash devices list" shows them."""


@tags.command("set", epilog=examples("mdash tags set site=berlin indoor --device lamp --device fan"))
@click.argument("tags", type=TAG, metavar="NAME[=VALUE]...", nargs=-1, required=True)
@which_options
@remote_options()
def set_tags(remote: Remote, *, tags: tuple[tuple[str, str | bool], ...], **which: Any) -> None:
    """Set tags of devices: a name alone, or a name with a value. Other tags stay.

    Give --device, --filter or --all.
    """
    _change(remote, dict(tags), **which)


@tags.command("remove", epilog=examples("mdash tags remove site indoor --filter tag.site=berlin"))
@click.argument("names", type=Checked("TAG", _tag_name), metavar="NAME...", nargs=-1, required=True)
@which_options
@remote_options()
def remove_tags(remote: Remote, *, names: tuple[str, ...], **which: Any) -> None:
    """Remove tags of devices by their names. Give --device, --filter or --all."""
    _change(remote, dict.fromkeys(names), **which)


def _change(
    remote: Remote,
    patch: dict[str, Any],
    *,
    devices: tuple[str, ...],
    terms: tuple[str, ...],
    everything: bool,
    preview: bool,
    as_json: bool,
) -> None:
    asked = {"tags": patch, "preview": preview, **chosen(devices, terms, everything=everything)}
    done = _json.decode(remote.request("POST", ("tags",), json=asked, timeout=math.inf))
    if as_json:
        show_json(done)
    else:
        click.echo(f"{done['changed']} of {done['devices']} devices {'would change' if preview else 'changed'}")
    if done["refused"]:
        some = printable(", ".join(done["refused"][:5]))
        raise CliError(f"devices that would have more than 32 tags stay as they are: {some}", Exit.FAILED)


@click.group(
    cls=Group,
    short_help="Save filters under a name.",
    epilog=examples(
        "mdash filters save silent offline 'last_seen>1d'",
        "mdash devices list --filter @silent",
        "mdash filters list",
    ),
)
def filters() -> None:
    """Save filters under a name. @NAME stands for one wherever a filter is given."""


@filters.command("list", epilog=examples("mdash filters list"))
@json_option
@remote_options()
def list_filters(remote: Remote, *, as_json: bool) -> None:
    """List your saved filters."""
    found = remote.get("filters")
    if as_json:
        show_json(found)
    else:
        show_table(("name", "filter"), [(each["name"], each["filter"]) for each in found])


@filters.command(
    "save",
    short_help="Save a filter under a name.",
    epilog=examples("mdash filters save silent offline 'last_seen>1d'"),
)
@click.argument("name", type=SAVED_NAME)
@click.argument("terms", type=TERM, metavar="TERM...", nargs=-1, required=True)
@remote_options()
def save_filter(remote: Remote, *, name: str, terms: tuple[str, ...]) -> None:
    """Save a filter under a name, in place of an earlier one of that name."""
    remote.put("filters", name, json={"filter": " ".join(terms)})


@filters.command("remove", epilog=examples("mdash filters remove silent"))
@click.argument("name", type=SAVED_NAME)
@remote_options()
def remove_filter(remote: Remote, *, name: str) -> None:
    """Remove a saved filter."""
    remote.delete("filters", name)


def tags_text(tags: dict[str, Any]) -> str:
    """Return tags in one line, as ``mdash tags set`` takes them."""
    return " ".join(name if value is True else f"{name}={value}" for name, value in tags.items())

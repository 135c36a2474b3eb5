"""``mdash firmware``: the library of images that are kept on the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.groups import Group
from mdashcore.cli.options import EXISTING_FILE, IMAGE_ID, confirm, json_option, remote_options, yes_option
from mdashcore.cli.text import examples, printable, show_json, show_table, size_text, time_text
from mdashcore.cli.whole_file import write_whole

__all__ = ["firmware"]

_ID: Final = click.argument("id", type=IMAGE_ID, metavar="ID")


@click.group(
    cls=Group,
    short_help="Keep firmware images on the server.",
    epilog=examples(
        "mdash firmware add fw.zip --notes 'fixes a leak'",
        "mdash firmware list",
        "mdash ota lamp --firmware fw_9f86d081884c7d65",
    ),
)
def firmware() -> None:
    """Keep firmware images on the server, for any number of updates and rollouts.

    An image is uploaded once, and chosen by its id then. The same image always has the same id.
    """


@firmware.command(
    "list", short_help="List your images.", epilog=examples("mdash firmware list", "mdash firmware list --json")
)
@json_option
@remote_options()
def list_images(remote: Remote, *, as_json: bool) -> None:
    """List your images, the newest first, and how many devices run each or have failed to."""
    found = _json.decode(remote.request("GET", ("firmware",), query={"devices": "1"}))
    if as_json:
        show_json(found)
        return
    rows = [
        (each["id"], "(damaged)", *[""] * 5)
        if each.get("damaged")
        else (
            each["id"],
            each["name"],
            each["version"],
            each["platform"],
            size_text(each["size"]),
            _devices(each["devices"]),
            time_text(each["created"]),
        )
        for each in found
    ]
    show_table(("id", "name", "version", "platform", "size", "devices", "added"), rows)


def _devices(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {use}" for use, number in counts.items() if number)


@firmware.command(
    "add",
    short_help="Add an image, and write its id.",
    epilog=examples(
        "mdash firmware add fw.zip", "mdash firmware add fw.zip --name 'hall lamps' --notes 'fixes a leak'"
    ),
)
@click.argument("file", type=EXISTING_FILE)
@click.option("--name", help="A name for people.  [default: the application's, or the file's]")
@click.option("--notes", help="Text for people, such as what is new.")
@click.option("--bare", is_flag=True, help="FILE is a bare image, whatever its name or its first bytes look like.")
@json_option
@remote_options()
def add_image(remote: Remote, *, file: Path, name: str | None, notes: str | None, bare: bool, as_json: bool) -> None:
    """Add FILE to the library, and write its id. An image that is there already is not uploaded again."""
    import trio

    async def add() -> Any:
        async with remote.client() as client:
            return await client.firmware.add(file, name=name, notes=notes, bare=bare)

    with remote.reaching():
        added = trio.run(add)
    if as_json:
        show_json(added)
    else:
        click.echo(printable(added["id"]))


@firmware.command(
    "show",
    short_help="Show an image, and which devices run it.",
    epilog=examples("mdash firmware show fw_9f86d081884c7d65", "mdash firmware show fw_9f86d081884c7d65 --json"),
)
@_ID
@json_option
@remote_options()
def show_image(remote: Remote, *, id: str, as_json: bool) -> None:
    """Show an image, and the devices that run it, are being updated with it, or have failed to."""
    image = remote.get("firmware", id)
    devices = remote.get("firmware", id, "devices")
    if as_json:
        show_json({**image, "devices": devices})
        return
    show_table(("", ""), list(_rows(image, devices["counts"])))
    rows = [
        (each["id"], each["name"], use, each["state"], each["reason"])
        for use in devices["counts"]
        for each in devices[use]
    ]
    if rows:
        show_table(("device", "name", "", "update", "reason"), rows)


def _rows(image: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[tuple[str, object]]:
    for name in ("id", "name", "notes", "state", "file", "version", "build_id", "platform", "app", "sha256"):
        yield name, image[name]
    yield "size", size_text(image["size"])
    yield "added", f"{time_text(image['created'])} by {image['uploaded_by']}"
    yield "devices", _devices(counts)


@firmware.command(
    "edit",
    short_help="Change the name or the notes of an image.",
    epilog=examples("mdash firmware edit fw_9f86d081884c7d65 --notes 'do not use: loses its settings'"),
)
@_ID
@click.option("--name", help="A name for people.")
@click.option("--notes", help="Text for people; an empty one removes the notes.")
@json_option
@remote_options()
def edit_image(remote: Remote, *, id: str, name: str | None, notes: str | None, as_json: bool) -> None:
    """Change the name or the notes of an image."""
    change = {key: value for key, value in {"name": name, "notes": notes}.items() if value is not None}
    if not change:
        raise click.UsageError("What is to change? Give --name or --notes.")
    changed = remote.post("firmware", id, json=change)
    if as_json:
        show_json(changed)


@firmware.command(
    "download",
    short_help="Write an image to a file.",
    epilog=examples(
        "mdash firmware download fw_9f86d081884c7d65 fw.zip", "mdash firmware download fw_9f86d081884c7d65 - > fw.zip"
    ),
)
@_ID
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@remote_options()
def download_image(remote: Remote, *, id: str, file: Path) -> None:
    """Write an image to FILE; to stdout for "-". The file appears when it is whole, and its SHA-256 is right."""
    import trio

    async def read(out: BinaryIO) -> None:
        async with remote.client() as client, aclosing(client.firmware.download(id)) as pieces:
            async for piece in pieces:
                out.write(piece)

    def fetch(out: BinaryIO) -> None:
        with remote.reaching():
            trio.run(read, out)

    write_whole(file, fetch)


@firmware.command(
    "remove",
    short_help="Remove an image from the library.",
    epilog=examples("mdash firmware remove fw_9f86d081884c7d65"),
)
@_ID
@yes_option
@remote_options()
def remove_image(remote: Remote, *, id: str, yes: bool) -> None:
    """Remove an image. One that an update or a rollout needs is refused. On a terminal it asks first."""
    confirm(f"Remove the image {id}?", yes=yes)
    remote.delete("firmware", id)

"""``mdash rollout create``: its options, its review, and its request."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import click

from mdashcore._errors import InvalidInput
from mdashcore.cli.client import Remote
from mdashcore.cli.options import (
    DURATION,
    EXISTING_FILE,
    IMAGE_ID,
    TERM,
    Checked,
    json_option,
    remote_options,
    yes_option,
)
from mdashcore.cli.rollout_end import watch_to_end
from mdashcore.cli.rollout_review import check_review, show_review
from mdashcore.cli.text import devices_text, examples, printable, show_json, show_table
from mdashcore.cli.which import chosen
from mdashcore.documents import NewRollout, RolloutDocument, RolloutPreviewDocument

__all__ = ["create_rollout"]


def _percents(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput("phases are percents with commas between them: 1,10,100") from None


def _window(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d\d:\d\d)-(\d\d:\d\d)(?:@([a-z,]+))?", text)
    if match is None:
        raise InvalidInput("a window is HH:MM-HH:MM, in UTC, or HH:MM-HH:MM@sat,sun")
    window: dict[str, Any] = {"start": match[1], "end": match[2]}
    return window | ({"days": match[3].split(",")} if match[3] else {})


PERCENTS: Final = Checked("PERCENTS", _percents)
WINDOW: Final = Checked("WINDOW", _window)

_PLAN: Final = (
    click.option("--name", help="A name for people.  [default: the file's]"),
    click.option(
        "--filter", "filter_", type=TERM, multiple=True, help="Only devices for which this holds; repeatable."
    ),
    click.option("--device", "devices", metavar="ID", multiple=True, help="Only this device; repeatable."),
    click.option("--all", "everything", is_flag=True, help="All your devices."),
    click.option("--bulk", is_flag=True, help="All devices at the same time: one phase, no stop at errors."),
    click.option("--phases", type=PERCENTS, help="Percents of the devices.  [default: 1,10,100]"),
    click.option("--success", "success_percent", type=float, help="Percent that must succeed to go on.  [default: 95]"),
    click.option("--errors", "error_percent", type=float, help="Percent of failures that it tolerates.  [default: 10]"),
    click.option("--sample", "min_sample", type=int, help="Ends before errors are counted.  [default: 5]"),
    click.option("--rate", type=int, help="Devices that begin in a minute; 0: no limit.  [default: 60]"),
    click.option("--max-active", type=int, help="Devices at the same time.  [default: 50]"),
    click.option("--window", type=WINDOW, help="When devices begin, in UTC: 22:00-04:00@sat,sun."),
    click.option("--offline-wait", type=DURATION, help="How long to wait for offline devices; 0 skips.  [default: 7d]"),
    click.option("--timeout", type=DURATION, help="Time for the whole rollout.  [default: 30d]"),
    click.option("--approval", is_flag=True, help="Wait for an approval before the first phase."),
    click.option("--manual-commit", is_flag=True, help="Leave the commit to you; an uncommitted device has failed."),
    click.option(
        "--commit-after", type=DURATION, help="How long a device is healthy before its commit.  [default: 30s]"
    ),
    click.option(
        "--commit-timeout",
        type=DURATION,
        help="Without a commit a device goes back after this; longer than --commit-after.  [default: 5m]",
    ),
    click.option("--force", is_flag=True, help="Send it whatever platform, application and build a device reports."),
    click.option("--other-app", is_flag=True, help="Send it also to devices that run another application."),
    click.option("--bare", is_flag=True, help="The image is a bare one, and meant for all of these devices."),
)


def _plan_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_PLAN):
        function = option(function)
    return function


@click.command(
    "create",
    short_help="Begin a rollout.",
    epilog=examples(
        "mdash rollout create fw.zip --all --watch",
        "mdash rollout create fw.zip --filter arch=esp32 --filter 'fw_version!=2.0' --phases 1,10,100 --rate 30",
        "mdash rollout create --firmware fw_9f86d081884c7d65 --all",
        "mdash rollout create fw.zip --device lamp --device fan --window 22:00-04:00@sat,sun --approval",
    ),
)
@click.argument("file", type=EXISTING_FILE, required=False)
@click.option("--firmware", type=IMAGE_ID, help="Roll out an image of the library, in place of FILE.")
@click.option("--keep", is_flag=True, help="Keep FILE in the library.")
@_plan_options
@click.option("--watch", is_flag=True, help="Watch the rollout until it ends, or waits for you.")
@yes_option
@json_option
@remote_options()
def create_rollout(
    remote: Remote,
    *,
    file: Path | None,
    firmware: str | None,
    keep: bool,
    watch: bool,
    as_json: bool,
    bare: bool,
    yes: bool,
    **options: Any,
) -> None:
    """Begin a rollout of FILE, or of an image of the library, and write its id.

    FILE is a Mongoose OS firmware zip, or a bare image for devices that accept one.

    The rollout goes on by itself, phase after phase, and pauses when too many devices fail. Its devices are chosen now:
    give --all, --device or --filter. First the command shows how many these are, and how many of them the image fits,
    and asks; a script gives --yes.
    """
    if (file is None) is (firmware is None) or (firmware is not None and keep):
        raise click.UsageError("Which image? Give FILE, with --keep to keep it, or --firmware.")
    request = cast(NewRollout, _request(**options))
    made = _create(remote, file, request, firmware=firmware, bare=bare, keep=keep, yes=yes)
    if watch:
        click.echo(printable(f"{made['id']}: {devices_text(made['counts']['pending'])}"), err=True)
        watch_to_end(remote, made["id"], as_json=as_json)
    elif as_json:
        show_json(made)
    else:
        show_table(("id", "state", "devices"), [(made["id"], made["state"], made["counts"]["pending"])])


def _request(
    *,
    filter_: tuple[str, ...],
    devices: tuple[str, ...],
    everything: bool,
    manual_commit: bool,
    bulk: bool,
    **plan: Any,
) -> dict[str, Any]:
    asked = {name: value for name, value in plan.items() if value is not None and value is not False}
    if asked.get("rate") == 0:
        asked["rate"] = None
    asked |= {name: int(asked[name]) for name in ("commit_after", "commit_timeout") if name in asked}
    asked |= chosen(devices, filter_, everything=everything)
    asked |= {"kind": "bulk"} if bulk else {}
    return asked | ({"auto_commit": False} if manual_commit else {})


def _create(
    remote: Remote, path: Path | None, request: NewRollout, *, firmware: str | None, bare: bool, keep: bool, yes: bool
) -> RolloutDocument:
    import trio

    async def preview() -> RolloutPreviewDocument:
        async with remote.client() as client:
            return await client.preview_rollout(path, request, firmware=firmware, bare=bare)

    async def create() -> RolloutDocument:
        async with remote.client() as client:
            reviewed: NewRollout = {**request, "expect": review["devices"]}
            return await client.create_rollout(path, reviewed, firmware=firmware, bare=bare, keep=keep)

    with remote.reaching():
        review = trio.run(preview)
    show_review(review)
    check_review(review, yes=yes)
    with remote.reaching():
        return trio.run(create)

"""``mdash rollout``: one image for many devices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import click

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit, describe
from mdashcore.cli.groups import Group
from mdashcore.cli.options import DURATION, EXISTING_FILE, IMAGE_ID, TERM, Checked, json_option, remote_options
from mdashcore.cli.text import examples, printable, show_json, show_table, time_text
from mdashcore.documents import NewRollout, RolloutDocument
from mdashcore.rollout import RolloutState

__all__ = ["ROLLOUT_EXITS", "rollout"]

ROLLOUT_EXITS: Final[Mapping[str, Exit]] = MappingProxyType(
    {
        RolloutState.COMPLETED: Exit.OK,
        RolloutState.ABORTED: Exit.FAILED,
        RolloutState.PAUSED: Exit.NOT_NOW,
        RolloutState.AWAITING_APPROVAL: Exit.NOT_NOW,
    }
)
"""The states in which the watching ends, with its exit code. In the last two the rollout waits for a person."""


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


def _rollout_id(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_]{1,64}", text):
        raise InvalidInput("a rollout's id is one that `mdash rollout list` shows: rol_ and more")
    return text


PERCENTS: Final = Checked("PERCENTS", _percents)
WINDOW: Final = Checked("WINDOW", _window)
ROLLOUT: Final = Checked("ID", _rollout_id)

_PLAN: Final = (
    click.option("--name", help="A name for people.  [default: the file's]"),
    click.option(
        "--filter", "filter_", type=TERM, multiple=True, help="Only devices for which this holds; repeatable."
    ),
    click.option("--device", "devices", metavar="ID", multiple=True, help="Only this device; repeatable."),
    click.option("--all", "everything", is_flag=True, help="All your devices."),
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
    click.option("--bare", is_flag=True, help="FILE is a bare image, whatever its name or its first bytes look like."),
)


def _plan_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_PLAN):
        function = option(function)
    return function


@click.group(
    cls=Group,
    short_help="Roll out firmware to many devices.",
    epilog=examples(
        "mdash rollout create fw.zip --filter arch=esp32 --watch",
        "mdash rollout list",
        "mdash rollout watch rol_q4zk2n7xw3ab",
    ),
)
def rollout() -> None:
    """Roll out a firmware image to many devices, a few of them first."""


@rollout.command(
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
    **options: Any,
) -> None:
    """Begin a rollout of FILE, or of an image of the library, and write its id.

    FILE is a Mongoose OS firmware zip, or a bare image for devices that accept one.

    The rollout goes on by itself, phase after phase, and pauses when too many devices fail. Its devices are chosen now:
    give --all, --device or --filter.
    """
    if (file is None) is (firmware is None) or (firmware is not None and keep):
        raise click.UsageError("Which image? Give FILE, with --keep to keep it, or --firmware.")
    request = cast(NewRollout, _request(**options))
    made = _create(remote, file, request, firmware=firmware, bare=bare, keep=keep)
    if watch:
        click.echo(printable(f"{made['id']}: {made['counts']['pending']} devices"), err=True)
        _watch(remote, made["id"], as_json=as_json)
    elif as_json:
        show_json(made)
    else:
        show_table(("id", "state", "devices"), [(made["id"], made["state"], made["counts"]["pending"])])


def _request(
    *, filter_: tuple[str, ...], devices: tuple[str, ...], everything: bool, manual_commit: bool, **plan: Any
) -> dict[str, Any]:
    if everything is bool(filter_ or devices):
        raise click.UsageError("Which devices? Give --all, or --device or --filter.")
    asked = {name: value for name, value in plan.items() if value is not None and value is not False}
    if asked.get("rate") == 0:
        asked["rate"] = None
    asked |= {name: int(asked[name]) for name in ("commit_after", "commit_timeout") if name in asked}
    asked["filter"] = list(filter_)
    asked |= {"devices": list(devices)} if devices else {}
    return asked | ({"auto_commit": False} if manual_commit else {})


def _create(
    remote: Remote, path: Path | None, request: NewRollout, *, firmware: str | None, bare: bool, keep: bool
) -> RolloutDocument:
    import trio

    async def create() -> RolloutDocument:
        async with remote.client() as client:
            return await client.create_rollout(path, request, firmware=firmware, bare=bare, keep=keep)

    with remote.reaching():
        return trio.run(create)


@rollout.command("list", epilog=examples("mdash rollout list", "mdash rollout list --json"))
@json_option
@remote_options()
def list_rollouts(remote: Remote, *, as_json: bool) -> None:
    """List your rollouts, the newest first."""
    found = remote.get("rollouts")
    if as_json:
        show_json(found)
        return
    rows = [
        (each["id"], "", "damaged", "", "")
        if each.get("damaged")
        else (each["id"], each["name"], each["state"], _progress(each), time_text(each["created"]))
        for each in found
    ]
    show_table(("id", "name", "state", "devices", "created"), rows)


@rollout.command(
    "show",
    short_help="Show how a rollout stands.",
    epilog=examples("mdash rollout show rol_q4zk2n7xw3ab", "mdash rollout show rol_q4zk2n7xw3ab --members FAILED"),
)
@click.argument("id", type=ROLLOUT, metavar="ID")
@click.option(
    "--members",
    type=click.Choice(["all", "PENDING", "UPDATING", "SUCCEEDED", "FAILED", "SKIPPED"]),
    help="List its devices instead: all, or those with this outcome.",
)
@json_option
@remote_options()
def show_rollout(remote: Remote, *, id: str, members: str | None, as_json: bool) -> None:
    """Show the state of a rollout, phase by phase, or that of its devices."""
    if members is not None:
        found = list(_members(remote, id, members))
        if as_json:
            show_json(found)
        else:
            show_table(("device", "phase", "outcome", "tries", "reason"), [_member_row(each) for each in found])
        return
    present = remote.get("rollouts", id)
    if as_json:
        show_json(present)
        return
    show_table(("", ""), list(_rows(present)))
    show_table(("phase", "devices", *_OUTCOMES), [_phase_row(each, n) for n, each in enumerate(present["phases"])])


_OUTCOMES: Final = ("pending", "updating", "succeeded", "failed", "skipped")


def _members(remote: Remote, id: str, outcome: str) -> Iterator[dict[str, Any]]:
    start: int | None = 0
    while start is not None:
        query = {"start": str(start), "limit": "1000"} | ({"outcome": outcome} if outcome != "all" else {})
        page = _json.decode(remote.request("GET", ("rollouts", id, "members"), query=query))
        yield from page["members"]
        start = page["next"]


def _member_row(member: Mapping[str, Any]) -> tuple[object, ...]:
    return member["device"], member["phase"] + 1, member["outcome"], member["attempt"], member["reason"]


def _rows(present: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    image = present["image"]
    yield "state", present["state"]
    yield "reason", present["reason"]
    yield "name", present["name"]
    yield "image", " ".join(filter(None, (image["name"], image["version"], image["build_id"])))
    yield "filter", " ".join(present["filter"])
    yield "devices", _progress(present)
    yield "created", time_text(present["created"])
    if present["deadline"] is not None:
        yield "deadline", time_text(present["deadline"])


def _phase_row(phase: Mapping[str, Any], number: int) -> tuple[object, ...]:
    title = f"{number + 1} ({phase['percent']:g} %)" + ("" if phase["started"] else " not begun")
    return title, phase["devices"], *(phase["counts"][outcome] for outcome in _OUTCOMES)


def _progress(present: Mapping[str, Any]) -> str:
    counts = present["counts"]
    total = sum(counts.values())
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{counts['succeeded']} of {total} succeeded{failed}"


@rollout.command(
    "watch",
    short_help="Watch a rollout until it ends, or waits for you.",
    epilog=examples("mdash rollout watch rol_q4zk2n7xw3ab", "mdash rollout watch rol_q4zk2n7xw3ab --json"),
)
@click.argument("id", type=ROLLOUT, metavar="ID")
@json_option
@remote_options()
def watch_rollout(remote: Remote, *, id: str, as_json: bool) -> None:
    """Watch a rollout until it ends, is paused or waits for an approval.

    The exit code says which: 0 for COMPLETED, 1 for ABORTED, 5 if it waits for you. Ctrl-C ends the watching; the
    rollout goes on.
    """
    _watch(remote, id, as_json=as_json)


def _watch(remote: Remote, id: str, *, as_json: bool) -> None:
    import trio

    from mdashcore.cli.live_watch import watch
    from mdashcore.cli.rollout_watch import RolloutDisplay

    with RolloutDisplay() as display:
        try:
            present = trio.run(watch, remote, id, "rollout.", lambda client: client.rollout(id), display, ROLLOUT_EXITS)
        except BaseException as exc:
            found = describe(exc)
            if found is not None and found[1] is Exit.INTERRUPTED:
                click.echo(f"The rollout goes on: mdash rollout show {id}, or pause, or abort.", err=True)
            raise
    if as_json:
        show_json(present)
    _report(present, as_json=as_json)


def _report(present: Mapping[str, Any], *, as_json: bool) -> None:
    id, state = present["id"], present["state"]
    code = ROLLOUT_EXITS[state]
    line = f"{state}: {present['reason']}" if present["reason"] else state
    if code is Exit.OK and not as_json:
        click.echo(printable(line))
    if state == RolloutState.AWAITING_APPROVAL:
        raise CliError(f"the rollout waits for an approval: mdash rollout approve {id}", code)
    if state == RolloutState.PAUSED:
        raise CliError(f"{line}; mdash rollout resume, retry or abort {id}", code)
    if code is not Exit.OK:
        raise CliError(line, code)


def _action(name: str, short: str, text: str) -> None:
    """Add a command that sends one request to a rollout."""

    @rollout.command(name, short_help=short, help=text, epilog=examples(f"mdash rollout {name} rol_q4zk2n7xw3ab"))
    @click.argument("id", type=ROLLOUT, metavar="ID")
    @json_option
    @remote_options()
    def act(remote: Remote, *, id: str, as_json: bool) -> None:
        present = remote.post("rollouts", id, name)
        if as_json:
            show_json(present)
        else:
            show_table(("id", "state"), [(present["id"], present["state"])])


_action("pause", "Let no more devices begin.", "Let no more devices begin. Those that have begun go on.")
_action("resume", "Go on with a paused rollout.", "Go on with a paused rollout. What has failed so far is forgiven.")
_action("retry", "Try again what has failed.", "Give the devices that failed another try. A paused rollout goes on.")
_action("approve", "Let the first phase begin.", "Let the first phase of a rollout begin that waits for it.")
_action(
    "abort", "End a rollout.", "End a rollout. Updates that can still be taken back are; the others end by themselves."
)


@rollout.command("remove", epilog=examples("mdash rollout remove rol_q4zk2n7xw3ab"))
@click.argument("id", type=ROLLOUT, metavar="ID")
@remote_options()
def remove_rollout(remote: Remote, *, id: str) -> None:
    """Remove a rollout that has ended from the list."""
    remote.delete("rollouts", id)

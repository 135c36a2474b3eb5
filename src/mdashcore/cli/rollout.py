"""``mdash rollout``: one image for many devices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import click

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.cli.client import Remote
from mdashcore.cli.groups import Group
from mdashcore.cli.options import Checked, json_option, remote_options
from mdashcore.cli.rollout_create import create_rollout
from mdashcore.cli.rollout_end import watch_to_end
from mdashcore.cli.text import examples, printable, show_json, show_table, time_text

__all__ = ["rollout"]


def _rollout_id(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_]{1,64}", text):
        raise InvalidInput("a rollout's id is one that `mdash rollout list` shows: rol_ and more")
    return text


ROLLOUT: Final = Checked("ID", _rollout_id)


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


rollout.add_command(create_rollout)


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
    why = member["reason"] or _waiting_words(member.get("waiting"))
    return member["device"], member["phase"] + 1, member["outcome"], member["attempt"], why


_WAITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "approval": "waits for an approval",
        "resume": "the rollout is paused",
        "end": "the rollout is being aborted",
        "phase": "its phase has not begun",
        "offline": "offline",
        "window": "the window is closed",
        "other_update": "another update of it goes on",
        "turn": "other devices are first",
        "transfer": "gets the image",
        "reboot": "reboots into the image",
        "trial": "on trial",
    }
)

_UNTIL: Final[Mapping[str, str]] = MappingProxyType(
    {"offline": "is skipped at", "window": "opens at", "trial": "until"}
)


def _waiting_words(waiting: Mapping[str, Any] | None) -> str:
    """Return what a device waits for, for people."""
    if waiting is None:
        return ""
    what, until = waiting["what"], waiting["until"]
    words = _WAITS.get(what, what)
    return f"{words}, {_UNTIL[what]} {time_text(until)}" if until is not None and what in _UNTIL else words


def _rows(present: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    image = present["image"]
    yield "state", present["state"]
    yield "reason", present["reason"]
    yield "name", present["name"]
    yield "image", " ".join(filter(None, (image["name"], image["version"], image["build_id"])))
    yield "filter", " ".join(present["filter"])
    yield "devices", _progress(present)
    for failure in present.get("failures", ()):
        yield "failed", f"{failure['devices']} times: {failure['reason']}"
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
    watch_to_end(remote, id, as_json=as_json)


def _action(name: str, short: str, text: str) -> None:
    """Add a command that sends one request to a rollout."""

    @rollout.command(name, short_help=short, help=text, epilog=examples(f"mdash rollout {name} rol_q4zk2n7xw3ab"))
    @click.argument("id", type=ROLLOUT, metavar="ID")
    @json_option
    @remote_options()
    def act(remote: Remote, *, id: str, as_json: bool) -> None:
        _show_state(remote.post("rollouts", id, name), as_json=as_json)


_action("pause", "Let no more devices begin.", "Let no more devices begin. Those that have begun go on.")
_action("approve", "Let the first phase begin.", "Let the first phase of a rollout begin that waits for it.")
_action(
    "abort", "End a rollout.", "End a rollout. Updates that can still be taken back are; the others end by themselves."
)


@rollout.command(
    "resume",
    short_help="Go on with a paused rollout.",
    epilog=examples("mdash rollout resume rol_q4zk2n7xw3ab", "mdash rollout resume rol_q4zk2n7xw3ab --forgive 6"),
)
@click.argument("id", type=ROLLOUT, metavar="ID")
@click.option("--forgive", type=click.IntRange(min=0), metavar="N", help="Count the N failures so far no longer.")
@json_option
@remote_options()
def resume_rollout(remote: Remote, *, id: str, forgive: int | None, as_json: bool) -> None:
    """Go on with a paused rollout.

    What has failed so far counts on. If it has paused the rollout, this is refused, and the error says how many
    failures to forgive. Where too few devices of a phase have succeeded, --forgive lets the next phase begin.
    """
    body = {} if forgive is None else {"forgive": forgive}
    _show_state(_json.decode(remote.request("POST", ("rollouts", id, "resume"), json=body)), as_json=as_json)


@rollout.command(
    "retry", short_help="Try again what has failed.", epilog=examples("mdash rollout retry rol_q4zk2n7xw3ab")
)
@click.argument("id", type=ROLLOUT, metavar="ID")
@json_option
@remote_options()
def retry_rollout(remote: Remote, *, id: str, as_json: bool) -> None:
    """Give the devices that failed another try. A paused rollout goes on. Says which failures count no longer."""
    before = remote.get("rollouts", id)
    present = remote.post("rollouts", id, "retry")
    reasons = "".join(f"; {each['devices']} times: {each['reason']}" for each in before["failures"])
    number = before["counts"]["failed"]
    click.echo(printable(f"{number} failed devices get the image again{reasons}"), err=True)
    _show_state(present, as_json=as_json)


def _show_state(present: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(present)
    else:
        show_table(("id", "state"), [(present["id"], present["state"])])


@rollout.command("remove", epilog=examples("mdash rollout remove rol_q4zk2n7xw3ab"))
@click.argument("id", type=ROLLOUT, metavar="ID")
@remote_options()
def remove_rollout(remote: Remote, *, id: str) -> None:
    """Remove a rollout that has ended from the list."""
    remote.delete("rollouts", id)

"""``mdash jobs``: values of `desired` for many devices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import click

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit, describe
from mdashcore.cli.groups import Group
from mdashcore.cli.options import JSON, Checked, json_option, remote_options
from mdashcore.cli.text import devices_text, examples, printable, show_json, show_table, time_text
from mdashcore.cli.which import chosen, which_options
from mdashcore.job import JobOutcome, JobState

__all__ = ["JOB_EXITS", "jobs"]

JOB_EXITS: Final[Mapping[str, Exit]] = MappingProxyType({JobState.COMPLETED: Exit.OK, JobState.CANCELED: Exit.FAILED})
"""The states in which the watching ends, with its exit code; one in which a device has failed is `FAILED` too."""


def _job_id(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_]{1,64}", text):
        raise InvalidInput("a job's id is one that `mdash jobs list` shows: job_ and more")
    return text


JOB: Final = Checked("ID", _job_id)

_OUTCOMES: Final = ("pending", "changed", "unchanged", "failed")


@click.group(
    cls=Group,
    short_help="Set desired values of many devices.",
    epilog=examples(
        """mdash jobs create '{"interval":30}' --filter tag=berlin --preview""",
        """mdash jobs create '{"interval":30}' --filter tag=berlin --watch""",
        "mdash jobs list",
    ),
)
def jobs() -> None:
    """Set desired values of many devices, and see the result for each."""


@jobs.command(
    "create",
    short_help="Begin a job, or preview it.",
    epilog=examples(
        """mdash jobs create '{"interval":30}' --filter tag=berlin --preview""",
        """mdash jobs create '{"interval":30,"old":null}' --device lamp --device fan --watch""",
    ),
)
@click.argument("desired", type=JSON, metavar="JSON")
@which_options
@click.option("--name", help="A name for people.")
@click.option("--watch", is_flag=True, help="Watch the job until it ends.")
@remote_options()
def create_job(
    remote: Remote,
    *,
    desired: bytes,
    name: str | None,
    watch: bool,
    preview: bool,
    as_json: bool,
    devices: tuple[str, ...],
    terms: tuple[str, ...],
    everything: bool,
) -> None:
    """Set desired values of many devices, and write the job's id.

    JSON is the change of each device: its members are set, those that are null are removed, all others stay. A
    connected device gets it immediately, any other when it connects. Give --device, --filter or --all.

    --preview changes nothing. It shows from what to what values would change, and in how many devices.
    """
    value = _json.decode(desired)
    if not isinstance(value, dict):
        raise click.UsageError("The desired values are a JSON object.")
    asked = {"desired": value, "preview": preview, **chosen(devices, terms, everything=everything)}
    asked |= {} if name is None else {"name": name}
    made = _json.decode(remote.request("POST", ("jobs",), json=asked, timeout=math.inf))
    if as_json and not (watch and not preview):
        show_json(made)
    elif preview:
        _show_preview(made)
    elif watch:
        click.echo(printable(f"{made['id']}: {devices_text(made['devices'])}"), err=True)
        _watch(remote, made["id"], as_json=as_json)
    else:
        show_table(("id", "state", "devices"), [(made["id"], made["state"], made["devices"])])


def _show_preview(preview: Mapping[str, Any]) -> None:
    click.echo(
        f"{preview['changed']} of {preview['devices']} devices would change, "
        f"{preview['unchanged']} have the values already, {preview['failed']} cannot take them"
    )
    rows = [
        (each["devices"], ".".join(each["path"]), _value(each["before"]), _value(each["after"]))
        for each in preview["changes"]
    ]
    if rows:
        show_table(("devices", "value", "before", "after"), rows)
    if preview["other_changes"]:
        click.echo(f"and {preview['other_changes']} other changes")
    for each in preview["failures"]:
        click.echo(printable(f"{each['device']}: {each['reason']}"), err=True)


def _value(value: object) -> str:
    """Return a value as JSON, and nothing in the place of one that is missing."""
    return "" if value is None else _json.encode(value).decode()


@jobs.command("list", epilog=examples("mdash jobs list", "mdash jobs list --json"))
@json_option
@remote_options()
def list_jobs(remote: Remote, *, as_json: bool) -> None:
    """List your jobs, the newest first."""
    found = remote.get("jobs")
    if as_json:
        show_json(found)
        return
    rows = [
        (each["id"], "", "damaged", "", "", "")
        if each.get("damaged")
        else (each["id"], each["name"], each["state"], _progress(each), time_text(each["created"]), each["created_by"])
        for each in found
    ]
    show_table(("id", "name", "state", "devices", "created", "by"), rows)


@jobs.command(
    "show",
    short_help="Show how a job stands.",
    epilog=examples("mdash jobs show job_q4zk2n7xw3ab", "mdash jobs show job_q4zk2n7xw3ab --devices FAILED"),
)
@click.argument("id", type=JOB, metavar="ID")
@click.option(
    "--devices",
    "outcome",
    type=click.Choice(["all", *(outcome.value for outcome in JobOutcome)]),
    help="List its devices instead: all, or those with this outcome.",
)
@json_option
@remote_options()
def show_job(remote: Remote, *, id: str, outcome: str | None, as_json: bool) -> None:
    """Show the state of a job, or the result of each of its devices."""
    if outcome is not None:
        found = list(_results(remote, id, outcome))
        if as_json:
            show_json(found)
        else:
            rows = [(each["device"], each["outcome"], each["reason"]) for each in found]
            show_table(("device", "outcome", "reason"), rows)
        return
    present = remote.get("jobs", id)
    if as_json:
        show_json(present)
    else:
        show_table(("", ""), list(_rows(present)))


def _results(remote: Remote, id: str, outcome: str) -> Iterator[dict[str, Any]]:
    start: int | None = 0
    damaged = 0
    while start is not None:
        query = {"start": str(start), "limit": "1000"} | ({"outcome": outcome} if outcome != "all" else {})
        page = _json.decode(remote.request("GET", ("jobs", id, "devices"), query=query))
        yield from page["results"]
        damaged += page.get("damaged", 0)  # a server of before does not say it
        start = page["next"]
    if damaged:
        click.echo(f"The results of {damaged} other devices are damaged in the server's store.", err=True)


def _rows(present: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "state", present["state"]
    yield "reason", present["reason"]
    yield "name", present["name"]
    yield "desired", _value(present["desired"])
    yield "filter", " ".join(present["filter"])
    for outcome in _OUTCOMES:
        yield outcome, str(present["counts"][outcome])
    yield "created", f"{time_text(present['created'])} by {present['created_by']}"
    if present["canceled_by"] is not None:
        yield "canceled by", present["canceled_by"]


def _progress(present: Mapping[str, Any]) -> str:
    counts = present["counts"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{present['devices'] - counts['pending']} of {present['devices']} done{failed}"


@jobs.command(
    "watch",
    short_help="Watch a job until it ends.",
    epilog=examples("mdash jobs watch job_q4zk2n7xw3ab", "mdash jobs watch job_q4zk2n7xw3ab --json"),
)
@click.argument("id", type=JOB, metavar="ID")
@json_option
@remote_options()
def watch_job(remote: Remote, *, id: str, as_json: bool) -> None:
    """Watch a job until it ends.

    The exit code is 0 if it has completed and no device has failed, else 1. Ctrl-C ends the watching; the job goes on.
    """
    _watch(remote, id, as_json=as_json)


def _watch(remote: Remote, id: str, *, as_json: bool) -> None:
    import trio

    from mdashcore.cli.job_watch import JobDisplay
    from mdashcore.cli.live_watch import watch

    with JobDisplay() as display:
        try:
            present = trio.run(watch, remote, id, "job.", lambda client: client.job(id), display, JOB_EXITS)
        except BaseException as exc:
            found = describe(exc)
            if found is not None and found[1] is Exit.INTERRUPTED:
                click.echo(f"The job goes on: mdash jobs show {id}, or cancel.", err=True)
            raise
    if as_json:
        show_json(present)
    line, failed = f"{present['state']}: {present['reason']}", present["counts"]["failed"]
    code = Exit.FAILED if failed else JOB_EXITS[present["state"]]
    if code is not Exit.OK:
        raise CliError(line + (f"; mdash jobs show {id} --devices FAILED" if failed else ""), code)
    if not as_json:
        click.echo(printable(line))


@jobs.command("cancel", short_help="Cancel a job.", epilog=examples("mdash jobs cancel job_q4zk2n7xw3ab"))
@click.argument("id", type=JOB, metavar="ID")
@json_option
@remote_options()
def cancel_job(remote: Remote, *, id: str, as_json: bool) -> None:
    """Cancel a job: no more devices are changed. Those that were changed keep the values."""
    present = remote.post("jobs", id, "cancel")
    if as_json:
        show_json(present)
    else:
        show_table(("id", "state"), [(present["id"], present["state"])])


@jobs.command("remove", epilog=examples("mdash jobs remove job_q4zk2n7xw3ab"))
@click.argument("id", type=JOB, metavar="ID")
@remote_options()
def remove_job(remote: Remote, *, id: str) -> None:
    """Remove a job that has ended from the list, with its results."""
    remote.delete("jobs", id)

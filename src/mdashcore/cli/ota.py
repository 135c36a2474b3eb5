"""``mdash ota``: a firmware update, watched until its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit, describe
from mdashcore.cli.options import DEVICE, DURATION, EXISTING_FILE, IMAGE_ID, json_option, remote_options
from mdashcore.cli.text import examples, printable, show_json, show_table, time_text
from mdashcore.ota import UpdateState

if TYPE_CHECKING:
    from mdashcore.documents import UpdateDocument

__all__ = ["UPDATE_EXITS", "ota"]

UPDATE_EXITS: Final[Mapping[str, Exit]] = MappingProxyType(
    {
        UpdateState.QUEUED: Exit.OK,
        UpdateState.UNCOMMITTED: Exit.ON_TRIAL,
        UpdateState.COMMITTED: Exit.OK,
        UpdateState.ALREADY_INSTALLED: Exit.OK,
        UpdateState.ROLLED_BACK: Exit.FAILED,
        UpdateState.FAILED: Exit.FAILED,
        UpdateState.REJECTED: Exit.FAILED,
        UpdateState.CANCELED: Exit.FAILED,
        UpdateState.SUPERSEDED: Exit.FAILED,
        UpdateState.TIMED_OUT: Exit.NOT_NOW,
    }
)
"""The states in which the command ends, with its exit code. It ends in QUEUED only with ``--queue``, for an offline
device, and in UNCOMMITTED only with ``--no-wait``.
"""

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        UpdateState.QUEUED: "is offline, and gets it when it comes",
        UpdateState.UNCOMMITTED: "runs it, and goes back unless it is committed: mdash call {device} OTA.Commit",
        UpdateState.COMMITTED: "runs it, committed",
        UpdateState.ALREADY_INSTALLED: "ran it already",
    }
)


@click.command(
    short_help="Update a device's firmware over the air.",
    epilog=examples(
        "mdash ota lamp fw.zip",
        "mdash ota lamp fw.zip --commit",
        "mdash ota lamp --firmware fw_9f86d081884c7d65",
        "mdash ota lamp fw.zip --commit auto --queue",
        "mdash ota lamp --status --json",
        "mdash ota lamp --cancel",
        "mdash ota lamp --end-transfer",
    ),
)
@click.argument("device", type=DEVICE, metavar="DEVICE")
@click.argument("file", type=EXISTING_FILE, required=False)
@click.option("--firmware", type=IMAGE_ID, help="Send an image of the library, in place of FILE.")
@click.option("--keep", is_flag=True, help="Keep FILE in the library.")
@click.option(
    "--commit",
    type=click.Choice(["now", "auto"]),
    is_flag=False,
    flag_value="now",
    help="Commit the update. now, or --commit alone: this command commits, as soon as the device runs the image. "
    "auto: the server commits, after the device was well for 30 seconds. Without this: you, by OTA.Commit.",
)
@click.option(
    "--no-wait", is_flag=True, help="End when the device runs the image, before it is committed: with code 6."
)
@click.option(
    "--commit-after",
    type=DURATION,
    help="With --commit auto: how long the device is healthy before its commit.  [default: 30s]",
)
@click.option(
    "--commit-timeout",
    type=DURATION,
    help="Without a commit the device goes back after this; 0: it commits by itself.  [default: 5m]",
)
@click.option("--chunk-size", type=int, metavar="BYTES", help="Bytes of the image in a call.  [default: 1024]")
@click.option("--attempts", type=int, metavar="N", help="How often a chunk is tried.  [default: 3]")
@click.option(
    "--in-flight", type=int, metavar="N", help="Chunks on their way at the same time, for devices that heed offsets."
)
@click.option("--queue", is_flag=True, help="If the device is offline, update it when it connects, and do not wait.")
@click.option("--force", is_flag=True, help="Send it whatever platform, application and build the device reports.")
@click.option("--bare", is_flag=True, help="FILE is a bare image, whatever its name or its first bytes look like.")
@click.option("--status", is_flag=True, help="Show the state of the device's newest update.")
@click.option(
    "--cancel", is_flag=True, help="Cancel the device's update, if the device does not have the whole image yet."
)
@click.option(
    "--end-transfer",
    is_flag=True,
    help="End a transfer that the device holds and no update continues: call OTA.End. The device may restart.",
)
@json_option
@remote_options()
def ota(
    remote: Remote,
    *,
    device: str,
    file: Path | None,
    firmware: str | None,
    keep: bool,
    commit: str | None,
    no_wait: bool,
    queue: bool,
    force: bool,
    bare: bool,
    status: bool,
    cancel: bool,
    end_transfer: bool,
    as_json: bool,
    **numbers: float | None,
) -> None:
    """Update a device's firmware over the air, and watch the update until it ends.

    FILE is a Mongoose OS firmware zip, or a bare image for devices that accept one. The device starts the new firmware
    and goes back to the old one unless the update is committed within --commit-timeout: try it, then commit it from
    elsewhere, with "mdash call DEVICE OTA.Commit". With --commit the command or the server does that.

    Ctrl-C ends the watching; the update goes on. If the server is gone for a while, the command waits for it.
    """
    asked = {name: str(int(value)) for name, value in numbers.items() if value is not None}
    acts = [act for wanted, act in ((status, _show), (cancel, _cancel), (end_transfer, _end_transfer)) if wanted]
    if acts:
        if len(acts) > 1 or file or firmware or keep or commit or no_wait or queue or force or bare or asked:
            raise click.UsageError("--status, --cancel and --end-transfer go with a DEVICE alone.")
        acts[0](remote, device, as_json)
        return
    if file is None and firmware is None:
        raise click.UsageError("Missing argument 'FILE', or --firmware.")
    if firmware is not None and (file is not None or keep):
        raise click.UsageError("--firmware names an image of the library: neither FILE nor --keep goes with it.")
    if queue and commit == "now":
        raise click.UsageError("With --queue the command may end before the update: give --commit auto.")
    if no_wait and commit == "now":
        raise click.UsageError("With --no-wait the command ends before the update: give --commit auto.")
    if "commit_after" in asked and commit != "auto":
        raise click.UsageError("--commit-after goes with --commit auto.")
    query = asked | ({"force": "1"} if force else {})
    query |= {"bare": "1"} if bare else {}
    query |= {"keep": "1"} if keep else {}
    query |= {"firmware": firmware} if firmware else {}
    query |= {"commit": "auto"} if commit == "auto" else {}
    update = _watch(remote, device, file, query, commit=commit == "now", wait=not no_wait, queue=queue)
    _report(device, update, as_json)


def _watch(
    remote: Remote, device: str, file: Path | None, query: Mapping[str, str], *, commit: bool, wait: bool, queue: bool
) -> UpdateDocument:
    import trio

    from mdashcore.cli.ota_display import UpdateDisplay, continue_hint
    from mdashcore.cli.ota_watch import UpdateWatch

    with UpdateDisplay(device, hint=wait and not commit) as display:
        try:
            watch = UpdateWatch(remote, device, file, query, display, commit=commit, wait=wait, queue=queue)
            return trio.run(watch.run)
        except BaseException as exc:
            found = describe(exc)
            if display.state and found is not None and found[1] is Exit.INTERRUPTED:
                click.echo(printable(f"{continue_hint(device)}."), err=True)
            raise


def _report(device: str, update: Mapping[str, Any], as_json: bool) -> None:
    """Write the result, and end with its exit code."""
    if as_json:
        show_json(update)
    state = update["state"]
    code = UPDATE_EXITS[state]
    if code not in (Exit.OK, Exit.ON_TRIAL):
        raise CliError(f"the update of {device} is {state}: {update['reason'] or 'no reason given'}", code)
    if not as_json:
        click.echo(printable(f"{state}: {device} {_WORDS[state].format(device=device)}"))
    if code is not Exit.OK:
        raise CliError("", code)


def _show(remote: Remote, device: str, as_json: bool) -> None:
    answer = remote.request("GET", ("devices", device, "ota"))
    if as_json:
        show_json(answer)
        return
    update = _json.decode(answer)
    show_table(("", ""), list(_rows(update)))


def _rows(update: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    image = update["image"]
    yield "state", update["state"]
    yield "reason", update["reason"]
    yield "image", " ".join(filter(None, (image["name"], image["version"], image["build_id"])))
    yield "progress", f"{update['progress_percent']} %, {update['offset']} of {update['size']} bytes"
    if update["rate"] is not None:
        yield "rate", f"{update['rate']:.0f} bytes/s"
    for name in ("created", "started", "changed", "deadline", "waits_until", "commit_by"):
        if update[name] is not None:
            yield name, time_text(update[name])
    for past in update["history"]:
        words = (time_text(past["ended"]), past["state"], past["name"], past["version"], past["reason"])
        yield "ended", " ".join(filter(None, words))


def _cancel(remote: Remote, device: str, as_json: bool) -> None:
    answer = remote.request("DELETE", ("devices", device, "ota"))
    if as_json:
        show_json(answer)
        return
    update = _json.decode(answer)
    click.echo(printable(f"{update['state']}: {update['reason']}"))


def _end_transfer(remote: Remote, device: str, as_json: bool) -> None:
    answer = remote.request("POST", ("devices", device, "ota", "end"))
    if as_json:
        show_json(answer)
    else:
        click.echo(f"{device} has ended the transfer that it held")

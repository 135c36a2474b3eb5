"""``mdash call`` and ``mdash shadow``: calls to one device, and its shadow."""

from __future__ import annotations

import click

from mdashcore import _json, jsonrpc
from mdashcore.cli.client import REQUEST_TIMEOUT, Remote, device_error
from mdashcore.cli.exits import CliError
from mdashcore.cli.groups import Group
from mdashcore.cli.options import DEVICE, JSON, remote_options
from mdashcore.cli.text import examples, show_json

__all__ = ["call", "shadow"]


@click.command(
    short_help="Call a method of a device.",
    epilog=examples(
        "mdash call lamp Sys.GetInfo",
        """mdash call lamp GPIO.Toggle '{"pin":2}'""",
        "mdash call lamp Config.Set - --timeout 30 <config.json",
    ),
)
@click.argument("device", type=DEVICE, metavar="DEVICE")
@click.argument("method")
@click.argument("params", type=JSON, metavar="[JSON]", required=False)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 120, min_open=True),
    metavar="SECONDS",
    help="How long to wait.  [default: 10]",
)
@remote_options()
def call(remote: Remote, *, device: str, method: str, params: bytes | None, timeout: float | None) -> None:
    """Call a METHOD of a device, and write its result to stdout as JSON.

    The parameters are JSON, or - to read them from stdin. RPC.List returns the methods of a device.
    """
    frame = jsonrpc.encode_request(method, params, 1)
    query = None if timeout is None else {"timeout": f"{timeout:g}"}
    answer = remote.request(
        "POST", ("devices", device, "rpc"), json=frame, query=query, timeout=REQUEST_TIMEOUT + (timeout or 0)
    )
    response = jsonrpc.decode(answer)
    if not isinstance(response, jsonrpc.Response):
        raise CliError("the answer is no frame: is --server right?")
    if response.error is not None:
        raise device_error(response.error.code, response.error.message)
    show_json(response.result or b"null")


@click.group(cls=Group, epilog=examples("mdash shadow get lamp", """mdash shadow set lamp '{"on":true}'"""))
def shadow() -> None:
    """Show what a device reports, and set what it should be."""


@shadow.command("get", epilog=examples("mdash shadow get lamp"))
@click.argument("device", type=DEVICE, metavar="DEVICE")
@remote_options()
def get_shadow(remote: Remote, *, device: str) -> None:
    """Write a device's shadow to stdout as JSON."""
    show_json(remote.request("GET", ("devices", device, "shadow")))


@shadow.command(
    "set",
    short_help="Change the desired state of a device.",
    epilog=examples(
        """mdash shadow set lamp '{"on":true}'""",
        """mdash shadow set lamp '{"on":null}'""",
        """mdash shadow set lamp '{"on":true}' --version 7""",
    ),
)
@click.argument("device", type=DEVICE, metavar="DEVICE")
@click.argument("desired", type=JSON, metavar="JSON")
@click.option("--version", type=click.IntRange(0), metavar="N", help="Only if this is the shadow's version now.")
@remote_options()
def set_shadow(remote: Remote, *, device: str, desired: bytes, version: int | None) -> None:
    """Change the desired state of a device, and write the accepted change to stdout.

    JSON is the change: its members are set, those that are null are removed, all others stay. A connected device
    gets the change immediately, any other when it connects.
    """
    value = _json.decode(desired)
    if not isinstance(value, dict):
        raise click.UsageError("The desired state is a JSON object.")
    if (
        set(value) == {"state"}
        and isinstance(value["state"], dict)
        and value["state"].keys() <= {"desired", "reported"}
    ):
        raise click.UsageError('Give the desired state alone, {"on":true}, not {"state":{"desired":{"on":true}}}.')
    document = {"state": {"desired": value}, **({} if version is None else {"version": version})}
    show_json(remote.request("POST", ("devices", device, "shadow"), json=document))

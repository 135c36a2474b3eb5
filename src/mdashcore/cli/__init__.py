"""The command ``mdash``.

Each module is one command, or one group of them. It is imported when the command is called, and imports its libraries
when the command runs, so that help is shown quickly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

try:
    import click
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "the command mdash needs more than the core: pip install 'mdashcore[server]'", name="click"
    ) from None

from mdashcore import __version__
from mdashcore.cli.exits import EXIT_MEANINGS, report
from mdashcore.cli.groups import CommandPlace, LazyGroup
from mdashcore.cli.text import examples

__all__ = ["cli", "main"]

_PLACES: Final[Mapping[str, CommandPlace]] = MappingProxyType(
    {
        "call": CommandPlace("mdashcore.cli.call", "Call a method of a device."),
        "demo": CommandPlace("mdashcore.cli.demo", "Start a server with three virtual devices to try."),
        "device": CommandPlace("mdashcore.cli.device", "Run a virtual Mongoose OS device until Ctrl-C."),
        "devices": CommandPlace("mdashcore.cli.devices", "Manage your devices."),
        "filters": CommandPlace("mdashcore.cli.tags", "Save filters under a name."),
        "firmware": CommandPlace("mdashcore.cli.firmware", "Keep firmware images on the server."),
        "fleet": CommandPlace("mdashcore.cli.fleet", "Show the figures of your devices."),
        "jobs": CommandPlace("mdashcore.cli.jobs", "Set desired values of many devices."),
        "key": CommandPlace("mdashcore.cli.keys", "Manage API keys."),
        "limits": CommandPlace("mdashcore.cli.users", "Show each limit of your account with its use."),
        "logs": CommandPlace("mdashcore.cli.notify", "List stored notifications of your devices."),
        "notify": CommandPlace("mdashcore.cli.notify", "Stream the notifications of your devices."),
        "ota": CommandPlace("mdashcore.cli.ota", "Update a device's firmware over the air."),
        "rollout": CommandPlace("mdashcore.cli.rollout", "Roll out firmware to many devices."),
        "serve": CommandPlace("mdashcore.cli.serve", "Run the server until Ctrl-C or SIGTERM."),
        "series": CommandPlace("mdashcore.cli.series", "Show what a device has reported over time."),
        "shadow": CommandPlace("mdashcore.cli.call", "Show what a device reports, and set what it should be."),
        "store": CommandPlace("mdashcore.cli.store", "Check, move and save the data of a service."),
        "tags": CommandPlace("mdashcore.cli.tags", "Set and remove tags of your devices."),
        "user": CommandPlace("mdashcore.cli.users", "Manage users, as an admin."),
    }
)

_EXIT_CODES = "\n".join(["\b", "Exit codes:", *(f"  {code:3} {meaning}" for code, meaning in EXIT_MEANINGS.items())])


@click.group(
    cls=LazyGroup,
    places=_PLACES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\n\n".join(
        [
            examples(
                "mdash demo", "mdash serve --register-admin admin:SECRET", "mdash devices list --user admin:SECRET"
            ),
            _EXIT_CODES,
        ]
    ),
)
@click.version_option(__version__, prog_name="mdash", message="%(prog)s %(version)s")
def cli() -> None:
    """Device management for Mongoose OS and any JSON-RPC device.

    New here? "mdash demo" starts a server with three virtual devices and says what to try.

    "serve", "demo" and "device" run until Ctrl-C. The other commands talk to a running server: its address is in
    --server or MDASH_SERVER, your credentials are in --key or MDASH_KEY, or in --user or MDASH_USER.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default. Returns the exit code, one of `mdashcore.cli.exits.Exit`."""
    try:
        code = cli.main(args, prog_name="mdash", standalone_mode=False)
    except BaseException as exc:
        code = report(exc)
        _drop_output_if_unread()
    return int(code or 0)


def _drop_output_if_unread() -> None:
    """Keep Python's own last flush from complaining if the reader of stdout has gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

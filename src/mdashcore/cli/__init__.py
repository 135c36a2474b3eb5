"""The command ``mdash``.

Each module is one command, or one group of them. It imports its libraries when it runs, so that help is shown quickly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

try:
    import click
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "the command mdash needs more than the core: pip install 'mdashcore[server]'", name="click"
    ) from None

from mdashcore import __version__
from mdashcore.cli.call import call, shadow
from mdashcore.cli.demo import demo
from mdashcore.cli.device import device
from mdashcore.cli.devices import devices
from mdashcore.cli.exits import EXIT_MEANINGS, describe
from mdashcore.cli.keys import key
from mdashcore.cli.notify import logs, notify
from mdashcore.cli.options import Group
from mdashcore.cli.ota import ota
from mdashcore.cli.rollout import rollout
from mdashcore.cli.serve import serve
from mdashcore.cli.store import store
from mdashcore.cli.text import examples
from mdashcore.cli.users import user

__all__ = ["cli", "main"]

_EXIT_CODES = "\n".join(["\b", "Exit codes:", *(f"  {code:3} {meaning}" for code, meaning in EXIT_MEANINGS.items())])


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\n\n".join(
        [
            examples("mdash demo", "mdash serve --register-admin root:SECRET", "mdash devices list --user root:SECRET"),
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


for _command in (serve, demo, device, user, key, devices, call, shadow, ota, rollout, notify, logs, store):
    cli.add_command(_command)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default. Returns the exit code, one of `mdashcore.cli.exits.Exit`."""
    try:
        code = cli.main(args, prog_name="mdash", standalone_mode=False)
    except BaseException as exc:
        found = describe(exc)
        if found is None:
            raise
        line, code = found
        if line:
            click.echo(f"Error: {line}", err=True)
        _drop_output_if_unread()
    return int(code or 0)


def _drop_output_if_unread() -> None:
    """Keep Python's own last flush from complaining if the reader of stdout has gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

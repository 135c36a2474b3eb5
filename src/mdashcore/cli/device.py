"""``mdash device``: one virtual device."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, Final

import click

from mdashcore.cli.client import device_url, tls_context
from mdashcore.cli.options import DEVICE, EXISTING_FILE, SECRET, server_option
from mdashcore.cli.process import set_up_process
from mdashcore.cli.text import examples

if TYPE_CHECKING:
    from mdashcore.virtual_device import Character

__all__ = ["CHARACTER_NAMES", "device"]

CHARACTER_NAMES: Final = (
    "no-status",
    "no-trial",
    "heartbeat-first",
    "holds-transfers",
    "slow-flash",
    "answers-garbage",
    "byte-per-frame",
    "talkative",
)
"""The names in `mdashcore.virtual_device`, which is imported only when it is needed."""


class _Device(click.Command):
    """The command, which names the other one if it is given a word of that."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and not ctx.resilient_parsing:
            words = f"mdash device runs a virtual device. Did you mean mdash devices {args[0]}?"
            raise click.UsageError(words, ctx)
        return super().parse_args(ctx, args)


@click.command(
    cls=_Device,
    epilog=examples(
        "mdash devices add lamp",
        "mdash device --token TOKEN",
        "MDASH_TOKEN=TOKEN mdash device --server wss://mdash.example --id lamp --folder ./lamp",
        "mdash device --token TOKEN --like no-status --like slow-flash",
    ),
)
@server_option("Where to connect to: ws://HOST:PORT, or the server's http URL.")
@click.option(
    "--token",
    type=SECRET,
    metavar="TOKEN",
    required=True,
    envvar="MDASH_TOKEN",
    show_envvar=True,
    help="The device's token, as `mdash devices add` shows it.",
)
@click.option(
    "--id", "device_id", type=DEVICE, metavar="ID", help="The id that it reports.  [default: one made of the token]"
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of its files, settings and firmware.  [default: a temporary folder, removed at the end]",
)
@click.option(
    "--cafile", type=EXISTING_FILE, envvar="MDASH_CAFILE", show_envvar=True, help="Trust this certificate (PEM)."
)
@click.option(
    "--like",
    "characters",
    type=click.Choice(CHARACTER_NAMES),
    multiple=True,
    help="Behave like this kind of device in the field; repeatable.",
)
@click.option("--quiet", is_flag=True, help="Write warnings only, not every connect and request.")
def device(
    *,
    server: str,
    token: str,
    device_id: str | None,
    folder: Path | None,
    cafile: Path | None,
    characters: tuple[str, ...],
    quiet: bool,
) -> None:
    """Run a virtual Mongoose OS device until Ctrl-C.

    It has files, settings, pins, a shadow and over-the-air updates, as real hardware has, and connects again when the
    connection is lost. It logs its connects and requests to stderr. The server knows a device by its token alone. With
    --like it behaves as other devices do, which know fewer methods, say less, are slow, or have defects.
    """
    import trio

    from mdashcore.virtual_device import join

    set_up_process("warning" if quiet else "info")
    device_id = device_id or f"virtual-{hashlib.sha256(token.encode()).hexdigest()[:8]}"
    ssl_context = tls_context(server, cafile)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdash-device-")))
        trio.run(_run, device_id, folder, join(*characters), device_url(server), token, ssl_context)


async def _run(
    device_id: str, folder: Path, character: Character, url: str, token: str, ssl_context: SSLContext | None
) -> None:
    import trio

    from mdashcore.trio.stop_signals import open_stop_signals
    from mdashcore.virtual_device import FirmwareBuild, VirtualDevice
    from mdashcore.virtual_device.connect import run_virtual_device

    device = VirtualDevice(device_id, folder, build=FirmwareBuild(app=device_id), character=character)
    with open_stop_signals() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run_virtual_device, device, url, token, name=device_id, ssl_context=ssl_context))
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()

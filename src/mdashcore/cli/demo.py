"""``mdash demo``: a server with devices, for trying it out."""

from __future__ import annotations

import secrets
import shlex
import shutil
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from mdashcore import _json
from mdashcore._errors import AlreadyExists
from mdashcore.cli.client import DEFAULT_SERVER
from mdashcore.cli.process import log_level_option, set_up_process
from mdashcore.cli.serve import run_server
from mdashcore.cli.text import examples
from mdashcore.identity import DeviceKey

if TYPE_CHECKING:
    from mdashcore.hub import Hub
    from mdashcore.server.run import RunningServer

__all__ = ["DEMO_DEVICES", "demo", "register", "renew_key"]

DEMO_ACCOUNT: Final = "demo"
KEY_NAME: Final = "demo"
FOLDER: Final = Path("mdash-demo", "devices")
FIRMWARE: Final = "fw.zip"
FIRMWARE_SIZE: Final = 20_000  # bytes: an update of two seconds
PASSWORD_BYTES: Final = 12  # 96 random bits, in 16 characters


@attrs.frozen
class DemoDevice:
    id: str
    name: str
    desired: dict[str, Any]
    """The desired state at its first connect, so that its shadow is not empty."""


DEMO_DEVICES: Final = (
    DemoDevice("lamp", "Lamp in the hall", {"on": False, "brightness": 60}),
    DemoDevice("meter", "Water meter", {"interval": 30}),
    DemoDevice("pump", "Garden pump", {"running": False}),
)


@click.command(
    short_help="Start a server with three virtual devices to try.",
    epilog=examples("mdash demo", "mdash demo --bind 127.0.0.1:0", "mdash demo --folder ./devices"),
)
@click.option("--bind", metavar="HOST:PORT", default="127.0.0.1:8080", show_default=True, help="Where to listen.")
@click.option(
    "--store",
    metavar="URL",
    default="sqlite://./mdash-demo/store",
    show_default=True,
    envvar="MDASH_DEMO_STORE",  # not the variable of serve: the demo must not use a production store
    show_envvar=True,
    help="Where to keep everything; memory:// forgets it at the end.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the devices keep their files.  [default: ./mdash-demo/devices; with memory://, a temporary one]",
)
@log_level_option("warning")
def demo(*, bind: str, store: str, folder: Path | None, log_level: str) -> None:
    """Start a server with three virtual devices, and say what to try.

    The devices are connected over real sockets, as any device would be. The login is a new one at every start; the
    devices and their data are kept. Ctrl-C ends it.
    """
    from mdashcore.server.config import ServerConfig, User

    password = secrets.token_urlsafe(PASSWORD_BYTES)
    user = User(DEMO_ACCOUNT, password, admin=True)
    config = ServerConfig(bind=bind, store=store, users=(user,))
    set_up_process(log_level)
    with ExitStack() as stack:
        if folder is None and store != "memory://":
            folder = FOLDER
        elif folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdash-demo-")))
        where = folder
        run_server(config, lambda server: _run_demo(server, where, password), reset_passwords=(user,))


DEMO_APP: Final = "demo"
"""The application that the devices run. The manifest of a firmware for them has to name it."""


async def _run_demo(server: RunningServer, folder: Path, password: str) -> None:
    import trio

    from mdashcore.virtual_device import FirmwareBuild, VirtualDevice
    from mdashcore.virtual_device.connect import run_virtual_device

    hub = server.service.hub
    async with trio.open_nursery() as nursery:
        for each in DEMO_DEVICES:
            device = VirtualDevice(each.id, folder / each.id, build=FirmwareBuild(app=DEMO_APP))
            token = await register(hub, each)
            await nursery.start(partial(run_virtual_device, device, server.device_url, token, name=each.id))
        image = folder.parent / FIRMWARE if folder == FOLDER else folder / FIRMWARE
        write_firmware(image)
        click.echo(_welcome(server.url, password, await renew_key(hub), image))


def write_firmware(path: Path) -> None:
    """Write a firmware zip that all devices of the demo accept."""
    from mdashcore.firmware import write_image

    manifest = {"name": DEMO_APP, "platform": "esp32", "version": "1.1", "build_id": "20260301-1"}
    with path.open("w+b") as file:
        write_image(file, manifest, {"app": bytes(FIRMWARE_SIZE)})


async def register(hub: Hub, device: DemoDevice) -> str:
    """Register a device, and return its token. A device that the store already has gets a new token."""
    try:
        created = await hub.create_device(DEMO_ACCOUNT, device.id, device.name)
    except AlreadyExists:
        return (await hub.registry.renew_token(DeviceKey(DEMO_ACCOUNT, device.id))).token
    await hub.shadows.update(created.device.key, {"state": {"desired": device.desired}})
    return created.token


async def renew_key(hub: Hub) -> str:
    """Return a new API key. The key of an earlier start is removed."""
    for key in await hub.accounts.keys(DEMO_ACCOUNT):
        if key.name == KEY_NAME:
            await hub.accounts.remove_key(DEMO_ACCOUNT, key.id)
    return (await hub.accounts.create_key(DEMO_ACCOUNT, KEY_NAME)).secret


def _welcome(url: str, password: str, key: str, image: Path) -> str:
    """Return the instructions, in lines that can be pasted as they are, into any terminal."""
    lamp = f"{url}/api/v2/devices/lamp"
    on = {"state": {"desired": {"on": True}}}
    folder = _folder_for_path()
    exports = [] if folder is None else [f'export PATH={shlex.quote(str(folder))}:"$PATH"']
    exports += [f"export MDASH_KEY={key}"]
    exports += [] if url == DEFAULT_SERVER else [f"export MDASH_SERVER={shlex.quote(url)}"]
    in_terminal = "\n  ".join(exports)
    return f"""\
mdash is running at {url} with three virtual devices: {", ".join(each.id for each in DEMO_DEVICES)}.

  admin login  {DEMO_ACCOUNT} / {password}
  API key      {key}
  firmware     {image}, for all three: mdash ota lamp {shlex.quote(str(image))} --commit

Open {url} in a browser and log in. Or, in another terminal:

  {in_terminal}
  mdash devices list
  mdash call lamp GPIO.Toggle '{{"pin":2}}'
  mdash shadow set lamp '{{"brightness":100}}'
  mdash notify

With curl: list the devices, toggle a pin, and switch the lamp on by its shadow, which has its report a second later:

  {_curl(key, f"{url}/api/v2/devices")} | python3 -m json.tool
  {_curl(key, f"{lamp}/rpc/GPIO.Toggle", {"pin": 2})}
  {_curl(key, f"{lamp}/shadow", on)} && sleep 1 && {_curl(key, f"{lamp}/shadow")} | python3 -m json.tool

Ctrl-C ends it."""


def _folder_for_path() -> Path | None:
    """Return the folder of this `mdash`, to be put on PATH; `None` if a new terminal finds it there anyway.

    The folder of a virtual environment is on the PATH of a terminal only after its activation.
    """
    script = Path(sys.argv[0])
    folder = script.absolute().parent if script.name == "mdash" else Path(sysconfig.get_path("scripts"))
    is_environments = sys.prefix != sys.base_prefix and folder == Path(sysconfig.get_path("scripts"))
    found = shutil.which("mdash")
    return folder if is_environments or found is None or Path(found).absolute().parent != folder else None


def _curl(key: str, url: str, body: object = None) -> str:
    """Return a command that prints the answer on a line."""
    words = ["curl", "-sS", "-w", "\\n", "-H", f"Authorization: Bearer {key}", url]
    return shlex.join(words if body is None else [*words, "-d", _json.encode(body).decode()])

"""``mdash devices import`` and ``mdash user import``: many devices from a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mdashcore._errors import Conflict, MdashError, NotFound
from mdashcore.cli.client import Remote
from mdashcore.cli.device_file import ImportedDevice, TokenFile, read_devices
from mdashcore.cli.exits import CliError, Exit, exit_of_error
from mdashcore.cli.options import EXISTING_FILE, USER_NAME, remote_options
from mdashcore.cli.text import examples, printable

if TYPE_CHECKING:
    from mdashcore.client import Client

__all__ = ["import_devices", "import_tokens"]

MAX_IMPORTERS: Final = 8  # devices that are registered at the same time: more are no quicker on one server

MAX_NAMED: Final = 10  # failed devices that are named


class _ImportReport:
    """What has become of the rows."""

    def __init__(self) -> None:
        self.registered = 0
        self.present = 0
        self.failed: list[str] = []
        self.lost: MdashError | None = None
        """The error that has ended the import: the server cannot be reached any more, or refuses the credentials."""

    def show(self, remote: Remote) -> None:
        """Write the counts. Raises `CliError` if a device is missing."""
        click.echo(f"{self.registered} registered, {self.present} were there already, {len(self.failed)} failed")
        for line in self.failed[:MAX_NAMED]:
            click.echo(printable(line), err=True)
        if self.lost is not None:
            error = remote.error(self.lost)
            raise CliError(f"{error}; then the same command goes on from here", error.code)
        if self.failed:
            number = len(self.failed)
            raise CliError("1 device is not imported" if number == 1 else f"{number} devices are not imported")


@click.command(
    "import",
    short_help="Register the devices of a file.",
    epilog=examples("mdash devices import fleet.csv --tokens tokens.csv"),
)
@click.argument("file", type=EXISTING_FILE)
@click.option(
    "--tokens",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where their tokens are written, which are shown nowhere else.",
)
@remote_options()
def import_devices(remote: Remote, *, file: Path, tokens: Path) -> None:
    """Register the devices of FILE, and write their ids and tokens to another file.

    FILE is a CSV file. Its first line has the names of the columns: id, name and tags, of which only id is needed. Tags
    are written as in "site=berlin;indoor". All lines are checked before the first device is registered.

    After an interruption the same command goes on where it was. A device that exists and whose token is not in the file
    stays as it is. One whose registration was interrupted gets a new token, unless it has connected since with another.
    """
    rows = read_devices(file, with_tokens=False)
    kept = TokenFile(tokens)
    report = _ImportReport()

    async def register(client: Client, row: ImportedDevice) -> None:
        known = kept.tokens.get(row.id)
        if known:
            report.present += 1
            return
        if known is None:
            with suppress(NotFound):
                await client.device(row.id)
                report.present += 1
                return
            kept.begin(row.id)
        try:
            created = await client.create_device(row.id, name=row.document.get("name"), tags=row.document.get("tags"))
            token = created["token"]
        except Conflict:
            if known is None:  # another program has just registered it
                kept.leave(row.id)
                report.present += 1
                return
            if (await client.device(row.id))["since"] is not None:  # it has connected
                raise Conflict(
                    "it connects with a token that is not in the file, and keeps that one; a new one, which ends its "
                    f"connection, is made by: mdash devices token {row.id}"
                ) from None
            token = await client.renew_token(row.id)  # it was registered, and its token did not reach the file
        kept.write(row.id, token)
        report.registered += 1

    try:
        _run(remote, rows, register, report)
    finally:
        kept.close()
    report.show(remote)


@click.command(
    "import",
    short_help="Import devices with tokens that they have.",
    epilog=examples("mdash user import alice fleet.csv --user admin"),
)
@click.argument("name", type=USER_NAME)
@click.argument("file", type=EXISTING_FILE)
@remote_options(keys=False)
def import_tokens(remote: Remote, *, name: str, file: Path) -> None:
    """Import devices of another service into the account NAME, each with the token that it has.

    FILE is a CSV file with the columns id, token or token_sha256, and optionally name and tags. So devices that cannot
    be given new tokens connect here as soon as their server's name leads here. Weak tokens, and those that another
    device has, are refused. After an interruption the same command goes on.
    """
    rows = read_devices(file, with_tokens=True)
    report = _ImportReport()

    async def adopt(client: Client, row: ImportedDevice) -> None:
        if await client.adopt_device(name, row.document):
            report.registered += 1
        else:
            report.present += 1

    _run(remote, rows, adopt, report)
    report.show(remote)


def _run(
    remote: Remote,
    rows: list[ImportedDevice],
    act: Callable[[Client, ImportedDevice], Awaitable[None]],
    report: _ImportReport,
) -> None:
    """Call `act` for each row, several at the same time. A failure of one row is reported, and ends no other."""
    import trio

    from mdashcore.client import ServerUnreachable

    async def work(client: Client, waiting: Iterator[ImportedDevice]) -> None:
        for row in waiting:
            if report.lost is not None:
                return
            try:
                await act(client, row)
            except MdashError as exc:
                if isinstance(exc, ServerUnreachable) or exit_of_error(exc) is Exit.UNAUTHENTICATED:
                    report.lost = exc
                    return
                report.failed.append(f"line {row.line}, {row.id}: {exc}")

    async def run() -> None:
        async with remote.client() as client, trio.open_nursery() as nursery:
            waiting = iter(rows)
            for _ in range(MAX_IMPORTERS):
                nursery.start_soon(work, client, waiting)

    with remote.reaching():
        trio.run(run)

"""``mdash store``: checks, moves and saves the data of a service."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import unquote

import click

from mdashcore._errors import InvalidInput, NotFound
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit
from mdashcore.cli.groups import Group
from mdashcore.cli.options import USER_NAME, new_password, remote_options
from mdashcore.cli.text import examples, printable
from mdashcore.cli.whole_file import write_whole
from mdashcore.identity import ENTROPY_BYTES

if TYPE_CHECKING:
    from mdashcore.hub.maintenance.backup import StoreCounts
    from mdashcore.storage import Backend

__all__ = ["store"]

EXISTING_FILE_OR_STDIN: Final = click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True, path_type=Path)

MAX_SHOWN_PROBLEMS = 100  # problems: with more an operator needs a backup, not a longer list


@click.group(
    cls=Group,
    epilog=examples(
        "mdash store check sqlite:///var/lib/mdash",
        "mdash store backup mdash.jsonl --user admin",
        "mdash store import redis://localhost mdash.jsonl",
    ),
)
def store() -> None:
    """Check, move and save the data of a service.

    A storage folder can be opened by one process at a time: "check", "export", "import" and "reset-password" are
    for a service that is stopped, "backup" is for one that runs. Exports contain hashes of passwords and tokens: keep
    them safe.
    """


@store.command(
    short_help="Read everything in a store, and say what is wrong.",
    epilog=examples("mdash store check file:///var/lib/mdash"),
)
@click.argument("url", metavar="URL")
def check(url: str) -> None:
    """Read everything in a store, and report damage; change nothing.

    Damage that the service repairs by itself at its next start is a note, and no problem.
    """
    from mdashcore.hub.maintenance.check import check_store

    notes = _Notes()
    logging.getLogger("mdash_backends").addHandler(notes)
    try:
        counts, problems = _with_backend(url, check_store, there=True)
    finally:
        logging.getLogger("mdash_backends").removeHandler(notes)
    for problem in problems[:MAX_SHOWN_PROBLEMS]:
        click.echo(printable(problem), err=True)
    if problems:
        raise CliError(f"{len(problems)} problems in {_describe(counts)}")
    click.echo(f"No problems in {_describe(counts)}.")


@store.command(
    "export",
    short_help="Write everything in a store to a file.",
    epilog=examples("mdash store export sqlite:///var/lib/mdash mdash.jsonl"),
)
@click.argument("url", metavar="URL")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
def export(url: str, file: Path) -> None:
    """Write everything in a store to FILE, as JSON lines; "-" is stdout."""
    from mdashcore.hub.maintenance.backup import export_store

    async def write(backend: Backend, out: BinaryIO) -> None:
        async for line in export_store(backend):
            out.write(line + b"\n")

    write_whole(file, lambda out: _with_backend(url, lambda backend: write(backend, out), there=True))


@store.command(
    "import",
    short_help="Put an export or a backup into an empty store.",
    epilog=examples(
        "mdash store import sqlite:///var/lib/mdash mdash.jsonl",
        "gunzip < mdash.gz | mdash store import sqlite:///var/lib/mdash -",
    ),
)
@click.argument("url", metavar="URL")
@click.argument("file", metavar="FILE", type=EXISTING_FILE_OR_STDIN)
def import_(url: str, file: Path) -> None:
    """Import an export or a backup into a store, of any kind, that is empty; "-" is stdin."""
    from mdashcore.hub.maintenance.backup import MAX_EXPORT_LINE, import_store

    async def lines(source: BinaryIO) -> AsyncGenerator[bytes, None]:
        while line := source.readline(MAX_EXPORT_LINE + 2):
            yield line

    with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as source:
        counts = _with_backend(url, lambda backend: import_store(backend, lines(source)), there=False)
    click.echo(f"Imported {_describe(counts)}.")


@store.command(
    short_help="Save everything that a running service keeps.",
    epilog=examples("mdash store backup mdash.jsonl --user admin", "mdash store backup - | gzip > mdash.gz"),
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@remote_options(keys=False)
def backup(remote: Remote, *, file: Path) -> None:
    """Write all data of a running service to FILE, while it goes on serving. For admins, by password."""
    import trio

    last = b""

    async def read(out: BinaryIO) -> None:
        nonlocal last
        async with remote.client() as client, aclosing(client.backup()) as pieces:
            async for piece in pieces:
                out.write(piece)
                last = (last + piece)[-200:]

    def fetch(out: BinaryIO) -> None:
        with remote.reaching():
            trio.run(read, out)
        if b'{"end":true' not in last:
            raise CliError("the backup was cut off; what was written is of no use", Exit.UNREACHABLE)

    write_whole(file, fetch)


@store.command(
    "reset-password",
    short_help="Give a user a new password, without a login.",
    epilog=examples(
        "mdash store reset-password sqlite:///var/lib/mdash admin",
        "echo SECRET | mdash store reset-password sqlite:///var/lib/mdash admin",
    ),
)
@click.argument("url", metavar="URL")
@click.argument("name", type=USER_NAME, metavar="NAME")
def reset_password(url: str, name: str) -> None:
    """Give a user of a store a new password, which is asked for, or read from stdin. Sessions of the user end.

    It is for a password that is lost. A service that several servers share can run meanwhile; any other has to be
    stopped, because a storage folder is open in one process at a time.
    """
    from mdashcore.hub import Hub
    from mdashcore.server.auth.passwords import Passwords

    async def reset(backend: Backend, password: str | None) -> None:
        hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
        if await hub.accounts.get(name) is None:
            raise NotFound(f"no user {name!r} in this store")
        if password is not None:
            digest = await Passwords(hub.accounts, os.urandom(ENTROPY_BYTES)).hash(password)
            await hub.accounts.set_password(name, digest)

    _with_backend(url, lambda backend: reset(backend, None), there=True)  # before the question
    password = new_password(None)
    _with_backend(url, lambda backend: reset(backend, password), there=True)
    click.echo(f"{name} has a new password.")


class _Notes(logging.Handler):
    """Writes the warnings of a backend."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"Note: {printable(record.getMessage())}", err=True)


def _with_backend(url: str, work: Callable[[Backend], Any], *, there: bool) -> Any:
    """Run `work` on the backend of a URL, and return its result. With `there`, no new store is created."""
    import trio

    from mdashcore.storage import open_backend

    if url.startswith("memory:"):
        raise InvalidInput("memory:// is empty, and gone at the end")
    if there:
        _check_exists(url)

    async def run() -> Any:
        async with open_backend(url) as backend:
            return await work(backend)

    return trio.run(run)


def _check_exists(url: str) -> None:
    """Refuse the URL of a missing or empty folder: a mistyped URL must not look like an intact store."""
    scheme, _, rest = url.partition("://")
    folder = Path(unquote(rest))
    try:
        empty = scheme in ("file", "sqlite") and not (folder.is_dir() and any(folder.iterdir()))
    except PermissionError:
        return  # the backend's own error names the owner
    if empty:
        raise CliError(f"there is no store in {folder}", Exit.UNREACHABLE)


def _describe(counts: StoreCounts) -> str:
    return f"{counts.documents} documents, {counts.entries} notifications and {counts.blobs} images"

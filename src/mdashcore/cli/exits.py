"""The end of a command: the table of exit codes, and the line that says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

import click

from mdashcore._errors import InvalidAnswer, InvalidInput, LimitReached, MdashError, StorageError, status_of
from mdashcore.cli.text import printable

__all__ = ["EXIT_MEANINGS", "CliError", "Exit", "describe", "exit_of_error", "exit_of_status", "report"]


class Exit(IntEnum):
    """The exit code of a process. `EXIT_MEANINGS` says each in words."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNAUTHENTICATED = 4
    NOT_NOW = 5
    ON_TRIAL = 6
    INTERRUPTED = 130


EXIT_MEANINGS: Final[Mapping[Exit, str]] = MappingProxyType(
    {
        Exit.OK: "it is done; or the service was asked to stop, and has",
        Exit.FAILED: "the server or the device answered with an error, or a file cannot be used",
        Exit.USAGE: "wrong usage: an argument, an option or a file given with one",
        Exit.UNREACHABLE: "cannot connect to the server, bind the address or open the storage",
        Exit.UNAUTHENTICATED: "the credentials are refused, or do not allow this",
        Exit.NOT_NOW: "the device is offline or silent, or the server is busy: try again later",
        Exit.ON_TRIAL: "the device runs the new firmware, which is not committed: with --no-wait only",
        Exit.INTERRUPTED: "interrupted by Ctrl-C",
    }
)
"""Shown by ``mdash --help``. 1 and 2 have the meaning that most commands give them; 130 is the shell's number for
SIGINT.
"""

_STATUS: Final[Mapping[int, Exit]] = MappingProxyType(
    {
        401: Exit.UNAUTHENTICATED,
        403: Exit.UNAUTHENTICATED,
        429: Exit.NOT_NOW,
        502: Exit.NOT_NOW,  # a proxy in front of a server that is just starting
        503: Exit.NOT_NOW,
        504: Exit.NOT_NOW,
    }
)


class CliError(Exception):
    """Ends the command with a line on stderr and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def exit_of_status(status: int) -> Exit:
    """Return the exit code for an HTTP status that is no success."""
    return _STATUS.get(status, Exit.FAILED)


def exit_of_error(error: MdashError) -> Exit:
    """Return the exit code for an error of a server.

    An answer of a device that cannot be read is the same the next time. So is a limit of the account, unless the server
    says when to try again.
    """
    if isinstance(error, InvalidAnswer) or (isinstance(error, LimitReached) and not error.retry_after):
        return Exit.FAILED
    return exit_of_status(status_of(error))


def describe(error: BaseException) -> tuple[str, Exit] | None:
    """Return the line for an error and the exit code; `None` for a defect of this program.

    The line is empty if there is nothing to say. Of an exception group the first error that can be described counts,
    unless the group contains a defect.
    """
    found = [_describe(leaf) for leaf in _leaves(error)]
    if None in found:
        return None
    return next((one for one in found if one is not None), None)


def report(error: BaseException) -> Exit:
    """Write the line for an error to stderr. Returns the exit code. A defect of this program is raised again."""
    found = describe(error)
    if found is None:
        raise error
    line, code = found
    if line:
        click.echo(f"Error: {line}", err=True)
    return code


def _describe(error: BaseException) -> tuple[str, Exit] | None:
    match error:
        case CliError():
            return _line(str(error)), error.code
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "mdash"
            return _line(f"{error.format_message()} (see {path} --help)"), Exit.USAGE
        case click.ClickException():
            return _line(error.format_message()), Exit.USAGE
        case click.Abort() | KeyboardInterrupt():
            return "", Exit.INTERRUPTED
        case BrokenPipeError():
            return "", Exit.FAILED  # the reader of our output has gone, and needs no message
        case InvalidInput():
            return _line(str(error)), Exit.USAGE
        case StorageError():
            return _line(str(error)), Exit.UNREACHABLE
        case MdashError():
            return _line(str(error)), exit_of_error(error)
        case ModuleNotFoundError() if not str(error.name).startswith("mdash"):
            return _line(f"{error.name} is not installed: pip install 'mdashcore[server]'"), Exit.FAILED
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return _line(f"{where}{error.strerror or error}"), Exit.FAILED
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


def _line(text: str) -> str:
    """Return a text as one line without control characters."""
    return printable(" ".join(text.split()))

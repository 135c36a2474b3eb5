"""The process of a long-running command: logging and file descriptors."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from mdashcore.cli.text import printable, time_text

__all__ = ["LOG_LEVELS", "log_level_option", "set_up_process"]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_OURS: Final = ("mdashcore", "mdash_backends")


_Function = TypeVar("_Function", bound=Callable[..., Any])


def log_level_option(default: str) -> Callable[[_Function], _Function]:
    """Return the option ``--log-level``."""
    return click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS, case_sensitive=False),
        default=default,
        show_default=True,
        envvar="MDASH_LOG_LEVEL",
        show_envvar=True,
        help="How much to write to stderr.",
    )


def set_up_process(log_level: str) -> None:
    """Log to stderr, keep new files private, and allow as many open sockets as the system does."""
    os.umask(0o077)  # a store sets its modes itself; this is for the files of virtual devices
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Libraries log warnings only: at DEBUG, those for HTTP and WebSockets write headers, and so secrets.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(log_level.upper())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        pass  # some systems have the hard limit "unlimited" but refuse it: then the soft limit stays


class _OneLine(logging.Formatter):
    """Writes one line for each record: text from outside cannot start a second line, and a traceback stays in one
    piece.
    """

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return time_text(record.created)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

"""The process of a long-running command: logging and file descriptors."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from mdashcore._log_settings import LOG_FORMATS, LOG_LEVELS
from mdashcore.cli.log_format import JsonFormatter, TextFormatter

__all__ = ["log_format_option", "log_level_option", "set_up_process"]

_OURS: Final = ("mdashcore", "mdash_backends")


_Function = TypeVar("_Function", bound=Callable[..., Any])


def log_level_option(default: str | None) -> Callable[[_Function], _Function]:
    """Return the option ``--log-level``. A default of `None` leaves the level to the configuration file."""
    return click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS, case_sensitive=False),
        default=default,
        show_default=default or "info",
        envvar="MDASH_LOG_LEVEL",
        show_envvar=True,
        help="How much to write to stderr.",
    )


def log_format_option(function: _Function) -> _Function:
    """Add the option ``--log-format``."""
    return click.option(
        "--log-format",
        type=click.Choice(LOG_FORMATS, case_sensitive=False),
        default=None,
        show_default="text",
        envvar="MDASH_LOG_FORMAT",
        show_envvar=True,
        help="The form of the lines on stderr; json for programs that collect logs.",
    )(function)


def set_up_process(log_level: str, log_format: str = "text", *, worker: int | None = None) -> None:
    """Log to stderr, keep new files private, and allow as many open sockets as the system does.

    Args:
        worker: the number of this worker, for the lines of the log.
    """
    from mdashcore.server.http import request_id

    os.umask(0o077)  # a store sets its modes itself; this is for the files of virtual devices
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter if log_format == "json" else TextFormatter
    handler.setFormatter(formatter(request_id.current.get, worker))
    logging.captureWarnings(True)
    # Libraries log warnings only: at DEBUG, those for HTTP and WebSockets write headers, and so secrets.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(log_level.upper())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        pass  # some systems have the hard limit "unlimited" but refuse it: then the soft limit stays

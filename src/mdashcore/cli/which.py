"""The options by which a command is told which devices it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mdashcore.cli.options import DEVICE, TERM, json_option

__all__ = ["chosen", "which_options"]

_WHICH = (
    click.option("--device", "devices", type=DEVICE, metavar="ID", multiple=True, help="Only this device; repeatable."),
    click.option("--filter", "terms", type=TERM, multiple=True, help="Only devices for which this holds; repeatable."),
    click.option("--all", "everything", is_flag=True, help="All your devices."),
    click.option("--preview", is_flag=True, help="Change nothing: only say what would change."),
    json_option,
)


def which_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command: ``devices``, ``terms``, ``everything``, ``preview`` and ``as_json``."""
    for option in reversed(_WHICH):
        function = option(function)
    return function


def chosen(devices: tuple[str, ...], terms: tuple[str, ...], *, everything: bool) -> dict[str, Any]:
    """Return the members of a request that choose devices. Raises `click.UsageError` unless some are chosen."""
    if everything is bool(devices or terms):
        raise click.UsageError("Which devices? Give --all, or --device or --filter.")
    if everything:
        return {"all": True}
    return {"filter": list(terms)} | ({"devices": list(devices)} if devices else {})

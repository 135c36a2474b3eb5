"""The review of a rollout: the devices that it reaches, and the question whether to begin it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from mdashcore.cli.exits import CliError, Exit
from mdashcore.cli.text import devices_text, printable
from mdashcore.documents import RolloutPreviewDocument

__all__ = ["check_review", "show_review"]

_FITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fits": "fits",
        "installed": "runs it already",
        "other_platform": "another platform: refuses it",
        "other_app": "another application",
    }
)

_MISSING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bare": "the image is no firmware zip, so nothing says which devices it is for: --bare sends it all the same",
        "other_app": "it is of another application than some devices run: --other-app sends it all the same",
    }
)


def show_review(review: RolloutPreviewDocument) -> None:
    """Write to stderr which devices a rollout reaches, how many of them the image fits, and the phases."""
    others = {
        "run it already": review["installed"],
        "another platform": review["other_platform"],
        "another application": review["other_app"],
        "offline": review["offline"],
    }
    parts = [f"{words}: {number}" for words, number in others.items() if number]
    _say("; ".join([f"fits {review['fits']} of {devices_text(review['devices'])}", *parts]))
    for group in review["groups"]:
        names = " ".join(group[name] or "?" for name in ("platform", "app", "version"))
        _say(f"  {group['devices']:>6}  {names}: {_FITS.get(group['fit'], group['fit'])}")
    if review["other_groups"]:
        _say(f"  {review['other_groups']:>6}  others")
    _say("phases: " + ", then ".join(str(phase["devices"]) for phase in review["phases"]))


def check_review(review: RolloutPreviewDocument, *, yes: bool) -> None:
    """Ask whether to begin a rollout.

    Raises:
        click.UsageError: an option is missing: one that the image needs, or ``--yes`` where no terminal is to ask on.
        CliError: no device is selected, or the answer is no.
    """
    for name in review["missing"]:
        raise click.UsageError(_MISSING.get(name, f"the server wants the option {name}"))
    if not review["devices"]:
        raise CliError("the selection has no devices", Exit.FAILED)
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("Begin it? There is no terminal to ask on: give --yes.")
    if not click.confirm(f"Begin the rollout for {devices_text(review['devices'])}?", err=True):
        raise CliError("nothing was begun", Exit.FAILED)


def _say(line: str) -> None:
    click.echo(printable(line), err=True)

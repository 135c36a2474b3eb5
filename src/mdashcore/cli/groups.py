"""Groups of commands."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from mdashcore.cli.exits import Exit

__all__ = ["CommandPlace", "Group", "LazyGroup"]


class Group(click.Group):
    """A group that shows its help if it is called without a command, and exits with the code for wrong usage."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(Exit.USAGE)
        return super().parse_args(ctx, args)


class CommandPlace(NamedTuple):
    """The place of a command that is imported when it is called."""

    module: str
    """The module that has it, under the name of the command."""
    short_help: str
    """Its line in the help of the group."""


class LazyGroup(Group):
    """A group that imports the module of a command when the command is called. Its help imports none.

    Args:
        places: the commands by their names.
    """

    def __init__(self, *args: Any, places: Mapping[str, CommandPlace], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._places.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(import_module(place.module), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._places[name].short_help) for name in self.list_commands(ctx)])

"""Options and argument types that several commands have in common."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from mdashcore import _json, identity
from mdashcore._errors import InvalidInput
from mdashcore.cli.client import DEFAULT_SERVER, Credentials, Remote, parse_server
from mdashcore.cli.exits import CliError, Exit
from mdashcore.filters import check_saved_name, parse_term
from mdashcore.filters._parser import SAVED_MARK

if TYPE_CHECKING:
    from mdashcore.server.config import User

__all__ = [
    "DEVICE",
    "DURATION",
    "EXISTING_FILE",
    "IMAGE_ID",
    "JSON",
    "KEY_ID",
    "SAVED_NAME",
    "SECRET",
    "SERVER",
    "TERM",
    "USER_NAME",
    "Checked",
    "UserType",
    "confirm",
    "json_option",
    "new_password",
    "remote_options",
    "server_option",
    "yes_option",
]


MAX_JSON: Final = 2**20  # bytes read from stdin: the server accepts no more


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic since click 8.4 only


class Checked(_ParamType):
    """Text that a check function accepts. The function returns the value of the argument, or raises `InvalidInput`."""

    def __init__(self, name: str, check: Callable[[str], Any]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._check(value) if isinstance(value, str) else value
        except InvalidInput as exc:
            self.fail(str(exc), param, ctx)


class UserType(Checked):
    """NAME:PASSWORD. In the environment one on each line, because a password may contain spaces."""

    def __init__(self, *, admin: bool) -> None:
        def parse(text: str) -> User:
            from mdashcore.server.config import parse_user

            return parse_user(text, admin=admin)

        super().__init__("NAME:PASSWORD", parse)

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [line for line in rv.split("\n") if line.strip()]


def _secret(text: str) -> str:
    text = text.strip()  # a file often ends with a line break
    if not re.fullmatch("[!-~]+", text):
        raise InvalidInput("it has characters that no key or token has")
    return text


def _json_text(text: str) -> bytes:
    data = sys.stdin.buffer.read(MAX_JSON) if text == "-" else text.encode("utf-8", "replace")
    _json.decode(data)
    return data


def _key_id(text: str) -> str:
    if not re.fullmatch("key_[a-z2-7]{1,64}", text):  # a key itself must not get into a URL
        raise InvalidInput("a key is removed by its id, as `mdash key list` shows it: key_ and more")
    return text


def _image_id(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_]{1,64}", text):
        raise InvalidInput("an image's id is one that `mdash firmware list` shows: fw_ and more")
    return text


def _term(text: str) -> str:
    """Return a term of a filter in its canonical form, or the name of a saved filter, which the server knows."""
    if text.strip().startswith(SAVED_MARK):
        return SAVED_MARK + check_saved_name(text.strip().removeprefix(SAVED_MARK))
    return str(parse_term(text))


_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise InvalidInput("a time is a number with s, m, h or d: 90s, 12h, 7d")
    return float(match[1]) * _SECONDS[match[2] or "s"]


DEVICE: Final = Checked("DEVICE", identity.check_device_id)
KEY_ID: Final = Checked("ID", _key_id)
IMAGE_ID: Final = Checked("ID", _image_id)
USER_NAME: Final = Checked("NAME", identity.check_account_name)
SECRET: Final = Checked("SECRET", _secret)
SERVER: Final = Checked("URL", parse_server)
TERM: Final = Checked("TERM", _term)
SAVED_NAME: Final = Checked("NAME", check_saved_name)
DURATION: Final = Checked("TIME", _duration)
JSON: Final = Checked("JSON", _json_text)
"""Gives checked JSON as `bytes`, exactly as it was written. ``-`` reads it from stdin."""
EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)

json_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON."
)


def server_option(help: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option ``--server``, whose text for the user is `help`."""
    return click.option(
        "--server",
        type=SERVER,
        default=DEFAULT_SERVER,
        show_default=True,
        envvar="MDASH_SERVER",
        show_envvar=True,
        help=help,
    )


def remote_options(*, keys: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the options of a command that talks to a server.

    The command gets a `Remote` as its first argument.

    Args:
        keys: whether the command accepts an API key.
    """
    options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        server_option("Where the server is."),
        *([_key_option] if keys else []),
        click.option(
            "--user",
            metavar="NAME[:PASSWORD]",
            envvar="MDASH_USER",
            show_envvar=True,
            help="Act as this user; without a password, it is asked for.",
        ),
        click.option(
            "--cafile",
            type=EXISTING_FILE,
            envvar="MDASH_CAFILE",
            show_envvar=True,
            help="Trust this certificate (PEM), for https with one of your own.",
        ),
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(*, server: str, user: str | None, cafile: Path | None, key: str | None = None, **rest: Any) -> None:
            function(Remote(server, _credentials(key, user, keys=keys), cafile), **rest)

        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_key_option = click.option(
    "--key", type=SECRET, metavar="KEY", envvar="MDASH_KEY", show_envvar=True, help="Act with this API key."
)


def _credentials(key: str | None, user: str | None, *, keys: bool) -> Credentials:
    """Return the credentials. Options win over the environment; in the environment a key wins, because it costs the
    server less.
    """
    context = click.get_current_context()
    typed = {name for name in ("key", "user") if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if typed == {"key", "user"}:
        raise click.UsageError("Give --key or --user, not both.")
    if key is not None and (user is None or "user" not in typed):
        return Credentials.of_key(key)
    if user is not None:
        name, colon, password = user.partition(":")
        return Credentials.of_user(name, password if colon else _ask(f"Password of {name}", "--user NAME:PASSWORD"))
    if keys:
        raise click.UsageError("Missing credentials: give --key or --user, or set MDASH_KEY or MDASH_USER.")
    raise click.UsageError(
        "Missing credentials: give --user, or set MDASH_USER; a key cannot manage users, nor back up."
    )


yes_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--yes", is_flag=True, help="Do not ask."
)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone, if stdin is a terminal. Ends the command unless the answer is yes."""
    if not yes and sys.stdin.isatty() and not click.confirm(question, err=True):
        raise CliError("nothing was changed", Exit.FAILED)


def new_password(given: str | None) -> str:
    """Return a password for a user: the given one, else typed twice, else the first line of a stdin that is no
    terminal.
    """
    if given is not None:
        return given
    if sys.stdin.isatty():
        return str(click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True))
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise click.UsageError("Missing password: give --password, or a line on stdin.")
    return password


def _ask(prompt: str, option: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(f"Missing password: give {option}; there is no terminal to ask on.")
    return str(click.prompt(prompt, hide_input=True, err=True))

"""``mdash serve``: the server."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from mdashcore.cli.exits import CliError, Exit
from mdashcore.cli.options import EXISTING_FILE, UserType
from mdashcore.cli.process import log_format_option, log_level_option, set_up_process
from mdashcore.cli.text import examples

if TYPE_CHECKING:
    from mdashcore.server.config import ServerConfig, User
    from mdashcore.server.run import RunningServer

__all__ = ["run_server", "run_workers", "serve", "warn_without_users"]

_log = logging.getLogger(__name__)

MAX_WORKERS: Final = 128  # as in the configuration, which is imported when the command runs


@click.command(
    epilog=examples(
        "mdash serve --register-admin admin:SECRET",
        "mdash serve --bind 0.0.0.0:8443 --certfile cert.pem --keyfile key.pem --register-user-file users",
        "MDASH_REGISTER_ADMIN=admin:SECRET mdash serve --config /etc/mdash/mdash.toml",
        "mdash serve --config /etc/mdash/mdash.toml",
        "mdash serve --store redis://HOST/0 --workers 4",
    )
)
@click.option(
    "--bind",
    metavar="HOST:PORT",
    envvar="MDASH_BIND",
    show_envvar=True,
    help="Where to listen; port 0 takes a free one.  [default: 127.0.0.1:8080]",
)
@click.option(
    "--store",
    metavar="URL",
    envvar="MDASH_STORE",
    show_envvar=True,
    help="Where to keep everything; memory:// forgets it at the end.  [default: sqlite://./mdash-data]",
)
@click.option(
    "--register-user",
    "users",
    type=UserType(admin=False),
    multiple=True,
    envvar="MDASH_REGISTER_USER",
    show_envvar=True,
    help="Create this user if missing; repeatable. In the environment, one on each line.",
)
@click.option(
    "--register-admin",
    "admins",
    type=UserType(admin=True),
    multiple=True,
    envvar="MDASH_REGISTER_ADMIN",
    show_envvar=True,
    help="The same for a user who may manage users.",
)
@click.option(
    "--register-user-file",
    "user_file",
    type=EXISTING_FILE,
    envvar="MDASH_REGISTER_USER_FILE",
    show_envvar=True,
    help="A file of users, NAME:PASSWORD on each line; # begins a comment. It does not show in a list of processes.",
)
@click.option(
    "--reset-password",
    "resets",
    type=UserType(admin=False),
    multiple=True,
    envvar="MDASH_RESET_PASSWORD",
    show_envvar=True,
    help="Give this existing user another password, and end all sessions; repeatable. For one start only.",
)
@click.option(
    "--config",
    "config_file",
    type=EXISTING_FILE,
    envvar="MDASH_CONFIG",
    show_envvar=True,
    help="A TOML file with any of these settings, and more: users, limits, proxies. docs/reference has them all.",
)
@click.option(
    "--certfile",
    type=EXISTING_FILE,
    envvar="MDASH_CERTFILE",
    show_envvar=True,
    help="The certificate and its chain (PEM): the port then speaks TLS only. SIGHUP reads it again.",
)
@click.option(
    "--keyfile",
    type=EXISTING_FILE,
    envvar="MDASH_KEYFILE",
    show_envvar=True,
    help="The certificate's private key (PEM), if it is in a file of its own.",
)
@click.option(
    "--root-path",
    metavar="PATH",
    envvar="MDASH_ROOT_PATH",
    show_envvar=True,
    help="Be at this path of the host, such as /mdash, for a proxy that passes paths unchanged.  [default: at /]",
)
@click.option(
    "--max-image",
    type=click.IntRange(min=1),
    metavar="BYTES",
    envvar="MDASH_MAX_IMAGE",
    show_envvar=True,
    help="How large an uploaded firmware image may be.  [default: 268435456, which is 256 MiB]",
)
@click.option(
    "--metrics-token",
    metavar="TOKEN",
    envvar="MDASH_METRICS_TOKEN",
    show_envvar=True,
    help="Serve metrics for Prometheus at /metrics, for clients with this bearer token of 16 characters or more.",
)
@click.option(
    "--metrics-bind",
    metavar="HOST:PORT",
    envvar="MDASH_METRICS_BIND",
    show_envvar=True,
    help="Serve them there instead: plain HTTP, without a token unless --metrics-token gives one.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1, max=MAX_WORKERS),
    metavar="N",
    envvar="MDASH_WORKERS",
    show_envvar=True,
    help="Serve the port with so many processes, one for each core; with redis:// only.  [default: 1]",
)
@click.option(
    "--shutdown-delay",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    envvar="MDASH_SHUTDOWN_DELAY",
    show_envvar=True,
    help="After SIGTERM go on for so long with /readyz at 503, so that load balancers look elsewhere.  [default: 0]",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    envvar="MDASH_DRAIN_SECONDS",
    show_envvar=True,
    help="Before the end have devices connect again, elsewhere, spread over so long.  [default: 0: all together]",
)
@log_level_option(None)
@log_format_option
def serve(
    *,
    users: Sequence[User],
    admins: Sequence[User],
    user_file: Path | None,
    resets: Sequence[User],
    config_file: Path | None,
    **given: Any,
) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    When it accepts connections, it writes one line with its URL to stdout. Options win over the
    environment, which wins over the --config file; users are created from all of them. An existing user
    stays unchanged, password included.
    """
    added = [*_users_of_environment("users"), *_users_of_environment("admins"), *users, *admins]
    config = _configure(config_file, user_file, added, given)
    set_up_process(config.log_level, config.log_format)
    if config.workers > 1:
        run_workers(config, reset_passwords=resets)
    else:
        run_server(config, _announce, reset_passwords=resets)


def _users_of_environment(name: str) -> tuple[User, ...]:
    """Return the users of an option's variable, if the option is given too: click then leaves out the variable."""
    context = click.get_current_context()
    if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        return ()
    [option] = [option for option in context.command.params if option.name == name]
    found = option.value_from_envvar(context)
    return tuple(option.type_cast_value(context, found)) if found else ()


def _configure(
    config_file: Path | None, user_file: Path | None, users: Sequence[User], given: dict[str, Any]
) -> ServerConfig:
    import attrs

    from mdashcore.server.config import ServerConfig, load_config, load_users

    config = ServerConfig() if config_file is None else load_config(config_file)
    from_file = () if user_file is None else load_users(user_file)
    by_name = {user.name: user for user in (*config.users, *from_file, *users)}  # of several with one name, the last
    options = {name: value for name, value in given.items() if value is not None}
    return attrs.evolve(config, users=tuple(by_name.values()), **options)


async def _announce(server: RunningServer) -> None:
    _announce_place(server.url, server.metrics_url)
    await warn_without_users(server)


def _announce_place(url: str, metrics_url: str | None) -> None:
    click.echo(f"Listening on {url}")
    if metrics_url is not None:
        _log.info("metrics are at %s", metrics_url)


async def warn_without_users(server: RunningServer) -> None:
    """Log a warning if the service has no user."""
    if not await server.service.hub.accounts.all():
        _log.warning(
            "no login is possible, because there is no user: name one under [[users]] in the configuration file, "
            "or with --register-admin NAME:PASSWORD"
        )


def run_server(
    config: ServerConfig,
    on_start: Callable[[RunningServer], Awaitable[object]],
    *,
    reset_passwords: Sequence[User] = (),
) -> None:
    """Run a server until SIGINT or SIGTERM. `on_start` runs beside it, after it accepts connections."""
    import trio

    from mdashcore.server import run
    from mdashcore.server.service_manager import ServiceManager

    manager = ServiceManager.from_environment(os.environ, os.getpid())
    with _bind_errors():
        trio.run(partial(run.serve, config, on_start=on_start, reset_passwords=reset_passwords, manager=manager))


def run_workers(config: ServerConfig, *, reset_passwords: Sequence[User] = ()) -> None:
    """Run several processes that serve one port, until SIGINT or SIGTERM. This one serves nothing."""
    import trio

    from mdashcore.server.service_manager import ServiceManager
    from mdashcore.server.workers.supervisor import Supervisor, WorkerFailed

    # With -P the folder in which the command is called hides no module.
    command = [sys.executable, "-P", "-m", "mdashcore.cli.worker"]
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    supervisor = Supervisor(config, command, reset_passwords=reset_passwords, manager=manager)
    try:
        with _bind_errors():
            trio.run(supervisor.run, lambda place: _announce_place(place.url, place.metrics_url))
    except WorkerFailed as exc:
        if exc.code > 0:  # the worker has said why
            click.get_current_context().exit(exc.code)
        raise CliError(str(exc), Exit.FAILED) from None


@contextmanager
def _bind_errors() -> Iterator[None]:
    """Name the option that helps if an address cannot be bound."""
    from mdashcore.server.listening import BindError

    try:
        yield
    except BindError as exc:
        raise CliError(f"{exc}; choose another address with {exc.option} HOST:PORT", Exit.UNREACHABLE) from None

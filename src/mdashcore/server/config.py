"""The server's configuration: one value, from a TOML file, the environment and the command line."""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override
from cattrs.v import format_exception

from mdashcore._checked import Check, checked, instance, mapping, number, whole
from mdashcore._errors import InvalidInput, MdashError
from mdashcore._log_settings import LOG_FORMATS, LOG_LEVELS
from mdashcore.hub.deltas import MAX_DELTA_LIMIT, MIN_DELTA_LIMIT
from mdashcore.hub.images import FREE_DISK
from mdashcore.hub.limits import AccountLimits
from mdashcore.server.http.root_path import IS_ROOT_PATH
from mdashcore.server.service import ServiceSettings
from mdashcore.trio.node import NodeSettings
from mdashcore.trio.transport.skipped import MAX_SKIPPED

__all__ = ["ServerConfig", "User", "load_config", "load_users", "parse_bind", "parse_user"]


MAX_WORKERS = 128  # more than the cores of most machines: each is a node, and every node knows all others


@attrs.frozen
class User:
    """An account that the server creates at its start if it is missing."""

    name: str
    password: str = attrs.field(repr=False)
    admin: bool = False


_USERS = Check(
    "a tuple of User",
    lambda value: isinstance(value, tuple) and all(isinstance(each, User) for each in value),
    secret=True,
)


_TOKEN = Check(
    "None, or text of 16 to 256 visible ASCII characters",
    lambda value: value is None or (isinstance(value, str) and re.fullmatch(r"[!-~]{16,256}", value) is not None),
    secret=True,
)


def _one_of(words: tuple[str, ...]) -> Check:
    return Check(f"one of {', '.join(words)}", lambda value: value in words)


@attrs.frozen(field_transformer=checked)
class ServerLimits(AccountLimits):
    """The table ``[limits]``: the bounds of each account, and the disk space that uploads leave to the devices."""

    free_disk: int = FREE_DISK
    """Bytes of the store's disk that firmware images leave free. Below them uploads are refused with 507."""


@attrs.frozen(field_transformer=checked)
class ServerConfig:
    """All settings of ``mdash serve``."""

    bind: str = "127.0.0.1:8080"
    """HOST:PORT; an IPv6 host in brackets; port 0 takes a free one."""

    store: str = "sqlite://./mdash-data"
    """The URL of the storage backend."""

    users: tuple[User, ...] = attrs.field(default=(), validator=_USERS)

    certfile: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """PEM file with the certificate and its chain; with it the port speaks TLS only."""

    keyfile: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """PEM file with the private key, if it is not in `certfile`."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of the proxies in front of the server, such as ``10.0.0.0/8``."""

    forwarded_header: str | None = None
    """The header in which the proxies pass on the client's address: ``X-Forwarded-For``, ``Forwarded``, or another
    list."""

    root_path: str = attrs.field(default="", validator=IS_ROOT_PATH)
    """The path below which the server is reached, such as ``/mdash``. Proxies pass the path on unchanged."""

    hsts_max_age: int = attrs.field(default=ServiceSettings().hsts_max_age, validator=whole(0))
    """Seconds for which a browser that has used TLS uses nothing else. With 0 browsers forget the earlier value."""

    max_image: int = ServiceSettings().max_image
    """Bytes of an uploaded firmware image, above 0. An image is streamed, so memory does not grow with its size."""

    max_bodies: int = ServiceSettings().max_bodies
    """Bytes of request bodies in memory at the same time, of all clients, above 0. Firmware images do not count."""

    max_connections: int = ServiceSettings().max_connections
    """Connections that are no WebSockets, at the same time, above 0."""

    max_answer: int = attrs.field(default=NodeSettings().max_answer, validator=whole(1, MAX_SKIPPED))
    """Bytes of a device's answer to a call, up to 16 MiB. Each connection may hold one answer in memory."""

    delta_limits: dict[str, int] = attrs.field(factory=dict, validator=mapping(whole(MIN_DELTA_LIMIT, MAX_DELTA_LIMIT)))
    """The table ``[delta_limits]``: bytes of the largest frame with a delta, by the platform that a device reports as
    ``reported.ota.arch``."""

    log_level: str = attrs.field(default="info", validator=_one_of(LOG_LEVELS))
    """How much the command ``mdash serve`` logs: ``debug``, ``info``, ``warning`` or ``error``."""

    log_format: str = attrs.field(default="text", validator=_one_of(LOG_FORMATS))
    """The form of its log: ``text`` or ``json``."""

    metrics_token: str | None = attrs.field(default=None, repr=False, validator=_TOKEN)
    """The token for ``GET /metrics``, as ``Authorization: Bearer TOKEN``: 16 to 256 characters without spaces."""

    metrics_bind: str | None = None
    """HOST:PORT of an address of its own for ``GET /metrics``, without TLS; ``/livez``, ``/readyz`` and ``/healthz``
    are there too. Without `metrics_token` any client of that address may read the metrics."""

    workers: int = attrs.field(default=1, validator=whole(1, MAX_WORKERS))
    """Processes that serve the port, of the command ``mdash serve``. More than one need a store that they can share."""

    shutdown_delay: float = attrs.field(default=0.0, validator=number(above=False))
    """Seconds between SIGTERM and the end of connections. Meanwhile ``/readyz`` is 503 and all else goes on, so that
    load balancers send new requests elsewhere."""

    drain_seconds: float = attrs.field(default=0.0, validator=number(above=False))
    """Seconds over which, after the delay, devices and subscribers are told to connect again. Meanwhile handshakes are
    refused with 503, and requests are answered. With 0 all connections end together."""

    limits: ServerLimits = attrs.field(default=ServerLimits(), validator=instance(ServerLimits))

    notification_retention_days: float = attrs.field(default=30.0, validator=number(infinite=True))
    """Days for which a notification is kept, above 0; ``inf`` for any age. The log is also bounded in number and in
    bytes."""


def load_config(path: Path) -> ServerConfig:
    """Load the configuration from a TOML file, whose keys are the fields of `ServerConfig`.

    ::

        bind = "0.0.0.0:8443"
        certfile = "/etc/mdash/cert.pem"
        keyfile = "/etc/mdash/key.pem"

        [[users]]
        name = "ops"
        password = "…"
        admin = true

    Raises:
        InvalidInput: the file cannot be read, is not TOML, or has an unknown key or an invalid value.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidInput(f"{path}: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path}: {exc}") from None
    try:
        return _converter.structure(value, ServerConfig)
    except cattrs.BaseValidationError as exc:
        lines = cattrs.transform_error(exc, path="config", format_exception=_words)
        raise InvalidInput(f"{path}: {'; '.join(map(_with_place, lines))}") from None


def _words(exc: BaseException, type_: type | None) -> str:
    match exc:
        case cattrs.ForbiddenExtraKeysError():
            return "; ".join(_unknown(key, exc.cl) for key in sorted(exc.extra_fields))
        case KeyError():
            return "the key is missing"
        case MdashError() | ValueError():
            return str(exc)
    return format_exception(exc, type_)


def _unknown(key: str, table: type) -> str:
    known = [field.name for field in attrs.fields(table)]
    similar = get_close_matches(key, known, n=1)
    return f"unknown key `{key}`" + (f"; did you mean `{similar[0]}`?" if similar else "")


def _with_place(line: str) -> str:
    """Return "limits.keys: …" for "… @ config.limits.keys", which is how cattrs names the place."""
    words, _, place = line.rpartition(" @ ")
    place = place.removeprefix("config").removeprefix(".")
    return f"{place}: {words}" if place else words


_KINDS = {str: "text in quotes", bool: "true or false"}


def _strict(kind: type) -> Any:
    def structure(value: Any, _: type) -> Any:
        if type(value) is not kind:
            raise ValueError(f"expected {_KINDS[kind]}")
        return value

    return structure


def _positive(value: Any, _: type) -> float:
    if type(value) not in (int, float) or not value > 0:
        raise ValueError("expected a number above 0")
    return float(value)


def _count(value: Any, _: type) -> int:
    if type(value) is not int or value <= 0:
        raise ValueError("expected a whole number above 0")
    return value


def _count_or_zero(value: Any, _: type) -> int:
    return 0 if type(value) is int and value == 0 else _count(value, int)


def _seconds(value: Any, _: type) -> float:
    if type(value) not in (int, float) or not 0 <= value < inf:
        raise ValueError("expected a number of seconds, at least 0")
    return float(value)


def _texts(value: Any, _: type) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("expected a list of texts")
    return tuple(value)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (str, bool):
        converter.register_structure_hook(kind, _strict(kind))  # without the hook, cattrs converts numbers to text
    converter.register_structure_hook(float, _positive)
    converter.register_structure_hook(int, _count)
    fields: dict[type, Any] = {
        User: {},
        ServerLimits: {},
        ServerConfig: {
            "trusted_proxies": override(struct_hook=_texts),
            "hsts_max_age": override(struct_hook=_count_or_zero),
            "shutdown_delay": override(struct_hook=_seconds),
            "drain_seconds": override(struct_hook=_seconds),
        },
    }
    for cls, overrides in fields.items():
        hook: Any = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **overrides)
        converter.register_structure_hook(cls, hook)
    return converter


_converter = _make_converter()


def parse_bind(bind: str) -> tuple[str, int]:
    """Parse HOST:PORT into host and port. Raises `InvalidInput`."""
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(f"{bind!r} is no HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def parse_user(text: str, *, admin: bool = False) -> User:
    """Parse the user of NAME:PASSWORD. Raises `InvalidInput`, whose text does not repeat the password."""
    name, colon, password = text.partition(":")
    if not colon or not name or not password:
        raise InvalidInput("a user is given as NAME:PASSWORD")
    return User(name, password, admin)


def load_users(path: Path) -> tuple[User, ...]:
    """Load the users of a file.

    Each line is NAME:PASSWORD. Empty lines and lines that begin with ``#`` are skipped.

    Raises:
        InvalidInput: the file cannot be read, or a line is not a user. The text names the line and does not repeat it.
    """
    try:
        # a password may contain the other characters at which `splitlines` splits
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as exc:
        raise InvalidInput(f"{path}: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{path}: not UTF-8: {exc.reason}") from None
    users = []
    for place, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            try:
                users.append(parse_user(line))
            except InvalidInput as exc:
                raise InvalidInput(f"{path}, line {place}: {exc}") from None
    return tuple(users)

"""The URLs of the Redis backend. The docstring of `mdash_backends.redis` describes them."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from mdash_backends._redis_servers import AnyServer, RedisHome, RedisServer, SentinelService
from mdashcore._errors import InvalidInput

__all__ = ["RedisConfig", "parse_redis_url"]

DEFAULT_PORT: Final = 6379  # the registered one

SENTINEL_PORT: Final = 26379  # Redis documentation, "High availability with Redis Sentinel"

MAX_HOSTS: Final = 16  # in a URL: with one more, an attempt to connect could end before it was asked

MAX_URL_TIMEOUT: Final = 60.0  # seconds: after that a caller has gone

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

_OPTIONS: Final = ("prefix", "timeout", "durable")

_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")

_NOT_WELL_FORMED: Final = "the Redis URL is not well-formed; percent-encode what is special in a password"


@attrs.frozen
class RedisConfig:
    """What a URL says."""

    home: RedisHome
    server: RedisServer
    """The credentials for every server, with the first address of the URL."""
    prefix: str
    durable: bool


def parse_redis_url(url: str) -> RedisConfig:
    """Parse a URL. Errors never show it, because it may hold a password.

    Raises:
        InvalidInput: the URL is malformed.
    """
    scheme, _, rest = url.partition("://")
    tls, sentinel = scheme.startswith("rediss"), scheme.endswith("+sentinel")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, _, hosts = authority.rpartition("@")
    username, _, password = user.partition(":")
    try:
        parts = urlsplit("//host" + rest[len(authority) :])
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        addresses = [_address(text, SENTINEL_PORT if sentinel else DEFAULT_PORT) for text in hosts.split(",")]
    except ValueError:
        raise InvalidInput(_NOT_WELL_FORMED) from None
    if not all(host for host, _ in addresses):
        raise InvalidInput(f"a Redis URL names a host: {scheme}://HOST[:PORT][,HOST…]{_path_form(sentinel)}")
    if len(addresses) > MAX_HOSTS:
        raise InvalidInput(f"a Redis URL names at most {MAX_HOSTS} hosts")
    if parts.fragment:
        raise InvalidInput("a Redis URL has no fragment; write # as %23")
    options = _options(pairs, tls=tls, sentinel=sentinel)
    service, database = _path(parts.path, sentinel=sentinel)
    host, port = addresses[0]
    server = RedisServer(
        host,
        port,
        db=_database(database),
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=_tls(options) if tls else None,
        timeout=_timeout(options.get("timeout", "2")),
    )
    return RedisConfig(
        _sentinels(service, addresses, server, options) if sentinel else AnyServer(_servers(addresses, server)),
        server,
        prefix=_prefix(options.get("prefix", "mdash")),
        durable=_flag("durable", options.get("durable", "0")),
    )


def _address(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", default_port if parts.port is None else parts.port


def _servers(addresses: list[tuple[str, int]], server: RedisServer) -> list[RedisServer]:
    return [attrs.evolve(server, host=host, port=port) for host, port in addresses]


def _sentinels(
    service: str, addresses: list[tuple[str, int]], server: RedisServer, options: Mapping[str, str]
) -> SentinelService:
    """Return the service. Sentinels have no databases, and users of their own."""
    username, password = (options.get(name) or None for name in _SENTINEL_OPTIONS)
    sentinel = attrs.evolve(server, db=0, username=username, password=password)
    return SentinelService(service, _servers(addresses, sentinel), server)


def _options(pairs: list[tuple[str, str]], *, tls: bool, sentinel: bool) -> dict[str, str]:
    known = _OPTIONS + (_TLS_OPTIONS if tls else ()) + (_SENTINEL_OPTIONS if sentinel else ())
    options = dict(pairs)
    for name, _ in pairs:
        if name in _TLS_OPTIONS and name not in known:
            raise InvalidInput(f"the option {name} is for rediss:// URLs")
        if name not in known:
            raise InvalidInput(f"no option {name!r} in a Redis URL; there are: {', '.join(known)}")
    if len(options) != len(pairs):
        raise InvalidInput("an option stands twice in the Redis URL")
    return options


def _path_form(sentinel: bool) -> str:
    return "/SERVICE[/DB]" if sentinel else "[/DB]"


def _path(path: str, *, sentinel: bool) -> tuple[str, str]:
    """Return the name of the service, empty without Sentinels, and the text of the database."""
    text = path.removeprefix("/")
    if not sentinel:
        return "", text
    service, _, database = text.partition("/")
    if not service:
        raise InvalidInput("the path of a Redis URL for Sentinels is the name of a service: HOST[:PORT]/SERVICE[/DB]")
    return unquote(service), database


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise InvalidInput("the path of a Redis URL is the number of a database, as in redis://HOST/0")
    return int(text)


def _timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_URL_TIMEOUT:
        raise InvalidInput(f"timeout in a Redis URL is a number of seconds, at most {MAX_URL_TIMEOUT:g}")
    return seconds


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise InvalidInput("prefix in a Redis URL is 1 to 64 letters, digits and _ . : -")
    return text


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise InvalidInput(f"{name} in a Redis URL is 0 or 1")
    return text == "1"


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    authorities, certificate, key = map(options.get, _TLS_OPTIONS)
    if key and not certificate:
        raise InvalidInput("ssl_keyfile in a Redis URL needs ssl_certfile")
    try:
        context = ssl.create_default_context(cafile=authorities)
        if certificate:
            context.load_cert_chain(certificate, key, password="")  # else it would ask the terminal
    except (OSError, ssl.SSLError) as exc:
        raise InvalidInput(f"the certificates that the Redis URL names cannot be loaded: {exc}") from exc
    return context

"""The client of a request that came through proxies: its address, and its scheme.

Any client can send ``X-Forwarded-For`` with any content. Only the part that trusted proxies have appended is reliable.
So the header is read from its right end, and the client is the first address there that belongs to no trusted proxy.
The part to the left of it is not read. If the peer of the connection is not trusted, or the part that is read is not
well formed, the client is the peer itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, TypeAlias

import attrs
import trio

from mdashcore._errors import InvalidInput
from mdashcore.server.asgi import App, Receive, Scope, Send
from mdashcore.server.http.hangup import transport_of

__all__ = ["ForwardedClient", "ProxiedApp", "Proxies", "hsts_header", "peer_of"]

_log = logging.getLogger(__name__)

MAX_HOPS: Final = 16  # trusted proxies one behind the other: a longer chain is a loop
MAX_HEADER_READ: Final = 4096  # characters, from the right end: room for that many hops in their longest form

FORWARDED_HEADER: Final = "forwarded"  # RFC 7239; any other header is a list of addresses
FORWARDED_PROTO: Final = "x-forwarded-proto"

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for it
_PAIR: Final = rf'{_TOKEN}=(?:{_TOKEN}|"[^"\\,;]*")'  # no quoted comma, which could hide where an element begins
_LAST_ELEMENT: Final = re.compile(rf"(?:\A|,)[ \t]*({_PAIR}(?:[ \t]*;[ \t]*(?:{_PAIR})?)*)[ \t]*\Z")
_NODE: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")
"""An address with an optional port. RFC 7239 requires brackets around IPv6, ``X-Forwarded-For`` has none."""

Address: TypeAlias = IPv4Address | IPv6Address


@attrs.frozen
class ForwardedClient:
    """The client at the far end of the proxies."""

    address: str
    """An IP address; empty if the peer has none."""
    scheme: str
    """``http`` or ``https``."""


class Proxies:
    """The proxies in front of the server.

    Args:
        trusted: addresses and networks, such as ``10.0.0.0/8``.
        header: the header to which they all append the client's address, such as ``X-Forwarded-For`` or ``Forwarded``.

    Raises:
        InvalidInput: an entry of `trusted` is no network, or only one of the two is given.
    """

    def __init__(self, trusted: Sequence[str] = (), header: str | None = None) -> None:
        if bool(trusted) != bool(header):
            raise InvalidInput("trusted_proxies and forwarded_header belong together")
        if header is not None and not re.fullmatch(_TOKEN, header):
            raise InvalidInput(f"forwarded_header {header!r} is no name of a header")
        self._header = None if header is None else header.lower()
        self._trusted = [_network(text) for text in trusted]
        self._warned = False

    @property
    def any_trusted(self) -> bool:
        """Whether any proxy is trusted. Otherwise every client is the peer itself."""
        return bool(self._trusted)

    def trusts(self, peer: str) -> bool:
        """Return whether an address is that of a trusted proxy."""
        address = _parse(peer)
        return address is not None and self._trusts(address)

    def client(self, peer: str, scheme: str, get: Callable[[str], str | None]) -> ForwardedClient:
        """Return the client of a request.

        Args:
            peer: the address at the other end of the connection; empty if it has none.
            scheme: the scheme of the connection.
            get: returns the value of a header by its lower-case name; the values of several fields joined by commas.
        """
        address = _parse(peer)
        near = ForwardedClient(peer if address is None else str(address), scheme)
        if self._header is None:
            self._warn(near, get)
            return near
        if address is None or not self._trusts(address):
            return near
        value = (get(self._header) or "")[-MAX_HEADER_READ:]
        if self._header == FORWARDED_HEADER:
            found, proto = self._by_elements(value)
        else:
            found, hops = self._by_list(value)
            proto = _proto(get(FORWARDED_PROTO), hops)
        if found is None:
            return near
        return ForwardedClient(str(found), proto if proto in ("http", "https") else scheme)

    def _by_list(self, value: str) -> tuple[Address | None, int]:
        """Return the client's address, and the number of addresses from it to the right end."""
        found: Address | None = None
        hops = 0
        for text in reversed(value.split(",")):
            if hops == MAX_HOPS or (address := _parse(text.strip(" \t"))) is None:
                return None, 0
            found, hops = address, hops + 1
            if not self._trusts(address):
                break
        return found, hops

    def _by_elements(self, value: str) -> tuple[Address | None, str | None]:
        """Return the client's address, and the scheme in the same element."""
        found: Address | None = None
        proto: str | None = None
        for _ in range(MAX_HOPS):
            match = _LAST_ELEMENT.search(value)
            if match is None:
                return None, None
            pairs = dict(_pair(text) for text in match[1].split(";") if text.strip(" \t"))
            address = _parse(pairs.get("for", ""))
            if address is None:
                return None, None
            found, proto = address, pairs.get("proto", "").lower()
            value = value[: match.start()]
            if not self._trusts(address) or not value:
                return found, proto
        return None, None

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _warn(self, near: ForwardedClient, get: Callable[[str], str | None]) -> None:
        """Warn once that there seems to be a proxy: the logins of all its clients count as those of one client."""
        if self._warned or not (get("x-forwarded-for") or get(FORWARDED_HEADER)):
            return
        self._warned = True
        _log.warning(
            "requests from %s come through a proxy: name it in trusted_proxies, with its forwarded_header, or all who "
            "log in through it count as one client",
            near.address,
        )


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as exc:
        raise InvalidInput(f"trusted_proxies: {exc}") from None


def _parse(text: str) -> Address | None:
    """Parse an address with an optional port. Returns `None` for other text, such as ``unknown`` or a path."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    try:
        address = ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.strip(" \t").partition("=")
    return name.lower(), value.strip('"')


def _proto(value: str | None, hops: int) -> str | None:
    """Return the client's scheme. Proxies either overwrite the header, or each appends its client's scheme."""
    schemes = [each.strip(" \t").lower() for each in (value or "")[-MAX_HEADER_READ:].split(",")]
    if len(schemes) == 1:
        return schemes[0]
    return schemes[-hops] if hops <= len(schemes) else None


def peer_of(stream: trio.abc.Stream) -> str:
    """Return the IP address at the other end of a connection; empty if it has none."""
    transport = transport_of(stream)
    if transport is None:
        return ""
    try:
        name = transport.socket.getpeername()
    except OSError:
        return ""  # the client has gone already
    return str(name[0]) if isinstance(name, tuple) else ""


class ProxiedApp:
    """Gives an app scopes with the `client` and `scheme` of the client, and tells browsers to stay with TLS.

    Args:
        hsts_max_age: seconds for which a browser that has used TLS uses nothing else (RFC 6797).
    """

    def __init__(self, app: App, proxies: Proxies, hsts_max_age: int) -> None:
        self.inner = app
        self._proxies = proxies
        self._hsts = hsts_header(hsts_max_age)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        peer = scope.get("client") or ("", 0)
        client = self._proxies.client(str(peer[0]), scope["scheme"], lambda name: _joined(scope, name.encode()))
        if client.address != peer[0]:
            peer = (client.address, 0)
        changed = {**scope, "client": peer, "scheme": client.scheme}
        await self.inner(changed, receive, self._secure(send) if client.scheme == "https" else send)

    def _secure(self, send: Send) -> Send:
        async def send_secure(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), self._hsts]}
            await send(message)

        return send_secure


def hsts_header(max_age: int) -> tuple[bytes, bytes]:
    """Return ``Strict-Transport-Security`` without subdomains, which may belong to other services."""
    return b"strict-transport-security", b"max-age=%d" % max_age


def _joined(scope: Scope, name: bytes) -> str | None:
    values = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
    return ", ".join(values) if values else None

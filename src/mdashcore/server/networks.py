"""The networks of clients, which share the bounds of one client."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

__all__ = ["network_of"]


def network_of(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or the /64 of an IPv6 address.

    One customer of a provider gets a /64. Text that is no IP address is returned unchanged, as one network.

    >>> network_of("2001:db8::1:2:3")
    '2001:db8::/64'
    >>> network_of("::ffff:192.0.2.7")
    '192.0.2.7'
    """
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{IPv6Address(int(found) >> 64 << 64)}/64"

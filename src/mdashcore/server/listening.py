"""The sockets on which a server listens. Several processes can share a port: the kernel spreads the connections."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from mdashcore.server.config import parse_bind

__all__ = ["BindError", "bound", "local_place", "reserved", "start_listening"]

BACKLOG: Final = 2**15  # connections that the kernel queues, for a fleet that comes back after a restart. The system's
# own bound (net.core.somaxconn) is mostly below it: those beyond that dial again


class BindError(OSError):
    """The server cannot listen on the address. The text names the address and the reason."""

    def __init__(self, text: str, option: str = "--bind") -> None:
        super().__init__(text)
        self.option = option
        """The name of the setting."""


def local_place(host: str, port: int) -> str:
    """Return HOST:PORT for a client on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"{f'[{host}]' if ':' in host else host}:{port}"


@asynccontextmanager
async def bound(
    bind: str | None, option: str = "--bind", *, shared: bool = False
) -> AsyncIterator[list[trio.socket.SocketType]]:
    """Bind sockets to every address of the host, on the same port. They are closed when the context ends.

    Unless the port is shared, the kernel already queues connections. Of a shared port another process may serve them:
    call `start_listening` when this one can.

    Args:
        bind: HOST:PORT; `None` for no address.
        option: the name of the setting, for the error.
        shared: whether other processes of this user may bind the port too.

    Raises:
        BindError: the address cannot be bound.
    """
    sockets: list[trio.socket.SocketType] = []
    try:
        try:
            if bind is not None:
                await _bind(*parse_bind(bind), sockets, shared)
                if not shared:
                    start_listening(sockets)
        except (OSError, UnicodeError) as exc:  # unknown host, address of another machine, port in use, or not allowed
            raise BindError(f"cannot listen on {bind}: {getattr(exc, 'strerror', None) or exc}", option) from exc
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def start_listening(sockets: Sequence[trio.socket.SocketType]) -> None:
    """Have the kernel accept connections, and queue them until the server does."""
    for sock in sockets:
        sock.listen(BACKLOG)


@asynccontextmanager
async def reserved(bind: str, option: str = "--bind") -> AsyncIterator[str]:
    """Reserve an address that other processes of this user will share. No connection is accepted by this process.

    Returns:
        the address with the port that port 0 has become.

    Raises:
        BindError: the address cannot be bound, or another service listens there. A second one would get half of the
            connections of the first.
    """
    async with bound(bind, option):
        pass
    async with bound(bind, option, shared=True) as sockets:
        yield f"{bind.rpartition(':')[0]}:{sockets[0].getsockname()[1]}"


async def _bind(host: str, port: int, sockets: list[trio.socket.SocketType], shared: bool) -> None:
    infos = await trio.socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, proto, _, address in dict.fromkeys(infos):
        sock = trio.socket.socket(family, kind, proto)
        sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if len(sockets) > 1:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        await sock.bind(address)

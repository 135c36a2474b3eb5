"""A listener that accepts what there is, without waiting for each connection."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import Any

import pytest
import trio

from mdashcore.server.http.port_listener import PortListener

PATIENCE = 20.0  # seconds for what takes a moment


async def bound() -> trio.socket.SocketType:
    """A socket that listens, for its new owner."""
    sock = trio.socket.socket()
    await sock.bind(("127.0.0.1", 0))
    sock.listen(100)
    return sock


async def test_many_are_accepted_together() -> None:
    """One is waited for; the others are there already. Each is a connection as Trio's listener gives it."""
    sock = await bound()
    address = sock.getsockname()
    async with PortListener(sock) as listener:
        with ExitStack() as clients, trio.fail_after(PATIENCE):
            assert listener.accept_nowait() is None
            dialled = [clients.enter_context(socket.create_connection(address)) for _ in range(50)]
            accepted = [await listener.accept()]
            while len(accepted) < len(dialled):
                stream = listener.accept_nowait()
                assert stream is not None
                accepted.append(stream)
            assert listener.accept_nowait() is None
            for client, stream in zip(dialled, accepted, strict=True):  # the kernel keeps their order
                async with stream:
                    client.sendall(b"x")
                    assert await stream.receive_some() == b"x"
                    assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_task_that_waits_for_one_is_told_of_the_end() -> None:
    """As by Trio's listener."""
    listener = PortListener(await bound())
    ended = trio.Event()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
        ended.set()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
            await ended.wait()
        with pytest.raises(trio.ClosedResourceError):
            listener.accept_nowait()
        await listener.aclose()


async def test_a_connection_that_has_failed_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortage of descriptors is raised: it is the server's, not the connection's."""
    sock = await bound()
    address = sock.getsockname()
    async with PortListener(sock) as listener:
        accept, failures = listener._socket.accept, [errno.EMFILE, errno.EPROTO, errno.ECONNABORTED]

        class Failing:
            def accept(self) -> Any:
                if failures:
                    raise OSError(failures.pop(), "failed")
                return accept()

            def fileno(self) -> int:
                return real.fileno()

            def close(self) -> None:
                real.close()

        real = listener._socket
        monkeypatch.setattr(listener, "_socket", Failing())
        with socket.create_connection(address):
            with pytest.raises(OSError, match="failed") as caught:
                listener.accept_nowait()
            assert caught.value.errno == errno.EMFILE
            with trio.fail_after(PATIENCE):
                async with await listener.accept():
                    pass

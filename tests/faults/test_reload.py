"""SIGHUP to a real server: a certificate that was renewed is served, without ending anything."""

from __future__ import annotations

import os
import pty
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme
from forked import CHEAP_MDASH, Piped, piped

PATIENCE = 30.0  # seconds for what a process says: far above what it takes on a busy machine


@attrs.define
class Server:
    """A running ``mdash serve``."""

    process: Piped
    port: int
    said: bytes = b""

    async def hup(self, answer: str) -> None:
        """Send SIGHUP, and wait for what the log says of it."""
        self.process.send_signal(signal.SIGHUP)
        with trio.fail_after(PATIENCE):
            while answer.encode() not in self.said:
                self.said += await self.process.errors.receive_some()
        self.said = b""

    async def certificate(self) -> bytes:
        """What a new connection is shown."""
        async with await self.connect() as stream:
            found: bytes = stream.getpeercert(binary_form=True)
            return found

    async def connect(self) -> Any:
        """A connection over TLS; nothing is verified."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", self.port, ssl_context=context, https_compatible=True)
        await stream.do_handshake()
        return stream


@asynccontextmanager
async def serving(*options: str, stdin: int | None = None) -> AsyncIterator[Server]:
    """A server with these options."""
    command = (*CHEAP_MDASH, "serve", "--bind", "127.0.0.1:0", "--store", "memory://", *options)
    async with piped(*command, stdin=stdin) as process:
        line = b""
        with trio.fail_after(PATIENCE):
            while not line.endswith(b"\n"):
                line += await process.output.receive_some()
        yield Server(process, int(line.rpartition(b":")[2]))


@pytest.fixture
def issue(tmp_path: Path) -> Callable[[], tuple[str, ...]]:
    """Writes a new certificate and its key over the old ones; the options that name the files."""
    authority = trustme.CA()

    def write() -> tuple[str, ...]:
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        issued.private_key_pem.write_to_path(tmp_path / "key.pem")
        return "--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")

    return write


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_renewed_certificate_is_served(issue: Callable[[], tuple[str, ...]]) -> None:
    """To new connections; those that are open go on with what they have."""
    async with serving(*issue()) as server:
        old = await server.certificate()
        stream = await server.connect()
        issue()
        assert await server.certificate() == old
        await server.hup("new connections get the certificate that is there now")
        new = await server.certificate()
        assert new != old
        async with stream:
            assert stream.getpeercert(binary_form=True) == old
            await stream.send_all(REQUEST)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_certificate_that_cannot_be_used_is_not(issue: Callable[[], tuple[str, ...]], tmp_path: Path) -> None:
    """The log says why, and the old one stays, until one comes that is right."""
    key = tmp_path / "key.pem"
    damages: dict[str, Callable[[], object]] = {
        "no PEM": lambda: key.write_text("no PEM"),
        "another key": lambda: trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(key),
        "gone": lambda: key.unlink(),
        "half": lambda: key.write_text(key.read_text()[:100]),
    }
    async with serving(*issue()) as server:
        for name, damage in damages.items():
            old = await server.certificate()
            damage()
            await server.hup("the old certificate stays in use: certificate")
            assert await server.certificate() == old, name
            issue()
            await server.hup("new connections get the certificate that is there now")
            assert await server.certificate() != old, name


async def test_without_tls_nothing_happens() -> None:
    """The server goes on."""
    async with serving() as server:
        await server.hup("there is no certificate to be read anew")
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(REQUEST)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_closed_terminal_ends_the_server() -> None:
    """SIGHUP from a closed terminal ends the server as it ends other programs: Ctrl-C is not possible any more."""
    terminal, inside = pty.openpty()
    try:
        async with serving(stdin=inside) as server:
            os.close(inside)
            inside = -1
            os.close(terminal)
            terminal = -1
            server.process.send_signal(signal.SIGHUP)
            with trio.fail_after(PATIENCE):
                assert await server.process.wait_async() == 0
    finally:
        for fd in (terminal, inside):
            if fd >= 0:
                os.close(fd)

"""Opening a WebSocket to a server: what goes wrong is told, and in time."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from mdashcore import InvalidInput
from mdashcore.trio.transport.client_websocket import CONNECT_TIMEOUT, Refused, open_socket


@asynccontextmanager
async def answering(handler, tls=None):
    """A server on a free port, whose connections are handled so; its port."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        if tls is not None:
            listeners = [trio.SSLListener(listener, tls) for listener in listeners]
        port = getattr(listeners[0], "transport_listener", listeners[0]).socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        yield port
        nursery.cancel_scope.cancel()


async def dial(url, **options):
    """A connection that should not come about."""
    async with open_socket(url, "Bearer x", max_message=100, **options):
        pytest.fail("connected")


async def hang_up(stream):
    """Closes without an answer, once the request has come."""
    try:
        await stream.receive_some()
    except trio.BrokenResourceError:
        pass
    await stream.aclose()


async def test_no_server_there():
    """Without a listener the error has the system's reason."""
    with pytest.raises(OSError, match=r"^Connection refused$"):
        await dial("ws://127.0.0.1:1/")


async def test_no_such_host():
    """A name that no host has."""
    with pytest.raises(OSError, match=r"not known|resolution"):
        await dial("ws://nosuch.invalid/")


async def test_a_peer_that_hangs_up():
    """A server that closes instead of answering is an error immediately, not after the time-out."""
    async with answering(hang_up) as port:
        with trio.fail_after(CONNECT_TIMEOUT / 2), pytest.raises(OSError, match="hangs up instead of answering"):
            await dial(f"ws://127.0.0.1:{port}/")


@pytest.mark.parametrize("words", [b"220 mail.example ESMTP\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"\r\n\r\n\0"])
async def test_a_peer_that_says_something_else(words):
    """A server that does not speak HTTP."""

    async def greet(stream):
        await stream.receive_some()
        await stream.send_all(words)
        await stream.aclose()

    async with answering(greet) as port:
        with (
            trio.fail_after(CONNECT_TIMEOUT / 2),
            pytest.raises(OSError, match=r"instead of answering|is not understood"),
        ):
            await dial(f"ws://127.0.0.1:{port}/")


async def test_a_peer_that_is_silent(autojump_clock):
    """A server that never answers is given up after the time-out."""

    async def ignore(stream):
        await trio.sleep_forever()

    async with answering(ignore) as port:
        with pytest.raises(OSError, match="does not answer within 20 s"):
            await dial(f"ws://127.0.0.1:{port}/")


async def test_a_refusal():
    """Another status than 101 is told, together with the body."""

    async def refuse(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 401 Nope\r\nContent-Length: 2\r\n\r\nno")

    async with answering(refuse) as port:
        with pytest.raises(Refused) as caught:
            await dial(f"ws://127.0.0.1:{port}/")
    assert (caught.value.status, caught.value.body) == (401, b"no")


async def test_a_certificate_that_is_not_trusted():
    """It is told that the certificate is why."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with answering(hang_up, tls) as port:
        with trio.fail_after(CONNECT_TIMEOUT / 2), pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await dial(f"wss://127.0.0.1:{port}/")


async def test_no_tls():
    """A port that does not speak TLS."""

    async def answer(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with answering(answer) as port:
        with trio.fail_after(CONNECT_TIMEOUT / 2), pytest.raises(OSError, match=r"^TLS: "):
            await dial(f"wss://127.0.0.1:{port}/")


@pytest.mark.parametrize("url", ["http://h/", "h", "ws://", "ws:///path"])
async def test_no_url(url):
    """What is no WebSocket's URL is not dialled."""
    with pytest.raises(InvalidInput):
        await dial(url)

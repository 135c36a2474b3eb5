"""A WebSocket to a server: trio-websocket, with errors that say what failed.

Without this module the library waits for ever for a peer that hangs up instead of answering, such as one that does not
trust a certificate. It also raises errors of the handshake in a background task.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final, cast
from urllib.parse import urlsplit

import trio
import trio_websocket

from mdashcore import _json
from mdashcore._errors import InvalidInput

__all__ = ["CONNECT_TIMEOUT", "Refused", "open_socket"]

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 20.0  # seconds: DNS, TCP, TLS and the handshake on a slow mobile link

MAX_WORDS: Final = 500  # characters of an error's message in a log: the server's own have half of it at most

GOODBYE_TIMEOUT: Final = 0.1  # seconds for the close frame to go out: a cancelled task cannot read the answer


_Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Refused(OSError):
    """The server answers the handshake with another HTTP status than 101."""

    def __init__(self, status: int, body: bytes | None, retry_after: float = 0.0) -> None:
        super().__init__(f"the server answers with status {status}{_words(body)}")
        self.status = status
        self.body = body
        self.retry_after = retry_after
        """Seconds to wait before the next try, as the server requests."""


@asynccontextmanager
async def open_socket(
    url: str,
    authorization: str,
    *,
    max_message: int,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = CONNECT_TIMEOUT,
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """Open a WebSocket until the context ends.

    Args:
        url: ws or wss.
        authorization: the value of that header.
        max_message: bytes of one message; a larger one closes the connection with 1009.
        ssl_context: the certificates to trust, for wss; by default the system's.
        timeout: seconds until the handshake is done.

    Raises:
        InvalidInput: the URL is not one of a WebSocket.
        Refused: the server refuses the handshake.
        OSError: there is no server, or it is not trusted, or its answer is invalid; the text says why.
    """
    target = urlsplit(url)
    if target.scheme not in ("ws", "wss") or not target.hostname:
        raise InvalidInput(f"a WebSocket's URL begins with ws:// or wss://, not {url!r}")
    if target.scheme == "wss" and ssl_context is None:
        ssl_context = ssl.create_default_context()
    refused: OSError | None = None
    async with trio.open_nursery() as nursery:
        try:
            with trio.move_on_after(timeout) as timer:
                stream = await _connect(target.hostname, target.port, ssl_context if target.scheme == "wss" else None)
                ws = await _shake_hands(
                    nursery,
                    stream,
                    host=target.netloc,
                    path=f"{target.path or '/'}{'?' * bool(target.query)}{target.query}",
                    extra_headers=[(b"Authorization", authorization.encode())],
                    max_message_size=max_message,
                )
            if timer.cancelled_caught:
                refused = OSError(f"the server does not answer within {timeout:g} s")
        except OSError as exc:
            refused = exc
        if refused is None:
            try:
                yield ws
            finally:
                with trio.move_on_after(GOODBYE_TIMEOUT, shield=True):
                    await ws.aclose()
        nursery.cancel_scope.cancel()
    if refused is not None:  # here, because the nursery would wrap it in a group
        raise refused


async def _connect(host: str, port: int | None, ssl_context: ssl.SSLContext | None) -> _Stream:
    try:
        stream = await trio.open_tcp_stream(host, port or (443 if ssl_context else 80))
    except OSError as exc:
        raise OSError(_reason(exc)) from exc
    if ssl_context is None:
        return stream
    tls = trio.SSLStream(stream, ssl_context, server_hostname=host, https_compatible=True)
    try:
        await tls.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError) as exc:
        await trio.aclose_forcefully(stream)
        raise OSError(f"TLS: {exc.__cause__ or exc}") from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls


def _retry_after(refusal: trio_websocket.ConnectionRejected) -> float:
    """Return the seconds of `Retry-After`, 0 if it is missing or a date."""
    value = next((value for name, value in refusal.headers or () if name.lower() == b"retry-after"), b"")
    return float(value) if value.isdigit() and len(value) < 6 else 0.0


def _words(body: bytes | None) -> str:
    """Return the message in an answer of this project's server, for people who read the log."""
    try:
        return f": {_json.decode(body or b'')['error']['message'][:MAX_WORDS]}"
    except (InvalidInput, TypeError, KeyError, IndexError):
        return ""


def _reason(error: BaseException) -> str:
    """Return the reason why a connection failed. Trio has the system's errors in the cause, one for each address."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(map(_reason, error.exceptions)))
    if error.__cause__ is not None:
        return _reason(error.__cause__)
    known = isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno
    return os.strerror(known) if known else str(getattr(error, "strerror", None) or error)


async def _shake_hands(nursery: trio.Nursery, stream: _Stream, **options: Any) -> trio_websocket.WebSocketConnection:
    failures: list[OSError] = []

    async def read(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except trio_websocket.ConnectionRejected as exc:
            failures.append(Refused(exc.status_code, exc.body, _retry_after(exc)))
        except Exception as exc:
            # An answer that is not HTTP ends the library's reader in more than one way. The library's own clean-up
            # closes the connection for the reader of messages.
            _log.debug("a connection's reader failed", exc_info=exc)
            failures.append(OSError(f"the server's answer is not understood: {exc}"))
        finally:
            await trio.aclose_forcefully(stream)
            waiting.cancel()  # no task is left that could end the wait

    watched = cast(trio.Nursery, SimpleNamespace(start_soon=lambda task: nursery.start_soon(read, task)))
    with trio.CancelScope() as waiting:
        return await trio_websocket.wrap_client_stream(
            watched, stream, options.pop("host"), options.pop("path"), **options
        )
    raise failures[0] if failures else OSError("the server hangs up instead of answering")

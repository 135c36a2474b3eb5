"""TLS for the connections of a port, with a certificate that can be replaced while the server runs."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import trio

from mdashcore._errors import InvalidInput

__all__ = ["Certificate", "TlsListener", "release"]


class Certificate:
    """The files of a certificate and its key, for new connections.

    Raises:
        InvalidInput: the files cannot be read, are not PEM, or do not belong together.
    """

    def __init__(self, certfile: Path, keyfile: Path | None = None) -> None:
        self._certfile = certfile
        self._keyfile = keyfile
        self.context: ssl.SSLContext = self._load()
        """The context for the next TLS handshake. Do not keep it: `reload` makes another one."""

    def reload(self) -> None:
        """Reload the files for later connections. Raises as the class; then nothing changes."""
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certfile, self._keyfile, password=_no_password)
        except OSError as exc:
            fits = "they have to be PEM, and belong together" if isinstance(exc, ssl.SSLError) else exc.strerror
            files = f"{self._certfile} and key {self._keyfile or 'in the same file'}"
            raise InvalidInput(f"certificate {files}: {fits}") from None
        return context


def _no_password() -> str:
    """Return no password. Without it, OpenSSL would ask for an encrypted key's password at the terminal, and wait."""
    return ""


def release(stream: trio.abc.Stream) -> None:
    """Let the memory of a closed stream be freed immediately: a stream with TLS refers to itself by its handshake.

    Python's collector frees such a cycle only after many allocations. OpenSSL's 50 KB of each closed connection, which
    are not counted among them, would wait for it.
    """
    if isinstance(stream, trio.SSLStream):
        with suppress(AttributeError):  # no public name leads there
            del stream._handshook


class TlsListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """Accepts connections that speak TLS. The server of a connection does the handshake."""

    def __init__(self, listener: trio.SocketListener, certificate: Certificate) -> None:
        self._listener = listener
        self._certificate = certificate

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        """Return the next connection."""
        stream = await self._listener.accept()
        return trio.SSLStream(stream, self._certificate.context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        """Stop listening."""
        await self._listener.aclose()

"""TLS for the connections of a port, with a certificate that can be replaced while the server runs."""

from __future__ import annotations

import ssl
from pathlib import Path

import trio

from mdashcore._errors import InvalidInput

__all__ = ["Certificate", "TlsListener"]


class Certificate:
    """The files of a certificate and its key, as new connections use them.

    Raises:
        InvalidInput: they cannot be read, are not PEM, or do not belong together.
    """

    def __init__(self, certfile: Path, keyfile: Path | None = None) -> None:
        self._certfile = certfile
        self._keyfile = keyfile
        self.context: ssl.SSLContext = self._load()
        """What a TLS handshake needs. Not to be kept: `reload` makes another."""

    def reload(self) -> None:
        """Read the files anew, for the connections that come from now on. Raises as the class; then all stays."""
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
    """Answer OpenSSL, which would ask at the terminal for the password of an encrypted key, and wait."""
    return ""


class TlsListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """Accepts connections that speak TLS. The handshake is left to the server of the connection."""

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

"""A server and the credentials for it, as commands are given them: `mdashcore.client`, with errors as `CliError`."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from mdashcore import _json
from mdashcore._errors import MdashError, NotFound, RpcError
from mdashcore._server_url import device_url, parse_server
from mdashcore.cli.exits import CliError, Exit, exit_of_error, exit_of_status

if TYPE_CHECKING:
    from mdashcore.client import Client, Notifications
    from mdashcore.documents import DevicePart

__all__ = ["DEFAULT_SERVER", "Credentials", "Remote", "device_error", "device_url", "parse_server", "tls_context"]

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"

REQUEST_TIMEOUT: Final = 30.0  # seconds for an answer: the server's own time-outs are shorter


@attrs.frozen
class Credentials:
    """An API key, or a user's name and password."""

    key: str | None = attrs.field(default=None, repr=False)
    user: tuple[str, str] | None = attrs.field(default=None, repr=False)

    @classmethod
    def of_key(cls, key: str) -> Credentials:
        return cls(key=key)

    @classmethod
    def of_user(cls, name: str, password: str) -> Credentials:
        return cls(user=(name, password))


@attrs.frozen
class Remote:
    """The address of a server, and the credentials for it."""

    server: str
    """A base URL, as `parse_server` returns it."""
    credentials: Credentials
    cafile: Path | None = None

    def get(self, *path: str) -> Any:
        """Return the answer to GET as a value. Errors as for `request`."""
        return _json.decode(self.request("GET", path))

    def post(self, *path: str, json: object = None) -> Any:
        """Return the answer to POST as a value. Errors as for `request`."""
        return _json.decode(self.request("POST", path, json=json))

    def put(self, *path: str, json: object) -> None:
        self.request("PUT", path, json=json)

    def delete(self, *path: str) -> None:
        self.request("DELETE", path)

    def request(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        json: object = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> bytes:
        """Send a request, and return the body of the answer. Arguments are those of `Client.request`.

        Raises:
            CliError: the server cannot be reached, or answers with an error.
        """
        import trio

        async def send() -> bytes:
            async with self.client() as client:
                return await client.request(method, *path, json=json, query=query, timeout=timeout)

        with self.reaching():
            return trio.run(send)

    def table(self, *path: str, query: Mapping[str, str | Sequence[str]]) -> tuple[bytes, bool]:
        """Return an answer as CSV, and whether it is complete. Raises as `request`."""
        import trio

        async def read() -> tuple[bytes, bool]:
            async with self.client() as client:
                answer = await client._http.request("GET", *path, query={**query, "format": "csv"})
                return answer.content, answer.headers.get("X-Complete") != "false"

        with self.reaching():
            return trio.run(read)

    def has_device(self, id: str) -> bool:
        """Return whether the account has a device."""
        import trio

        async def ask() -> bool:
            async with self.client() as client:
                try:
                    await client.device(id)
                except NotFound:
                    return False
                return True

        with self.reaching():
            return trio.run(ask)

    def count_devices(self, terms: Sequence[str]) -> int:
        """Return the number of devices for which every term of a filter holds."""
        import trio

        async def read() -> int:
            async with self.client() as client:
                page = await client.devices_page(*terms, limit=1, fields=["id"], count=True)
                return page.total or 0

        with self.reaching():
            return trio.run(read)

    def devices(
        self,
        terms: Sequence[str],
        *,
        sort: str | None = None,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
    ) -> list[DevicePart]:
        """Return the devices of a list, or the first of them. Arguments are those of `Client.iterate_devices`."""
        import trio

        async def read() -> list[DevicePart]:
            async with self.client() as client:
                devices = client.iterate_devices(*terms, sort=sort, limit=limit, fields=fields)
                return [device async for device in devices]

        with self.reaching():
            return trio.run(read)

    def client(self) -> Client:
        """Return a client of the server. Use `reaching` for its errors."""
        from mdashcore.client import Client

        context = tls_context(self.server, self.cafile)
        return Client(self.server, key=self.credentials.key, user=self.credentials.user, ssl_context=context)

    def notifications(self, client: Client, start: int | None = None, *, say: Callable[[str], None]) -> Notifications:
        """Return the stream of notifications for a watch, which goes on after a restart of the server.

        Use `reaching` for its errors.

        Args:
            start: the offset of the first notification; by default only new ones.
            say: writes a line for the user: one when an outage begins, and one when it is over.
        """
        from mdashcore.client._notifications import MAX_OUTAGE, Notifications, OutageReport

        report = OutageReport(
            begins=lambda error: say(f"Looking again until it is back: {self.error(error)}"),
            ends=lambda: say("The server is back"),
        )
        return Notifications(client.open_socket, client.end_of_log, start, MAX_OUTAGE, report)

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turn the errors of a client into `CliError`."""
        try:
            yield
        except MdashError as exc:
            raise self.error(exc) from exc

    def error(self, error: MdashError) -> CliError:
        """Return an error of a client as the end of a command."""
        from mdashcore.client import ServerUnreachable, UnexpectedAnswer

        match error:
            case ServerUnreachable():
                return CliError(f"{error}{_hint(self.server, str(error))}", Exit.UNREACHABLE)
            case UnexpectedAnswer():
                return CliError(f"{error}: is --server right?", exit_of_status(error.status))
            case RpcError():
                return device_error(error.code, error.message)
        return CliError(str(error), exit_of_error(error))


def device_error(code: int, message: str) -> CliError:
    """Return the end of a command for an error that a device has answered."""
    return CliError(f"the device answers: {message} (code {code})")


def _hint(server: str, why: str) -> str:
    """Return what may help against a failed connection to a server."""
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return "; if the certificate is your own, name it with --cafile"
    if server.startswith("https:") and "SSL" in why:
        return f"; if it speaks no TLS, its address is http:{server.removeprefix('https:')}"
    if server.startswith("http:") and any(words in why for words in _HANGS_UP):
        return f"; if it speaks TLS, its address is https:{server.removeprefix('http:')}"
    if "refused" in why or "attempts failed" in why:
        return "; is the server running there, and is --server right?"
    return ""


_HANGS_UP: Final = ("hangs up", "disconnected", "reset by peer")
"""Words of errors for a connection that the server closes before its answer, as a port with TLS does without TLS."""


def tls_context(server: str, cafile: Path | None) -> ssl.SSLContext | None:
    """Return the certificates to trust: the system's, or those of a file; `None` for a server without TLS."""
    if not server.startswith("https:"):
        return None
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as exc:
        raise CliError(f"{cafile}: no certificate in it: {exc}", Exit.USAGE) from None

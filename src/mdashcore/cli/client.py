"""A client of a running server: its REST API over httpx, with errors as `CliError`."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import attrs

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.cli.exits import CliError, Exit, exit_of_status

if TYPE_CHECKING:
    import httpx

__all__ = ["DEFAULT_SERVER", "Credentials", "Remote", "device_url", "parse_server", "refusal", "tls_context"]

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"

TIMEOUT: Final = 30.0  # seconds for an answer: the server's own time-outs are shorter

CONNECT_TIMEOUT: Final = 10.0

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def parse_server(text: str) -> str:
    """Return the base URL of a server. Its device URL or the URL of its API are accepted too. Raises `InvalidInput`.

    >>> parse_server("wss://mdash.example/api/v2/rpc")
    'https://mdash.example'
    """
    try:
        url = urlsplit(text.strip())
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme not in _SCHEMES or not url.hostname or port == 0 or url.query or url.fragment:
        raise InvalidInput(f"a server is given as http://HOST:PORT, or with https, ws or wss; not {text!r}")
    if "@" in url.netloc:
        raise InvalidInput("a server's URL holds no user")
    path = re.sub(r"/(api/v2(/rpc)?/?)?$", "", url.path)
    return f"{_SCHEMES[url.scheme]}://{url.netloc}{path}"


def device_url(server: str) -> str:
    """Return the URL that a device of this server dials."""
    return f"ws{server.removeprefix('http')}/api/v2/rpc"


@attrs.frozen
class Credentials:
    """The value of an Authorization header."""

    header: str = attrs.field(repr=False)

    @classmethod
    def of_key(cls, key: str) -> Credentials:
        return cls(f"Bearer {key}")

    @classmethod
    def of_user(cls, name: str, password: str) -> Credentials:
        return cls(f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}")


@attrs.frozen
class Remote:
    """The address of a server, and the credentials for it."""

    server: str
    """A base URL, as `parse_server` returns it."""
    credentials: Credentials
    cafile: Path | None = None

    @property
    def notify_url(self) -> str:
        """The URL of the stream of notifications."""
        return f"ws{self.server.removeprefix('http')}/api/v2/notify"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": self.credentials.header}

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
        timeout: float = TIMEOUT,
    ) -> bytes:
        """Send a request, and return the body of the answer.

        Args:
            method: the HTTP method.
            path: its segments, below ``/api/v2``.
            json: the body: a value, or JSON as `bytes`; `None` sends no body.
            query: the parameters of the URL.
            timeout: seconds to wait for the answer.

        Raises:
            CliError: the server cannot be reached, or answers with an error.
        """
        import httpx

        with (
            self.reaching(),
            httpx.Client(verify=self.verify(), timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT)) as client,
        ):
            body = json if json is None or isinstance(json, bytes) else _json.encode(json)
            response = client.request(method, self.url(path), params=query, content=body, headers=self.headers)
        return self.checked(response)

    @asynccontextmanager
    async def open_async(self) -> AsyncIterator[httpx.AsyncClient]:
        """Open a client for requests that take long. Give it URLs of `url`, and use `reaching` for its errors."""
        import httpx

        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT)
        async with httpx.AsyncClient(verify=self.verify(), timeout=timeout, headers=self.headers) as client:
            yield client

    def url(self, path: tuple[str, ...]) -> str:
        """Return the URL of a part of the API."""
        return "/".join([self.server, "api/v2", *(quote(segment, safe="") for segment in path)])

    def verify(self) -> ssl.SSLContext:
        context = tls_context(self.server, self.cafile)
        return context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used; httpx's own takes long to make

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turn httpx's errors into `CliError`."""
        import httpx

        try:
            yield
        except httpx.TimeoutException:
            raise CliError(f"{self.server} does not answer", Exit.UNREACHABLE) from None
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise self.unreachable(exc) from None

    def unreachable(self, error: BaseException) -> CliError:
        """Return the error for a failed connection."""
        why = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        hint = ""
        if "CERTIFICATE_VERIFY_FAILED" in why:
            hint = "; if the certificate is your own, name it with --cafile"
        elif "refused" in why or "attempts failed" in why:
            hint = "; is the server running there, and is --server right?"
        return CliError(f"cannot connect to {self.server}: {why}{hint}", Exit.UNREACHABLE)

    def checked(self, response: httpx.Response) -> bytes:
        """Return the body of a successful response. Raises `CliError` for any other."""
        if response.is_success:
            return response.content
        raise refusal(response.status_code, response.content)


def tls_context(server: str, cafile: Path | None) -> ssl.SSLContext | None:
    """Return the certificates to trust: the system's, or those of a file; `None` for a server without TLS."""
    if not server.startswith("https:"):
        return None
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as exc:
        raise CliError(f"{cafile}: no certificate in it: {exc}", Exit.USAGE) from None


def refusal(status: int, body: bytes | None) -> CliError:
    """Return the error for an unsuccessful answer of the server."""
    try:
        error = _json.decode(body or b"")["error"]
        message = str(error["message"])
        if error["code"] != status:
            message = f"the device answers: {message} (code {error['code']})"
    except (InvalidInput, LookupError, TypeError):
        message = f"status {status}, and not in the words of an mdash server: is --server right?"
    return CliError(message, exit_of_status(status))

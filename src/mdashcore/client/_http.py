"""Requests to the REST API over httpx, with the server's errors as exceptions."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any, Final

import httpx

from mdashcore import _json
from mdashcore._server_url import api_url
from mdashcore.client._errors import ServerUnreachable, error_of, retry_after, unreachable

__all__ = ["UPLOAD_TIMEOUT", "Http", "Resource"]

HTTP_CONNECT_TIMEOUT: Final = 10.0  # seconds

UPLOAD_TIMEOUT: Final = 1800.0  # seconds for the answer to an image, as on the server

Query = Mapping[str, str | Sequence[str]]


class Http:
    """Requests with the credentials of one client.

    Args:
        server: a base URL, as `parse_server` returns it.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, server: str, authorization: str, ssl_context: ssl.SSLContext | None, timeout: float) -> None:
        self.server = server
        self.authorization = authorization
        self.ssl_context: ssl.SSLContext | None = ssl_context or (
            ssl.create_default_context() if server.startswith("https:") else None
        )
        self.timeout = timeout
        unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without TLS; httpx's own takes long to make
        verify = self.ssl_context or unused
        # Not of the environment: a proxy would get the key of http://, and the socket does not go through one.
        self._client = httpx.AsyncClient(verify=verify, headers={"Authorization": authorization}, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def request(
        self,
        method: str,
        *path: str,
        json: object = None,
        query: Query | None = None,
        files: Any = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        """Send a request, and return its successful answer.

        Args:
            path: its segments, below ``/api/v2``.
            json: the body: a value, or JSON as `bytes`; `None` sends no body.
            files: the fields of a form, as httpx takes them, in place of `json`.
            timeout: seconds to wait for the answer; by default those of the client, and infinite for no limit.

        Raises:
            ServerUnreachable: there was no answer. The request may have been executed.
            UnexpectedAnswer: the answer is none of an mdash server.
            MdashError: the server answers with an error.
        """
        seconds = self.timeout if timeout is None else timeout
        limit = httpx.Timeout(None if seconds == inf else seconds, connect=HTTP_CONNECT_TIMEOUT)
        body = json if json is None or isinstance(json, bytes) else _json.encode(json)
        with self._reaching():
            response = await self._client.request(
                method, api_url(self.server, path), params=query, content=body, files=files, timeout=limit
            )
        if response.is_success:
            return response
        raise error_of(response.status_code, response.content, retry_after(response.headers.get("Retry-After")))

    async def stream(self, *path: str, timeout: float) -> AsyncGenerator[bytes, None]:
        """Yield the answer to GET in pieces. Raises as `request`.

        Args:
            timeout: seconds to wait for each piece.
        """
        limit = httpx.Timeout(timeout, connect=HTTP_CONNECT_TIMEOUT)
        with self._reaching():
            async with self._client.stream("GET", api_url(self.server, path), timeout=limit) as response:
                if not response.is_success:
                    await response.aread()
                    raise error_of(response.status_code, response.content)
                async for piece in response.aiter_bytes():
                    yield piece

    async def fetch(self, method: str, *path: str, **options: Any) -> Any:
        """Send a request, and return its answer as a value. Arguments and errors are those of `request`."""
        return _json.decode((await self.request(method, *path, **options)).content)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise ServerUnreachable(f"{self.server} does not answer") from None
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise unreachable(self.server, exc) from exc


class Resource:
    """The requests about one resource of the REST API. A `Client` is made of all of them."""

    _http: Http

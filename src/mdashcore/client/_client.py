"""The client: its credentials, and any request. What it does with each resource is in a module of its own."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from mdashcore._errors import InvalidInput
from mdashcore._server_url import parse_server
from mdashcore.client._account import AccountRequests
from mdashcore.client._calls import CallRequests
from mdashcore.client._devices import DeviceRequests
from mdashcore.client._feed import FeedRequests
from mdashcore.client._firmware import FirmwareImages
from mdashcore.client._http import Http
from mdashcore.client._jobs import JobRequests
from mdashcore.client._rollouts import RolloutRequests
from mdashcore.client._saved_filters import FilterRequests
from mdashcore.client._updates import UpdateRequests

__all__ = ["Client"]

REQUEST_TIMEOUT: Final = 30.0  # seconds for an answer: the server's own time-outs are shorter

_KEY: Final = re.compile(r"[!-~]+")  # anything else would be more than one header
_PASSWORD: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")  # as RFC 7617 has it, and what UTF-8 can hold
_USER: Final = re.compile(r"[^:\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


class Client(
    DeviceRequests,
    FilterRequests,
    CallRequests,
    UpdateRequests,
    RolloutRequests,
    JobRequests,
    FeedRequests,
    AccountRequests,
):
    """A client of one server, with the credentials of one account. Runs on asyncio and on Trio.

    ::

        async with Client("https://mdash.example", key="mdk_…") as client:
            for device in await client.devices("online"):
                print(device["id"])

    Every method raises `MdashError`: the class that the server has raised (`NotFound`, `DeviceOffline`, `RpcError`, …),
    `ServerUnreachable` if there was no answer, `UnexpectedAnswer` if another program has answered.

    Args:
        url: the server's, with ``http``, ``https``, ``ws`` or ``wss``; that of its API or for devices is accepted too.
        key: an API key.
        user: name and password, in place of a key. Only these may manage users.
        ssl_context: the certificates to trust; by default the system's.
        timeout: seconds to wait for an answer.

    Raises:
        InvalidInput: the URL is none of a server, not exactly one credential is given, or it has characters that none
            has, such as a line end.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        user: tuple[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> None:
        self._http = Http(parse_server(url), _authorization(key, user), ssl_context, timeout)
        self.firmware: FirmwareImages = FirmwareImages(self._http)
        """The firmware library."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._http.close()

    async def request(
        self,
        method: str,
        *path: str,
        json: object = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
        files: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Send any request of the REST API, and return the body of its answer.

        Args:
            path: its segments, below ``/api/v2``.
            json: the body: a value, or JSON as `bytes`; `None` sends no body.
            query: the parameters of the URL.
            files: the fields of a form, in place of `json`: each a file name with an open binary file.
            timeout: seconds to wait for the answer; infinite for no limit.
        """
        answer = await self._http.request(method, *path, json=json, query=query, files=files, timeout=timeout)
        return answer.content


def _authorization(key: str | None, user: tuple[str, str] | None) -> str:
    """Return the header's value. The errors are without the credentials, because errors get into logs."""
    if (key is None) is (user is None):
        raise InvalidInput("a client has either a key, or a user with a password")
    if user is not None:
        name, password = user
        if not _USER.fullmatch(name) or not _PASSWORD.fullmatch(password):
            raise InvalidInput("a user's name has no colon, and neither it nor the password has a line end or the like")
        return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"
    if not _KEY.fullmatch(key or ""):
        raise InvalidInput("a key has printable ASCII characters only: no space, and no line end")
    return f"Bearer {key}"

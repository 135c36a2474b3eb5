"""The addresses of a server, as clients are given them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

from mdashcore._errors import InvalidInput

__all__ = ["api_url", "device_url", "notify_url", "parse_server"]

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


def api_url(server: str, path: tuple[str, ...]) -> str:
    """Return the URL of a part of the API; `path` has its segments below ``/api/v2``.

    Raises:
        InvalidInput: a segment is empty or dots, which would be removed, so that the URL would be of another part.
    """
    for segment in path:
        if segment in {"", ".", ".."}:
            raise InvalidInput(f"{segment!r} is no id and no name")
    return "/".join([server, "api/v2", *(quote(segment, safe="") for segment in path)])


def device_url(server: str) -> str:
    """Return the URL that a device of this server dials."""
    return f"ws{server.removeprefix('http')}/api/v2/rpc"


def notify_url(server: str) -> str:
    """Return the URL of the stream of notifications."""
    return f"ws{server.removeprefix('http')}/api/v2/notify"

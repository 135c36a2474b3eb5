"""The path below which the server is reached if it shares a host with others: ``/mdash``.

Proxies pass a request's path unchanged. The gateway takes the root path off once, before either lane, so that the code
behind it sees the paths of an API that has the host for itself. An ASGI app gets the path in ASGI's form: whole, with
`root_path` beside it. Headers of a client or a proxy, such as ``X-Forwarded-Prefix``, are not heeded: any client could
send one, and so decide where a cookie or a link leads.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final

import attrs

from mdashcore import _json
from mdashcore._checked import Check
from mdashcore.server import errors
from mdashcore.server.asgi import ROOT_PATH, App, Receive, Scope, Send, respond

__all__ = ["IS_ROOT_PATH", "Elsewhere", "RootPath", "RootPathApp"]

MAX_ROOT_PATH: Final = 128  # characters: the path is sent with every link and cookie; real ones have under 20

_FORM: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)+")

IS_ROOT_PATH: Final = Check(
    f"empty, or a path of at most {MAX_ROOT_PATH} characters such as /mdash, without a slash at its end",
    lambda value: value == "" or (isinstance(value, str) and len(value) <= MAX_ROOT_PATH and _is_path(value)),
)

_TARGET: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (?:[A-Za-z][A-Za-z0-9+.-]*://[^/?# ]*)?([^? \r\n]+)(\?[!-~]*)?"
)
"""The beginning of a request line, up to the version. An authority before the path is skipped."""


def _is_path(value: str) -> bool:
    return _FORM.fullmatch(value) is not None


@attrs.frozen
class Elsewhere:
    """The answer to a request that is not below the root path."""

    status: int
    words: str
    location: str | None = None
    """The target of the redirect, for a browser."""
    has_body: bool = True

    @classmethod
    def of(cls, method: str, page: str, *, is_root: bool) -> Elsewhere:
        """Return a redirect for a browser that asks for the root path without its last slash, 404 otherwise."""
        has_body = method != "HEAD"
        if is_root and method in ("GET", "HEAD"):
            return cls(HTTPStatus.PERMANENT_REDIRECT, f"this server is at {page}", page, has_body)
        words = f"nothing is served there: this server is at {page.partition('?')[0]}"
        return cls(HTTPStatus.NOT_FOUND, words, None, has_body)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {} if self.location is None else {"location": self.location}


class RootPath:
    """Takes the root path off requests.

    Args:
        path: valid by `IS_ROOT_PATH`.
    """

    def __init__(self, path: str) -> None:
        self._path = path.encode()

    def strip(self, data: bytes) -> bytes | None:
        """Return the request at the beginning of `data` without the root path; `None` for one that is not below it.

        Bytes that are no request, and requests to the whole server (``OPTIONS *``), are returned unchanged.
        """
        if not self._path:
            return data
        found = _TARGET.match(data)
        if found is None or found[2] == b"*":
            return data
        if not found[2].startswith(self._path + b"/"):
            return None
        start = found.start(2)
        return data[:start] + data[start + len(self._path) :]

    def elsewhere(self, data: bytes) -> Elsewhere:
        """Return the answer to the request at the beginning of `data`, which is not below the root path."""
        found = _TARGET.match(data)
        method, path, query = (b"", b"", b"") if found is None else (found[1], found[2], found[3] or b"")
        page = f"{self._path.decode()}/{query.decode('latin-1')}"
        return Elsewhere.of(method.decode(), page, is_root=path == self._path)


class RootPathApp:
    """Gives an app the path below the root path that its server, or an app around it, names in the scope.

    Behind it `root_path` is empty, and `mdashcore.server.asgi.root_path` returns the removed part.
    """

    def __init__(self, app: App) -> None:
        self.inner = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = str(scope.get("root_path") or "").rstrip("/")
        if scope["type"] != "http" or not root:
            await self.inner(scope, receive, send)
            return
        path: str = scope["path"]
        if path == root:
            query = scope["query_string"].decode("latin-1")
            found = Elsewhere.of(scope["method"], f"{root}/{query and '?'}{query}", is_root=True)
            body = _json.encode(errors.plain_body(found.status, found.words)) if found.has_body else b""
            await respond(send, found.status, body, [*found.headers.items(), ("connection", "close")])
            return
        below: dict[str, Any] = {**scope, "root_path": "", ROOT_PATH: root}
        if path.startswith(f"{root}/"):  # some servers have removed it already
            below["path"] = path[len(root) :]
            raw = scope.get("raw_path") or b""
            below["raw_path"] = raw[len(root) :] if raw.startswith(root.encode()) else raw
        await self.inner(below, receive, send)

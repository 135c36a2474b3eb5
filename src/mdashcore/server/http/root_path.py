"""The path below which the server is reached, where it shares a host with others: ``/mdash``.

Proxies pass a request's path unchanged. The gateway takes the root path off once, before either lane: everything behind
it knows the paths of an API that has the host for itself. An ASGI app is told the path as ASGI has it: whole, with
`root_path` beside it. What a client or a proxy says in a header, such as ``X-Forwarded-Prefix``, is not heeded: any
client could say it, and with it where a cookie or a link leads.
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

MAX_ROOT_PATH: Final = 128  # characters: it is sent with every link and cookie; real ones have under 20

_FORM: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)+")

IS_ROOT_PATH: Final = Check(
    f"empty, or a path of at most {MAX_ROOT_PATH} characters such as /mdash, without a slash at its end",
    lambda value: value == "" or (isinstance(value, str) and len(value) <= MAX_ROOT_PATH and _is_path(value)),
)

_TARGET: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (?:[A-Za-z][A-Za-z0-9+.-]*://[^/?# ]*)?([^? \r\n]+)(\?[!-~]*)?"
)
"""The beginning of a request line, up to the version; an authority before the path is passed over."""


def _is_path(value: str) -> bool:
    return _FORM.fullmatch(value) is not None


@attrs.frozen
class Elsewhere:
    """What to answer to a request that is not below the root path."""

    status: int
    words: str
    location: str | None = None
    """Where the browser is to go."""
    has_body: bool = True

    @classmethod
    def of(cls, method: str, page: str, *, is_root: bool) -> Elsewhere:
        """A browser that asks for the root path without the slash at its end is sent on to the page."""
        has_body = method != "HEAD"
        if is_root and method in ("GET", "HEAD"):
            return cls(HTTPStatus.PERMANENT_REDIRECT, f"this server is at {page}", page, has_body)
        words = f"nothing is served there: this server is at {page.partition('?')[0]}"
        return cls(HTTPStatus.NOT_FOUND, words, None, has_body)

    @property
    def headers(self) -> dict[str, str]:
        """Those that belong to it."""
        return {} if self.location is None else {"location": self.location}


class RootPath:
    """Takes the root path off requests.

    Args:
        path: as `IS_ROOT_PATH` has it.
    """

    def __init__(self, path: str) -> None:
        self._path = path.encode()

    def take_off(self, data: bytes) -> bytes | None:
        """Return the request at the beginning of `data` without the root path; `None` for one that is not below it.

        What is no request, or is about the whole server (``OPTIONS *``), stays as it is.
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
        """Say what to answer to the request at the beginning of `data`, which is not below the root path."""
        found = _TARGET.match(data)
        method, path, query = (b"", b"", b"") if found is None else (found[1], found[2], found[3] or b"")
        page = f"{self._path.decode()}/{query.decode('latin-1')}"
        return Elsewhere.of(method.decode(), page, is_root=path == self._path)


class RootPathApp:
    """Gives an app the path below the root path that its server, or an app around it, names in the scope.

    Behind it, `root_path` is empty, and `mdashcore.server.asgi.root_path` tells it.
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
            body = _json.encode(errors.problem(found.status, found.words)) if found.has_body else b""
            await respond(send, found.status, body, [*found.headers.items(), ("connection", "close")])
            return
        below: dict[str, Any] = {**scope, "root_path": "", ROOT_PATH: root}
        if path.startswith(f"{root}/"):  # some servers have taken it off
            below["path"] = path[len(root) :]
            raw = scope.get("raw_path") or b""
            below["raw_path"] = raw[len(root) :] if raw.startswith(root.encode()) else raw
        await self.inner(below, receive, send)

"""The dashboard's files: read once from the installed package, and answered from memory.

The page refers to them by an address with a digest of all of them, so that a browser keeps them for ever, and a new
version, which has other addresses, shows immediately. Modules import each other by relative addresses, so those of one
page are of one version.

The page has a link for each module that its own modules import, however deep, so that a browser asks for all of them at
the same time, and not for some after it has read others.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import posixpath
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

import attrs

from mdashcore.server.asgi import App, Receive, Scope, Send, header, header_list, root_path
from mdashcore.server.http.compression import MIN_COMPRESSED, accepts_gzip, compressed_for_good

__all__ = ["UI_PREFIX", "StaticFiles", "read_files"]

UI_PREFIX: Final = "/ui/"

INDEX_FILE: Final = "index.html"

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content types by file extension. Other files of the folder are not served."""

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # no script can make markup or code from text
        "trusted-types 'none'",
    )
)

_REVALIDATED: Final = (b"cache-control", b"no-cache")
_KEPT: Final = (b"cache-control", b"public, max-age=31536000, immutable")  # a year in seconds, the usual "for ever"

_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@attrs.frozen
class File:
    """A file in the form in which it is sent."""

    body: bytes
    type: str
    etag: str


class StaticFiles:
    """Answers ``GET /ui/…``, and ``GET /`` for browsers, in front of an app.

    A path is looked up in a table of the existing files, so no path can leave the folder. Each file has two addresses:
    ``/ui/NAME``, and ``/ui/DIGEST/NAME``, which browsers keep. Under the digest of another version, which is asked for
    by pages that are still open, and by those of another node during an upgrade, the file is given, but not kept.
    """

    routes: Final = (("GET", "/"), ("GET", f"{UI_PREFIX}<path>"))

    def __init__(self, app: App, files: Mapping[str, File] | None = None) -> None:
        self.inner = app
        self._files = read_files() if files is None else files
        self.digest: str = _digest_of_all(self._files)
        """What stands in the addresses that the page refers to."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else None
        if found is None:
            await self.inner(scope, receive, send)
            return
        file, caching = found
        is_compressed = len(file.body) >= MIN_COMPRESSED and accepts_gzip(header_list(scope, b"accept-encoding"))
        if is_compressed:
            file = _compressed(file)
        fields = [(b"etag", file.etag.encode()), (b"vary", b"Accept, Accept-Encoding"), caching, *_HEADERS]
        if file.etag in (header(scope, b"if-none-match") or ""):
            await _send(send, 304, fields, b"")
            return
        fields += [(b"content-type", file.type.encode()), (b"content-length", b"%d" % len(file.body))]
        if is_compressed:
            fields.append((b"content-encoding", b"gzip"))
        await _send(send, 200, fields, b"" if scope["method"] == "HEAD" else file.body)

    def _find(self, scope: Scope) -> tuple[File, tuple[bytes, bytes]] | None:
        """Return the file that a request asks for, and the header field that says how long it is kept."""
        path: str = scope["path"]
        if path == "/" and "text/html" in (header(scope, b"accept") or ""):
            path = UI_PREFIX + INDEX_FILE
        if not path.startswith(UI_PREFIX):
            return None
        name = path.removeprefix(UI_PREFIX)
        if name == INDEX_FILE and INDEX_FILE in self._files:
            return _addressed(self._files[name], root_path(scope), self.digest), _REVALIDATED
        if name in self._files:
            return self._files[name], _REVALIDATED
        digest, _, name = name.partition("/")
        if name not in self._files or name == INDEX_FILE or not _DIGEST.fullmatch(digest):
            return None
        return self._files[name], _KEPT if digest == self.digest else _REVALIDATED


_DIGEST: Final = re.compile(r"[0-9a-f]{16}")


def _digest_of_all(files: Mapping[str, File]) -> str:
    """Return what stands in the addresses of this version's files."""
    each = "".join(f"{name} {file.etag}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(each.encode()).hexdigest()[:16]


@lru_cache(maxsize=8)  # one root path is in use; an app that is mounted twice has two
def _addressed(page: File, root: str, digest: str) -> File:
    """Return the page with its links below a root path, and files under their digest.

    Links are absolute, so that they are right wherever the page is opened.
    """
    body = _FILES.sub(rb"\g<0>" + digest.encode() + b"/", page.body)
    return _file(_ABSOLUTE.sub(root.encode() + rb"\g<0>", body), page.type)


_FILES: Final = re.compile(rb"(?<=\")/ui/")
_ABSOLUTE: Final = re.compile(rb"(?<=[\" ])/(?=ui/|api/v2)")


@lru_cache(maxsize=256)  # more than the files of the dashboard, the page for eight root paths included
def _compressed(file: File) -> File:
    """Return the compressed form of a file, which has an ETag of its own."""
    return File(compressed_for_good(file.body), file.type, f'{file.etag[:-1]}-gzip"')


def read_files() -> dict[str, File]:
    """Return the files of the dashboard, by their path in its folder."""
    files = dict(_walk(importlib.resources.files("mdashcore.server").joinpath("ui"), ""))
    if INDEX_FILE in files:
        files[INDEX_FILE] = _with_preloads(files[INDEX_FILE], files)
    return files


def _with_preloads(page: File, files: Mapping[str, File]) -> File:
    """Return the page with a link for each module that those in it import."""
    named = [name.decode() for name in _PAGE_MODULES.findall(page.body)]
    wanted = dict.fromkeys(named)  # in the order of their depth
    for name in (queue := list(wanted)):
        new = [each for each in _imports(name, files) if each not in wanted]
        wanted.update(dict.fromkeys(new))
        queue += new
    links = "".join(f'<link rel="modulepreload" href="{UI_PREFIX}{each}">\n' for each in wanted if each not in named)
    return _file(page.body.replace(_END_OF_BODY, links.encode() + _END_OF_BODY), page.type)


_PAGE_MODULES: Final = re.compile(rb'<(?:script type="module"[^>]* src|link rel="modulepreload" href)="/ui/([^"]+)"')

_END_OF_BODY: Final = b"</body>"

_IMPORTS: Final = re.compile(rb'^(?:import|export)\b[^;"]*"(\.[^"]+)"', re.MULTILINE)
"""Static imports, and exports of what another module has. Those in `import(…)` are loaded when they are needed."""


def _imports(name: str, files: Mapping[str, File]) -> list[str]:
    """Return the modules that a module imports, by their path in the folder."""
    folder = posixpath.dirname(name)
    targets = [posixpath.normpath(posixpath.join(folder, each.decode())) for each in _IMPORTS.findall(files[name].body)]
    return [each for each in targets if each in files]


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, File]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif (type_ := _TYPES.get(PurePosixPath(entry.name).suffix)) is not None:
            yield prefix + entry.name, _file(entry.read_bytes(), type_)


def _file(body: bytes, type_: str) -> File:
    return File(body, type_, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


async def _send(send: Send, status: int, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})

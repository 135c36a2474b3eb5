"""The dashboard's files: from the installed package, with a strict policy, and nothing else."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

from rows import every_row

from mdashcore.server.static import File, StaticFiles, read_files

UI = Path(str(importlib.resources.files("mdashcore.server"))) / "ui"
NAMES = sorted(
    str(path.relative_to(UI)) for path in UI.rglob("*") if path.is_file() and "__pycache__" not in path.parts
)


async def get(anyone, server, path, **headers):
    """A request for a path from the server's root on."""
    return await anyone.get(f"{server.url}{path}", headers=headers)


async def test_a_browser_gets_the_page_and_a_client_gets_json(anyone, server):
    """At the same address, by what it accepts."""
    page = await get(anyone, server, "/", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    written = re.sub(r'"/ui/[0-9a-f]{16}/', '"/ui/', page.text)
    assert re.sub(r'(?:<link rel="modulepreload" [^>]*>\n)+(?=</body>)', "", written) == re.sub(
        r'(?:<link rel="modulepreload" [^>]*>\n)+(?=</body>)', "", (UI / "index.html").read_text()
    )
    for accept in ("*/*", "application/json"):
        answer = await get(anyone, server, "/", Accept=accept)
        assert answer.json()["api"] == "/api/v2"
    assert page.headers["vary"] == "Accept, Accept-Encoding"


async def app(scope, receive, send):
    """Asked for nothing."""
    raise AssertionError(scope)


async def addressed(anyone, server):
    """The folder that the page refers to: ``/ui/DIGEST``."""
    page = (await get(anyone, server, "/ui/index.html")).text
    folders = set(re.findall(r'(?:src|href)="(/ui/[0-9a-f]{16})/', page))
    assert len(folders) == 1
    return folders.pop()


async def test_a_browser_keeps_what_the_page_refers_to(anyone, server):
    """For ever, as another version has other addresses; the page itself is asked for each time."""
    folder = await addressed(anyone, server)
    for name in NAMES:
        answer = await get(anyone, server, f"{folder}/{name}")
        if name == "index.html":
            assert answer.status_code == 404
        else:
            assert answer.content == (UI / name).read_bytes()
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
    for page in ("/", "/ui/index.html"):
        assert (await get(anyone, server, page, Accept="text/html")).headers["cache-control"] == "no-cache"


async def test_a_page_of_another_version_finds_its_files(anyone, server):
    """A page that is still open, or another node's during an upgrade: it gets this version's, and keeps them not."""
    answer = await get(anyone, server, "/ui/0123456789abcdef/views/device.js")
    assert answer.content == (UI / "views/device.js").read_bytes()
    assert answer.headers["cache-control"] == "no-cache"


def test_a_change_of_any_file_changes_the_addresses():
    """Also of one that the page does not name itself, its modules do."""

    files = read_files()
    digests = {StaticFiles(app, {**files, name: File(b"", "", '"changed"')}).digest for name in ["none", *NAMES]}
    assert len(digests) == 1 + len(NAMES)


@every_row("name", NAMES)
async def test_every_file_is_served(anyone, server, name):
    """As it is, with its type and the policy; a browser asks whether it is still the same."""
    if name == "index.html":
        return  # its links have a digest
    answer = await get(anyone, server, f"/ui/{name}")
    assert answer.status_code == 200
    assert answer.content == (UI / name).read_bytes()
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert {
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    } <= {part.strip() for part in policy.split(";")}
    again = await get(anyone, server, f"/ui/{name}", **{"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await anyone.head(f"{server.url}/ui/{name}", headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(answer.content)))


@every_row(
    "path",
    [
        *("/ui/", "/ui", "/ui/none.js", "/ui/../static.py", "/ui/%2e%2e/static.py", "/ui/..%2fstatic.py"),
        *("/ui//style.css", "/ui/views", "/ui/views/", "/ui/./style.css", "/ui//etc/passwd", "/ui/style.css%00"),
        *("/ui/__init__.py", "/ui/0123456789abcdef/", "/ui/0123456789abcdef/index.html", "/ui/0123/style.css"),
        *("/ui/0123456789abcdef/0123456789abcdef/style.css", "/ui/0123456789ABCDEF/style.css"),
    ],
)
async def test_nothing_else_is_served(server, open_raw, path):
    """404 for whatever is no name of a file of ours, however it is written."""
    async with open_raw(server) as raw:
        await raw.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await raw.response()).status == 404


async def test_files_are_only_read(anyone, server):
    """Other methods are the app's, which has no such path."""
    assert (await anyone.post(f"{server.url}/ui/style.css")).status_code == 404


def test_no_markup_is_made_from_text():
    """The scripts use none of what would, load nothing from elsewhere, and the page has nothing inline."""
    for name in NAMES:
        text = (UI / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert not re.search(r"(?:src|href|from|import|url)\s*[(=]?\s*[\"']?(?:https?:)?//", text), name
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", (UI / "index.html").read_text())


def test_what_is_imported_is_there():
    """Every module that a module names, and every file that the page names."""
    for name in NAMES:
        for target in re.findall(r"(?:from|import)\s*\(?\s*\"(\.[^\"]+)\"", (UI / name).read_text()):
            assert (UI / name).parent.joinpath(target).resolve().is_file(), (name, target)
    for target in re.findall(r"(?:src|href)=\"/ui/([^\"]+)\"", (UI / "index.html").read_text()):
        assert target in NAMES


IMPORTED = re.compile(r'^(?:import|export)\b[^;"]*"(\.[^"]+)"', re.MULTILINE)


def test_the_page_asks_for_all_its_modules_together():
    """Those of the first views with all that they import, however deep: no module is found in another one."""
    page = read_files()["index.html"].body.decode()
    linked = re.findall(r'<(?:script type="module"[^>]* src|link rel="modulepreload" href)="/ui/([^"]+)"', page)
    assert {"app.js", "live.js", "views/devices.js", "views/home.js", "merge.js"} <= set(linked)
    assert len(linked) == len(set(linked))
    for name in linked:
        folder = (UI / name).parent
        imports = [folder.joinpath(each).resolve() for each in IMPORTED.findall((UI / name).read_text())]
        assert {str(path.relative_to(UI)) for path in imports} <= set(linked), name


def test_the_table_is_the_folder():
    """What is read at start is what lies there."""
    assert sorted(read_files()) == NAMES
